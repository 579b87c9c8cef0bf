//! How many rows there are, and that their numbers stay.

use super::world::*;
use crate::{Direction, FIRST_CLASS, OWN, Peer, PolicyRef, Verdict, judge, too_large};
use hivemind_core::spec::v1::{Operator, PolicyProtocol};

#[test]
fn ten_thousand_instances_of_one_label_set_are_a_few_rows() {
    let mut world = World::default();
    world.instance("x", "pod=db");
    for _ in 1..10_000 {
        world.instance_on("node-2", "x", "pod=web");
    }
    world.policy("x", "p", ingress(with("pod=db"), [rule([pods(with("pod=web"))], [tcp(5432)])]));
    let compiled = world.compile();
    assert_eq!(compiled.peers.len(), 10_000);
    assert_eq!((compiled.rules.len(), compiled.endpoints.len(), compiled.names.len()), (1, 1, 1));
}

#[test]
fn labels_that_nobody_selects_by_make_no_classes() {
    let mut world = World::default();
    world.instance("x", "pod=db");
    for n in 0..100 {
        world.instance_on("node-2", "x", &format!("pod=web,replica={n}"));
    }
    world.policy("x", "p", ingress(with("pod=db"), from([pods(where_("pod", Operator::Exists, &[]))])));
    assert_eq!(world.compile().rules.len(), 1);
}

#[test]
fn a_range_is_as_many_rows_as_intervals() {
    let mut world = World::default();
    world.instance("x", "");
    let on = |first, last| ingress(all(), [rule([], [ports(PolicyProtocol::Tcp, first, last)])]);
    world.policy("x", "all", on(0, u16::MAX));
    assert_eq!(world.compile().rules.len(), 1);
    world.policy("x", "some", on(1_000, 2_000));
    let compiled = world.compile();
    assert_eq!(compiled.rules.len(), 3, "before, in and after the smaller range");
    let starts: Vec<u16> = compiled.ports[&PolicyProtocol::Tcp].iter().copied().collect();
    assert_eq!(starts, [0, 1_000, 2_001]);
}

#[test]
fn only_policies_about_the_nodes_instances_are_compiled() {
    let mut world = World::default();
    world.instance("x", "");
    world.instance_on("node-2", "y", "");
    let without = world.compile();
    world.policy("y", "p", ingress(all(), [rule([pods(all()), block("10.0.0.0/8", &[])], [tcp(80)])]));
    assert_eq!(world.compile(), without);
}

#[test]
fn numbers_do_not_depend_on_unrelated_policies() {
    let mut world = World::default();
    let db = world.instance("x", "pod=db");
    world.instance("x", "pod=web");
    world.instance("y", "pod=web");
    let other = world.instance("z", "pod=other");
    // Before and behind the others in every order.
    world.instance("a", "pod=other");
    let rules = [rule([pods(with("pod=web"))], [tcp(5432)]), rule([block("10.0.0.0/8", &[])], [])];
    world.policy("x", "p", ingress(with("pod=db"), rules));
    let before = world.compile();

    let rules = [rule([pods(with("pod=none"))], [tcp(80)]), rule([block("172.16.0.0/12", &[])], [])];
    world.policy("z", "q", egress(all(), rules.clone()));
    world.policy("a", "q", egress(all(), rules));
    let after = world.compile();
    assert_ne!(before, after);
    assert_eq!(before.endpoints[&db], after.endpoints[&db]);
    assert!(after.endpoints.contains_key(&other));
    assert_eq!(before.peers, after.peers);
    for (key, number) in &before.rules {
        assert_eq!(after.rules.get(key), Some(number), "{key:?}");
    }
    for (block, number) in &before.blocks {
        assert_eq!(after.blocks.get(block), Some(number), "{block}");
    }
    for (number, name) in &before.names {
        assert_eq!(after.names.get(number), Some(name));
    }
}

#[test]
fn the_first_policy_names_a_row_that_several_would_give() {
    let mut world = World::default();
    let local = world.instance("x", "");
    for called in ["b", "a", "c"] {
        world.policy("x", called, ingress(all(), from([])));
    }
    let compiled = world.compile();
    assert_eq!(compiled.rules.len(), 1);
    let peer = Peer::Address(name("192.0.2.1"));
    let verdict = judge(&compiled, &local, Direction::In, peer, Some(PolicyProtocol::Udp), 1);
    let Verdict::Allowed(number) = verdict else { panic!("{verdict:?}") };
    let named = &compiled.names[&number];
    let PolicyRef::Namespace(key) = &named.policy else { panic!("{named:?}") };
    assert_eq!((key.name.as_str(), named.direction, named.index), ("a", Direction::In, 0));
}

#[test]
fn numbers_with_a_meaning_are_never_given() {
    let mut world = World::default();
    for n in 0..200 {
        world.instance(&format!("t{}/n{}", n % 3, n % 7), &format!("pod={n}"));
    }
    for n in 0..7 {
        let rules = (0..200).map(|pod| rule([pods(with(&format!("pod={pod}")))], []));
        world.policy(&format!("t0/n{n}"), "p", ingress(all(), rules.collect::<Vec<_>>()));
    }
    let compiled = world.compile();
    assert!(compiled.peers.values().all(|peer| (FIRST_CLASS..1 << 31).contains(&peer.class) && peer.tenant != 0));
    assert!(
        compiled.rules.values().map(|row| row.number).chain(compiled.names.keys().copied()).all(|number| number != 0)
    );
    assert!(compiled.endpoints.values().all(|endpoint| endpoint.sets[OWN] != 0));
}

/// So many policies of 500 rules each, every one about an instance of its own.
fn many(policies: u32) -> World {
    let mut world = World::default();
    for n in 0..policies {
        world.instance("x", &format!("pod=p{n}"));
        let rules: Vec<_> = (1..=500).map(|port| rule([block("10.0.0.0/8", &[])], [tcp(port * 2)])).collect();
        world.policy("x", &format!("p{n}"), ingress(with(&format!("pod=p{n}")), rules));
    }
    world
}

#[test]
fn a_hundred_thousand_rules_fit_and_more_than_fit_are_counted() {
    let world = many(200);
    let compiled = world.compile();
    assert_eq!((compiled.rules.len(), compiled.names.len()), (100_000, 100_000));
    let numbers: std::collections::BTreeSet<_> = compiled.rules.values().map(|row| row.number).collect();
    assert_eq!(numbers.len(), 100_000, "each has a number of its own");
    assert_eq!(too_large(&world.desired), Vec::<String>::new());
    // As many as there may be, and one more.
    let mut world = many(262);
    let more = |ports: u16| {
        let rules: Vec<_> = (1..=ports).map(|port| rule([block("10.0.0.0/8", &[])], [tcp(port * 2)])).collect();
        ingress(with("pod=last"), rules)
    };
    world.instance("x", "pod=last");
    world.policy("x", "last", more(72));
    assert_eq!(too_large(&world.desired), Vec::<String>::new());
    world.policy("x", "last", more(73));
    let faults = too_large(&world.desired);
    assert_eq!(faults.len(), 1);
    let numbers = "node node-1 would have 131073 rules for each peer and range of ports, and 131072 are the most; ";
    assert!(faults[0].starts_with(numbers), "{faults:?}");
}

#[test]
fn more_blocks_than_fit_are_counted() {
    let mut world = World::default();
    world.instance("x", "");
    let block = |n: usize| block(&format!("10.{}.{}.0/24", (n >> 8) & 255, n & 255), &[]);
    for policy in 0..65 {
        // Every address of a second octet, then those of another network.
        let peers = (0..512).map(|n| match policy * 512 + n {
            n if n < 65_536 / 2 => block(n),
            n => super::world::block(&format!("11.0.{}.0/24", (n - 65_536 / 2) & 255), &[]),
        });
        world.policy("x", &format!("p{policy}"), ingress(all(), [rule(peers.collect::<Vec<_>>(), [])]));
    }
    let faults = too_large(&world.desired);
    let numbers = "node node-1 would have 33024 blocks of addresses, and 32768 are the most; ";
    assert!(faults.len() == 1 && faults[0].starts_with(numbers), "{faults:?}");
}
