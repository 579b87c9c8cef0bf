//! Tiers: what the operator says first and last, what a tenant says for itself, and what never is anybody's to say.

use super::world::*;
use crate::{Direction, Peer, Verdict, judge};
use hivemind_core::{
    model::InstanceId,
    spec::v1::{
        Action, Entity, Otherwise, PolicyPeer, PolicyPort, PolicyProtocol, PolicySpec, Tier, TierRule, TierSpec,
    },
};

fn says(action: Action, peers: impl Into<Vec<PolicyPeer>>, ports: impl Into<Vec<PolicyPort>>) -> TierRule {
    TierRule { action, peers: peers.into(), ports: ports.into() }
}

fn inwards(tier: Tier, priority: u16, rules: impl Into<Vec<TierRule>>) -> TierSpec {
    TierSpec { ingress: rules.into(), ..TierSpec::new(tier, priority) }
}

/// What comes to `local` from `from` by TCP.
fn comes(world: &World, local: &InstanceId, from: &InstanceId, port: u16) -> Verdict {
    let peer = Peer::Instance(from, world.v4(from));
    let verdict = judge(&world.compile(), local, Direction::In, peer, Some(PolicyProtocol::Tcp), port);
    match verdict {
        Verdict::Allowed(_) => Verdict::Allowed(0),
        Verdict::DeniedBy(_) => Verdict::DeniedBy(0),
        Verdict::RejectedBy(_) => Verdict::RejectedBy(0),
        other => other,
    }
}

const ALLOWED: Verdict = Verdict::Allowed(0);
const DENIED: Verdict = Verdict::DeniedBy(0);

fn two() -> (World, InstanceId, InstanceId) {
    let mut world = World::default();
    let (local, from) = (world.instance("red/x", "pod=a"), world.instance("red/y", "pod=b"));
    (world, local, from)
}

#[test]
fn the_lowest_priority_decides_then_the_order_of_rules() {
    let (mut world, local, from) = two();
    world.tier("deny", inwards(Tier::Admin, 20, [says(Action::Deny, [], [])]));
    assert_eq!(comes(&world, &local, &from, 80), DENIED);
    world.tier(
        "some",
        inwards(Tier::Admin, 10, [says(Action::Accept, [], [tcp(80)]), says(Action::Deny, [], [tcp(80)])]),
    );
    assert_eq!(comes(&world, &local, &from, 80), ALLOWED);
    assert_eq!(comes(&world, &local, &from, 81), DENIED);
    // A rule about a narrower peer does not go before a broader one that is written first.
    world.tier("first", inwards(Tier::Admin, 5, [says(Action::Deny, [], []), says(Action::Accept, [pods(all())], [])]));
    assert_eq!(comes(&world, &local, &from, 80), DENIED);
}

#[test]
fn namespaces_decide_between_the_tiers() {
    let (mut world, local, from) = two();
    world.tier("last", inwards(Tier::Baseline, 0, [says(Action::Deny, [], [])]));
    assert_eq!(comes(&world, &local, &from, 80), DENIED);
    world.policy("red/x", "own", ingress(all(), [rule([namespaces(all())], [tcp(80)])]));
    assert_eq!(comes(&world, &local, &from, 80), ALLOWED, "the namespace's policy is asked first");
    assert_eq!(comes(&world, &local, &from, 81), Verdict::Denied, "and is not asked in vain");
    world.tier("pass", inwards(Tier::Admin, 1, [says(Action::Pass, [], [tcp(80)]), says(Action::Accept, [], [])]));
    world.tier("later", inwards(Tier::Admin, 2, [says(Action::Deny, [], [])]));
    assert_eq!(comes(&world, &local, &from, 80), ALLOWED, "the tier is left at the first rule that passes it on");
    assert_eq!(comes(&world, &local, &from, 81), ALLOWED, "what is accepted is not asked of the namespace");
}

#[test]
fn who_passes_leaves_it_to_the_next_and_no_further() {
    let (mut world, local, from) = two();
    world.tier("pass", inwards(Tier::Admin, 1, [says(Action::Pass, [], [])]));
    world.tier("red/mine", inwards(Tier::Admin, 0, [says(Action::Reject, [], [tcp(22)]), says(Action::Pass, [], [])]));
    assert_eq!(comes(&world, &local, &from, 22), Verdict::RejectedBy(0), "the tenant's word is next to the operator's");
    assert_eq!(comes(&world, &local, &from, 80), Verdict::NotIsolated);
    world.tier("red/last", inwards(Tier::Baseline, 0, [says(Action::Pass, [], [])]));
    world.tier("last", inwards(Tier::Baseline, 0, [says(Action::Deny, [], [tcp(80)])]));
    assert_eq!(comes(&world, &local, &from, 80), DENIED, "and the operator's next to the tenant's at last");
    assert_eq!(comes(&world, &local, &from, 81), Verdict::NotIsolated);
}

#[test]
fn what_is_not_allowed_is_answered_if_all_who_close_say_so() {
    let (mut world, local, from) = two();
    let loud = || PolicySpec { otherwise: Otherwise::Reject, ..ingress(all(), [rule([], [tcp(80)])]) };
    world.policy("red/x", "loud", loud());
    assert_eq!(comes(&world, &local, &from, 81), Verdict::Rejected);
    assert_eq!(comes(&world, &local, &from, 80), ALLOWED);
    world.policy("red/x", "trial", PolicySpec { audit: true, ..ingress(all(), []) });
    assert_eq!(comes(&world, &local, &from, 81), Verdict::Rejected, "one on trial changes nothing");
    world.policy("red/x", "silent", ingress(all(), []));
    assert_eq!(comes(&world, &local, &from, 81), Verdict::Denied);
}

#[test]
fn a_tenant_overrules_no_operator_and_speaks_of_its_own_only() {
    let (mut world, local, from) = two();
    let other = world.instance("blue/x", "pod=c");
    world.tier("red/mine", inwards(Tier::Admin, 0, [says(Action::Accept, [], [])]));
    world.tier("operators", inwards(Tier::Admin, 1000, [says(Action::Deny, [], [tcp(22)])]));
    assert_eq!(comes(&world, &local, &from, 22), DENIED);
    assert_eq!(comes(&world, &local, &from, 80), ALLOWED);
    world.tier("red/last", inwards(Tier::Baseline, 1000, [says(Action::Deny, [], [])]));
    world.tier("last", inwards(Tier::Baseline, 0, [says(Action::Accept, [], [])]));
    world.desired.tiers.remove(&name::<hivemind_core::model::TierKey>("red/mine"));
    assert_eq!(comes(&world, &local, &from, 80), DENIED, "at last the nearest decides first");
    let of_blue = world.instance("blue/x", "pod=c");
    assert_eq!(comes(&world, &other, &of_blue, 80), ALLOWED, "red says nothing about blue");
}

#[test]
fn everybody_is_denied_from_other_tenants_too_and_only_the_named_are_let_in() {
    let (mut world, local, _) = two();
    let other = world.instance("blue/x", "pod=c");
    let opened = from([PolicyPeer::Entity(Entity::OtherTenants)]);
    world.policy("red/x", "open", ingress(all(), opened));
    assert_eq!(comes(&world, &local, &other, 22), ALLOWED);
    world.tier("deny", inwards(Tier::Admin, 0, [says(Action::Deny, [], [tcp(22)])]));
    assert_eq!(comes(&world, &local, &other, 22), DENIED);
    world.desired.policies.clear();
    world.tier("accept", inwards(Tier::Admin, 1, [says(Action::Accept, [], [tcp(80)])]));
    assert_eq!(comes(&world, &local, &other, 80), Verdict::OtherTenant, "everybody is not they");
    world.tier("accept", inwards(Tier::Admin, 1, [says(Action::Accept, [both(all(), with("pod=c"))], [tcp(80)])]));
    assert_eq!(comes(&world, &local, &other, 80), ALLOWED, "the operator's selectors look into all tenants");
    world.tier("accept", inwards(Tier::Baseline, 1, [says(Action::Accept, [PolicyPeer::Entity(Entity::Cluster)], [])]));
    assert_eq!(comes(&world, &local, &other, 80), ALLOWED);
}

#[test]
fn the_same_tenant_is_another_one_for_each() {
    let (mut world, local, from) = two();
    let (other, same) = (world.instance("blue/x", "pod=c"), world.instance("blue/y", "pod=d"));
    let rules = [says(Action::Accept, [PolicyPeer::Entity(Entity::SameTenant)], []), says(Action::Deny, [], [])];
    world.tier("apart", inwards(Tier::Admin, 0, rules));
    assert_eq!(comes(&world, &local, &from, 80), ALLOWED);
    assert_eq!(comes(&world, &other, &same, 80), ALLOWED);
    assert_eq!(comes(&world, &local, &other, 80), DENIED);
}

#[test]
fn what_changes_is_a_new_set_and_an_unrelated_policy_is_none() {
    let (mut world, local, _) = two();
    world.tier("a", inwards(Tier::Admin, 5, [says(Action::Deny, [], [tcp(22)])]));
    let sets = |world: &World| world.compile().endpoints[&local].sets;
    let before = sets(&world);
    let elsewhere = TierSpec { instances: with("pod=none"), ..inwards(Tier::Admin, 1, [says(Action::Deny, [], [])]) };
    world.tier("b", elsewhere);
    assert_eq!(sets(&world), before);
    world.tier("a", inwards(Tier::Admin, 5, [says(Action::Deny, [], [tcp(23)])]));
    assert_ne!(sets(&world), before);
}
