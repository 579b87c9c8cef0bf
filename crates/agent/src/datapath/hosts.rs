//! Names of hosts in policies: what instances are about to be told opens, and what is over closes.

use std::collections::BTreeSet;

use super::{HostsReport, Owner};
use hivemind_dns::Resolved;
use hivemind_policy::Compiled;

impl Owner {
    /// Takes in what instances are about to be told. Before the first policies are known it waits, and nobody is told.
    pub(super) fn learn(&mut self, told: &mut Vec<Resolved>) {
        if self.desired.revision == 0 {
            self.early.append(told);
            return;
        }
        told.append(&mut self.early);
        if !told.is_empty() {
            let policies = self.compile();
            for resolved in &*told {
                self.dirty |= self.hosts.learn(resolved, &self.desired, &policies);
            }
        }
    }

    /// Lets answers go out. Also after a write that failed: it is repeated, and no answer helps nobody.
    pub(super) fn opened(&mut self, told: Vec<Resolved>) {
        if told.is_empty() {
            return;
        }
        let open = !self.dirty;
        let sent = told.into_iter().map(|resolved| resolved.opened.send(()));
        let late = sent.filter(|sent| !open || sent.is_err()).count();
        self.say_hosts(u64::try_from(late).unwrap_or(u64::MAX));
    }

    /// Tells which names policies have.
    pub(super) fn say_names(&self, policies: &Compiled) {
        let named = Some(policies.hosts.values().flatten().cloned().collect());
        self.named.send_if_modified(|before| std::mem::replace(before, named.clone()) != named);
        let sets = policies.host.iter().flat_map(|host| host.sets);
        let of_host: BTreeSet<String> = sets.filter_map(|set| policies.hosts.get(&set)).flatten().cloned().collect();
        self.named_of_host.send_if_modified(|before| std::mem::replace(before, of_host.clone()) != of_host);
    }

    fn say_hosts(&self, late: u64) {
        let (addresses, refused) = (self.hosts.hosts().len(), self.hosts.hosts().refused());
        self.state.send_if_modified(|state| {
            let now = HostsReport { addresses, refused, late: state.hosts.late + late };
            std::mem::replace(&mut state.hosts, now) != now
        });
    }

    /// Closes addresses of names whose time is over, unless flows to them live.
    pub(super) fn close_hosts(&mut self) {
        if self.desired.revision == 0 || self.hosts.hosts().is_empty() {
            return;
        }
        let over = self.hosts.over();
        let in_use = if over.is_empty() { Ok(BTreeSet::new()) } else { self.dataplane.in_use(&over) };
        // What is not known to be unused is kept.
        let in_use = in_use.unwrap_or_else(|error| {
            tracing::error!(%error, "addresses of names stay open: it is not known which of them are in use");
            over
        });
        let policies = self.compile();
        self.dirty |= self.hosts.forget(&in_use, &policies);
        self.say_hosts(0);
    }
}
