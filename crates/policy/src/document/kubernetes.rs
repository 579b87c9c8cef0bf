//! Kubernetes' NetworkPolicy (`networking.k8s.io/v1`), alone or in a `List`, beside those of tiers (`tiers`).

use serde_norway::Value;

use super::{
    Named,
    fields::{Faults, Fields, Node},
    tiers, words,
};
use crate::Document;
use hivemind_core::{
    model::Scope,
    spec::v1::{
        InstancePeer, Operator, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule, PolicySpec, PortMatch, Requirement,
        Selector,
    },
};

const API: &str = "networking.k8s.io/v1";

/// Metadata that Kubernetes keeps and that mean nothing here: documents come from `kubectl get -o yaml` too.
pub(super) const METADATA: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The policies of a document with the paths of their names.
pub(super) fn read(node: &Node<'_>, scope: &Scope, faults: &mut Faults) -> Vec<Named> {
    let kind = node.value.get("kind").and_then(Value::as_str);
    let of_tiers = kind.and_then(|kind| kind.strip_suffix("List")).filter(|kind| tiers::KINDS.contains(kind));
    if !matches!(kind, Some("List" | "NetworkPolicyList")) && of_tiers.is_none() {
        return policy(node, scope, faults).into_iter().collect();
    }
    let Some(fields) = node.fields(&["apiVersion", "kind", "metadata", "items"], faults) else { return Vec::new() };
    version(&fields, if kind == Some("List") { "v1" } else { of_tiers.map_or(API, tiers::api) }, faults);
    let Some(items) = fields.need("items", faults).and_then(|items| items.items(faults)) else { return Vec::new() };
    items.iter().filter_map(|item| policy(item, scope, faults)).collect()
}

pub(super) fn version(fields: &Fields<'_>, wanted: &str, faults: &mut Faults) {
    let Some(node) = fields.need("apiVersion", faults) else { return };
    if let Some(text) = node.text(faults).filter(|text| *text != wanted) {
        faults.say(&node.path, format_args!("{text:?} is not known; write {wanted}"));
    }
}

fn policy(node: &Node<'_>, scope: &Scope, faults: &mut Faults) -> Option<Named> {
    let path = if node.path.is_empty() { "metadata.name".into() } else { format!("{}.metadata.name", node.path) };
    if let Some(kind) = tiers::kind(node) {
        let (key, spec) = tiers::policy(node, kind, faults)?;
        return Some((path, Document::Tier(key, spec)));
    }
    if let Some(kind) = node.value.get("kind").filter(|kind| kind.as_str() != Some("NetworkPolicy")) {
        let kind = kind.as_str().unwrap_or("this");
        let why = format!(
            "kind: {kind} is no policy; write NetworkPolicy, ClusterNetworkPolicy, or List with them as its items"
        );
        return node.fault(faults, why);
    }
    let fields = node.fields(&["apiVersion", "kind", "metadata", "spec", "status"], faults)?;
    fields.need("kind", faults);
    version(&fields, API, faults);
    let metadata = fields.need("metadata", faults).and_then(|node| node.fields(METADATA, faults));
    let key = metadata.and_then(|metadata| words::key(&metadata, "name", scope, faults));
    let spec = fields.need("spec", faults).and_then(|node| spec(&node, faults));
    Some((path, Document::Policy(key?, spec?)))
}

fn spec(node: &Node<'_>, faults: &mut Faults) -> Option<PolicySpec> {
    let fields = node.fields(&["podSelector", "policyTypes", "ingress", "egress"], faults)?;
    let instances = match fields.get("podSelector") {
        Some(node) => selector(&node, faults),
        None => Some(Selector::default()),
    };
    let [ingress, egress] = [("ingress", "from"), ("egress", "to")].map(|(direction, peers)| {
        let rules = fields.list(direction, faults);
        rules.iter().filter_map(|node| rule(node, peers, faults)).collect::<Vec<_>>()
    });
    let types = match fields.get("policyTypes") {
        Some(node) => types(&node, faults)?,
        None => Vec::new(),
    };
    // Without types: ingress always, egress if there are rules for it. Rules of a type that is not named do not count.
    let isolates = |direction: &str, otherwise: bool| {
        if types.is_empty() { otherwise } else { types.contains(&direction) }
    };
    let (inwards, outwards) = (isolates("Ingress", true), isolates("Egress", !egress.is_empty()));
    Some(PolicySpec {
        otherwise: hivemind_core::spec::v1::Otherwise::Deny,
        instances: instances?,
        ingress: inwards.then_some(ingress),
        egress: outwards.then_some(egress),
        audit: false,
    })
}

fn types<'a>(node: &Node<'a>, faults: &mut Faults) -> Option<Vec<&'a str>> {
    let items = node.items(faults)?;
    if items.len() > 2 {
        node.fault::<()>(faults, "names more than two; write Ingress, Egress or both");
    }
    let mut types = Vec::new();
    for item in items {
        match item.text(faults)? {
            known @ ("Ingress" | "Egress") => types.push(known),
            other => item.fault(faults, format_args!("{other:?} is not a type; write Ingress or Egress"))?,
        }
    }
    Some(types)
}

fn rule(node: &Node<'_>, peers: &str, faults: &mut Faults) -> Option<PolicyRule> {
    // An item that is empty is the rule that allows all; Kubernetes reads null the same way.
    if *node.value == Value::Null {
        return Some(PolicyRule::default());
    }
    let fields = node.fields(&[peers, "ports"], faults)?;
    Some(PolicyRule {
        peers: fields.list(peers, faults).iter().filter_map(|node| peer(node, faults)).collect(),
        ports: fields.list("ports", faults).iter().filter_map(|node| port(node, faults)).collect(),
    })
}

fn peer(node: &Node<'_>, faults: &mut Faults) -> Option<PolicyPeer> {
    let fields = node.fields(&["podSelector", "namespaceSelector", "ipBlock"], faults)?;
    let [instances, namespaces, block] = ["podSelector", "namespaceSelector", "ipBlock"].map(|name| fields.get(name));
    if let Some(block) = block {
        if instances.is_some() || namespaces.is_some() {
            node.fault::<()>(faults, "has ipBlock and a selector; write two peers");
        }
        let fields = block.fields(&["cidr", "except"], faults)?;
        return words::block(&fields, "cidr", faults).map(PolicyPeer::Block);
    }
    if instances.is_none() && namespaces.is_none() {
        return node.fault(faults, "names nobody; write podSelector, namespaceSelector or ipBlock");
    }
    let instances = instances.map_or(Some(Selector::default()), |node| selector(&node, faults));
    let namespaces = match namespaces {
        Some(node) => Some(selector(&node, faults)?),
        None => None,
    };
    Some(PolicyPeer::Instances(InstancePeer { namespaces, instances: instances? }))
}

pub(super) fn selector(node: &Node<'_>, faults: &mut Faults) -> Option<Selector> {
    let fields = node.fields(&["matchLabels", "matchExpressions"], faults)?;
    let labels = fields.get("matchLabels").map_or(Some(Default::default()), |node| words::labels(&node, faults));
    let expressions = fields.list("matchExpressions", faults);
    let expressions = expressions.iter().filter_map(|node| requirement(node, faults)).collect();
    Some(Selector { labels: labels?, expressions })
}

fn requirement(node: &Node<'_>, faults: &mut Faults) -> Option<Requirement> {
    let fields = node.fields(&["key", "operator", "values"], faults)?;
    let key = fields.need("key", faults).and_then(|node| node.text(faults));
    let operator = fields.need("operator", faults).and_then(|node| match node.text(faults)? {
        "In" => Some(Operator::In),
        "NotIn" => Some(Operator::NotIn),
        "Exists" => Some(Operator::Exists),
        "DoesNotExist" => Some(Operator::DoesNotExist),
        other => {
            node.fault(faults, format_args!("{other:?} is not an operator; write In, NotIn, Exists or DoesNotExist"))
        }
    });
    let values = fields.list("values", faults);
    let found: Vec<String> = values.iter().filter_map(|node| node.text(faults).map(str::to_owned)).collect();
    let requirement = Requirement { key: key?.to_owned(), operator: operator?, values: found };
    // Values that are not text were said; they are not missing too.
    if requirement.values.len() == values.len() {
        words::check_requirement(&node.path, &requirement, faults);
    }
    Some(requirement)
}

/// The field `protocol`; without it TCP.
pub(super) fn protocol(fields: &Fields<'_>, faults: &mut Faults) -> Option<PolicyProtocol> {
    fields.get("protocol").map_or(Some(PolicyProtocol::Tcp), |node| match node.text(faults)? {
        "TCP" => Some(PolicyProtocol::Tcp),
        "UDP" => Some(PolicyProtocol::Udp),
        "SCTP" => Some(PolicyProtocol::Sctp),
        other => node.fault(faults, format_args!("{other:?} is not a protocol; write TCP, UDP or SCTP")),
    })
}

fn port(node: &Node<'_>, faults: &mut Faults) -> Option<PolicyPort> {
    let fields = node.fields(&["protocol", "port", "endPort"], faults)?;
    let protocol = protocol(&fields, faults);
    // All three have the same numbers: a protocol that is wrong hides no fault of the port.
    let number = |node: &Node<'_>, faults: &mut Faults| {
        let number = words::port_number(PolicyProtocol::Tcp, whole_number(node.value));
        number.map_err(|why| faults.say(&node.path, format_args!("is not a port; {why}"))).ok()
    };
    let port = match fields.get("port") {
        None => None,
        Some(node) => Some(match node.value {
            Value::String(text) => words::port_name(text).map_err(|why| faults.say(&node.path, why)).ok()?,
            _ => number(&node, faults).map(|port| PortMatch::Range(port, port))?,
        }),
    };
    let port = match (port, fields.get("endPort")) {
        (port, None) => port,
        (None, Some(end)) => end.fault(faults, "stands without port; write the first port of the range there")?,
        (Some(PortMatch::Name(name)), Some(end)) => {
            end.fault(faults, format_args!("cannot follow the name {name:?}; write port as a number"))?
        }
        (Some(PortMatch::Range(first, _)), Some(end)) => {
            let last = number(&end, faults)?;
            if last < first {
                let why = format!("{last} is less than port; write {first} or more, or exchange the two");
                return end.fault(faults, why);
            }
            Some(PortMatch::Range(first, last))
        }
    };
    Some(PolicyPort { protocol: protocol?, port })
}

/// Not of a value with a tag, whose meaning nobody knows.
pub(super) fn whole_number(value: &Value) -> Option<u64> {
    if let Value::Number(number) = value { number.as_u64() } else { None }
}
