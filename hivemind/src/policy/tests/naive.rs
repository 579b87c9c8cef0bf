//! Random small worlds: what is compiled and judged must be what the documents say, read one by one.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};

use super::world::*;
use crate::{
    model::{InstanceId, Namespace, Policy, TenantName},
    policy::{Compiled, Direction, Peer, Verdict, judge},
    spec::v1::{
        BlockPeer, Entity, InstancePeer, Operator, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule, PolicySpec,
        PortMatch, Requirement, Selector,
    },
};

const SCOPES: [&str; 3] = ["red/x", "red/y", "blue/x"];
const PORTS: [u16; 6] = [0, 79, 80, 81, 443, u16::MAX];
const OUTSIDE: [&str; 4] = ["10.0.0.77", "10.1.0.1", "192.0.2.1", "2001:db8::1"];

/// What passes, and why, by the documents.
fn expected(
    world: &World,
    local: &InstanceId,
    direction: Direction,
    peer: Peer<'_>,
    protocol: Option<PolicyProtocol>,
    port: u16,
) -> Verdict {
    let own = &world.desired.peers[local];
    let foreign = match peer {
        Peer::Host => return Verdict::OwnNode,
        Peer::Instance(id, _) => direction == Direction::In && world.desired.peers[id].scope.tenant != own.scope.tenant,
        Peer::Address(_) => false,
    };
    let about = |policy: &&Policy| {
        policy.key.scope == own.scope
            && rules(policy, direction).is_some()
            && policy.spec.instances.matches(&own.labels)
    };
    let about: Vec<&Policy> = world.desired.policies.values().map(|policy| &**policy).filter(about).collect();
    let audit = about.iter().all(|policy| policy.spec.audit);
    let counting = about.iter().filter(|policy| policy.spec.audit == audit);
    let allowed =
        counting.flat_map(|policy| rules(policy, direction).into_iter().flatten().map(|rule| (*policy, rule)));
    let allowed = { allowed }.any(|(policy, rule)| {
        // "Everybody" and blocks mean nobody of another tenant.
        let named = rule.peers.iter().filter(|peer| !matches!(peer, PolicyPeer::Block(_))).cloned().collect();
        let meant = if foreign { PolicyRule { peers: named, ..rule.clone() } } else { rule.clone() };
        !(foreign && meant.peers.is_empty()) && rule_allows(world, policy, &meant, peer, protocol, port)
    });
    match (allowed, foreign, about.is_empty()) {
        (true, false, _) => Verdict::Allowed(0),
        (true, true, _) if !audit => Verdict::Allowed(0),
        (_, true, _) => Verdict::OtherTenant,
        (_, _, true) => Verdict::NotIsolated,
        _ if audit => Verdict::WouldDeny,
        _ => Verdict::Denied,
    }
}

fn rules(policy: &Policy, direction: Direction) -> Option<&Vec<PolicyRule>> {
    if direction == Direction::In { policy.spec.ingress.as_ref() } else { policy.spec.egress.as_ref() }
}

fn rule_allows(
    world: &World,
    policy: &Policy,
    rule: &PolicyRule,
    peer: Peer<'_>,
    protocol: Option<PolicyProtocol>,
    port: u16,
) -> bool {
    let port_ok = |allowed: &PolicyPort| {
        Some(allowed.protocol) == protocol
            && match &allowed.port {
                None => true,
                Some(PortMatch::Range(first, last)) => (first..=last).contains(&&port),
                Some(PortMatch::Name(_)) => false,
            }
    };
    let peer_ok = |allowed: &PolicyPeer| peer_allowed(world, &policy.key.scope.tenant, policy, allowed, peer);
    (rule.peers.is_empty() || rule.peers.iter().any(peer_ok))
        && (rule.ports.is_empty() || rule.ports.iter().any(port_ok))
}

fn peer_allowed(world: &World, tenant: &TenantName, policy: &Policy, allowed: &PolicyPeer, peer: Peer<'_>) -> bool {
    let (instance, address) = match peer {
        Peer::Host => return true,
        Peer::Instance(id, address) => (Some(&world.desired.peers[id]), address),
        Peer::Address(address) => (None, address),
    };
    match allowed {
        PolicyPeer::Block(BlockPeer { cidr, except }) => {
            cidr.contains(&address) && !except.iter().any(|except| except.contains(&address))
        }
        PolicyPeer::Entity(Entity::World) => instance.is_none(),
        PolicyPeer::Entity(Entity::Host) => false,
        PolicyPeer::Entity(Entity::Cluster) => instance.is_some(),
        PolicyPeer::Entity(Entity::SameTenant) => instance.is_some_and(|peer| peer.scope.tenant == *tenant),
        PolicyPeer::Entity(Entity::OtherTenants) => instance.is_some_and(|peer| peer.scope.tenant != *tenant),
        PolicyPeer::Instances(InstancePeer { namespaces, instances }) => instance.is_some_and(|peer| {
            let row = world.desired.namespaces.get(&peer.scope);
            let labels = row.map(|row| row.labels.clone()).unwrap_or_default();
            let labels = Namespace::all_labels(&peer.scope, &labels);
            let here = match namespaces {
                None => peer.scope == policy.key.scope,
                Some(selector) => peer.scope.tenant == *tenant && selector.matches(&labels),
            };
            here && instances.matches(&peer.labels)
        }),
    }
}

fn a_label() -> impl Strategy<Value = String> {
    select(vec!["", "k=1", "k=2", "l=1", "k=1,l=1", "k=2,l=2"]).prop_map(str::to_owned)
}

fn a_selector() -> impl Strategy<Value = Selector> {
    let requirement = (select(vec!["k", "l"]), 0..4, subsequence(vec!["1", "2"], 1..=2));
    let requirement = requirement.prop_map(|(key, operator, values)| {
        let values = values.into_iter().map(str::to_owned).collect();
        let (operator, values) = match operator {
            0 => (Operator::In, values),
            1 => (Operator::NotIn, values),
            2 => (Operator::Exists, Vec::new()),
            _ => (Operator::DoesNotExist, Vec::new()),
        };
        Requirement { key: key.into(), operator, values }
    });
    prop_oneof![
        Just(all()),
        a_label().prop_map(|text| with(&text)),
        (a_label(), vec(requirement, 1..3))
            .prop_map(|(text, expressions)| Selector { labels: labels(&text), expressions }),
        select(vec!["x", "y"]).prop_map(|name| with(&format!("kubernetes.io/metadata.name={name}"))),
    ]
}

fn a_peer() -> impl Strategy<Value = PolicyPeer> {
    let nets =
        ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/29", "10.0.0.4/30", "10.0.0.2/32", "::/0", "fd00::/126"];
    let nets: Vec<IpNet> = nets.iter().map(|net| name(net)).collect();
    let block = (select(nets.clone()), subsequence(nets, 0..3));
    let entities = vec![Entity::Host, Entity::World, Entity::Cluster, Entity::SameTenant, Entity::OtherTenants];
    prop_oneof![
        4 => (option::of(a_selector()), a_selector())
            .prop_map(|(namespaces, instances)| PolicyPeer::Instances(InstancePeer { namespaces, instances })),
        2 => block.prop_map(|(cidr, except)| PolicyPeer::Block(BlockPeer { cidr, except })),
        1 => select(entities).prop_map(PolicyPeer::Entity),
    ]
}

fn a_port() -> impl Strategy<Value = PolicyPort> {
    let range = (select(PORTS.to_vec()), select(PORTS.to_vec()));
    let port = prop_oneof![
        4 => range.prop_map(|(a, b)| PortMatch::Range(a.min(b), a.max(b))),
        1 => Just(PortMatch::Name("http".into())),
    ];
    (select(vec![PolicyProtocol::Tcp, PolicyProtocol::Udp]), option::weighted(0.8, port))
        .prop_map(|(protocol, port)| PolicyPort { protocol, port })
}

fn some_rules() -> impl Strategy<Value = Option<Vec<PolicyRule>>> {
    let rule = (vec(a_peer(), 0..3), vec(a_port(), 0..3)).prop_map(|(peers, ports)| PolicyRule { peers, ports });
    option::weighted(0.7, vec(rule, 0..3))
}

fn a_policy() -> impl Strategy<Value = PolicySpec> {
    (a_selector(), some_rules(), some_rules(), proptest::bool::weighted(0.2))
        .prop_map(|(instances, ingress, egress, audit)| PolicySpec { instances, ingress, egress, audit })
}

fn a_world() -> impl Strategy<Value = World> {
    let namespaces = vec(option::of(a_label()), SCOPES.len());
    let instances = vec((select(SCOPES.to_vec()), a_label(), proptest::bool::weighted(0.3)), 1..=8);
    let policies = vec((select(SCOPES.to_vec()), a_policy()), 0..6);
    (namespaces, instances, policies).prop_map(|(namespaces, instances, policies)| {
        let mut world = World::default();
        for (scope, labels) in SCOPES.iter().zip(namespaces) {
            if let Some(labels) = labels {
                world.namespace(scope, &labels);
            }
        }
        for (scope, labels, elsewhere) in instances {
            world.instance_on(if elsewhere { "node-2" } else { "node-1" }, scope, &labels);
        }
        for (n, (scope, spec)) in policies.into_iter().enumerate() {
            world.policy(scope, &format!("policy-{n}"), spec);
        }
        world
    })
}

/// The rule that a number names must itself allow the packet.
fn check_name(
    compiled: &Compiled,
    world: &World,
    number: u32,
    direction: Direction,
    peer: Peer<'_>,
    protocol: Option<PolicyProtocol>,
    port: u16,
) {
    let named = &compiled.names[&number];
    let policy = &world.desired.policies[&named.policy];
    assert_eq!(named.direction, direction);
    let rule = &rules(policy, direction).expect("it names the direction")[named.index];
    assert!(rule_allows(world, policy, rule, peer, protocol, port), "{named:?} does not allow {peer:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn judged_as_the_documents_say(world in a_world()) {
        let compiled = world.compile();
        let addresses = |id: &InstanceId| world.desired.peers[id].addresses.iter().collect::<Vec<IpAddr>>();
        let instances = world.desired.peers.keys();
        let mut peers: Vec<Peer<'_>> =
            instances.flat_map(|id| addresses(id).into_iter().map(move |address| Peer::Instance(id, address))).collect();
        peers.extend(OUTSIDE.map(|address| Peer::Address(name(address))));
        peers.push(Peer::Host);
        for (local, _) in world.desired.peers.iter().filter(|(_, peer)| peer.node == node()) {
            for direction in [Direction::In, Direction::Out] {
                for peer in &peers {
                    for protocol in [None, Some(PolicyProtocol::Tcp), Some(PolicyProtocol::Udp)] {
                        for port in PORTS {
                            let got = judge(&compiled, local, direction, *peer, protocol, port);
                            let want = expected(&world, local, direction, *peer, protocol, port);
                            if let (Verdict::Allowed(number), Verdict::Allowed(_)) = (got, want) {
                                check_name(&compiled, &world, number, direction, *peer, protocol, port);
                            } else {
                                prop_assert_eq!(got, want, "{} {:?} {:?} {:?} {}", local, direction, peer, protocol, port);
                            }
                        }
                    }
                }
            }
        }
    }
}
