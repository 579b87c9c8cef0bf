//! Kubernetes' policies of tiers as its documentation has them, ours, and their faults.

use super::{Document, read};
use crate::tests::world::{all, block, both, name, namespaces, ports, scope, tcp, where_, with};
use hivemind_core::spec::v1::{
    Action, Entity, Operator, Otherwise, PolicyPeer, PolicyProtocol, Tier, TierRule, TierSpec, Way,
};

fn tiers(text: &str) -> Vec<(String, TierSpec)> {
    let policies = read(text, &scope("acme/here")).unwrap_or_else(|faults| panic!("{faults:#?}"));
    let of_tier = |policy| match policy {
        Document::Tier(key, spec) => (key.to_string(), spec),
        Document::Policy(key, _) => panic!("{key} is of a namespace"),
    };
    policies.into_iter().map(of_tier).collect()
}

fn rule(action: Action, peers: impl Into<Vec<PolicyPeer>>) -> TierRule {
    TierRule { action, peers: peers.into(), ports: Vec::new() }
}

const CLUSTER: &str = r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 30
  subject: {pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: db}}}}
  ingress:
  - name: monitoring
    action: Accept
    from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
    protocols:
    - tcp: {destinationPort: {number: 9100}}
    - udp: {destinationPort: {range: {start: 8000, end: 8100}}}
    - sctp: {}
  - action: Pass
    from: [{pods: {namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}}]
  egress:
  - action: Deny
    to: [{networks: [10.0.0.0/8, 2001:db8::/32]}, {namespaces: {}}]
";

#[test]
fn a_cluster_network_policy() {
    let ports = vec![
        tcp(9100),
        ports(PolicyProtocol::Udp, 8000, 8100),
        hivemind_core::spec::v1::PolicyPort { protocol: PolicyProtocol::Sctp, port: None },
    ];
    let monitoring = with("kubernetes.io/metadata.name=monitoring");
    let spec = TierSpec {
        namespaces: Some(with("team=a")),
        instances: with("app=db"),
        ingress: vec![
            TierRule { ports, ..rule(Action::Accept, [namespaces(monitoring)]) },
            rule(Action::Pass, [both(all(), where_("app", Operator::Exists, &[]))]),
        ],
        egress: vec![rule(Action::Deny, [block("10.0.0.0/8", &[]), block("2001:db8::/32", &[]), namespaces(all())])],
        ..TierSpec::new(Tier::Admin, 30)
    };
    assert_eq!(tiers(CLUSTER), [("guard".to_owned(), spec)]);
}

#[test]
fn the_kinds_before_it() {
    let text = r"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: old}
spec:
  priority: 5
  subject: {namespaces: {}}
  ingress:
  - {action: Allow, from: [{namespaces: {}}], ports: [{portNumber: {protocol: UDP, port: 53}}, {portRange: {start: 1, end: 9}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec: {subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}]}]}
";
    let found = tiers(text);
    assert_eq!((found[0].1.tier, found[0].1.priority, found[1].1.tier), (Tier::Admin, 5, Tier::Baseline));
    assert_eq!(found[0].1.ingress[0].ports, [ports(PolicyProtocol::Udp, 53, 53), ports(PolicyProtocol::Tcp, 1, 9)]);
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: policy.networking.k8s.io/v1alpha1, kind: \
                BaselineAdminNetworkPolicy, metadata: {name: default}, spec: {subject: {namespaces: {}}}}\n";
    assert_eq!(tiers(list).len(), 1);
}

#[test]
fn the_shorter_form_of_a_tier() {
    let text = "policy: no-mail\ntier: admin\npriority: 10\nof: tenant\nnamespaces: team=a\ninstances: app=web\n\
                ingress:\n- {action: accept, from: [other-tenants, host]}\n\
                egress:\n- {action: deny, to: [world], ports: [25]}\n- {action: pass, ports: [8/icmp]}\n";
    let spec = TierSpec {
        namespaces: Some(with("team=a")),
        instances: with("app=web"),
        ingress: vec![rule(
            Action::Accept,
            [PolicyPeer::Entity(Entity::OtherTenants), PolicyPeer::Entity(Entity::Host)],
        )],
        egress: vec![
            TierRule { ports: vec![tcp(25)], ..rule(Action::Deny, [PolicyPeer::Entity(Entity::World)]) },
            TierRule { ports: vec![ports(PolicyProtocol::Icmp, 8, 8)], ..rule(Action::Pass, []) },
        ],
        ..TierSpec::new(Tier::Admin, 10)
    };
    assert_eq!(tiers(text), [("acme/no-mail".to_owned(), spec)]);
    assert_eq!(
        tiers("policy: p\ntier: baseline\npriority: 0")[0].0,
        name::<hivemind_core::model::TierKey>("p").to_string()
    );
}

#[test]
fn faults_of_tiers() {
    for (from, to, expected) in [
        ("v1alpha2", "v1", "apiVersion: \"policy.networking.k8s.io/v1\" is not known"),
        ("tier: Admin", "tier: admin", "spec.tier: \"admin\" is not a tier; write Admin or Baseline"),
        ("priority: 30", "priority: 1001", "spec.priority: is not a priority; write a number from 0"),
        ("priority: 30", "x: 30", "spec.x: there is no such field"),
        ("{name: guard}", "{name: guard, namespace: x}", "metadata.namespace: has no meaning here"),
        (
            "action: Pass",
            "action: Allow",
            "spec.ingress[1].action: \"Allow\" is not an action; write Accept, Deny, Reject or Pass",
        ),
        ("namespaceSelector: {}, ", "", "spec.ingress[1].from[0].pods.namespaceSelector: is missing"),
        ("{number: 9100}", "{number: 0}", "spec.ingress[0].protocols[0].tcp.destinationPort.number: is not a port"),
        (
            "{start: 8000, end: 8100}",
            "{start: 8100, end: 8000}",
            "spec.ingress[0].protocols[1].udp.destinationPort.range: the range 8100 to 8000 is empty",
        ),
        (
            "sctp: {}",
            "destinationNamedPort: http",
            "spec.ingress[0].protocols[2].destinationNamedPort: ports of apps have no names yet",
        ),
        ("sctp: {}", "tcp: {}\n      udp: {}", "spec.ingress[0].protocols[2]: write one of tcp, udp and sctp"),
        ("10.0.0.0/8", "10.0.0.1/8", "spec.egress[0].to[0].networks[0]: 10.0.0.1/8 has bits set behind its prefix"),
        (
            "{networks: [10.0.0.0/8, 2001:db8::/32]}",
            "{nodes: {}}",
            "spec.egress[0].to[0].nodes: nodes have no labels here",
        ),
        (
            "{networks: [10.0.0.0/8, 2001:db8::/32]}",
            "{domainNames: [a.b]}",
            "spec.egress[0].to[0].domainNames: names of hosts",
        ),
        (
            "to: [{networks: [10.0.0.0/8, 2001:db8::/32]}, {namespaces: {}}]",
            "to: []",
            "spec.egress[0]: to names nobody",
        ),
        (
            "operator: Exists",
            "operator: Is",
            "spec.ingress[1].from[0].pods.podSelector.matchExpressions[0].operator: \"Is\" is not an operator",
        ),
    ] {
        assert!(CLUSTER.contains(from), "{from}");
        let found = read(&CLUSTER.replace(from, to), &scope("acme/here")).expect_err(to);
        let expected = format!("document 1: {expected}");
        assert!(found.iter().any(|fault| fault.starts_with(&expected)), "{expected} is not in {found:#?}");
    }
    for (text, expected) in [
        ("policy: p\ntier: x\npriority: 1", "tier: \"x\" is not a tier; write admin or baseline"),
        ("policy: p\ntier: admin", "priority: is missing"),
        ("policy: p\ntier: admin\npriority: 1\nof: me", "of: \"me\" is nobody; write cluster or tenant"),
        ("policy: p\ntier: admin\npriority: 1\ningress: [{from: [world]}]", "ingress[0].action: is missing"),
        ("policy: p\ntier: admin\npriority: 1\naudit: true", "audit: there is no such field"),
    ] {
        let found = read(text, &scope("acme/here")).expect_err(text);
        assert!(found[0].starts_with(&format!("document 1: {expected}")), "{found:?}");
    }
}

#[test]
fn a_policy_of_the_host_closes_the_ways_that_it_names() {
    let text = "policy: nodes\nhost: {nodes: [n1]}\npriority: 7\notherwise: reject\n\
                ingress: [{from: [{block: 10.0.0.0/8}], ports: [9100]}, {action: reject, ports: [113]}]\n\
                published: []\n";
    let spec = TierSpec {
        nodes: [name("n1")].into(),
        otherwise: Otherwise::Reject,
        ingress: vec![
            TierRule { ports: vec![tcp(9100)], ..rule(Action::Accept, [block("10.0.0.0/8", &[])]) },
            TierRule { ports: vec![tcp(113)], ..rule(Action::Reject, []) },
        ],
        closes: [Way::Ingress, Way::Published].into(),
        ..TierSpec::new(Tier::Host, 7)
    };
    assert_eq!(tiers(text), [("nodes".to_owned(), spec)]);
    let egress = TierSpec { closes: [Way::Egress].into(), ..TierSpec::new(Tier::Host, 500) };
    assert_eq!(tiers("policy: p\nhost: {}\negress: []\n"), [("p".to_owned(), egress.clone())]);
    let names = vec![rule(Action::Accept, [PolicyPeer::Dns("a.b".into())])];
    let trial = TierSpec { audit: true, egress: names, ..egress };
    let text = "policy: p\nhost: {}\naudit: true\negress: [{to: [{dns: [A.b.]}]}]\n";
    assert_eq!(tiers(text), [("p".to_owned(), trial)]);
    let wrong = "policy: p\nhost: {nodes: []}\nnamespace: x\notherwise: no\naudit: 1\negress: [{action: deny, to: [{dns: [a.b]}]}]\n";
    let faults = read(wrong, &scope("x")).expect_err("faults");
    assert_eq!(faults.len(), 5, "{faults:#?}");
}
