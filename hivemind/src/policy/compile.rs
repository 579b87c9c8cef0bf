//! From policies to rows: which policies are about the instances of a node, then everything their rules name as rows.
//!
//! Semantics are those of Kubernetes' NetworkPolicy: the union of all policies about an instance, isolation only in the
//! directions that one of them names. Only policies that are about an instance of the node matter to it: others make
//! no class, no interval and no row here.
//!
//! Audit: a policy with `audit` never changes what passes. In a direction that only such policies name their rules are
//! in the set, to find out what they would deny. Where an enforcing policy names the direction too, they are left out:
//! in a union they could only allow more, and a policy on trial must not.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ALL_PORTS, ANYBODY, Compiled, Direction, EndpointPolicy, HOST, RuleKey, RuleName, WORLD,
    blocks::{Block, Blocks},
    classes::{Classes, PeerSelector},
    interval,
    number::{Kind, numbers},
};
use crate::{
    model::{InstanceId, NodeDesired, NodeName, Policy, PolicyKey, Scope},
    spec::v1::{Entity, PolicyPeer, PolicyProtocol, PolicyRule, PortMatch},
};

/// A rule that counts in a set.
struct Entry<'a> {
    set: u32,
    policy: &'a PolicyKey,
    direction: Direction,
    index: usize,
    rule: &'a PolicyRule,
}

impl<'a> Entry<'a> {
    /// What the rule's number is a hash of.
    fn identity(&self) -> (&'a PolicyKey, Direction, usize) {
        (self.policy, self.direction, self.index)
    }
}

/// How a direction of a set is judged; the strictest policy decides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Open,
    Audit,
    Enforce,
}

type Intervals = BTreeMap<PolicyProtocol, BTreeSet<u16>>;

/// What policies make of a node's view. `node` tells which instances are its own.
pub fn compile(desired: &NodeDesired, node: &NodeName) -> Compiled {
    let about = policies_about(desired, node);
    let sets = numbers(Kind::Set, about.values().map(|policies| keys(policies)));
    let mut endpoints = BTreeMap::new();
    let mut entries: BTreeMap<u32, Vec<Entry<'_>>> = BTreeMap::new();
    for (id, policies) in &about {
        let Some(set) = sets.get(&keys(policies)).copied() else { continue };
        let [inwards, outwards] = [Direction::In, Direction::Out].map(|direction| mode(policies, direction));
        let endpoint = EndpointPolicy {
            set,
            isolated_in: inwards != Mode::Open,
            isolated_out: outwards != Mode::Open,
            audit_in: inwards == Mode::Audit,
            audit_out: outwards == Mode::Audit,
        };
        endpoints.insert((*id).clone(), endpoint);
        entries.entry(set).or_insert_with(|| rules_of_set(set, policies));
    }
    let entries: Vec<Entry<'_>> = entries.into_values().flatten().collect();

    let classes = Classes::new(desired, &selectors(&entries));
    let blocks = Blocks::new(&entries.iter().flat_map(|entry| blocks_of(entry.rule)).collect());
    let ports = intervals(&entries);
    let numbers = numbers(Kind::Rule, entries.iter().map(Entry::identity));
    let mut rules = BTreeMap::new();
    for entry in &entries {
        let Some(number) = numbers.get(&entry.identity()) else { continue };
        let matched = ports_of(entry.rule, &ports);
        for peer in peers_of(entry, &classes, &blocks) {
            for (protocol, port) in &matched {
                let (set, direction) = (entry.set, entry.direction);
                let key = RuleKey { set, direction, peer, protocol: *protocol, port: *port };
                // Entries are in the order of policies and their rules: the first one names the row.
                rules.entry(key).or_insert(*number);
            }
        }
    }
    let name = |(policy, direction, index): (&PolicyKey, Direction, usize)| RuleName {
        policy: policy.clone(),
        direction,
        index,
    };
    let names = numbers.into_iter().map(|(identity, number)| (number, name(identity))).collect();
    Compiled { peers: classes.peers, endpoints, rules, ports, blocks: blocks.regions, names }
}

/// The policies about each of the node's instances, by key. Those without any are not there.
fn policies_about<'a>(desired: &'a NodeDesired, node: &NodeName) -> BTreeMap<&'a InstanceId, Vec<&'a Policy>> {
    let mut by_scope: BTreeMap<&Scope, Vec<&Policy>> = BTreeMap::new();
    for policy in desired.policies.values() {
        by_scope.entry(&policy.key.scope).or_default().push(policy);
    }
    let mut about: BTreeMap<&InstanceId, Vec<&Policy>> = BTreeMap::new();
    for (id, peer) in desired.peers.iter().filter(|(_, peer)| peer.node == *node) {
        let policies = by_scope.get(&peer.scope).into_iter().flatten();
        for policy in policies.filter(|policy| policy.spec.instances.matches(&peer.labels)) {
            about.entry(id).or_default().push(policy);
        }
    }
    about
}

fn keys<'a>(policies: &[&'a Policy]) -> Vec<&'a PolicyKey> {
    policies.iter().map(|policy| &policy.key).collect()
}

fn rules_of(policy: &Policy, direction: Direction) -> Option<&Vec<PolicyRule>> {
    match direction {
        Direction::In => policy.spec.ingress.as_ref(),
        Direction::Out => policy.spec.egress.as_ref(),
    }
}

fn mode_of(policy: &Policy) -> Mode {
    if policy.spec.audit { Mode::Audit } else { Mode::Enforce }
}

fn mode(policies: &[&Policy], direction: Direction) -> Mode {
    let named = policies.iter().filter(|policy| rules_of(policy, direction).is_some());
    named.map(|policy| mode_of(policy)).max().unwrap_or(Mode::Open)
}

/// The rules that count in a set, in the order of directions, policies and their rules.
fn rules_of_set<'a>(set: u32, policies: &[&'a Policy]) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for direction in [Direction::In, Direction::Out] {
        let mode = mode(policies, direction);
        for policy in policies.iter().filter(|policy| mode_of(policy) == mode) {
            for (index, rule) in rules_of(policy, direction).into_iter().flatten().enumerate() {
                entries.push(Entry { set, policy: &policy.key, direction, index, rule });
            }
        }
    }
    entries
}

fn selectors<'a>(entries: &[Entry<'a>]) -> BTreeSet<PeerSelector<'a>> {
    let selectors = entries.iter().flat_map(|entry| {
        entry.rule.peers.iter().filter_map(|peer| match peer {
            PolicyPeer::Instances(peer) => Some(PeerSelector::new(entry.policy, peer)),
            PolicyPeer::Block(_) | PolicyPeer::Entity(_) => None,
        })
    });
    selectors.collect()
}

fn blocks_of(rule: &PolicyRule) -> impl Iterator<Item = Block> {
    rule.peers.iter().filter_map(|peer| match peer {
        PolicyPeer::Block(block) => Some(Block::from(block)),
        PolicyPeer::Instances(_) | PolicyPeer::Entity(_) => None,
    })
}

/// The peers of a rule as rows know them. A rule that names none is about everybody, one whose selectors match nobody is
/// about nobody.
fn peers_of<'a>(entry: &Entry<'a>, classes: &Classes<'a>, blocks: &Blocks) -> BTreeSet<u32> {
    let own = &entry.policy.scope.tenant;
    let mut peers = BTreeSet::new();
    if entry.rule.peers.is_empty() {
        peers.insert(ANYBODY);
    }
    for peer in &entry.rule.peers {
        match peer {
            PolicyPeer::Instances(peer) => peers.extend(classes.selected(&PeerSelector::new(entry.policy, peer))),
            PolicyPeer::Block(block) => peers.extend(blocks.classes(&Block::from(block))),
            PolicyPeer::Entity(Entity::Host) => peers.extend([HOST]),
            PolicyPeer::Entity(Entity::World) => peers.extend([WORLD]),
            PolicyPeer::Entity(Entity::Cluster) => peers.extend(classes.of_tenants(|_| true).chain([HOST])),
            PolicyPeer::Entity(Entity::SameTenant) => peers.extend(classes.of_tenants(|tenant| tenant == own)),
            PolicyPeer::Entity(Entity::OtherTenants) => peers.extend(classes.of_tenants(|tenant| tenant != own)),
        }
    }
    peers
}

/// The ports from which on rules may decide differently.
fn intervals(entries: &[Entry<'_>]) -> Intervals {
    let mut intervals = Intervals::new();
    for port in entries.iter().flat_map(|entry| &entry.rule.ports) {
        if let Some(PortMatch::Range(first, last)) = &port.port {
            let starts = intervals.entry(port.protocol).or_default();
            starts.extend([0, *first]);
            starts.extend(last.checked_add(1));
        }
    }
    intervals
}

/// The protocols and ports of a rule as rows know them. A rule that names none is about all.
fn ports_of(rule: &PolicyRule, intervals: &Intervals) -> BTreeSet<(Option<PolicyProtocol>, u32)> {
    let mut ports = BTreeSet::new();
    if rule.ports.is_empty() {
        ports.insert((None, ALL_PORTS));
    }
    for port in &rule.ports {
        let protocol = Some(port.protocol);
        match &port.port {
            None => {
                ports.insert((protocol, ALL_PORTS));
            }
            // `first` is the start of an interval and `last` the end of one, so these are exactly the range.
            Some(PortMatch::Range(first, last)) if first <= last => {
                let begins = intervals.get(&port.protocol);
                let within = begins.into_iter().flat_map(|begins| begins.range(first..=last));
                ports.extend(within.map(|begin| (protocol, interval(begins, *begin))));
            }
            Some(PortMatch::Range(..)) => {}
            // Ports of apps have no names yet: a named port is nobody's, and matches nothing.
            Some(PortMatch::Name(_)) => {}
        }
    }
    ports
}
