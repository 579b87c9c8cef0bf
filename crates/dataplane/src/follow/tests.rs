use std::path::PathBuf;

use imbl::OrdSet;
use proptest::prelude::*;

use super::*;
use hivemind_core::{
    model::{
        Addresses, AppKey, Backend, Desired, Instance, Peer, Protocol, Scope, ServedService, Service, ServiceKey,
        ServicePort, Timestamp,
    },
    spec::v1::AppSpec,
};
use hivemind_net::Mac;
use hivemind_policy::{Cache, compile};

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
        let peer = Peer { node: node.clone(), addresses: addresses(n), scope, labels };
        desired.peers.insert(id.clone(), Arc::new(peer));
        if node.as_str() == HERE {
            let instance = Instance {
                id: id.clone(),
                app: app.clone(),
                generation: 1,
                spec: AppSpec::new("x"),
                node,
                addresses: addresses(n),
                desired: Desired::Run,
                contents: hivemind_core::model::ContentVersions::default(),
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
        networks: Default::default(),
        ports: vec![port],
        app,
        balance: hivemind_core::spec::v1::BalanceSpec::default(),
        shares: hivemind_core::model::Shares::default(),
        created_at: Timestamp::from_millis(0),
    };
    let backend = |id: &InstanceId, node: &str, n| Backend {
        id: id.clone(),
        node: node.parse().expect("a name"),
        addresses: addresses(n),
        weight: 100,
        ports: None,
    };
    let served =
        ServedService { backends: vec![backend(&here, HERE, 2), backend(&there, "there", 3)], service, leaving: false };
    desired.services.insert(served.service.key.clone(), Arc::new(served));
    (desired, here)
}

fn link(ifindex: u32) -> HostLink {
    let (host_mac, instance_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    HostLink { netns: PathBuf::new(), name: "hm".into(), ifindex, host_mac, instance_mac }
}

/// All rows, made anew.
fn compute(
    desired: &NodeDesired,
    policies: &Compiled,
    node: &NodeName,
    links: &BTreeMap<InstanceId, HostLink>,
    node_addresses: &[IpNet],
) -> Tables {
    let desired = &Arc::new(desired.clone());
    let ways = BTreeMap::new();
    super::compute(Facts {
        desired,
        policies,
        policies_version: 0,
        node,
        links,
        node_addresses,
        ways: &ways,
        paced: false,
    })
}

#[test]
fn rows_follow_from_what_is_told() {
    let (desired, here) = desired();
    let links = BTreeMap::from([(here, link(9))]);
    let own = ["192.0.2.1/24", "2001:db8::1/64", "198.51.100.7/32"].map(|net| net.parse().expect("a network"));
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
    assert_eq!(tables.served, imbl::OrdMap::unit((9, 8080, Protocol::Tcp), 7));
    assert_eq!(tables.node_addresses.len(), 3);
    // What reaches the node by its networks is the node's.
    let hosts = tables.peers.iter().filter(|(_, row)| row.class == HOST).map(|(address, _)| address.to_string());
    assert_eq!(hosts.collect::<Vec<_>>(), ["192.0.2.0", "192.0.2.255", "2001:db8::"]);
}

#[test]
fn instances_of_other_nodes_are_reached_by_addresses_that_only_those_have() {
    let (mut desired, here) = desired();
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    // Every node has the address of some bridge of its own.
    let own = [ip("172.17.0.1"), ip("192.0.2.1")];
    let nets = own.map(IpNet::from);
    desired.nodes.insert(HERE.parse().expect("a name"), Arc::new(own.to_vec()));
    let theirs = vec![ip("172.17.0.1"), ip("192.0.2.3"), ip("198.51.100.3"), ip("2001:db8::3")];
    desired.nodes.insert("there".parse().expect("a name"), Arc::new(theirs));
    let (node, links) = (HERE.parse().expect("a name"), BTreeMap::from([(here, link(9))]));
    let way = NodeRow { device: 2, mtu: 1500 };
    let mut ways = BTreeMap::from([(ip("192.0.2.3"), way)]);
    let (desired, policies) = (Arc::new(desired.clone()), compile(&desired, &node));
    let mut follower = Follower::default();
    let mut follow = |desired: &Arc<NodeDesired>, own: &[IpNet], ways: &BTreeMap<IpAddr, NodeRow>| {
        let facts = Facts {
            desired,
            policies: &policies,
            policies_version: 0,
            node: &node,
            links: &links,
            node_addresses: own,
            ways,
            paced: false,
        };
        follower.follow(facts).clone()
    };
    let tables = follow(&desired, &nets, &ways);
    let reached = |tables: &Tables, text| tables.peers[&ip(text)].node;
    assert_eq!(reached(&tables, "10.88.0.3"), Some(ip("192.0.2.3")));
    assert_eq!(reached(&tables, "fd00::3"), Some(ip("2001:db8::3")));
    assert_eq!((reached(&tables, "10.88.0.2"), reached(&tables, "fd00::2")), (None, None), "they are here");
    let none = NodeRow::default();
    let rows = [(ip("192.0.2.3"), way), (ip("198.51.100.3"), none), (ip("2001:db8::3"), none)];
    assert_eq!(tables.nodes, rows.into_iter().collect());
    // What is learnt later is followed.
    ways.insert(ip("2001:db8::3"), way);
    assert_eq!(follow(&desired, &nets, &ways).nodes[&ip("2001:db8::3")], way);
    let tables = follow(&desired, &[nets[0], nets[1], ip("192.0.2.3").into()], &ways);
    assert_eq!(reached(&tables, "10.88.0.3"), Some(ip("198.51.100.3")), "that address is ours now");
    let alone = Arc::new(NodeDesired { nodes: OrdMap::new(), ..(*desired).clone() });
    let tables = follow(&alone, &nets, &ways);
    assert!(tables.nodes.is_empty() && reached(&tables, "10.88.0.3").is_none());
}

#[test]
fn who_gets_connections_follows_from_weights_and_policies_of_traffic() {
    use hivemind_core::spec::v1::{Affinity, BalanceSpec};
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
    assert_eq!(sources, OrdSet::unit((7, "10.0.0.0/8".parse().expect("a block"))));
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
        let rules = (0..10).map(|port| format!("- {{from: [{{instances: {{}}}}], ports: [{}]}}", 8000 + n * 10 + port));
        let rules = rules.collect::<Vec<_>>().join("\n");
        let text = format!("policy: p{n}\ninstances: app=a{n}\ningress:\n{rules}\n");
        for document in hivemind_policy::read(&text, &Scope::default()).expect("valid") {
            let hivemind_policy::Document::Policy(key, spec) = document else { panic!("of a tier") };
            let created_at = Timestamp::from_millis(0);
            desired.policies.insert(key.clone(), Arc::new(hivemind_core::model::Policy { key, spec, created_at }));
        }
    }
    let (mut cache, mut follower, links) = (Cache::default(), Follower::default(), BTreeMap::new());
    let mut follow = |desired: &Arc<NodeDesired>| {
        let policies = cache.compile(desired, &node, &Arc::default());
        let policies_version = cache.version();
        let (policies, node, links) = (&*policies, &node, &links);
        let facts = Facts {
            desired,
            policies,
            policies_version,
            node,
            links,
            node_addresses: &[],
            ways: &BTreeMap::new(),
            paced: false,
        };
        (follower.follow(facts).clone(), cache.runs())
    };
    let (before, _) = follow(&Arc::new(desired.clone()));
    let (key, served) = desired.services.get_max().cloned().expect("one");
    let mut served = (*served).clone();
    served.service.id += 1;
    desired.services.insert(key, Arc::new(served));
    desired.revision += 1;
    let (after, runs) = follow(&Arc::new(desired.clone()));
    assert_eq!(after, compute(&desired, &compile(&desired, &node), &node, &links, &[]));
    assert_eq!((runs, after.rules.len() >= 1_000), (1, true));
    assert!(before.rules.ptr_eq(&after.rules) && before.peers.ptr_eq(&after.peers), "made anew for nothing");
    assert_eq!(crate::diff::changes(&before.services, &after.services).put.len(), 3);
}

/// What may change from one moment to the next.
#[derive(Clone, Debug)]
struct Moment {
    /// Of each service that is there: a port that others may have as well, whether it is published, and backends.
    services: BTreeMap<u8, (u16, bool, Vec<bool>)>,
    /// Which of the instances have a link.
    links: Vec<bool>,
    /// Which of them is there at all.
    peers: Vec<bool>,
}

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let service = (0..3_u16, any::<bool>(), prop::collection::vec(any::<bool>(), 3));
    let services = prop::collection::btree_map(0..4_u8, service, 0..4);
    let flags = || prop::collection::vec(any::<bool>(), 3);
    let moment = (services, flags(), flags()).prop_map(|(services, links, peers)| Moment { services, links, peers });
    prop::collection::vec(moment, 1..8)
}

/// The desired state at a moment, made from that before it, as the feed does.
fn next(before: &NodeDesired, moment: &Moment, pattern: &NodeDesired) -> (NodeDesired, BTreeMap<InstanceId, HostLink>) {
    let mut next = before.clone();
    let (instance, peer) =
        (&pattern.instances.values().next().expect("one"), &pattern.peers.values().next().expect("one"));
    let mut links = BTreeMap::new();
    for n in 0..3_u8 {
        let id = InstanceId::from_bits(u64::from(n) + 10);
        if moment.peers[usize::from(n)] {
            if !next.peers.contains_key(&id) {
                let instance = Instance { id: id.clone(), addresses: addresses(n + 10), ..(***instance).clone() };
                next.instances.insert(id.clone(), Arc::new(instance));
                next.peers.insert(id.clone(), Arc::new(Peer { addresses: addresses(n + 10), ..(***peer).clone() }));
            }
            if moment.links[usize::from(n)] {
                links.insert(id, link(u32::from(n) + 100));
            }
        } else {
            next.instances.remove(&id);
            next.peers.remove(&id);
        }
    }
    let served = pattern.services.values().next().expect("one");
    for n in 0..4_u8 {
        let key = ServiceKey::new(Scope::default(), format!("s{n}").parse().expect("a name"));
        let Some((port, published, backends)) = moment.services.get(&n) else {
            next.services.remove(&key);
            continue;
        };
        let mut served = (**served).clone();
        served.service.key = key.clone();
        served.service.id = n.into();
        served.service.addresses.v4 = Some([10, 96, 0, n].into());
        served.service.ports[0].target = 8000 + port;
        served.service.ports[0].published = published.then_some(9000 + port);
        served.service.balance.source_ranges = vec!["10.0.0.0/8".parse().expect("a block")];
        let backend = |n: u8| Backend {
            id: InstanceId::from_bits(u64::from(n) + 10),
            addresses: addresses(n + 10),
            ..served.backends[0].clone()
        };
        served.backends = (0..3).filter(|n| backends[usize::from(*n)]).map(backend).collect();
        if next.services.get(&key).is_none_or(|before| **before != served) {
            next.services.insert(key, Arc::new(served));
        }
    }
    next.revision += 1;
    (next, links)
}

#[test]
fn a_port_leads_to_those_that_have_it_each_at_its_own() {
    let (mut desired, _) = desired();
    let (key, served) = desired.services.iter().next().map(|(key, served)| (key.clone(), served.clone())).expect("one");
    let mut served = (*served).clone();
    let own = served.service.ports[0];
    let other = ServicePort { port: 81, target: 8081, ..own };
    served.service.ports.push(other);
    served.backends[0].ports = Some(vec![own]);
    served.backends[1].ports = Some(vec![other]);
    desired.services.insert(key, Arc::new(served));
    let tables = compute(&desired, &Compiled::default(), &HERE.parse().expect("a name"), &BTreeMap::new(), &[]);
    let targets = |front: &Frontend| -> Vec<u16> {
        let backends = tables.services.get(front).map(|row| row.backends.iter().map(|backend| backend.port));
        let mut targets: Vec<_> = backends.into_iter().flatten().collect();
        targets.sort_unstable();
        targets
    };
    let address = [10, 96, 0, 2].into();
    assert_eq!(targets(&Frontend::Virtual(address, 80, Protocol::Tcp)), [8080]);
    assert_eq!(targets(&Frontend::Virtual(address, 81, Protocol::Tcp)), [8081]);
    assert_eq!(targets(&Frontend::Published(Family::V4, 9000, Protocol::Tcp)), [8080, 8081], "both, at their own");
}

proptest! {
    /// Also where services claim the same port or the same instances.
    #[test]
    fn what_followed_is_what_is_made_anew(moments in moments()) {
        let (pattern, _) = desired();
        let node: NodeName = HERE.parse().expect("a name");
        let (mut cache, mut follower) = (Cache::default(), Follower::default());
        let mut now = NodeDesired::default();
        for moment in moments {
            let (desired, links) = next(&now, &moment, &pattern);
            let desired = Arc::new(desired);
            let policies = cache.compile(&desired, &node, &Arc::default());
            let facts = Facts {
                desired: &desired,
                policies: &policies,
                policies_version: cache.version(),
                node: &node,
                links: &links,
                node_addresses: &[],
                ways: &BTreeMap::new(),
                paced: false,
            };
            let followed = follower.follow(facts);
            prop_assert_eq!(followed, &compute(&desired, &compile(&desired, &node), &node, &links, &[]));
            now = (*desired).clone();
        }
    }
}
