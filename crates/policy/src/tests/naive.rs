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
use crate::{Compiled, Direction, Peer, PolicyRef, RuleName, Verdict, judge};
use hivemind_core::{
    model::{InstanceId, Namespace, Policy, Scope, TenantName, TierPolicy},
    spec::v1::{
        Action, BlockPeer, Entity, InstancePeer, Operator, Otherwise, PolicyPeer, PolicyPort, PolicyProtocol,
        PolicyRule, PolicySpec, PortMatch, Requirement, Selector, Tier, TierRule, TierSpec,
    },
};

const SCOPES: [&str; 3] = ["red/x", "red/y", "blue/x"];
const PORTS: [u16; 6] = [0, 79, 80, 81, 443, u16::MAX];
const HOSTS: [&str; 3] = ["a.example", "*.example", "never.asked"];
const OUTSIDE: [&str; 4] = ["10.0.0.77", "10.1.0.1", "192.0.2.1", "2001:db8::1"];

/// A packet and whose it is.
#[derive(Clone, Copy)]
struct Packet<'a> {
    world: &'a World,
    own: &'a hivemind_core::model::Peer,
    direction: Direction,
    peer: Peer<'a>,
    protocol: Option<PolicyProtocol>,
    port: u16,
}

/// Who wrote a rule: none is the operator; with a namespace if the policy is of one.
#[derive(Clone, Copy)]
struct Author<'a> {
    tenant: Option<&'a TenantName>,
    scope: Option<&'a Scope>,
}

impl Packet<'_> {
    /// It comes in from another tenant.
    fn foreign(self) -> bool {
        let Peer::Instance(id, _) = self.peer else { return false };
        self.direction == Direction::In && self.world.desired.peers[id].scope.tenant != self.own.scope.tenant
    }

    /// What passes, and why, by the documents.
    fn expected(self) -> Verdict {
        if self.peer == Peer::Host {
            return Verdict::OwnNode;
        }
        match self.tier(Tier::Admin) {
            Some(Action::Accept) => return Verdict::Allowed(0),
            Some(Action::Deny) => return Verdict::DeniedBy(0),
            Some(Action::Reject) => return Verdict::RejectedBy(0),
            Some(Action::Pass) | None => {}
        }
        let about = |policy: &&Policy| {
            policy.key.scope == self.own.scope
                && rules(policy, self.direction).is_some()
                && policy.spec.instances.matches(&self.own.labels)
        };
        let about: Vec<&Policy> = self.world.desired.policies.values().map(|policy| &**policy).filter(about).collect();
        let audit = about.iter().all(|policy| policy.spec.audit);
        let counting = || about.iter().filter(|policy| policy.spec.audit == audit);
        let allowed = counting().any(|policy| {
            let scope = &policy.key.scope;
            let author = Author { tenant: Some(&scope.tenant), scope: Some(scope) };
            let rules = rules(policy, self.direction).into_iter().flatten();
            { rules }.any(|rule| self.matches(author, Action::Accept, &rule.peers, &rule.ports))
        });
        if !audit {
            return match (allowed, self.foreign()) {
                (true, _) => Verdict::Allowed(0),
                (_, true) => Verdict::OtherTenant,
                _ if counting().all(|policy| policy.spec.otherwise == Otherwise::Reject) => Verdict::Rejected,
                _ => Verdict::Denied,
            };
        }
        match (self.tier(Tier::Baseline), about.is_empty()) {
            (Some(Action::Deny), _) => Verdict::DeniedBy(0),
            (Some(Action::Reject), _) => Verdict::RejectedBy(0),
            (Some(Action::Accept), empty) if empty || self.foreign() => Verdict::Allowed(0),
            _ if self.foreign() => Verdict::OtherTenant,
            (_, true) => Verdict::NotIsolated,
            _ if allowed => Verdict::Allowed(0),
            _ => Verdict::WouldDeny,
        }
    }

    /// The first rule of a tier that is about it. Who passes leaves it to whoever is next in the tier.
    fn tier(self, tier: Tier) -> Option<Action> {
        let row = self.world.desired.namespaces.get(&self.own.scope);
        let labels = row.map(|row| row.labels.clone()).unwrap_or_default();
        let labels = Namespace::all_labels(&self.own.scope, &labels);
        let mut about: Vec<&TierPolicy> = self.world.desired.tiers.values().map(|policy| &**policy).collect();
        about.retain(|policy| {
            policy.spec.tier == tier
                && policy.key.tenant.as_ref().is_none_or(|tenant| *tenant == self.own.scope.tenant)
                && policy.spec.namespaces.as_ref().is_none_or(|selector| selector.matches(&labels))
                && policy.spec.instances.matches(&self.own.labels)
        });
        about.sort_by_key(|policy| (policy.spec.priority, &policy.key.name));
        let (tenants, operators): (Vec<_>, Vec<_>) = about.into_iter().partition(|policy| policy.key.tenant.is_some());
        let ordered = if tier == Tier::Admin { [operators, tenants] } else { [tenants, operators] };
        ordered.into_iter().find_map(|policies| self.first(&policies).filter(|action| *action != Action::Pass))
    }

    /// The first rule of policies that is about it.
    fn first(self, policies: &[&TierPolicy]) -> Option<Action> {
        for policy in policies {
            let author = Author { tenant: policy.key.tenant.as_ref(), scope: None };
            for rule in tier_rules(policy, self.direction) {
                if self.matches(author, rule.action, &rule.peers, &rule.ports) {
                    return Some(rule.action);
                }
            }
        }
        None
    }

    fn matches(self, author: Author<'_>, action: Action, peers: &[PolicyPeer], ports: &[PolicyPort]) -> bool {
        let port_ok = |allowed: &PolicyPort| {
            Some(allowed.protocol) == self.protocol
                && match &allowed.port {
                    None => true,
                    Some(PortMatch::Range(first, last)) => (first..=last).contains(&&self.port),
                    Some(PortMatch::Name(_)) => false,
                }
        };
        // "Everybody" and blocks mean nobody of another tenant, unless everybody is denied.
        let meant = |peer: &&PolicyPeer| !(self.foreign() && matches!(peer, PolicyPeer::Block(_) | PolicyPeer::Dns(_)));
        let everybody = peers.is_empty() && (!self.foreign() || matches!(action, Action::Deny | Action::Reject));
        (everybody || peers.iter().filter(meant).any(|allowed| self.is(author, allowed)))
            && (ports.is_empty() || ports.iter().any(port_ok))
    }

    /// Whether the peer is one of those.
    fn is(self, author: Author<'_>, allowed: &PolicyPeer) -> bool {
        let (instance, address) = match self.peer {
            Peer::Host => return true,
            Peer::Instance(id, address) => (Some(&self.world.desired.peers[id]), address),
            Peer::Address(address) => (None, address),
        };
        let tenant = &self.own.scope.tenant;
        match allowed {
            PolicyPeer::Block(BlockPeer { cidr, except }) => {
                cidr.contains(&address) && !except.iter().any(|except| except.contains(&address))
            }
            PolicyPeer::Dns(host) => self.world.known.get(host).is_some_and(|known| known.contains(&address)),
            PolicyPeer::Entity(Entity::World) => instance.is_none(),
            PolicyPeer::Entity(Entity::Host) => false,
            PolicyPeer::Entity(Entity::Cluster) => instance.is_some(),
            PolicyPeer::Entity(Entity::SameTenant) => instance.is_some_and(|peer| peer.scope.tenant == *tenant),
            PolicyPeer::Entity(Entity::OtherTenants) => instance.is_some_and(|peer| peer.scope.tenant != *tenant),
            PolicyPeer::Instances(InstancePeer { namespaces, instances }) => instance.is_some_and(|peer| {
                let row = self.world.desired.namespaces.get(&peer.scope);
                let labels = row.map(|row| row.labels.clone()).unwrap_or_default();
                let labels = Namespace::all_labels(&peer.scope, &labels);
                let here = match (namespaces, author.scope) {
                    (None, Some(scope)) => peer.scope == *scope,
                    (None, None) => true,
                    (Some(selector), _) => selector.matches(&labels),
                };
                here && author.tenant.is_none_or(|tenant| peer.scope.tenant == *tenant)
                    && instances.matches(&peer.labels)
            }),
        }
    }
}

fn rules(policy: &Policy, direction: Direction) -> Option<&Vec<PolicyRule>> {
    if direction == Direction::In { policy.spec.ingress.as_ref() } else { policy.spec.egress.as_ref() }
}

fn tier_rules(policy: &TierPolicy, direction: Direction) -> &Vec<TierRule> {
    if direction == Direction::In { &policy.spec.ingress } else { &policy.spec.egress }
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
        1 => select(HOSTS.to_vec()).prop_map(|name| PolicyPeer::Dns(name.into())),
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
    let otherwise = select(vec![Otherwise::Deny, Otherwise::Reject]);
    (a_selector(), some_rules(), some_rules(), proptest::bool::weighted(0.2), otherwise).prop_map(
        |(instances, ingress, egress, audit, otherwise)| PolicySpec { instances, ingress, egress, audit, otherwise },
    )
}

fn a_tier() -> impl Strategy<Value = TierSpec> {
    let rules = || {
        let action = select(vec![Action::Accept, Action::Deny, Action::Reject, Action::Pass]);
        let rule = (action, vec(a_peer(), 0..3), vec(a_port(), 0..2));
        vec(rule.prop_map(|(action, peers, ports)| TierRule { action, peers, ports }), 0..4)
    };
    let tier = select(vec![Tier::Admin, Tier::Baseline]);
    (tier, 0_u16..3, option::of(a_selector()), a_selector(), rules(), rules()).prop_map(
        |(tier, priority, namespaces, instances, ingress, egress)| TierSpec {
            namespaces,
            instances,
            ingress,
            egress,
            ..TierSpec::new(tier, priority)
        },
    )
}

pub(super) fn a_world() -> impl Strategy<Value = World> {
    let namespaces = vec(option::of(a_label()), SCOPES.len());
    let instances = vec((select(SCOPES.to_vec()), a_label(), proptest::bool::weighted(0.3)), 1..=8);
    let policies = vec((select(SCOPES.to_vec()), a_policy()), 0..6);
    let tiers = vec((select(vec!["", "red/", "blue/"]), a_tier()), 0..4);
    // What names stand for: some of the world, and of the instances too, inside and outside of blocks.
    let hosts = || subsequence(vec!["10.0.0.1", "10.0.0.2", "10.0.0.77", "10.1.0.1", "192.0.2.1", "2001:db8::1"], 0..4);
    (namespaces, instances, policies, tiers, hosts(), hosts()).prop_map(
        |(namespaces, instances, policies, tiers, one, star)| {
            let mut world = World::default();
            for (name_of, known) in [(HOSTS[0], one), (HOSTS[1], star)] {
                world.known.insert(name_of.into(), known.into_iter().map(name).collect());
            }
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
            for (n, (tenant, spec)) in tiers.into_iter().enumerate() {
                world.tier(&format!("{tenant}tier-{n}"), spec);
            }
            world
        },
    )
}

/// The rule that a number names must itself be about the packet, and say what is done.
fn check_name(compiled: &Compiled, packet: Packet<'_>, number: u32, does: Action) {
    let RuleName { policy, direction, index } = &compiled.names[&number];
    assert_eq!(*direction, packet.direction);
    let (author, action, peers, ports) = match policy {
        PolicyRef::Namespace(key) => {
            let policy = &packet.world.desired.policies[key];
            let rule = &rules(policy, *direction).expect("it names the direction")[*index];
            let author = Author { tenant: Some(&key.scope.tenant), scope: Some(&key.scope) };
            (author, Action::Accept, &rule.peers, &rule.ports)
        }
        PolicyRef::Tier(key) => {
            let rule = &tier_rules(&packet.world.desired.tiers[key], *direction)[*index];
            (Author { tenant: key.tenant.as_ref(), scope: None }, rule.action, &rule.peers, &rule.ports)
        }
        PolicyRef::Failsafe => panic!("nothing is about the host"),
    };
    assert_eq!(action, does);
    assert!(packet.matches(author, action, peers, ports), "{policy} {index} is not about {:?}", packet.peer);
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
        for (local, own) in world.desired.peers.iter().filter(|(_, peer)| peer.node == node()) {
            let endpoint = compiled.endpoints.get(local).copied().unwrap_or_default();
            for (direction, ruled) in [(Direction::In, endpoint.ruled_in), (Direction::Out, endpoint.ruled_out)] {
                for peer in &peers {
                    for protocol in [None, Some(PolicyProtocol::Tcp), Some(PolicyProtocol::Udp)] {
                        for port in PORTS {
                            let packet = Packet { world: &world, own, direction, peer: *peer, protocol, port };
                            let got = judge(&compiled, local, direction, *peer, protocol, port);
                            let want = packet.expected();
                            match (got, want) {
                                (Verdict::Allowed(number), Verdict::Allowed(_)) => check_name(&compiled, packet, number, Action::Accept),
                                (Verdict::DeniedBy(number), Verdict::DeniedBy(_)) => check_name(&compiled, packet, number, Action::Deny),
                                (Verdict::RejectedBy(number), Verdict::RejectedBy(_)) => check_name(&compiled, packet, number, Action::Reject),
                                _ => prop_assert_eq!(
                                    got, want, "{} {:?} {:?} {:?} {}", local, direction, peer, protocol, port
                                ),
                            }
                            // The data plane asks no rules where none are.
                            let asked = !matches!(got, Verdict::NotIsolated | Verdict::OtherTenant | Verdict::OwnNode);
                            prop_assert!(ruled || !asked, "{:?}", got);
                        }
                    }
                }
            }
        }
    }
}
