//! Names and addresses. Pure.

use std::{net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdMap, ordmap::DiffItem};

use crate::{
    model::{Addresses, Instance, InstanceId, NodeDesired, Scope, ServedService, ServiceKey, in_dns_zone},
    spec::v1::DnsSpec,
};

/// All names of services, in lower case without a final dot. A clone is cheap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DnsTable {
    names: HashMap<String, Named>,
    /// What the names were made from.
    services: OrdMap<ServiceKey, Arc<ServedService>>,
    /// Who is asked for other names, by the address of the instance that asks; the node's servers for who is not here.
    servers: HashMap<IpAddr, Vec<IpAddr>>,
    /// What the servers were made from.
    instances: OrdMap<InstanceId, Arc<Instance>>,
    complete: bool,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    /// The number of the service whose name it is.
    service: u32,
    addresses: Addresses,
}

/// What the table says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name exists and has these addresses of the asked kind; none if no instance is Ready, or in the other family.
    Addresses(Vec<IpAddr>),
    /// The name would be ours and does not exist.
    NoSuchName,
    /// Not ours: ask upstream.
    NotOurs,
}

impl DnsTable {
    /// The names of all services, each with its virtual addresses if an instance is Ready. A name without a Ready
    /// instance exists and has no address: clients then fail at once instead of running into a timeout.
    pub fn new(desired: &NodeDesired) -> Self {
        let mut table = Self::default();
        table.follow(desired);
        table
    }

    /// Takes in what is told now, and costs by what differs from before. Whether another answer is given to anything.
    pub fn follow(&mut self, desired: &NodeDesired) -> bool {
        let complete = desired.revision > 0;
        let mut differs = std::mem::replace(&mut self.complete, complete) != complete;
        let before = std::mem::replace(&mut self.services, desired.services.clone());
        let mut come = Vec::new();
        for change in before.diff(&self.services) {
            let (old, new) = match change {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            let (old, new) = (old.map(|served| names(served)), new.map(|served| names(served)));
            if old == new {
                continue;
            }
            differs = true;
            for (name, named) in old.into_iter().flatten() {
                // A name that has gone over to another service is that one's.
                if self.names.get(&name).is_some_and(|now| now.service == named.service) {
                    self.names.remove(&name);
                }
            }
            come.extend(new);
        }
        // After all that go: a name may go over from one service to another at once.
        self.names.extend(come.into_iter().flatten());
        self.follow_servers(desired) || differs
    }

    fn follow_servers(&mut self, desired: &NodeDesired) -> bool {
        let before = std::mem::replace(&mut self.instances, desired.instances.clone());
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for change in before.diff(&self.instances) {
            let (old, new) = match change {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            let own = |instance: &&Arc<Instance>| !instance.spec.container.dns.servers.is_empty();
            gone.extend(old.filter(own).into_iter().flat_map(|instance| instance.addresses.iter()));
            if let Some(instance) = new.filter(own) {
                let servers = &instance.spec.container.dns.servers;
                come.extend(instance.addresses.iter().map(|address| (address, servers.clone())));
            }
        }
        let differs = !gone.is_empty() || !come.is_empty();
        gone.iter().for_each(|address| drop(self.servers.remove(address)));
        self.servers.extend(come);
        differs
    }

    /// Who is asked for names that are not ours when the instance of that address asks; empty: whom the node asks.
    pub fn servers_of(&self, asker: IpAddr) -> &[IpAddr] {
        self.servers.get(&asker).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether it was made from a complete state: before, a name that is missing may still come.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// What it says of `name` (lower case, without a final dot) for one family.
    pub fn answer(&self, name: &str, v4: bool) -> Answer {
        match self.names.get(name) {
            Some(named) => {
                Answer::Addresses(named.addresses.iter().filter(|address| address.is_ipv4() == v4).collect())
            }
            None if in_dns_zone(name) => Answer::NoSuchName,
            None => Answer::NotOurs,
        }
    }
}

/// All names of a service, with what they stand for.
fn names(served: &ServedService) -> Vec<(String, Named)> {
    let service = &served.service;
    let ready = !served.backends.is_empty() && !served.leaving;
    let addresses = if ready { service.addresses } else { Addresses::default() };
    let named = Named { service: service.id, addresses };
    service.all_dns_names().map(|name| (name.to_ascii_lowercase(), named)).collect()
}

/// The `/etc/resolv.conf` of an instance: the node's own addresses, and short names of its own namespace unless the app
/// says others.
pub fn resolv_conf(servers: &Addresses, scope: &Scope, own: &DnsSpec) -> String {
    let mut text = String::new();
    for server in servers.iter() {
        text += &format!("nameserver {server}\n");
    }
    let search = if own.search.is_empty() { scope.dns_domain() } else { own.search.join(" ") };
    let options = if own.options.is_empty() { "ndots:1 timeout:2 attempts:2".into() } else { own.options.join(" ") };
    text + &format!("search {search}\noptions {options}\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{AppKey, Backend, InstanceId, ServedService, Service, ServiceKey, Timestamp};

    fn desired(backends: usize) -> NodeDesired {
        let service = Service {
            key: ServiceKey::new(Scope::default(), "web".parse().expect("a name")),
            id: 1,
            addresses: Addresses { v4: Some([10, 96, 0, 2].into()), v6: "fd00::2".parse().ok() },
            dns_names: vec!["Web.Local".into()],
            ports: vec![],
            app: AppKey::new(Scope::default(), "web".parse().expect("a name")),
            balance: crate::spec::v1::BalanceSpec::default(),
            shares: crate::model::Shares::default(),
            created_at: Timestamp::from_millis(0),
        };
        let backend = |n: usize| Backend {
            id: InstanceId::from_bits(n as u64),
            node: "a".parse().expect("a name"),
            ports: None,
            weight: 100,
            addresses: Addresses::default(),
        };
        let served = ServedService { backends: (0..backends).map(backend).collect(), service, leaving: false };
        let mut desired = NodeDesired::default();
        desired.services.insert(served.service.key.clone(), Arc::new(served));
        desired
    }

    #[test]
    fn a_service_answers_to_all_its_names_in_both_families() {
        let table = DnsTable::new(&desired(1));
        for name in ["web.local", "web.default.default.hivemind"] {
            assert_eq!(table.answer(name, true), Answer::Addresses(vec![[10, 96, 0, 2].into()]), "{name}");
            assert_eq!(table.answer(name, false), Answer::Addresses(vec!["fd00::2".parse().expect("one")]), "{name}");
        }
        assert_eq!(table.answer("nope.default.default.hivemind", true), Answer::NoSuchName);
        assert_eq!(table.answer("example.org", true), Answer::NotOurs);
        assert_eq!(table.answer("web", true), Answer::NotOurs);
    }

    #[test]
    fn without_a_ready_instance_a_name_exists_and_has_no_address() {
        assert_eq!(DnsTable::new(&desired(0)).answer("web.local", true), Answer::Addresses(vec![]));
        let mut stopping = desired(1);
        for served in stopping.services.clone().values() {
            let leaving = ServedService { leaving: true, ..(**served).clone() };
            stopping.services.insert(leaving.service.key.clone(), Arc::new(leaving));
        }
        assert_eq!(DnsTable::new(&stopping).answer("web.local", true), Answer::Addresses(vec![]));
    }

    #[test]
    fn a_table_that_followed_says_what_a_new_one_says() {
        let with = |rows: &[(&str, u32, &str, usize)]| {
            let mut told = NodeDesired { revision: 1, ..NodeDesired::default() };
            for (key, id, name, backends) in rows {
                let one = desired(*backends);
                let mut served = (**one.services.values().next().expect("one")).clone();
                served.service.key.name = key.parse().expect("a name");
                (served.service.id, served.service.dns_names) = (*id, vec![(*name).to_owned()]);
                told.services.insert(served.service.key.clone(), Arc::new(served));
            }
            told
        };
        let mut table = DnsTable::default();
        for (rows, differs) in [
            (vec![("a", 1, "x.local", 1), ("b", 2, "y.local", 1)], true),
            (vec![("a", 1, "x.local", 1), ("b", 2, "y.local", 1)], false),
            (vec![("a", 1, "x.local", 2), ("b", 2, "y.local", 1)], false),
            (vec![("a", 1, "x.local", 0), ("b", 2, "y.local", 1)], true),
            // One takes what another lets go, whichever comes first.
            (vec![("a", 1, "y.local", 1), ("b", 2, "x.local", 1)], true),
            (vec![("a", 1, "z.local", 1)], true),
            // Another service of the same name.
            (vec![("a", 3, "z.local", 1)], true),
            (vec![], true),
        ] {
            let told = with(&rows);
            assert_eq!(table.follow(&told), differs, "{rows:?}");
            assert_eq!(table, DnsTable::new(&told), "{rows:?}");
        }
    }

    #[test]
    fn instances_ask_their_node() {
        let servers = Addresses { v4: Some([10, 88, 0, 1].into()), v6: "fd00::1".parse().ok() };
        let text = resolv_conf(&servers, &Scope::default(), &DnsSpec::default());
        assert_eq!(
            text,
            "nameserver 10.88.0.1\nnameserver fd00::1\nsearch default.default.hivemind\n\
             options ndots:1 timeout:2 attempts:2\n"
        );
    }
}
