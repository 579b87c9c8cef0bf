//! The cases that implementations of NetworkPolicy are commonly tried by: namespaces x, y and z with the instances a, b
//! and c each, and who reaches whom.

use super::world::*;
use crate::{Compiled, Direction, Peer, judge};
use hivemind_core::{
    model::InstanceId,
    spec::v1::{
        Operator::{DoesNotExist, Exists, In, NotIn},
        PolicyPort,
        PolicyProtocol::{self, Sctp, Tcp, Udp},
        PolicyRule, PolicySpec, PortMatch,
    },
};

/// One attempt: from and to are `namespace/name`.
#[derive(Clone, Copy, Debug)]
struct Try<'a> {
    from: &'a str,
    to: &'a str,
    protocol: PolicyProtocol,
    port: u16,
}

impl Try<'_> {
    fn enters_x(&self) -> bool {
        self.to.starts_with("x/")
    }

    fn leaves_x(&self) -> bool {
        self.from.starts_with("x/")
    }
}

const NAMES: [&str; 9] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"];

fn nine() -> (World, Vec<(&'static str, InstanceId)>) {
    let mut world = World::default();
    let instances = NAMES.map(|name| {
        let (namespace, pod) = name.split_once('/').expect("both");
        (name, world.instance(namespace, &format!("pod={pod}")))
    });
    for namespace in ["x", "y", "z"] {
        world.namespace(namespace, &format!("ns={namespace}"));
    }
    (world, instances.into())
}

/// Whether a packet passes both ends.
fn reaches(
    compiled: &Compiled,
    world: &World,
    from: &InstanceId,
    to: &InstanceId,
    protocol: PolicyProtocol,
    port: u16,
) -> bool {
    let [at_from, at_to] = [from, to].map(|id| Peer::Instance(id, world.v4(id)));
    judge(compiled, from, Direction::Out, at_to, Some(protocol), port).passes()
        && judge(compiled, to, Direction::In, at_from, Some(protocol), port).passes()
}

/// Tries everything from everywhere to everywhere else.
fn check(policies: &[(&str, PolicySpec)], expected: impl Fn(Try<'_>) -> bool) {
    let (mut world, instances) = nine();
    for (n, (namespace, spec)) in policies.iter().enumerate() {
        world.policy(namespace, &format!("policy-{n}"), spec.clone());
    }
    check_world(&world, &instances, expected);
}

fn check_world(world: &World, instances: &[(&str, InstanceId)], expected: impl Fn(Try<'_>) -> bool) {
    let compiled = world.compile();
    for (from, source) in instances {
        for (to, target) in instances.iter().filter(|(to, _)| to != from) {
            for protocol in [Tcp, Udp, Sctp] {
                for port in [79, 80, 81, 82] {
                    let attempt = Try { from, to, protocol, port };
                    let got = reaches(&compiled, world, source, target, protocol, port);
                    assert_eq!(got, expected(attempt), "{attempt:?}");
                }
            }
        }
    }
}

fn anybody() -> Vec<PolicyRule> {
    from([])
}

#[test]
fn no_policy_closes_nothing() {
    check(&[], |_| true);
    // A policy of another namespace, or about nobody, says nothing.
    check(&[("w", ingress(all(), []))], |_| true);
    check(&[("x", ingress(with("pod=none"), []))], |_| true);
}

#[test]
fn default_deny() {
    check(&[("x", ingress(all(), []))], |t| !t.enters_x());
    check(&[("x", egress(all(), []))], |t| !t.leaves_x());
    check(&[("x", spec(all(), Some(vec![]), Some(vec![])))], |t| !t.enters_x() && !t.leaves_x());
    // Neither direction named: about instances, but closes nothing.
    check(&[("x", spec(all(), None, None))], |_| true);
}

#[test]
fn allow_all() {
    check(&[("x", ingress(all(), anybody()))], |_| true);
    check(&[("x", egress(all(), anybody()))], |_| true);
    check(&[("x", ingress(all(), [])), ("x", ingress(all(), anybody()))], |_| true);
}

#[test]
fn instance_selectors_are_of_the_policys_namespace() {
    check(&[("x", ingress(with("pod=a"), from([pods(with("pod=b"))])))], |t| t.to != "x/a" || t.from == "x/b");
    // The empty selector: everybody in the namespace.
    check(&[("x", ingress(with("pod=a"), from([pods(all())])))], |t| t.to != "x/a" || t.leaves_x());
    check(&[("x", ingress(with("pod=a"), from([pods(with("pod=none"))])))], |t| t.to != "x/a");
}

#[test]
fn namespace_selectors() {
    check(&[("x", ingress(with("pod=a"), from([namespaces(with("ns=y"))])))], |t| {
        t.to != "x/a" || t.from.starts_with("y/")
    });
    // Empty: all namespaces, the policy's own too.
    check(&[("x", ingress(with("pod=a"), from([namespaces(all())])))], |_| true);
    // Every namespace has its name as a label.
    check(&[("x", ingress(all(), from([namespaces(with("kubernetes.io/metadata.name=z"))])))], |t| {
        !t.enters_x() || t.from.starts_with("z/")
    });
}

#[test]
fn a_namespace_without_a_row_has_its_name() {
    let (mut world, instances) = nine();
    world.desired.namespaces.clear();
    world.policy("x", "p", ingress(all(), from([namespaces(with("kubernetes.io/metadata.name=y"))])));
    check_world(&world, &instances, |t| !t.enters_x() || t.from.starts_with("y/"));
    world.policy("x", "p", ingress(all(), from([namespaces(with("ns=y"))])));
    check_world(&world, &instances, |t| !t.enters_x());
}

#[test]
fn both_selectors_in_one_peer_are_and_in_two_peers_or() {
    let and = from([both(with("ns=y"), with("pod=b"))]);
    check(&[("x", ingress(with("pod=a"), and))], |t| t.to != "x/a" || t.from == "y/b");
    let or = from([namespaces(with("ns=y")), pods(with("pod=b"))]);
    check(&[("x", ingress(with("pod=a"), or))], |t| t.to != "x/a" || t.from.starts_with("y/") || t.from == "x/b");
}

#[test]
fn match_expressions() {
    let a_or_b = |t: &Try<'_>| t.from.ends_with("/a") || t.from.ends_with("/b");
    let everywhere = |selector| ingress(all(), from([both(all(), selector)]));
    check(&[("x", everywhere(where_("pod", In, &["a", "b"])))], |t| !t.enters_x() || a_or_b(&t));
    check(&[("x", everywhere(where_("pod", NotIn, &["a", "b"])))], |t| !t.enters_x() || !a_or_b(&t));
    // An absent label is not in any list.
    check(&[("x", everywhere(where_("other", NotIn, &["a"])))], |_| true);
    check(&[("x", everywhere(where_("other", In, &["a"])))], |t| !t.enters_x());
    check(&[("x", everywhere(where_("pod", Exists, &[])))], |_| true);
    check(&[("x", everywhere(where_("other", Exists, &[])))], |t| !t.enters_x());
    check(&[("x", everywhere(where_("other", DoesNotExist, &[])))], |_| true);
    check(&[("x", everywhere(where_("pod", DoesNotExist, &[])))], |t| !t.enters_x());
    // Of namespaces, and of the instances the policy is about.
    let others = from([namespaces(where_("ns", NotIn, &["x"]))]);
    check(&[("x", ingress(all(), others))], |t| !t.enters_x() || !t.leaves_x());
    check(&[("x", ingress(where_("pod", In, &["a", "b"]), []))], |t| t.to != "x/a" && t.to != "x/b");
    // Labels and expressions together: all must hold.
    let mut selector = where_("pod", In, &["a", "b"]);
    selector.labels = labels("pod=b");
    check(&[("x", everywhere(selector))], |t| !t.enters_x() || t.from.ends_with("/b"));
}

#[test]
fn ports_and_protocols() {
    let on = |ports: &[PolicyPort]| ingress(all(), [rule([], ports)]);
    check(&[("x", on(&[tcp(80)]))], |t| !t.enters_x() || (t.protocol, t.port) == (Tcp, 80));
    check(&[("x", on(&[tcp(80), ports(Udp, 81, 81)]))], |t| {
        !t.enters_x() || [(Tcp, 80), (Udp, 81)].contains(&(t.protocol, t.port))
    });
    let only_udp = PolicyPort { protocol: Udp, port: None };
    check(&[("x", on(&[only_udp]))], |t| !t.enters_x() || t.protocol == Udp);
    check(&[("x", on(&[ports(Sctp, 80, 81)]))], |t| !t.enters_x() || t.protocol == Sctp && (80..=81).contains(&t.port));
    // The port of an egress rule is the receiver's.
    check(&[("x", egress(all(), [rule([], [tcp(80)])]))], |t| !t.leaves_x() || (t.protocol, t.port) == (Tcp, 80));
}

#[test]
fn ranges_that_overlap() {
    let on = |first, last| ingress(all(), [rule([], [ports(Tcp, first, last)])]);
    check(&[("x", on(80, 81))], |t| !t.enters_x() || t.protocol == Tcp && (80..=81).contains(&t.port));
    check(&[("x", on(0, u16::MAX))], |t| !t.enters_x() || t.protocol == Tcp);
    check(&[("x", on(79, 80)), ("x", on(80, 82)), ("y", on(81, 81))], |t| {
        (!t.enters_x() || t.protocol == Tcp) && (!t.to.starts_with("y/") || (t.protocol, t.port) == (Tcp, 81))
    });
}

#[test]
fn a_named_port_matches_nothing_rather_than_everything() {
    let named = PolicyPort { protocol: Tcp, port: Some(PortMatch::Name("http".into())) };
    check(&[("x", ingress(all(), [rule([], [named])]))], |t| !t.enters_x());
}

#[test]
fn peers_and_ports_of_a_rule_are_and_rules_are_or() {
    let rules = [rule([pods(with("pod=b"))], [tcp(80)]), rule([namespaces(with("ns=y"))], [tcp(81)])];
    check(&[("x", ingress(with("pod=a"), rules))], |t| {
        let first = t.from == "x/b" && t.port == 80;
        let second = t.from.starts_with("y/") && t.port == 81;
        t.to != "x/a" || t.protocol == Tcp && (first || second)
    });
}

#[test]
fn policies_are_a_union() {
    let first = ingress(with("pod=a"), from([pods(with("pod=b"))]));
    let second = ingress(all(), [rule([namespaces(with("ns=y"))], [tcp(80)])]);
    check(&[("x", first), ("x", second)], |t| {
        !t.enters_x()
            || (t.to, t.from) == ("x/a", "x/b")
            || t.from.starts_with("y/") && (t.protocol, t.port) == (Tcp, 80)
    });
    // One about each direction.
    check(&[("x", ingress(all(), from([pods(all())]))), ("x", egress(all(), from([namespaces(all())])))], |t| {
        !t.enters_x() || t.leaves_x()
    });
}

#[test]
fn both_ends_must_allow() {
    let out = egress(with("pod=a"), from([both(with("ns=y"), with("pod=a"))]));
    let inwards = ingress(with("pod=a"), from([both(with("ns=x"), with("pod=a"))]));
    check(&[("x", out.clone())], |t| t.from != "x/a" || t.to == "y/a");
    check(&[("x", out.clone()), ("y", inwards)], |t| {
        (t.from != "x/a" || t.to == "y/a") && (t.to != "y/a" || t.from == "x/a")
    });
    check(&[("x", out), ("y", ingress(all(), []))], |t| t.from != "x/a" && !t.to.starts_with("y/"));
}

#[test]
fn a_change_of_labels_changes_who_is_meant() {
    let (mut world, instances) = nine();
    world.policy("x", "p", ingress(with("pod=a"), from([pods(with("role=friend"))])));
    check_world(&world, &instances, |t| t.to != "x/a");
    world.relabel(&instances[2].1, "pod=c,role=friend");
    check_world(&world, &instances, |t| t.to != "x/a" || t.from == "x/c");
    world.relabel(&instances[0].1, "pod=other");
    check_world(&world, &instances, |_| true);
    world.policy("x", "p", ingress(all(), from([namespaces(with("team=blue"))])));
    check_world(&world, &instances, |t| !t.enters_x());
    world.namespace("z", "team=blue");
    check_world(&world, &instances, |t| !t.enters_x() || t.from.starts_with("z/"));
}

#[test]
fn blocks_with_exceptions() {
    // Instances have 10.0.0.1 to 10.0.0.9 in the order of their names.
    let blocks = |peers: &[_]| egress(with("pod=a"), from(peers.to_vec()));
    check(&[("x", blocks(&[block("10.0.0.0/24", &[])]))], |_| true);
    check(&[("x", blocks(&[block("10.0.0.4/32", &[])]))], |t| t.from != "x/a" || t.to == "y/a");
    check(&[("x", blocks(&[block("10.0.0.0/24", &["10.0.0.4/32"])]))], |t| t.from != "x/a" || t.to != "y/a");
    // A second block, or a second rule, fills the hole of the first one.
    check(&[("x", blocks(&[block("10.0.0.0/24", &["10.0.0.4/31"]), block("10.0.0.5/32", &[])]))], |t| {
        t.from != "x/a" || t.to != "y/a"
    });
    // A selector does too.
    check(&[("x", blocks(&[block("10.0.0.0/24", &["10.0.0.4/31"]), namespaces(with("ns=y"))]))], |_| true);
    // A hole in a hole's block, and a block that is all exception.
    let nested = [block("10.0.0.0/8", &["10.0.0.0/29"]), block("10.0.0.0/30", &["10.0.0.2/31"])];
    check(&[("x", blocks(&nested))], |t| t.from != "x/a" || ["z/b", "z/c"].contains(&t.to));
    check(&[("x", blocks(&[block("10.0.0.0/24", &["10.0.0.0/24"])]))], |t| t.from != "x/a");
    check(&[("x", blocks(&[block("::/0", &[])]))], |t| t.from != "x/a");
    // Inwards as well.
    check(&[("x", ingress(with("pod=a"), from([block("10.0.0.4/32", &[])])))], |t| t.to != "x/a" || t.from == "y/a");
}

#[test]
fn overlapping_blocks_have_their_own_ports() {
    let rules = [rule([block("10.0.0.0/24", &[])], [tcp(80)]), rule([block("10.0.0.4/30", &[])], [tcp(81)])];
    check(&[("x", egress(all(), rules))], |t| {
        // 10.0.0.4 to 10.0.0.7
        let inner = ["y/a", "y/b", "y/c", "z/a"].contains(&t.to);
        !t.leaves_x() || t.protocol == Tcp && (t.port == 80 || t.port == 81 && inner)
    });
}
