//! Floor 1: from what the node is told to the rows that the data plane should hold. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    model::{InstanceId, NodeDesired, NodeName, Protocol},
    net::{Family, HostLink, Mac},
    policy::{Compiled, EndpointPolicy, PeerClass, RuleKey, RuleRow},
    spec::v1::PolicyProtocol,
};

/// Every row the data plane should hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tables {
    /// The instances of this node, by the interface index of their host device. An interface without a row denies.
    pub endpoints: BTreeMap<u32, EndpointRow>,
    /// Whose address it is, for all instances of the cluster.
    pub peers: BTreeMap<IpAddr, PeerRow>,
    /// Virtual addresses and ports, and published ports.
    pub services: BTreeMap<Frontend, ServiceRow>,
    /// The node's own addresses: where published ports are reached.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The ports that instances of this node serve, by interface index, and the number of the service: its packets
    /// carry no virtual address, so this is how they are counted for it.
    pub served: BTreeMap<(u32, u16, Protocol), u32>,
    /// What policies say.
    pub rules: BTreeMap<RuleKey, RuleRow>,
    /// Where intervals of ports begin that rules name; 0 always does.
    pub intervals: BTreeMap<PolicyProtocol, BTreeSet<u16>>,
    /// The block class of addresses, by longest prefix.
    pub blocks: BTreeMap<IpNet, u32>,
}

/// An instance of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointRow {
    /// Its IPv4 address, the only one it may send from.
    pub v4: Option<std::net::Ipv4Addr>,
    /// Its IPv6 address, the only one it may send from besides its link-local one.
    pub v6: Option<std::net::Ipv6Addr>,
    /// The Ethernet address of its end.
    pub instance_mac: Mac,
    /// The Ethernet address of the host's end.
    pub host_mac: Mac,
    /// Its class for policies.
    pub class: u32,
    /// Its tenant's number.
    pub tenant: u32,
    /// What policies are about it.
    pub policy: EndpointPolicy,
    /// Whether a rule of its sets names a block of addresses.
    pub blocks: bool,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// Its class for policies.
    pub class: u32,
    /// Its tenant's number.
    pub tenant: u32,
    /// The interface index of its host device if it is on this node, else 0.
    pub ifindex: u32,
}

/// Where a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// That the virtual address is some service's, whatever the port.
    Address(IpAddr),
    /// A virtual address and port.
    Virtual(IpAddr, u16, Protocol),
    /// A port on the node's own addresses, loopback included, IPv4 or IPv6.
    Published(Family, u16, Protocol),
}

/// What is behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// The service's number.
    pub id: u32,
    /// The Ready instances' addresses (of the frontend's family) and ports, in a stable order.
    pub backends: Vec<(IpAddr, u16)>,
}

/// The rows that `node` should hold for what it is told, given its links and its own addresses. An instance without a
/// link has no row, and so denies. `policies` are those of `desired`.
pub fn compute(
    desired: &NodeDesired,
    policies: &Compiled,
    node: &NodeName,
    links: &BTreeMap<InstanceId, HostLink>,
    node_addresses: &[IpAddr],
) -> Tables {
    // Every instance has a class; one that has none yet is unknown to everybody.
    let class = |id: &InstanceId| policies.peers.get(id).copied().unwrap_or_default();
    let mut tables = Tables { node_addresses: node_addresses.iter().copied().collect(), ..Tables::default() };
    for (id, instance) in &desired.instances {
        let Some(link) = links.get(id) else { continue };
        let row = EndpointRow {
            v4: instance.addresses.v4,
            v6: instance.addresses.v6,
            instance_mac: link.instance_mac,
            host_mac: link.host_mac,
            class: class(id).class,
            tenant: class(id).tenant,
            policy: policies.endpoints.get(id).copied().unwrap_or_default(),
            blocks: policies
                .endpoints
                .get(id)
                .is_some_and(|policy| policy.sets.iter().any(|set| policies.with_blocks.contains(set))),
        };
        tables.endpoints.insert(link.ifindex, row);
    }
    for (id, peer) in &desired.peers {
        let local = links.get(id).filter(|_| peer.node == *node && desired.instances.contains_key(id));
        let PeerClass { class, tenant } = class(id);
        let row = PeerRow { class, tenant, ifindex: local.map_or(0, |link| link.ifindex) };
        tables.peers.extend(peer.addresses.iter().map(|address| (address, row)));
    }
    for served in desired.services.values() {
        let id = served.service.id;
        for address in served.service.addresses.iter() {
            tables.services.insert(Frontend::Address(address), ServiceRow { id, backends: Vec::new() });
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            for port in &served.service.ports {
                let of_family = served.backends.iter().flat_map(|backend| backend.addresses.iter());
                let backends = of_family.filter(|backend| backend.is_ipv4() == address.is_ipv4());
                let row = ServiceRow { id, backends: backends.map(|backend| (backend, port.target)).collect() };
                if let Some(published) = port.published {
                    tables.services.insert(Frontend::Published(family, published, port.protocol), row.clone());
                }
                tables.services.insert(Frontend::Virtual(address, port.port, port.protocol), row);
            }
        }
        for backend in served.backends.iter().filter(|backend| backend.node == *node) {
            let Some(link) = links.get(&backend.id) else { continue };
            for port in &served.service.ports {
                tables.served.insert((link.ifindex, port.target, port.protocol), id);
            }
        }
    }
    tables.rules.clone_from(&policies.rules);
    tables.intervals.clone_from(&policies.ports);
    tables.blocks.clone_from(&policies.blocks);
    tables
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;
    use crate::{
        model::{
            Addresses, AppKey, Backend, Desired, Instance, Peer, Scope, ServedService, Service, ServiceKey,
            ServicePort, Timestamp,
        },
        policy::compile,
        spec::v1::AppSpec,
    };

    const HERE: &str = "here";

    fn addresses(n: u8) -> Addresses {
        Addresses { v4: Some([10, 88, 0, n].into()), v6: format!("fd00::{n}").parse().ok() }
    }

    /// Two Ready instances, the second on another node, behind a service with a published port.
    fn desired() -> (NodeDesired, InstanceId) {
        let app = AppKey::new(Scope::default(), "web".parse().expect("a name"));
        let (here, there) = (InstanceId::from_bits(1), InstanceId::from_bits(2));
        let mut desired = NodeDesired { revision: 1, ..NodeDesired::default() };
        for (id, node, n) in [(&here, HERE, 2), (&there, "there", 3)] {
            let node: NodeName = node.parse().expect("a name");
            let (scope, labels) = (app.scope.clone(), std::collections::BTreeMap::new());
            let peer = Peer { node: node.clone(), addresses: addresses(n), identity: 256, scope, labels };
            desired.peers.insert(id.clone(), Arc::new(peer));
            if node.as_str() == HERE {
                let instance = Instance {
                    id: id.clone(),
                    app: app.clone(),
                    generation: 1,
                    spec: AppSpec::new("x"),
                    node,
                    addresses: addresses(n),
                    identity: 256,
                    desired: Desired::Run,
                    created_at: Timestamp::from_millis(0),
                };
                desired.instances.insert(id.clone(), Arc::new(instance));
            }
        }
        let port = ServicePort { port: 80, target: 8080, protocol: Protocol::Tcp, published: Some(9000) };
        let service = Service {
            key: ServiceKey::new(Scope::default(), "web".parse().expect("a name")),
            id: 7,
            addresses: Addresses { v4: Some([10, 96, 0, 2].into()), v6: None },
            dns_names: vec![],
            ports: vec![port],
            app,
            created_at: Timestamp::from_millis(0),
        };
        let backend = |id: &InstanceId, node: &str, n| Backend {
            id: id.clone(),
            node: node.parse().expect("a name"),
            addresses: addresses(n),
        };
        let served = ServedService { backends: vec![backend(&here, HERE, 2), backend(&there, "there", 3)], service };
        desired.services.insert(served.service.key.clone(), Arc::new(served));
        (desired, here)
    }

    fn link(ifindex: u32) -> HostLink {
        let (host_mac, instance_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        HostLink { netns: PathBuf::new(), name: "hm".into(), ifindex, host_mac, instance_mac }
    }

    #[test]
    fn rows_follow_from_what_is_told() {
        let (desired, here) = desired();
        let links = BTreeMap::from([(here, link(9))]);
        let own = ["192.0.2.1".parse().expect("an address")];
        let node = HERE.parse().expect("a name");
        let tables = compute(&desired, &compile(&desired, &node), &node, &links, &own);
        assert_eq!(tables.endpoints[&9].v4, Some([10, 88, 0, 2].into()));
        let peer = |text: &str| tables.peers[&text.parse::<IpAddr>().expect("an address")].ifindex;
        assert_eq!((peer("10.88.0.2"), peer("fd00::2"), peer("10.88.0.3"), peer("fd00::3")), (9, 9, 0, 0));
        let backends = vec![([10, 88, 0, 2].into(), 8080), ([10, 88, 0, 3].into(), 8080)];
        let vip = IpAddr::from([10, 96, 0, 2]);
        let row = ServiceRow { id: 7, backends };
        assert_eq!(tables.services[&Frontend::Virtual(vip, 80, Protocol::Tcp)], row);
        assert_eq!(tables.services[&Frontend::Published(Family::V4, 9000, Protocol::Tcp)], row);
        assert!(tables.services.contains_key(&Frontend::Address(vip)));
        assert_eq!(tables.services.len(), 3, "no IPv6 frontend without an IPv6 address");
        assert_eq!(tables.served, BTreeMap::from([((9, 8080, Protocol::Tcp), 7)]));
        assert_eq!(tables.node_addresses.len(), 1);
    }

    #[test]
    fn without_a_link_an_instance_has_no_row() {
        let (desired, _) = desired();
        let node = HERE.parse().expect("a name");
        let tables = compute(&desired, &compile(&desired, &node), &node, &BTreeMap::new(), &[]);
        assert!(tables.endpoints.is_empty() && tables.served.is_empty());
        assert!(tables.peers.values().all(|peer| peer.ifindex == 0));
    }
    #[test]
    fn a_service_more_does_not_pay_for_policies() {
        let (mut desired, _) = desired();
        let node: NodeName = HERE.parse().expect("a name");
        let (peer, served) = (desired.peers.values().next().cloned(), desired.services.values().next().cloned());
        let (peer, served) = (peer.expect("a peer"), served.expect("a service"));
        for n in 3..10_000_u32 {
            let mut peer = (*peer).clone();
            peer.addresses.v4 = Some((0x0a58_0000 + n).into());
            peer.labels.insert("app".into(), format!("a{n}"));
            peer.node = if n < 103 { node.clone() } else { "there".parse().expect("a name") };
            desired.peers.insert(InstanceId::from_bits(n.into()), Arc::new(peer));
            let mut served = (*served).clone();
            served.service.key.name = format!("s{n}").parse().expect("a name");
            served.service.addresses.v4 = Some((0x0a60_0000 + n).into());
            desired.services.insert(served.service.key.clone(), Arc::new(served));
        }
        for n in 3..103 {
            let rules =
                (0..10).map(|port| format!("- {{from: [{{instances: {{}}}}], ports: [{}]}}", 8000 + n * 10 + port));
            let rules = rules.collect::<Vec<_>>().join("\n");
            let text = format!("policy: p{n}\ninstances: app=a{n}\ningress:\n{rules}\n");
            for document in crate::policy::read(&text, &Scope::default()).expect("valid") {
                let crate::policy::Document::Policy(key, spec) = document else { panic!("of a tier") };
                let created_at = Timestamp::from_millis(0);
                desired.policies.insert(key.clone(), Arc::new(crate::model::Policy { key, spec, created_at }));
            }
        }
        let mut cache = crate::policy::Cache::default();
        cache.compile(&Arc::new(desired.clone()), &node);
        let next = Arc::new(NodeDesired { revision: 2, ..desired });
        let timed = |policies: &mut dyn FnMut() -> Arc<Compiled>| {
            let start = tokio::time::Instant::now();
            let policies = policies();
            let compiled = start.elapsed();
            let tables = compute(&next, &policies, &node, &BTreeMap::new(), &[]);
            (compiled, start.elapsed(), tables)
        };
        let (before, before_all, whole) = timed(&mut || Arc::new(compile(&next, &node)));
        let (after, after_all, kept) = timed(&mut || cache.compile(&next, &node));
        eprintln!("compiled {before:?} of {before_all:?}; kept {after:?} of {after_all:?}");
        assert_eq!(whole, kept);
        assert_eq!((cache.runs(), whole.rules.len() >= 1_000), (1, true));
    }
}
