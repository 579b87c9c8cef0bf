//! Names and addresses. Pure.

use std::{collections::HashMap, net::IpAddr};

use crate::model::{Addresses, NodeDesired, Scope};

/// The top of all names that hivemind gives.
pub(super) const ZONE: &str = "hivemind";

/// All names of services, in lower case without a final dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsTable {
    names: HashMap<String, Addresses>,
    complete: bool,
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
        let mut names = HashMap::new();
        for served in desired.services.values() {
            let service = &served.service;
            let scope = &service.key.scope;
            let addresses = if served.backends.is_empty() { Addresses::default() } else { service.addresses };
            let own = format!("{}.{}.{}.{ZONE}", service.key.name, scope.namespace, scope.tenant);
            for name in service.dns_names.iter().map(|name| name.to_ascii_lowercase()).chain([own]) {
                names.insert(name, addresses);
            }
        }
        Self { names, complete: desired.revision > 0 }
    }

    /// Whether it was made from a complete state: before, a name that is missing may still come.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// What it says of `name` (lower case, without a final dot) for one family.
    pub fn answer(&self, name: &str, v4: bool) -> Answer {
        match self.names.get(name) {
            Some(addresses) => Answer::Addresses(addresses.iter().filter(|address| address.is_ipv4() == v4).collect()),
            None if name.rsplit('.').next() == Some(ZONE) => Answer::NoSuchName,
            None => Answer::NotOurs,
        }
    }
}

/// The `/etc/resolv.conf` of an instance: the node's own addresses, and short names of its own namespace.
pub fn resolv_conf(servers: &Addresses, scope: &Scope) -> String {
    let mut text = String::new();
    for server in servers.iter() {
        text += &format!("nameserver {server}\n");
    }
    text + &format!("search {}.{}.{ZONE}\noptions ndots:1 timeout:2 attempts:2\n", scope.namespace, scope.tenant)
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
            weight: 100,
            addresses: Addresses::default(),
        };
        let served = ServedService { backends: (0..backends).map(backend).collect(), service };
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
    }

    #[test]
    fn instances_ask_their_node() {
        let servers = Addresses { v4: Some([10, 88, 0, 1].into()), v6: "fd00::1".parse().ok() };
        let text = resolv_conf(&servers, &Scope::default());
        assert_eq!(
            text,
            "nameserver 10.88.0.1\nnameserver fd00::1\nsearch default.default.hivemind\n\
             options ndots:1 timeout:2 attempts:2\n"
        );
    }
}
