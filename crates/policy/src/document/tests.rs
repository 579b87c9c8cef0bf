//! Real examples of both forms, and every fault with its words.

use super::{Document, read};
use crate::tests::world::{
    all, block, both, egress, from, ingress, labels, namespaces, pods, ports, rule, scope, spec, tcp, where_, with,
};
use hivemind_core::{
    model::Scope,
    spec::v1::{
        Entity, Operator, PolicyPeer, PolicyPort, PolicyProtocol, PolicySpec, PortMatch, Requirement, Selector,
    },
};

fn read_all(text: &str) -> Vec<(String, PolicySpec)> {
    let policies = read(text, &scope("acme/here")).unwrap_or_else(|faults| panic!("{faults:#?}"));
    let of_namespace = |policy| match policy {
        Document::Policy(key, spec) => (key.to_string(), spec),
        Document::Tier(key, _) => panic!("{key} is of a tier"),
    };
    policies.into_iter().map(of_namespace).collect()
}

fn check(text: &str, key: &str, spec: PolicySpec) {
    assert_eq!(read_all(text), [(key.to_owned(), spec)]);
}

/// A NetworkPolicy with this spec, in the flow form of YAML.
fn kubernetes(spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {spec}\n")
}

fn check_kubernetes(text: &str, spec: PolicySpec) {
    check(&kubernetes(text), "acme/here/p", spec);
}

/// All faults, each without the number of the document if it is the first.
fn faults(text: &str) -> Vec<String> {
    let faults = read(text, &Scope::default()).expect_err(text);
    faults.into_iter().map(|fault| fault.strip_prefix("document 1: ").unwrap_or(&fault).to_owned()).collect()
}

#[test]
fn default_deny_all() {
    let text = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: default-deny-all
  namespace: shop
spec:
  podSelector: {}
  policyTypes:
  - Ingress
  - Egress
";
    check(text, "acme/shop/default-deny-all", spec(all(), Some(vec![]), Some(vec![])));
}

#[test]
fn allow_same_namespace() {
    let text = r"
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata:
  name: allow-same-namespace
spec:
  podSelector:
  ingress:
  - from:
    - podSelector: {}
";
    check(text, "acme/here/allow-same-namespace", ingress(all(), from([pods(all())])));
}

#[test]
fn the_example_of_the_kubernetes_documentation() {
    let text = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: test-network-policy
  namespace: default
spec:
  podSelector:
    matchLabels:
      role: db
  policyTypes:
    - Ingress
    - Egress
  ingress:
    - from:
        - ipBlock:
            cidr: 172.17.0.0/16
            except:
              - 172.17.1.0/24
        - namespaceSelector:
            matchLabels:
              project: myproject
        - podSelector:
            matchLabels:
              role: frontend
      ports:
        - protocol: TCP
          port: 6379
  egress:
    - to:
        - ipBlock:
            cidr: 10.0.0.0/24
      ports:
        - protocol: TCP
          port: 5978
";
    let peers = [
        block("172.17.0.0/16", &["172.17.1.0/24"]),
        namespaces(with("project=myproject")),
        pods(with("role=frontend")),
    ];
    let outwards = rule([block("10.0.0.0/24", &[])], [tcp(5978)]);
    let expected = spec(with("role=db"), Some(vec![rule(peers, [tcp(6379)])]), Some(vec![outwards]));
    check(text, "acme/default/test-network-policy", expected);
}

#[test]
fn policy_types_and_what_they_are_if_absent() {
    let outwards = || from([block("10.0.0.0/8", &[])]);
    let to = "egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]";
    check_kubernetes("{podSelector: {}}", ingress(all(), []));
    check_kubernetes("{podSelector: {}, policyTypes: []}", ingress(all(), []));
    check_kubernetes("{}", ingress(all(), []));
    check_kubernetes("{egress: []}", ingress(all(), []));
    check_kubernetes(&format!("{{{to}}}"), spec(all(), Some(vec![]), Some(outwards())));
    check_kubernetes(&format!("{{policyTypes: [Egress], {to}}}"), egress(all(), outwards()));
    check_kubernetes("{policyTypes: [Egress]}", egress(all(), []));
    // Rules of a direction that is not named do not count.
    check_kubernetes(&format!("{{policyTypes: [Ingress], {to}}}"), ingress(all(), []));
}

#[test]
fn everybody_and_nobody() {
    check_kubernetes("{ingress: [{}]}", ingress(all(), from([])));
    check_kubernetes("{ingress: [{from: []}]}", ingress(all(), from([])));
    check_kubernetes("{ingress: []}", ingress(all(), []));
    check_kubernetes("{ingress: [{from: [{namespaceSelector: {}}]}]}", ingress(all(), from([namespaces(all())])));
    check_kubernetes(
        "{ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}]}]}",
        ingress(all(), from([both(all(), with("a=b"))])),
    );
}

#[test]
fn selectors_and_ports_of_kubernetes() {
    let expressions = "[{key: a, operator: In, values: [b, c]}, {key: example.org/d, operator: DoesNotExist}]";
    let mut selector = where_("a", Operator::In, &["b", "c"]);
    selector.labels = labels("x=y");
    selector.expressions.extend(where_("example.org/d", Operator::DoesNotExist, &[]).expressions);
    check_kubernetes(
        &format!("{{podSelector: {{matchLabels: {{x: y}}, matchExpressions: {expressions}}}}}"),
        ingress(selector, []),
    );
    let all_of = |protocol| PolicyPort { protocol, port: None };
    let named = PolicyPort { protocol: PolicyProtocol::Tcp, port: Some(PortMatch::Name("http".into())) };
    let expected = [
        tcp(80),
        ports(PolicyProtocol::Udp, 32_000, 32_768),
        all_of(PolicyProtocol::Sctp),
        named,
        all_of(PolicyProtocol::Tcp),
    ];
    check_kubernetes(
        "{ingress: [{ports: [{port: 80}, {protocol: UDP, port: 32000, endPort: 32768}, {protocol: SCTP}, {port: http}, {}]}]}",
        ingress(all(), [rule([], expected)]),
    );
}

#[test]
fn lists_and_several_documents() {
    let text = r"# what Kubernetes keeps does not matter
---
apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: a, uid: 1-2-3, generation: 1, annotations: {x: y}}
  spec: {podSelector: {}}
- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: b}, spec: {}, status: {}}
--- # ours
policy: a
namespace: other
ingress: []
";
    let names: Vec<String> = read_all(text).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["acme/here/a", "acme/here/b", "acme/other/a"]);
}

#[test]
fn the_shorter_form() {
    let text = r#"
policy: db
namespace: shop
instances: role=db
audit: true
ingress:
- from:
  - instances: role=api, tier in (a, b), stage!=dev, zone notin (x), app, "quoted": no
"#;
    assert!(read(text, &Scope::default()).is_err(), "a text is one value");
    let text = r#"
policy: db
namespace: shop
instances: {role: db}
audit: true
ingress:
- from:
  - instances: role=api, tier in (a, b), stage!=dev, zone notin (x), app, !old
  - namespaces: team in (a, b)
    instances: {role: api}
  - namespaces: {}
  - block: 10.0.0.0/8
    except: [10.1.0.0/16]
  - same-tenant
  ports: [5432, 53/udp, 8000-8999/tcp, sctp, 8/icmp, http]
egress:
- to: [world, host, cluster, other-tenants]
"#;
    let requirement =
        |key: &str, operator, values: &[&str]| -> Requirement { where_(key, operator, values).expressions.remove(0) };
    let selector = Selector {
        labels: labels("role=api"),
        expressions: vec![
            requirement("tier", Operator::In, &["a", "b"]),
            requirement("stage", Operator::NotIn, &["dev"]),
            requirement("zone", Operator::NotIn, &["x"]),
            requirement("app", Operator::Exists, &[]),
            requirement("old", Operator::DoesNotExist, &[]),
        ],
    };
    let peers = [
        pods(selector),
        both(where_("team", Operator::In, &["a", "b"]), with("role=api")),
        namespaces(all()),
        block("10.0.0.0/8", &["10.1.0.0/16"]),
        PolicyPeer::Entity(Entity::SameTenant),
    ];
    let allowed = [
        tcp(5432),
        ports(PolicyProtocol::Udp, 53, 53),
        ports(PolicyProtocol::Tcp, 8000, 8999),
        PolicyPort { protocol: PolicyProtocol::Sctp, port: None },
        ports(PolicyProtocol::Icmp, 8, 8),
        PolicyPort { protocol: PolicyProtocol::Tcp, port: Some(PortMatch::Name("http".into())) },
    ];
    let to = [Entity::World, Entity::Host, Entity::Cluster, Entity::OtherTenants].map(PolicyPeer::Entity);
    let expected = spec(with("role=db"), Some(vec![rule(peers, allowed)]), Some(from(to)));
    check(text, "acme/shop/db", PolicySpec { audit: true, ..expected });
    check("policy: p\ningress: []", "acme/here/p", ingress(all(), []));
    check("policy: p\ningress: [{}]", "acme/here/p", ingress(all(), from([])));
    check("policy: p", "acme/here/p", spec(all(), None, None));
}

/// Each spec of a NetworkPolicy has exactly one fault, at this field and with these words.
#[test]
fn faults_of_kubernetes_documents() {
    let block = |block: &str| format!("{{ingress: [{{from: [{{ipBlock: {block}}}]}}]}}");
    let port = |port: &str| format!("{{ingress: [{{ports: [{port}]}}]}}");
    let expression = |e: &str| format!("{{podSelector: {{matchExpressions: [{e}]}}}}");
    let label = |label: &str| format!("{{podSelector: {{matchLabels: {{{label}}}}}}}");
    let long = "a".repeat(64);
    for (spec, field, words) in [
        (block("{cidr: 10.0.0.1/8}"), "ipBlock.cidr", "write 10.0.0.0/8, or 10.0.0.1/32"),
        (block("{cidr: fd00::1/64}"), "ipBlock.cidr", "write fd00::/64, or fd00::1/128"),
        (block("{cidr: 10.0.0.1}"), "ipBlock.cidr", "is not a block of addresses; write e.g."),
        (block("{cidr: 10.0.0.0/33}"), "ipBlock.cidr", "is not a block"),
        (block("{cidr: 10}"), "ipBlock.cidr", "put it in quotes"),
        (block("{}"), "ipBlock.cidr", "is missing"),
        (block("{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}"), "ipBlock.except[0]", "is not in 10.0.0.0/8"),
        (block("{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}"), "ipBlock.except[0]", "is all of the block"),
        (block("{cidr: 10.0.0.0/16, except: [10.0.0.0/8]}"), "ipBlock.except[0]", "is not in"),
        (block("{cidr: 10.0.0.0/8, except: ['fd00::/64']}"), "ipBlock.except[0]", "of another family"),
        (block("{cidr: 10.0.0.0/8, except: [10.1.0.1/16]}"), "ipBlock.except[0]", "write 10.1.0.0/16"),
        (block("{cidr: 10.0.0.0/8, except: 10.1.0.0/16}"), "ipBlock.except", "is not a list"),
        (block("{cidr: 10.0.0.0/8, but: []}"), "ipBlock.but", "known are cidr, except"),
        (port("{port: 0}"), "ports[0].port", "from 1 to 65535"),
        (port("{port: 65536}"), "ports[0].port", "from 1 to 65535"),
        (port("{port: -1}"), "ports[0].port", "from 1 to 65535"),
        (port("{port: 80.5}"), "ports[0].port", "from 1 to 65535"),
        (port("{port: '80'}"), "ports[0].port", "write 80 without quotes"),
        (port("{port: Web}"), "ports[0].port", "is not a port"),
        (port("{port: name-that-is-too-long}"), "ports[0].port", "at most 15"),
        (port("{port: 80, endPort: 79}"), "ports[0].endPort", "is less than port"),
        (port("{port: 80, endPort: 70000}"), "ports[0].endPort", "from 1 to 65535"),
        (port("{endPort: 80}"), "ports[0].endPort", "without port"),
        (port("{port: http, endPort: 80}"), "ports[0].endPort", "write port as a number"),
        (port("{protocol: tcp}"), "ports[0].protocol", "write TCP, UDP or SCTP"),
        (port("{port: !x 80}"), "ports[0].port", "from 1 to 65535"),
        (port("80"), "ports[0]", "is not a mapping"),
        (expression("{key: a, operator: Is, values: [b]}"), "matchExpressions[0].operator", "write In, NotIn, Exists"),
        (expression("{key: a, operator: In}"), "matchExpressions[0]", "In needs at least one"),
        (expression("{key: a, operator: NotIn, values: []}"), "matchExpressions[0]", "NotIn needs"),
        (expression("{key: a, operator: Exists, values: [b]}"), "matchExpressions[0]", "Exists has no values"),
        (expression("{key: a, operator: DoesNotExist, values: [b]}"), "matchExpressions[0]", "has no values"),
        (expression("{key: a, operator: In, values: [1]}"), "matchExpressions[0].values[0]", "put it in quotes"),
        (expression("{key: -a, operator: Exists}"), "matchExpressions[0]", "begin and end with a letter"),
        (expression("{operator: Exists}"), "matchExpressions[0].key", "is missing"),
        (expression("{key: a}"), "matchExpressions[0].operator", "is missing"),
        (label("a: true"), "matchLabels.a", "true is not text; put it in quotes"),
        (label("a: b c"), "matchLabels.a", "use letters, digits"),
        (label("a: b-"), "matchLabels.a", "begin and end"),
        (label(&format!("a: {long}")), "matchLabels.a", "at most 63"),
        (label(&format!("{long}: a")), "", "at most 63"),
        (label("a/b/c: d"), "matchLabels.a/b/c", "is not a label's key"),
        (label("A.org/b: d"), "matchLabels.A.org/b", "a DNS name in lower case"),
        (label("/b: d"), "matchLabels./b", "a DNS name"),
        (label("a.org/: d"), "matchLabels.a.org/", "write a name"),
        ("{policyTypes: [ingress]}".into(), "spec.policyTypes[0]", "write Ingress or Egress"),
        ("{policyTypes: Ingress}".into(), "spec.policyTypes", "is not a list"),
        ("{policyTypes: [Ingress, Egress, Ingress]}".into(), "spec.policyTypes", "more than two"),
        ("{pods: {}}".into(), "spec.pods", "there is no such field"),
        ("{podSelector: {app: web}}".into(), "spec.podSelector.app", "known are matchLabels"),
        ("{ingress: [{to: []}]}".into(), "spec.ingress[0].to", "known are from, ports"),
        ("{egress: [{from: []}]}".into(), "spec.egress[0].from", "known are to, ports"),
        ("{ingress: [{from: [{}]}]}".into(), "spec.ingress[0].from[0]", "names nobody"),
        ("{ingress: {}}".into(), "spec.ingress", "is not a list"),
        (
            "{ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}".into(),
            "spec.ingress[0].from[0]",
            "write two peers",
        ),
        ("{ingress: [!x ]}".into(), "spec.ingress[0]", "is not a mapping"),
        ("[]".into(), "spec", "is not a mapping"),
        ("".into(), "spec", "is missing"),
    ] {
        let found = faults(&kubernetes(&spec));
        assert_eq!(found.len(), 1, "{spec}: {found:#?}");
        assert!(found[0].contains(words), "{spec}: {}", found[0]);
        let place = found[0].split(": ").next().unwrap_or_default();
        assert!(place.ends_with(field) && place.starts_with("spec"), "{spec}: {}", found[0]);
    }
}

#[test]
fn faults_of_the_shorter_form() {
    let ports = |ports: &str| format!("policy: p\ningress: [{{ports: [{ports}]}}]");
    let peer = |peer: &str| format!("policy: p\negress:\n- to:\n  - {peer}");
    for (text, expected) in [
        (ports("0"), "ingress[0].ports[0]: 0 is not a port; write a number from 1 to 65535"),
        (ports("99999/udp"), "ingress[0].ports[0]: 99999 is not a port"),
        (ports("256/icmp"), "ingress[0].ports[0]: 256 is not a port; write a number from 0 to 255"),
        (ports("90-80"), "ingress[0].ports[0]: the range 90-80 is empty; write 80-90"),
        (ports("80/http"), "ingress[0].ports[0]: \"http\" is not a protocol; known are tcp"),
        (ports("/tcp"), "ingress[0].ports[0]: \"\" is not a port"),
        (ports(""), "ingress[0].ports: is an empty list; leave it out for all ports"),
        (ports("[]"), "ingress[0].ports[0]: is not a port"),
        (peer("planet"), "egress[0].to[0]: \"planet\" is no kind of peer; known are host"),
        (peer("{}"), "egress[0].to[0]: names nobody"),
        (peer("{namespaces: {}, instances: }"), "egress[0].to[0].instances: has no value"),
        (peer("{instances: a b}"), "egress[0].to[0].instances: \"a b\" says nothing about a label"),
        (peer("{instances: 'a in (b'}"), "egress[0].to[0].instances: \"a in (b\" says nothing"),
        (peer("{instances: a in ()}"), "egress[0].to[0].instances: In needs at least one"),
        (peer("{instances: 'a,'}"), "egress[0].to[0].instances: \"\" says nothing"),
        (peer("{instances: ''}"), "egress[0].to[0].instances: is empty; write {} for all"),
        (peer("{instances: !a }"), "egress[0].to[0].instances: begins with '!'; put it in quotes"),
        (peer("{instances: a=b=c}"), "egress[0].to[0].instances: \"b=c\" is not a label's value"),
        (peer("{block: 10.0.0.1/8}"), "egress[0].to[0].block: 10.0.0.1/8 has bits set"),
        (peer("{block: 10.0.0.0/8, instances: a=b}"), "egress[0].to[0]: has a block and labels; write two"),
        (peer("{except: [10.0.0.0/8]}"), "egress[0].to[0].block: is missing"),
        ("policy: p\ningress:".into(), "ingress: has no value"),
        ("policy: p\ningress: [{from: }]".into(), "ingress[0].from: has no value"),
        ("policy: p\ningress: [{from: []}]".into(), "ingress[0].from: is an empty list; leave it out for everybody"),
        ("policy: p\naudit: 1".into(), "audit: write true or false"),
        ("policy: p\nmode: audit".into(), "mode: there is no such field; known are policy, namespace"),
        ("policy: Web".into(), "policy: policy name \"Web\" is not valid: use lower-case letters"),
        ("policy: p\nnamespace: a.b".into(), "namespace: namespace name \"a.b\" is not valid"),
    ] {
        let found = faults(&text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].starts_with(expected), "{text}: {}", found[0]);
    }
}

#[test]
fn faults_of_whole_documents() {
    let list = "apiVersion: v1\nkind: List\nitems:";
    for (text, expected) in [
        ("", "is empty; write a policy"),
        ("# only a comment\n", "is empty"),
        ("policy: a\n---\n", "document 2: is empty; write a policy, or remove its '---'"),
        ("---\n---\npolicy: a\n", "is empty"),
        ("- a", "is not a mapping"),
        ("image: nginx", "is no policy; write"),
        (
            "policy: a\n--- \npolicy: a",
            "document 2: policy: default/a is already in document 1: policy; give it another",
        ),
        ("policy: a\npolicy: b", "this is not YAML as it should be: duplicate entry"),
        ("policy: a\n---\npolicy: [", "document 2: this is not YAML as it should be"),
        ("kind: Deployment", "kind: Deployment is no policy; write NetworkPolicy"),
        (
            "kind: NetworkPolicy\napiVersion: extensions/v1beta1\nmetadata: {name: a}\nspec: {}",
            "apiVersion: \"extensions/v1beta1\" is not known; write networking.k8s.io/v1",
        ),
        ("kind: NetworkPolicy\nmetadata: {name: a}\nspec: {}", "apiVersion: is missing"),
        ("apiVersion: networking.k8s.io/v1\nmetadata: {name: a}\nspec: {}", "kind: is missing"),
        ("kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nspec: {}", "metadata: is missing"),
        ("kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {}\nspec: {}", "metadata.name: is missing"),
        (
            "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: a.b}\nspec: {}",
            "metadata.name: policy name \"a.b\" is not valid: use only a-z, 0-9 and '-'",
        ),
        (&format!("{list} [{{kind: Pod}}]"), "items[0]: kind: Pod is no policy"),
        (&format!("{list} [{{kind: List, items: []}}]"), "items[0]: kind: List is no policy"),
        (&format!("{list} [5]"), "items[0]: is not a mapping"),
        (list, "items: is missing"),
    ] {
        let found = faults(text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].starts_with(expected), "{text}: {}", found[0]);
    }
}

#[test]
fn all_faults_of_all_documents_are_said_at_once() {
    let text = "policy: A\nmode: 1\ningress:\n- ports: [0, 0/x]\n---\npolicy: [\n---\npolicy: b\nno: 1\n";
    let found = read(text, &Scope::default()).expect_err("faults");
    let places: Vec<&str> =
        found.iter().map(|fault| fault.rsplit_once("; ").map_or(&**fault, |(place, _)| place)).collect();
    assert_eq!(found.len(), 6, "{found:#?}");
    for (place, expected) in places.iter().zip([
        "document 1: mode",
        "document 1: policy",
        "document 1: ingress[0].ports[0]",
        "document 1: ingress[0].ports[1]",
        "document 2",
        "document 3: no",
    ]) {
        assert!(place.starts_with(expected), "{place} is not {expected}");
    }
    // The line is that of the whole text.
    let line = |text: &str| (1..20).find(|n| text.contains(&format!("line {n} "))).expect("a line");
    assert!((6..=7).contains(&line(&found[4])), "{}", found[4]);
}

#[test]
fn the_tenant_is_never_the_documents_to_choose() {
    let found = faults("policy: p\ntenant: other");
    assert!(found[0].starts_with("tenant: there is no such field"), "{found:?}");
    assert_eq!(read_all("policy: p")[0].0, "acme/here/p");
}

#[test]
fn names_of_hosts_stand_where_something_is_let_out() {
    let read = |text: &str| super::read(text, &Scope::default());
    let text =
        "policy: a\negress: [{to: [{dns: [API.example.com., '*.example.org']}, {block: 10.0.0.0/8}], ports: [443]}]";
    let found = read(text).expect("valid");
    let Document::Policy(_, spec) = &found[0] else { panic!("of a tier") };
    let peers = &spec.egress.as_ref().expect("egress")[0].peers;
    let dns = |name: &str| PolicyPeer::Dns(name.into());
    assert_eq!(peers[..2], [dns("api.example.com"), dns("*.example.org")]);
    assert_eq!((peers.len(), hivemind_core::spec::v1::validate_policy(spec)), (3, vec![]));
    let tier = |action: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: a}}\nspec:\n  \
             tier: Admin\n  priority: 1\n  subject: {{namespaces: {{}}}}\n  egress:\n  - action: {action}\n    \
             to: [{{domainNames: ['*.example.org']}}]\n"
        )
    };
    let found = read(&tier("Accept")).expect("valid");
    let Document::Tier(_, spec) = &found[0] else { panic!("of a namespace") };
    assert_eq!(
        (&spec.egress[0].peers[..], hivemind_core::spec::v1::validate_tier(spec)),
        (&[dns("*.example.org")][..], vec![])
    );
    for (text, said) in [
        (tier("Deny"), "spec.egress[0].to[0].domainNames: names of hosts may stand in egress rules that accept only"),
        ("policy: a\ningress: [{from: [{dns: [a.b]}]}]".into(), "ingress[0].from[0].dns: names of hosts may stand"),
        (
            "policy: a\negress: [{to: [{dns: [localhost]}]}]".into(),
            "egress[0].to[0].dns[0]: \"localhost\" is not a name",
        ),
        ("policy: a\negress: [{to: [{dns: []}]}]".into(), "egress[0].to[0].dns: is an empty list"),
        (
            "policy: a\negress: [{to: [{dns: [a.b], block: 10.0.0.0/8}]}]".into(),
            "egress[0].to[0].block: there is no such field",
        ),
    ] {
        let faults = read(&text).expect_err("a fault");
        assert!(faults.iter().any(|fault| fault.starts_with(&format!("document 1: {said}"))), "{text}: {faults:?}");
    }
}
