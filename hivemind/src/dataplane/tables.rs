//! Floor 1: from what the node is told to the rows that the data plane should hold. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    model::{Backend, Instance, InstanceId, NodeDesired, NodeName, Protocol, ServedService},
    net::{Family, HostLink, Mac},
    policy::{Compiled, EndpointPolicy, PeerClass, RuleKey, RuleRow},
    spec::v1::{External, Internal, LimitSpec, Method, PolicyProtocol},
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
    /// From where the published ports of services (by number) are reached that have source ranges.
    pub sources: BTreeSet<(u32, IpNet)>,
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
    /// What instances and tenants may use. Who is not here may use everything.
    pub limits: BTreeMap<LimitOwner, LimitRow>,
}

/// Who has limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitOwner {
    /// An instance of this node, by the interface index of its host device.
    Instance(u32),
    /// A tenant's instances on this node together, by the tenant's number.
    Tenant(u32),
}

/// What somebody may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LimitRow {
    /// The limits; of an instance that has none itself, none.
    pub spec: LimitSpec,
    /// Of an instance whose tenant has limits, the tenant's number; else 0.
    pub tenant: u32,
}

/// What somebody uses. Pairs are what goes out, or is begun, and what comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Connections that are not closed.
    pub connections: [u64; 2],
    /// Rows of the table of flows; of tenants 0.
    pub flows: u64,
    /// Flows that got no row because the instance holds its share of the table.
    pub unshared: u64,
    /// Packets that were dropped because they were over a rate.
    pub dropped_packets: [u64; 2],
    /// Bytes of them.
    pub dropped_bytes: [u64; 2],
    /// Connections that were refused.
    pub refused: [u64; 2],
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
    /// Whether it has rates, or its tenant has.
    pub limited: bool,
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
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceRow {
    /// The service's number.
    pub id: u32,
    /// Those that get new connections (addresses of the frontend's family), in a stable order.
    pub backends: Vec<BackendRow>,
    /// How one of them is chosen.
    pub choice: Choice,
}

/// Where new connections may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendRow {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share, from 1 to [`hivemind_ebpf::choose::MAX_WEIGHT`].
    pub weight: u16,
}

/// How a backend is chosen. By default at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Choice {
    /// For how many seconds after its last connection a client stays with its backend; 0: it does not.
    pub affinity: u32,
    /// Sockets choose the one of two with fewer open connections.
    pub least: bool,
    /// From outside, only who is in a source range of the service.
    pub sources: bool,
    /// Only backends of this node are here, though there may be others.
    pub local: bool,
    /// From outside every node chooses alike.
    pub alike: bool,
}

impl ServiceRow {
    /// Backends of equal weight, one of them at random.
    pub fn equal(id: u32, backends: impl IntoIterator<Item = (IpAddr, u16)>) -> Self {
        let row = |(address, port)| BackendRow { address, port, weight: 1 };
        Self { id, backends: backends.into_iter().map(row).collect(), choice: Choice::default() }
    }
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
        let limited = tables.limit(link.ifindex, class(id).tenant, instance, desired);
        let row = EndpointRow {
            limited,
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
        let Served { inside, outside } = Served::new(served, node);
        let (id, balance) = (served.service.id, &served.service.balance);
        for address in served.service.addresses.iter() {
            tables.services.insert(Frontend::Address(address), ServiceRow { id, ..ServiceRow::default() });
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            for port in &served.service.ports {
                if let Some(published) = port.published {
                    let row = outside.row(id, address.is_ipv4(), port.target);
                    tables.services.insert(Frontend::Published(family, published, port.protocol), row);
                    tables.sources.extend(balance.source_ranges.iter().map(|range| (id, *range)));
                }
                let row = inside.row(id, address.is_ipv4(), port.target);
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

impl Tables {
    /// Adds the limits of an instance and of its tenant. Whether there are rates among them.
    fn limit(&mut self, ifindex: u32, number: u32, instance: &Instance, desired: &NodeDesired) -> bool {
        let tenant = desired.tenants.get(&instance.app.scope.tenant).filter(|_| number != 0);
        let tenant = tenant.map(|tenant| tenant.limits).unwrap_or_default();
        let spec = instance.spec.limits;
        if !tenant.is_default() {
            self.limits.insert(LimitOwner::Tenant(number), LimitRow { spec: tenant, tenant: 0 });
        }
        if !tenant.is_default() || !spec.is_default() {
            let tenant = if tenant.is_default() { 0 } else { number };
            self.limits.insert(LimitOwner::Instance(ifindex), LimitRow { spec, tenant });
        }
        tenant.has_rates() || spec.has_rates()
    }
}

/// Who gets a service's connections, as it is for its clients inside and outside.
struct Served<'a> {
    inside: Among<'a>,
    outside: Among<'a>,
}

/// Those that get new connections, and how one of them is chosen.
struct Among<'a> {
    backends: Vec<&'a Backend>,
    choice: Choice,
}

impl<'a> Served<'a> {
    fn new(served: &'a ServedService, node: &NodeName) -> Self {
        let balance = &served.service.balance;
        let all = || served.backends.iter().filter(|backend| backend.weight > 0).collect::<Vec<_>>();
        let here = || served.backends.iter().filter(|b| b.weight > 0 && b.node == *node).collect::<Vec<_>>();
        let affinity = balance.affinity.map_or(0, |affinity| affinity.client_ip_seconds);
        let least = balance.method == Method::LeastConnections;
        let choice = Choice { affinity, least, ..Choice::default() };
        let inside = match balance.internal {
            Internal::Cluster => Among { backends: all(), choice },
            Internal::PreferLocal if here().is_empty() => Among { backends: all(), choice },
            Internal::PreferLocal => Among { backends: here(), choice },
            Internal::Local => Among { backends: here(), choice: Choice { local: true, ..choice } },
        };
        let choice = Choice { alike: true, sources: !balance.source_ranges.is_empty(), ..choice };
        let outside = match balance.external {
            External::Cluster => Among { backends: all(), choice },
            External::Local => Among { backends: here(), choice: Choice { local: true, ..choice } },
        };
        Self { inside, outside }
    }
}

impl Among<'_> {
    /// The row of a frontend of one family.
    fn row(&self, id: u32, v4: bool, port: u16) -> ServiceRow {
        let backend = |backend: &&Backend| {
            let address = backend.addresses.iter().find(|address| address.is_ipv4() == v4)?;
            Some(BackendRow { address, port, weight: backend.weight })
        };
        ServiceRow { id, backends: self.backends.iter().filter_map(backend).collect(), choice: self.choice }
    }
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
            balance: crate::spec::v1::BalanceSpec::default(),
            shares: crate::model::Shares::default(),
            created_at: Timestamp::from_millis(0),
        };
        let backend = |id: &InstanceId, node: &str, n| Backend {
            id: id.clone(),
            node: node.parse().expect("a name"),
            addresses: addresses(n),
            weight: 100,
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
        let backends = [2, 3].map(|n| BackendRow { address: [10, 88, 0, n].into(), port: 8080, weight: 100 });
        let vip = IpAddr::from([10, 96, 0, 2]);
        let row = ServiceRow { id: 7, backends: backends.into(), choice: Choice::default() };
        assert_eq!(tables.services[&Frontend::Virtual(vip, 80, Protocol::Tcp)], row);
        let alike = ServiceRow { choice: Choice { alike: true, ..Choice::default() }, ..row };
        assert_eq!(tables.services[&Frontend::Published(Family::V4, 9000, Protocol::Tcp)], alike);
        assert!(tables.services.contains_key(&Frontend::Address(vip)));
        assert_eq!(tables.services.len(), 3, "no IPv6 frontend without an IPv6 address");
        assert_eq!(tables.served, BTreeMap::from([((9, 8080, Protocol::Tcp), 7)]));
        assert_eq!(tables.node_addresses.len(), 1);
    }

    #[test]
    fn who_gets_connections_follows_from_weights_and_policies_of_traffic() {
        use crate::spec::v1::{Affinity, BalanceSpec};
        let (desired, _) = desired();
        let plain = (**desired.services.values().next().expect("one")).clone();
        let node: NodeName = HERE.parse().expect("a name");
        let rows = |served: &ServedService, node: &NodeName| {
            let mut desired = desired.clone();
            desired.services.insert(served.service.key.clone(), Arc::new(served.clone()));
            let services = compute(&desired, &compile(&desired, node), node, &BTreeMap::new(), &[]).services;
            let inside = services[&Frontend::Virtual([10, 96, 0, 2].into(), 80, Protocol::Tcp)].clone();
            (inside, services[&Frontend::Published(Family::V4, 9000, Protocol::Tcp)].clone())
        };
        let hosts = |row: &ServiceRow| row.backends.iter().map(|b| b.address.to_string()).collect::<Vec<_>>();
        let (both, own) = (["10.88.0.2", "10.88.0.3"], ["10.88.0.2"]);
        let with = |balance: BalanceSpec| {
            let mut served = plain.clone();
            served.service.balance = balance;
            served
        };

        let mut weighted = plain.clone();
        weighted.backends[1].weight = 0;
        let (inside, outside) = rows(&weighted, &node);
        assert_eq!((hosts(&inside), hosts(&outside)), (own.map(String::from).into(), own.map(String::from).into()));

        let local = BalanceSpec { internal: Internal::Local, external: External::Local, ..BalanceSpec::default() };
        let (inside, outside) = rows(&with(local.clone()), &node);
        assert_eq!((hosts(&inside), hosts(&outside)), (own.map(String::from).into(), own.map(String::from).into()));
        assert!(inside.choice.local && outside.choice.local);
        let elsewhere: NodeName = "third".parse().expect("a name");
        let (inside, outside) = rows(&with(local), &elsewhere);
        assert!(inside.backends.is_empty() && outside.backends.is_empty());

        let prefer = BalanceSpec { internal: Internal::PreferLocal, ..BalanceSpec::default() };
        let (inside, outside) = rows(&with(prefer.clone()), &node);
        assert_eq!((hosts(&inside), hosts(&outside)), (own.map(String::from).into(), both.map(String::from).into()));
        assert_eq!(hosts(&rows(&with(prefer), &elsewhere).0), both);

        let rest = BalanceSpec {
            affinity: Some(Affinity { client_ip_seconds: 60 }),
            method: Method::LeastConnections,
            source_ranges: vec!["10.0.0.0/8".parse().expect("a block")],
            ..BalanceSpec::default()
        };
        let served = with(rest);
        let (inside, outside) = rows(&served, &node);
        let choice = Choice { affinity: 60, least: true, ..Choice::default() };
        assert_eq!(inside.choice, choice);
        assert_eq!(outside.choice, Choice { sources: true, alike: true, ..choice });
        let mut desired = desired.clone();
        desired.services.insert(served.service.key.clone(), Arc::new(served));
        let sources = compute(&desired, &compile(&desired, &node), &node, &BTreeMap::new(), &[]).sources;
        assert_eq!(sources, BTreeSet::from([(7, "10.0.0.0/8".parse().expect("a block"))]));
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
        cache.compile(&Arc::new(desired.clone()), &node, &Arc::default());
        let next = Arc::new(NodeDesired { revision: 2, ..desired });
        let timed = |policies: &mut dyn FnMut() -> Arc<Compiled>| {
            let start = tokio::time::Instant::now();
            let policies = policies();
            let compiled = start.elapsed();
            let tables = compute(&next, &policies, &node, &BTreeMap::new(), &[]);
            (compiled, start.elapsed(), tables)
        };
        let (before, before_all, whole) = timed(&mut || Arc::new(compile(&next, &node)));
        let (after, after_all, kept) = timed(&mut || cache.compile(&next, &node, &Arc::default()));
        eprintln!("compiled {before:?} of {before_all:?}; kept {after:?} of {after_all:?}");
        assert_eq!(whole, kept);
        assert_eq!((cache.runs(), whole.rules.len() >= 1_000), (1, true));
    }
}
