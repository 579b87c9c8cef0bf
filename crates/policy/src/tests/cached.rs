//! What is kept is what would be compiled, and is compiled only if it may differ.

use std::{sync::Arc, time::Duration};

use super::{changes::renumbered, world::*};
use crate::{Cache, compile};
use hivemind_core::{
    model::NodeDesired,
    spec::v1::{Action, Tier, TierRule, TierSpec},
};

/// Takes in the world as it is and says whether everything was compiled.
fn tell(cache: &mut Cache, world: &World) -> bool {
    let before = cache.runs();
    let compiled = cache.compile(&Arc::new(world.desired.clone()), &node(), &Arc::default());
    assert_eq!(renumbered(&world.compile(), &compiled), *compiled);
    cache.runs() != before
}

#[test]
fn it_is_compiled_only_if_policies_or_labels_changed() {
    let mut world = World::default();
    let mut cache = Cache::default();
    let web = world.instance("x", "pod=web");
    world.instance_on("node-2", "x", "pod=client");
    world.policy("x", "p", ingress(with("pod=web"), from([pods(with("pod=client"))])));
    assert!(tell(&mut cache, &world));
    assert!(!tell(&mut cache, &world), "nothing changed");
    let second = world.instance("x", "pod=web");
    world.instance_on("node-2", "x", "pod=client");
    assert!(!tell(&mut cache, &world), "more of the same");
    world.desired.peers.remove(&second);
    assert!(!tell(&mut cache, &world), "one less of the same");
    let client = world.instance("x", "pod=client");
    assert!(tell(&mut cache, &world), "labels that this node did not have");
    world.relabel(&client, "pod=web");
    assert!(tell(&mut cache, &world), "it has them no more");
    world.instance_on("node-2", "y", "pod=web");
    assert!(tell(&mut cache, &world), "another namespace");
    world.namespace("y", "team=a");
    assert!(tell(&mut cache, &world), "its labels");
    let rule = TierRule { action: Action::Deny, peers: Vec::new(), ports: vec![tcp(22)] };
    let (tier, namespaces) = (Tier::Admin, None);
    let spec = TierSpec { namespaces, ingress: vec![rule], ..TierSpec::new(tier, 1) };
    world.tier("t", spec);
    assert!(tell(&mut cache, &world), "a tier");
    world.policy("x", "p", ingress(with("pod=web"), from([])));
    assert!(tell(&mut cache, &world), "a policy");
    world.desired.policies.clear();
    assert!(tell(&mut cache, &world), "no policy");
    world.desired.peers.remove(&web);
    world.desired.peers.remove(&client);
    assert!(tell(&mut cache, &world), "labels are gone");
}

/// Ten thousand instances with labels of their own, and a thousand rules about a hundred of this node.
fn large() -> World {
    let mut world = World::default();
    for n in 0..10_000 {
        let on = if n < 100 { "node-1" } else { "node-2" };
        world.instance_on(on, "x", &format!("app=a{n},tier=t{}", n % 10));
    }
    for n in 0..100 {
        let rules = (0..10).map(|port| rule([pods(with(&format!("tier=t{}", n % 10)))], [tcp(8000 + n * 10 + port)]));
        world.policy("x", &format!("p{n}"), ingress(with(&format!("app=a{n}")), rules.collect::<Vec<_>>()));
    }
    world
}

#[test]
fn what_changes_no_labels_is_not_paid_for() {
    let world = large();
    let mut cache = Cache::default();
    let desired = Arc::new(world.desired.clone());
    cache.compile(&desired, &node(), &Arc::default());
    // As a service that is told: all else is the same.
    let next = Arc::new(NodeDesired { revision: 2, ..world.desired.clone() });
    let clock = tokio::time::Instant::now;
    let start = clock();
    cache.compile(&next, &node(), &Arc::default());
    let kept = start.elapsed();
    let start = clock();
    compile(&next, &node());
    let whole = start.elapsed();
    eprintln!("10,000 instances, 1,000 rules: {whole:?} to compile, {kept:?} to find that nothing changed");
    assert_eq!(cache.runs(), 1);
    assert!(kept < whole / 5 + Duration::from_millis(1), "{kept:?} of {whole:?}");
}
