//! From one world to the next: what is written, that it is what would be compiled anew, and that nothing passes while it
//! is written that neither the one nor the other lets pass.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection::vec, prelude::*};

use super::{naive::a_world, world::*};
use crate::{Cache, Compiled, Direction, OWN, Peer, RuleKey, RuleRow, judge};
use hivemind_core::{
    model::{InstanceId, PolicyKey},
    spec::v1::PolicyProtocol,
};

/// `fresh` with the numbers of classes and sets that `like` has for the same instances.
pub(super) fn renumbered(fresh: &Compiled, like: &Compiled) -> Compiled {
    let classes: BTreeMap<u32, u32> = fresh.peers.iter().map(|(id, of)| (of.class, like.peers[id].class)).collect();
    let of_instances = fresh.endpoints.iter().map(|(id, of)| (of, like.endpoints[id]));
    let both = of_instances.chain(fresh.host.iter().zip(like.host));
    let sets: BTreeMap<u32, u32> = both.flat_map(|(of, other)| of.sets.into_iter().zip(other.sets)).collect();
    let other = |numbers: &BTreeMap<u32, u32>, number: u32| numbers.get(&number).copied().unwrap_or(number);
    let mut result = fresh.clone();
    result.peers.values_mut().for_each(|of| of.class = other(&classes, of.class));
    for of in result.endpoints.values_mut().chain(&mut result.host) {
        of.sets = of.sets.map(|set| other(&sets, set));
    }
    let key = |key: &RuleKey| RuleKey { set: other(&sets, key.set), peer: other(&classes, key.peer), ..*key };
    result.rules = fresh.rules.iter().map(|(of, row)| (key(of), *row)).collect();
    result.with_blocks = fresh.with_blocks.iter().map(|set| other(&sets, *set)).collect();
    result.hosts = fresh.hosts.iter().map(|(set, names)| (other(&sets, *set), names.clone())).collect();
    result.given = like.given.clone();
    result
}

/// The rows of rules that come, and those that go.
struct Changes {
    put: Vec<(RuleKey, RuleRow)>,
    cut: Vec<RuleKey>,
}

impl Changes {
    fn new(before: &Compiled, after: &Compiled) -> Self {
        let new = after.rules.iter().filter(|(key, row)| before.rules.get(*key) != Some(*row));
        let old = before.rules.keys().filter(|key| !after.rules.contains_key(*key));
        Self { put: new.map(|(key, row)| (*key, *row)).collect(), cut: old.copied().collect() }
    }
}

/// A cache and the world that it was told last.
#[derive(Default)]
struct Node {
    cache: Cache,
    now: Compiled,
}

impl Node {
    /// Compiles and says how many rows come and go.
    fn tell(&mut self, world: &World) -> (usize, usize) {
        let known = Arc::new(world.known.clone());
        let next = (*self.cache.compile(&Arc::new(world.desired.clone()), &node(), &known)).clone();
        assert_eq!(renumbered(&world.compile(), &next), next, "other than compiled anew");
        let changes = Changes::new(&self.now, &next);
        let counts = (changes.put.len(), changes.cut.len());
        self.now = next;
        counts
    }

    /// The daemon that comes after this one: it knows what is in the maps.
    fn restarted(&self) -> Self {
        let mut cache = Cache::default();
        let sets = self.now.endpoints.iter().map(|(id, of)| (id.clone(), of.sets[OWN])).filter(|(_, set)| *set != 0);
        cache.take_over(self.now.peers.clone(), sets.collect());
        Self { cache, now: self.now.clone() }
    }
}

/// A thousand rules in ten policies about the one instance of this node that is `pod=db`.
fn heaped() -> World {
    let mut world = World::default();
    world.instance("x", "pod=db");
    for n in 0..20 {
        world.instance_on("node-2", "x", &format!("pod=p{n}"));
    }
    for policy in 0..10 {
        let rule = |n: u16| rule([pods(with(&format!("pod=p{}", n % 20)))], [tcp(1000 + policy * 5 + n / 20)]);
        world.policy("x", &format!("heap-{policy}"), ingress(with("pod=db"), (0..100).map(rule).collect::<Vec<_>>()));
    }
    world
}

#[test]
fn one_policy_more_writes_its_own_rows_and_no_others() {
    let (mut node, mut world) = (Node::default(), heaped());
    assert_eq!(node.tell(&world), (1_000, 0));
    let before = world.clone();
    // Its ports are no others' and two of them lie beside each other: what is between them stays.
    world.policy("x", "a-first", ingress(with("pod=db"), [rule([pods(with("pod=p3"))], [tcp(80), tcp(81)])]));
    assert_eq!(node.tell(&world), (2, 0));
    assert_eq!(node.tell(&before), (0, 2), "one less");
    // Before and behind the others, and beside rules that say the same: counted for the first of them.
    world.policy("x", "b", ingress(with("pod=db"), [rule([pods(with("pod=p0"))], [tcp(1000)])]));
    assert_eq!(node.tell(&world), (3, 0));
    let mut next = node.restarted();
    assert_eq!(next.tell(&world), (0, 0), "a restart writes nothing");
    world.desired.policies.remove(&PolicyKey::new(scope("x"), name("heap-3")));
    assert_eq!(next.tell(&world), (0, 100), "after a restart");
}

#[test]
fn a_selector_that_tells_nobody_apart_leaves_all_rows() {
    let (mut node, mut world) = (Node::default(), heaped());
    node.tell(&world);
    let classes = node.now.peers.clone();
    world.policy("x", "everybody", ingress(with("pod=db"), [rule([pods(all())], [tcp(80)])]));
    // One for each class of the namespace.
    assert_eq!(node.tell(&world), (21, 0));
    assert_eq!(node.now.peers, classes);
    // One that does: the others keep what they have.
    world.instance_on("node-2", "x", "pod=p0,tier=front");
    assert_eq!(node.tell(&world), (0, 0));
    world.policy("x", "some", ingress(with("pod=db"), [rule([pods(with("tier=front"))], [tcp(80)])]));
    let rows = node.now.rules.len();
    // What p0 had (50 rows and that of "everybody"), for those of it that are told apart now.
    assert_eq!(node.tell(&world), (51, 0));
    assert_eq!(node.now.rules.len(), rows + 51);
}

#[test]
fn a_set_that_others_have_too_is_left_to_them() {
    let (mut node, mut world) = (Node::default(), heaped());
    let other = world.instance("x", "pod=db,other=yes");
    node.tell(&world);
    let set = |node: &Node, id: &InstanceId| node.now.endpoints[id].sets[OWN];
    let (shared, first) = (set(&node, &other), InstanceId::from_bits(1));
    world.policy("x", "more", ingress(with("other=yes"), [rule([pods(all())], [tcp(80)])]));
    node.tell(&world);
    assert_eq!(set(&node, &first), shared);
    assert_ne!(set(&node, &other), shared);
}

/// All that decides, a part of it already written.
fn passes(state: &Compiled, world: &World, local: &InstanceId) -> Vec<bool> {
    let mut passes = Vec::new();
    for (id, peer) in &world.desired.peers {
        for address in peer.addresses.iter().take(1) {
            for direction in [Direction::In, Direction::Out] {
                for port in [79, 80, 443] {
                    let peer = Peer::Instance(id, address);
                    passes.push(judge(state, local, direction, peer, Some(PolicyProtocol::Tcp), port).passes());
                }
            }
        }
    }
    for outside in ["10.0.0.77", "192.0.2.1"] {
        for direction in [Direction::In, Direction::Out] {
            let peer = Peer::Address(name(outside));
            passes.push(judge(state, local, direction, peer, Some(PolicyProtocol::Tcp), 80).passes());
        }
    }
    passes
}

/// What the maps hold while the one becomes the other, in the order of `dataplane::bpf::sync`.
fn between(before: &Compiled, after: &Compiled) -> Vec<Compiled> {
    let (mut state, mut states) = (before.clone(), Vec::new());
    let rules = Changes::new(before, after);
    for (n, (key, row)) in rules.put.iter().enumerate() {
        state.rules.insert(*key, *row);
        if n % 4 == 0 {
            states.push(state.clone());
        }
    }
    state.blocks.extend(after.blocks.iter().map(|(block, class)| (*block, *class)));
    states.push(state.clone());
    state.ports.clone_from(&after.ports);
    states.push(state.clone());
    let (come, others): (Vec<_>, Vec<_>) = after.peers.iter().partition(|(id, _)| !before.peers.contains_key(*id));
    for (id, peer) in come {
        state.peers.insert(id.clone(), *peer);
        states.push(state.clone());
    }
    for (id, endpoint) in &after.endpoints {
        state.endpoints.insert(id.clone(), *endpoint);
        states.push(state.clone());
    }
    // Whom no policy is about any more has a row all the same.
    state.endpoints.clone_from(&after.endpoints);
    states.push(state.clone());
    for (id, peer) in others {
        state.peers.insert(id.clone(), *peer);
        states.push(state.clone());
    }
    state.blocks.clone_from(&after.blocks);
    states.push(state.clone());
    for (n, key) in rules.cut.iter().enumerate() {
        state.rules.remove(key);
        if n % 4 == 0 {
            states.push(state.clone());
        }
    }
    assert!(state.rules == after.rules && state.blocks == after.blocks);
    states
}

/// Found by the property below: a policy goes in the moment in which an instance of another tenant comes.
#[test]
fn who_comes_as_a_policy_goes_is_known_before_it_is_open() {
    let mut world = World::default();
    let local = world.instance("x", "pod=db");
    world.policy("x", "closed", ingress(all(), []));
    let mut node = Node::default();
    node.tell(&world);
    let before = node.now.clone();
    world.desired.policies.clear();
    let foreign = world.instance("red/x", "pod=other");
    node.tell(&world);
    let address = world.desired.peers[&foreign].addresses.iter().next().expect("an address");
    for (n, state) in between(&before, &node.now).iter().enumerate() {
        let verdict =
            judge(state, &local, Direction::In, Peer::Instance(&foreign, address), Some(PolicyProtocol::Tcp), 80);
        assert!(!verdict.passes(), "{verdict:?} at step {n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn nothing_passes_in_between_that_passes_neither_before_nor_after(
        world in a_world(), moments in vec((any::<u8>(), any::<u8>(), any::<bool>()), 1..5)
    ) {
        let mut node = Node::default();
        let mut whole = world;
        // Their sets are never changed, and what is between two of them is not this test's.
        whole.desired.tiers.clear();
        node.tell(&whole);
        for (policies, peers, restart) in moments {
            let mut world = whole.clone();
            let keys: Vec<_> = whole.desired.policies.keys().cloned().collect();
            for (_, key) in keys.iter().enumerate().filter(|(n, _)| policies >> (n % 8) & 1 == 0) {
                world.desired.policies.remove(key);
            }
            let ids: Vec<_> = whole.desired.peers.keys().cloned().collect();
            // Few of them go.
            for (_, id) in ids.iter().enumerate().filter(|(n, _)| peers == 1 << (n % 8)) {
                world.desired.peers.remove(id);
            }
            if restart {
                node = node.restarted();
            }
            let before = node.now.clone();
            node.tell(&world);
            let states = between(&before, &node.now);
            for (local, _) in world.desired.peers.iter().filter(|(_, peer)| peer.node == super::world::node()) {
                if !before.peers.contains_key(local) {
                    continue;
                }
                let (was, is) = (passes(&before, &world, local), passes(&node.now, &world, local));
                for (n, state) in states.iter().enumerate() {
                    let now = passes(state, &world, local);
                    let wrong = now.iter().zip(&was).zip(&is).position(|((now, was), is)| *now && !was && !is);
                    prop_assert_eq!(wrong, None, "{} at step {} of {}", local, n, states.len());
                }
            }
        }
    }
}
