//! Tenants, entities, audit, and what is no instance.

use super::world::*;
use crate::{Compiled, Direction, Peer, Verdict, judge};
use hivemind_core::{
    model::InstanceId,
    spec::v1::{Entity, PolicyPeer, PolicyProtocol, PolicySpec},
};

/// Two instances of the tenant `red`, one of `blue`.
fn three() -> (World, [InstanceId; 3]) {
    let mut world = World::default();
    let ids = [("red/x", "pod=a"), ("red/y", "pod=b"), ("blue/x", "pod=b")];
    let ids = ids.map(|(scope, labels)| world.instance(scope, labels));
    (world, ids)
}

fn verdict(compiled: &Compiled, local: &InstanceId, direction: Direction, peer: Peer<'_>) -> Verdict {
    judge(compiled, local, direction, peer, Some(PolicyProtocol::Tcp), 80)
}

/// What comes in from the second, from the third, from the world; then what goes out to them.
fn verdicts(spec: Option<PolicySpec>) -> [Verdict; 6] {
    let (mut world, [local, same, other]) = three();
    if let Some(spec) = spec {
        world.policy("red/x", "p", spec);
    }
    let compiled = world.compile();
    let peers = [
        Peer::Instance(&same, world.v4(&same)),
        Peer::Instance(&other, world.v4(&other)),
        Peer::Address(name("192.0.2.1")),
    ];
    for direction in [Direction::In, Direction::Out] {
        assert_eq!(verdict(&compiled, &local, direction, Peer::Host), Verdict::OwnNode);
    }
    let at = |direction| peers.map(|peer| plain(verdict(&compiled, &local, direction, peer)));
    let [inwards, outwards] = [at(Direction::In), at(Direction::Out)];
    [inwards[0], inwards[1], inwards[2], outwards[0], outwards[1], outwards[2]]
}

/// Without the number.
fn plain(verdict: Verdict) -> Verdict {
    if matches!(verdict, Verdict::Allowed(_)) { ALLOWED } else { verdict }
}

const ALLOWED: Verdict = Verdict::Allowed(0);

fn entity(entity: Entity) -> PolicySpec {
    let rules = from([PolicyPeer::Entity(entity)]);
    spec(all(), Some(rules.clone()), Some(rules))
}

#[test]
fn tenants_are_apart_until_the_receiver_says_otherwise() {
    use Verdict::{Denied, NotIsolated, OtherTenant};
    let open = NotIsolated;
    assert_eq!(verdicts(None), [open, OtherTenant, open, open, open, open]);
    // "Everybody" and a block do not mean other tenants: those must be named.
    let everybody = ingress(all(), from([]));
    assert_eq!(verdicts(Some(everybody)), [ALLOWED, OtherTenant, ALLOWED, open, open, open]);
    let everywhere = ingress(all(), from([block("0.0.0.0/0", &[])]));
    assert_eq!(verdicts(Some(everywhere)), [ALLOWED, OtherTenant, ALLOWED, open, open, open]);
    // Selectors stay in the tenant, also where the labels are the same.
    let selected = from([both(all(), with("pod=b"))]);
    assert_eq!(
        verdicts(Some(spec(all(), Some(selected.clone()), Some(selected)))),
        [ALLOWED, OtherTenant, Denied, ALLOWED, Denied, Denied]
    );
}

#[test]
fn entities() {
    use Verdict::{Denied, OtherTenant};
    for (kind, expected) in [
        (Entity::Host, [Denied, OtherTenant, Denied, Denied, Denied, Denied]),
        (Entity::World, [Denied, OtherTenant, ALLOWED, Denied, Denied, ALLOWED]),
        (Entity::Cluster, [ALLOWED, ALLOWED, Denied, ALLOWED, ALLOWED, Denied]),
        (Entity::SameTenant, [ALLOWED, OtherTenant, Denied, ALLOWED, Denied, Denied]),
        (Entity::OtherTenants, [Denied, ALLOWED, Denied, Denied, ALLOWED, Denied]),
    ] {
        assert_eq!(verdicts(Some(entity(kind))), expected, "{kind:?}");
    }
}

#[test]
fn audit_changes_nothing_and_says_what_it_would_deny() {
    use Verdict::{NotIsolated, OtherTenant, WouldDeny};
    let audit = |spec: PolicySpec| Some(PolicySpec { audit: true, ..spec });
    let open = NotIsolated;
    assert_eq!(
        verdicts(audit(spec(all(), Some(vec![]), Some(vec![])))),
        [WouldDeny, OtherTenant, WouldDeny, WouldDeny, WouldDeny, WouldDeny]
    );
    assert_eq!(
        verdicts(audit(ingress(all(), from([both(all(), with("pod=b"))])))),
        [ALLOWED, OtherTenant, WouldDeny, open, open, open]
    );
    // It does not open the border between tenants.
    assert_eq!(verdicts(audit(ingress(all(), from([])))), [ALLOWED, OtherTenant, ALLOWED, open, open, open]);
}

#[test]
fn audit_beside_an_enforcing_policy_allows_nothing_more() {
    let (mut world, [local, same, _]) = three();
    let peer = Peer::Instance(&same, world.v4(&same));
    world.policy("red/x", "deny", ingress(all(), []));
    world.policy("red/x", "trial", PolicySpec { audit: true, ..spec(all(), Some(from([])), Some(vec![])) });
    let compiled = world.compile();
    assert_eq!(verdict(&compiled, &local, Direction::In, peer), Verdict::Denied);
    // The direction that only the trial names is on trial.
    assert_eq!(verdict(&compiled, &local, Direction::Out, peer), Verdict::WouldDeny);
    let endpoint = compiled.endpoints[&local];
    assert!(endpoint.isolated_in && endpoint.isolated_out && !endpoint.audit_in && endpoint.audit_out);
}

#[test]
fn of_other_protocols_only_rules_without_ports_speak() {
    let (mut world, [local, same, _]) = three();
    let peer = Peer::Instance(&same, world.v4(&same));
    let gre = |world: &World| judge(&world.compile(), &local, Direction::In, peer, None, 0).passes();
    world.policy("red/x", "p", ingress(all(), from([])));
    assert!(gre(&world));
    world.policy("red/x", "p", ingress(all(), [rule([], [ports(PolicyProtocol::Tcp, 0, u16::MAX)])]));
    assert!(!gre(&world));
}

#[test]
fn blocks_of_the_outside_in_both_families() {
    let (mut world, [local, ..]) = three();
    let blocks = [block("2001:db8::/32", &["2001:db8:1::/48"]), block("172.17.0.0/16", &["172.17.1.0/24"])];
    world.policy("red/x", "p", ingress(all(), from(blocks)));
    let compiled = world.compile();
    for (address, passes) in [
        ("2001:db8::1", true),
        ("2001:db8:1::1", false),
        ("2001:db9::1", false),
        ("172.17.0.1", true),
        ("172.17.1.1", false),
        ("172.18.0.1", false),
    ] {
        let got = verdict(&compiled, &local, Direction::In, Peer::Address(name(address)));
        assert_eq!(got.passes(), passes, "{address}");
    }
}
