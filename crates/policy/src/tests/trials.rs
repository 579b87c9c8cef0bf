//! What policies on trial are told apart by.

use std::collections::BTreeMap;

use super::world::{World, ingress, node, scope, with};
use crate::{Direction, PolicyRef, Subject, TrialPlace, Trials};
use hivemind_core::{
    model::{InstanceId, PolicyKey, Timestamp},
    spec::v1::PolicySpec,
};

const IN: TrialPlace = (7, Direction::In);

fn trial(label: &str) -> PolicySpec {
    PolicySpec { audit: true, ..ingress(with(label), []) }
}

fn policy(called: &str) -> PolicyRef {
    PolicyRef::Namespace(PolicyKey::new(scope("default"), called.parse().expect("a name")))
}

fn change(trials: &mut Trials, at: i64, world: &World, id: &InstanceId) {
    let devices = [(0, Subject::Host), (7, Subject::Instance(id.clone()))].into();
    trials.change(Timestamp::from_millis(at), &world.desired, &node(), &world.compile(), &devices);
}

fn count(trials: &mut Trials, packets: u64) {
    trials.count(&BTreeMap::from([(IN, packets)]));
}

#[test]
fn a_trial_has_what_came_while_it_was_on() {
    let mut world = World::default();
    let id = world.instance("default", "app=web");
    let mut trials = Trials::default();
    change(&mut trials, 1, &world, &id);
    assert!(trials.is_empty() && trials.counted().is_empty());
    // A former trial's, of which nothing is known.
    count(&mut trials, 100);
    world.policy("default", "trial", trial("app=web"));
    world.policy("default", "nobody", trial("app=db"));
    change(&mut trials, 2, &world, &id);
    count(&mut trials, 103);
    count(&mut trials, 104);
    let counted = trials.counted();
    assert_eq!((counted[&policy("trial")].inwards, counted[&policy("trial")].outwards), (4, 0));
    assert_eq!(counted[&policy("trial")].since, Timestamp::from_millis(2));
    assert_eq!(counted[&policy("nobody")].inwards, 0);
    // Another one beside it has what comes from then on, and the first goes on.
    world.policy("default", "second", trial("app=web"));
    change(&mut trials, 3, &world, &id);
    count(&mut trials, 105);
    let counted = trials.counted();
    assert_eq!((counted[&policy("trial")].inwards, counted[&policy("second")].inwards), (5, 1));
    assert_eq!(counted[&policy("trial")].beside, [policy("second")].into());
    // One that says something else begins again; a device that began again is counted from its beginning.
    world.policy("default", "trial", PolicySpec { egress: Some(vec![]), ..trial("app=web") });
    change(&mut trials, 4, &world, &id);
    count(&mut trials, 2);
    assert_eq!(trials.counted()[&policy("trial")].inwards, 2);
    // Who was on trial is known when it is over, until the device goes.
    world.desired.policies.clear();
    change(&mut trials, 5, &world, &id);
    assert!(trials.is_empty());
    assert_eq!(trials.places()[&IN], [policy("second"), policy("trial")]);
    count(&mut trials, 9);
    assert!(trials.counted().is_empty());
}

#[test]
fn one_that_enforces_ends_the_trial_of_the_others() {
    let mut world = World::default();
    let id = world.instance("default", "app=web");
    world.policy("default", "trial", trial("app=web"));
    world.policy("default", "closed", ingress(with("app=web"), []));
    let mut trials = Trials::default();
    change(&mut trials, 1, &world, &id);
    count(&mut trials, 1);
    assert_eq!(trials.counted()[&policy("trial")].inwards, 0);
    assert!(trials.places().is_empty());
}
