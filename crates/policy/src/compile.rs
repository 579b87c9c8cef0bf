//! From policies to rows: which policies are about the instances of a node, then everything their rules name as rows.
//!
//! Semantics are those of Kubernetes. NetworkPolicy: the union of all policies about an instance, isolation only in the
//! directions that one of them names. ClusterNetworkPolicy: in a tier the first rule that matches. Only policies that
//! are about an instance of the node matter to it: others make no class, no interval and no row here.
//!
//! Audit: a policy with `audit` never changes what passes. In a direction that only such policies name their rules are
//! in the set, to find out what they would deny. Where an enforcing policy names the direction too, they are left out:
//! in a union they could only allow more, and a policy on trial must not.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ALL_PORTS, ANYBODY, Compiled, Direction, Failsafe, HOST, KnownNames, OTHERS, RuleKey, RuleName, RuleRow, WORLD,
    blocks::{Block, Blocks},
    classes::{Classes, PeerSelector},
    interval,
    keep::{Before, Given},
    number::{Kind, fingerprint, numbers},
    sets::{self, Entry, Owner, Sets},
};
use hivemind_core::{
    model::{NodeDesired, NodeName},
    spec::v1::{Action, Entity, PolicyPeer, PolicyPort, PolicyProtocol, PortMatch},
};

type Intervals = BTreeMap<PolicyProtocol, BTreeSet<u16>>;

/// What policies make of a node's view before any name of hosts is known. `node` tells which instances are its own.
pub fn compile(desired: &NodeDesired, node: &NodeName) -> Compiled {
    compile_with(desired, node, &KnownNames::new(), &Failsafe::default())
}

/// What policies make of a node's view, of the names of hosts that its instances have asked for, and of the ports that
/// always are open.
pub fn compile_with(desired: &NodeDesired, node: &NodeName, known: &KnownNames, failsafe: &Failsafe) -> Compiled {
    compile_after(&Compiled::default(), desired, node, known, failsafe)
}

/// The same, with the numbers of `before` where what has them is the same.
pub(super) fn compile_after(
    before: &Compiled,
    desired: &NodeDesired,
    node: &NodeName,
    known: &KnownNames,
    failsafe: &Failsafe,
) -> Compiled {
    let before = Before(before);
    let Sets { endpoints, host, entries, given: sets } = sets::of_node(desired, node, failsafe, before);
    let classes = Classes::new(desired, &selectors(&entries), before);
    let blocks = Blocks::new(&entries.iter().flat_map(|entry| blocks_of(entry.peers)).collect(), known);
    let ports = intervals(&entries);
    let identities = identities(&entries);
    let numbers = numbers(Kind::Rule, identities.iter().copied());
    let mut rules = BTreeMap::new();
    let mut names = BTreeMap::new();
    for (entry, identity) in entries.iter().zip(&identities) {
        let Some(number) = numbers.get(identity).copied() else { continue };
        names.entry(number).or_insert_with(|| RuleName {
            policy: entry.owner.into(),
            direction: entry.direction,
            index: entry.index,
        });
        let row = RuleRow { number, action: entry.action, order: entry.order };
        let matched = ports_of(entry.ports, &ports);
        for peer in peers_of(entry, &classes, &blocks) {
            for (protocol, port) in &matched {
                let (set, direction) = (entry.set, entry.direction.asked());
                let key = RuleKey { set, direction, peer, protocol: *protocol, port: *port };
                // Entries are in the order in which they decide: the first one has the row.
                rules.entry(key).or_insert(row);
            }
        }
    }
    let with_blocks = rules.keys().filter(|key: &&RuleKey| key.is_block()).map(|key| key.set).collect();
    let mut hosts: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for entry in &entries {
        for peer in entry.peers {
            if let PolicyPeer::Dns(name) = peer {
                hosts.entry(entry.set).or_default().insert(name.clone());
            }
        }
    }
    Compiled {
        peers: classes.peers,
        endpoints,
        host,
        rules: rules.into(),
        ports,
        blocks: blocks.regions.into(),
        with_blocks,
        hosts,
        names,
        given: Given { classes: classes.given, sets },
    }
}

/// What the numbers of rules are hashes of. Many rules have the same policy, which is looked at once for all of them that
/// lie side by side.
fn identities<'a>(entries: &[Entry<'a>]) -> Vec<(u64, Direction, usize)> {
    let mut last: Option<(Owner<'a>, u64)> = None;
    let identity = |entry: &Entry<'a>| {
        let print = match last {
            Some((owner, print)) if owner == entry.owner => print,
            _ => fingerprint(&entry.owner),
        };
        last = Some((entry.owner, print));
        (print, entry.direction, entry.index)
    };
    entries.iter().map(identity).collect()
}

fn selectors<'a>(entries: &[Entry<'a>]) -> BTreeSet<PeerSelector<'a>> {
    let selectors = entries.iter().flat_map(|entry| {
        entry.peers.iter().filter_map(|peer| match peer {
            PolicyPeer::Instances(peer) => Some(PeerSelector::new(entry.owner, peer)),
            PolicyPeer::Block(_) | PolicyPeer::Entity(_) | PolicyPeer::Dns(_) => None,
        })
    });
    selectors.collect()
}

fn blocks_of(peers: &[PolicyPeer]) -> impl Iterator<Item = Block> {
    peers.iter().filter_map(|peer| match peer {
        PolicyPeer::Block(block) => Some(Block::from(block)),
        PolicyPeer::Dns(name) => Some(Block::Dns(name.clone())),
        PolicyPeer::Instances(_) | PolicyPeer::Entity(_) => None,
    })
}

/// The peers of a rule as rows know them. A rule that names none is about everybody, one whose selectors match nobody is
/// about nobody.
fn peers_of<'a>(entry: &Entry<'a>, classes: &Classes<'a>, blocks: &Blocks) -> BTreeSet<u32> {
    let own = entry.tenant;
    let mut peers = BTreeSet::new();
    if entry.peers.is_empty() {
        peers.insert(ANYBODY);
        // Who denies everybody does not mean to leave the others' tenants an open door.
        if matches!(entry.action, Action::Deny | Action::Reject) {
            peers.insert(OTHERS);
        }
    }
    for peer in entry.peers {
        match peer {
            PolicyPeer::Instances(peer) => peers.extend(classes.selected(&PeerSelector::new(entry.owner, peer))),
            PolicyPeer::Block(block) => peers.extend(blocks.classes(&Block::from(block))),
            PolicyPeer::Dns(name) => peers.extend(blocks.classes(&Block::Dns(name.clone()))),
            PolicyPeer::Entity(Entity::Host) => peers.extend([HOST]),
            PolicyPeer::Entity(Entity::World) => peers.extend([WORLD]),
            PolicyPeer::Entity(Entity::Cluster) => peers.extend(classes.of_tenants(|_| true).chain([HOST])),
            PolicyPeer::Entity(Entity::SameTenant) => peers.extend(classes.of_tenants(|tenant| Some(tenant) == own)),
            PolicyPeer::Entity(Entity::OtherTenants) => peers.extend(classes.of_tenants(|tenant| Some(tenant) != own)),
        }
    }
    peers
}

/// The ports from which on rules may decide differently.
fn intervals(entries: &[Entry<'_>]) -> Intervals {
    let mut intervals = Intervals::new();
    for port in entries.iter().flat_map(|entry| entry.ports) {
        if let Some(PortMatch::Range(first, last)) = &port.port {
            let starts = intervals.entry(port.protocol).or_default();
            starts.extend([0, *first]);
            starts.extend(last.checked_add(1));
        }
    }
    intervals
}

/// The protocols and ports of a rule as rows know them. A rule that names none is about all.
fn ports_of(named: &[PolicyPort], intervals: &Intervals) -> BTreeSet<(Option<PolicyProtocol>, u32)> {
    let mut ports = BTreeSet::new();
    if named.is_empty() {
        ports.insert((None, ALL_PORTS));
    }
    for port in named {
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
            // Refused where policies come in: ports of apps have no names yet.
            Some(PortMatch::Name(_)) => {}
        }
    }
    ports
}
