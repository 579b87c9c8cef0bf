//! What was: rules that are gone, and what policies on trial would have denied.

use std::collections::{BTreeMap, BTreeSet};

use hivemind_ebpf::{policy::HOST_ENDPOINT, reason::Reason};

use super::Owner;
use hivemind_core::lifecycle::clock;
use hivemind_dataplane::{Counter, DataplaneError, Way};
use hivemind_policy::{Compiled, Direction, PolicyRef, Subject, Trial, TrialPlace};

impl Owner {
    /// Takes in which policies are on trial, before the kernel is told: what it has counted so far was others'.
    pub(super) fn try_policies(&mut self, policies: &Compiled) {
        let desired = &self.desired;
        let audits = desired.policies.values().any(|policy| policy.spec.audit)
            || desired.tiers.values().any(|policy| policy.spec.audit);
        if !audits && self.trials.is_empty() {
            return;
        }
        if let Err(error) = self.count_trials() {
            tracing::warn!(%error, "what policies on trial would have denied is not counted");
        }
        let mut devices: BTreeMap<u32, Subject> =
            self.links.iter().map(|(id, link)| (link.ifindex, Subject::Instance(id.clone()))).collect();
        devices.insert(HOST_ENDPOINT, Subject::Host);
        self.trials.change(clock::now(), &self.desired, &self.node, policies, &devices);
    }

    /// Reads what the kernel has counted.
    pub(super) fn count_trials(&mut self) -> Result<(), DataplaneError> {
        let counters = self.dataplane.counters()?;
        self.trials.count(&audited(&counters));
        Ok(())
    }

    /// What each policy on trial would have denied.
    pub(super) fn counted_trials(&mut self) -> Result<BTreeMap<PolicyRef, Trial>, DataplaneError> {
        if !self.trials.is_empty() {
            self.count_trials()?;
        }
        Ok(self.trials.counted())
    }

    /// Brings what is counted up to date, and forgets the names of rules that nothing shows any more.
    pub(super) fn sweep_past(&mut self) -> Result<(), DataplaneError> {
        if !self.trials.is_empty() {
            self.count_trials()?;
        }
        if self.policies.retired().is_full() {
            let mut named: BTreeSet<u32> = self.dataplane.drops()?.iter().map(|drops| drops.rule).collect();
            named.extend(self.dataplane.flows()?.iter().map(|flow| flow.rule));
            self.policies.forget(&named);
        }
        Ok(())
    }
}

/// What passed because policies are on trial, by place.
fn audited(counters: &[Counter]) -> BTreeMap<TrialPlace, u64> {
    let mut all = BTreeMap::new();
    for counter in counters.iter().filter(|counter| counter.reason == Some(Reason::Audit)) {
        let direction = match counter.direction {
            Way::In => Direction::In,
            Way::Out => Direction::Out,
            Way::Opened => continue,
        };
        *all.entry((counter.endpoint, direction)).or_default() += counter.packets;
    }
    all
}
