//! Kubernetes' ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`), and what it was called before:
//! AdminNetworkPolicy and BaselineAdminNetworkPolicy (`v1alpha1`). All are the operator's.

use serde_norway::Value;

use super::{
    fields::{Faults, Fields, Node},
    kubernetes::{METADATA, selector, version, whole_number},
    words,
};
use hivemind_core::{
    model::TierKey,
    spec::v1::{
        Action, BlockPeer, InstancePeer, PolicyPeer, PolicyPort, PolicyProtocol, PortMatch, Selector, Tier, TierRule,
        TierSpec,
    },
};

/// The kinds that are read here.
pub(super) const KINDS: [&str; 3] = [CLUSTER, ADMIN, BASELINE];
const CLUSTER: &str = "ClusterNetworkPolicy";
const ADMIN: &str = "AdminNetworkPolicy";
const BASELINE: &str = "BaselineAdminNetworkPolicy";

/// The version of a kind.
pub(super) fn api(kind: &str) -> &'static str {
    if kind == CLUSTER { "policy.networking.k8s.io/v1alpha2" } else { "policy.networking.k8s.io/v1alpha1" }
}

/// The words of the two versions.
#[derive(Clone, Copy)]
struct Words {
    accept: &'static str,
    ports: &'static str,
}

pub(super) fn policy(node: &Node<'_>, kind: &str, faults: &mut Faults) -> Option<(TierKey, TierSpec)> {
    let fields = node.fields(&["apiVersion", "kind", "metadata", "spec", "status"], faults)?;
    version(&fields, api(kind), faults);
    let metadata = fields.need("metadata", faults).and_then(|node| node.fields(METADATA, faults));
    let name = metadata.and_then(|metadata| {
        if let Some(namespace) = metadata.get("namespace") {
            namespace.fault::<()>(faults, "has no meaning here: the policy is of the whole cluster; leave it out");
        }
        words::name(&metadata.need("name", faults)?, faults)
    });
    let spec = fields.need("spec", faults).and_then(|node| spec(&node, kind, faults));
    Some((TierKey { tenant: None, name: name? }, spec?))
}

fn spec(node: &Node<'_>, kind: &str, faults: &mut Faults) -> Option<TierSpec> {
    let known: &[&str] = match kind {
        CLUSTER => &["tier", "priority", "subject", "ingress", "egress"],
        ADMIN => &["priority", "subject", "ingress", "egress"],
        _ => &["subject", "ingress", "egress"],
    };
    let fields = node.fields(known, faults)?;
    let tier = match kind {
        ADMIN => Some(Tier::Admin),
        BASELINE => Some(Tier::Baseline),
        _ => fields.need("tier", faults).and_then(|node| match node.text(faults)? {
            "Admin" => Some(Tier::Admin),
            "Baseline" => Some(Tier::Baseline),
            other => node.fault(faults, format_args!("{other:?} is not a tier; write Admin or Baseline")),
        }),
    };
    let priority = if kind == BASELINE {
        Some(0)
    } else {
        fields.need("priority", faults).and_then(|node| words::priority(&node, faults))
    };
    let subject = fields.need("subject", faults).and_then(|node| instances(&node.fields(SELECTORS, faults)?, faults));
    let words = if kind == CLUSTER {
        Words { accept: "Accept", ports: "protocols" }
    } else {
        Words { accept: "Allow", ports: "ports" }
    };
    let [ingress, egress] = [("ingress", "from"), ("egress", "to")].map(|(direction, peers)| {
        let rules = fields.list(direction, faults);
        let rules = rules.iter().filter_map(|node| rule(node, peers, kind, words, faults));
        rules.collect::<Vec<_>>()
    });
    let (namespaces, instances) = subject?;
    Some(TierSpec { namespaces: Some(namespaces), instances, ingress, egress, ..TierSpec::new(tier?, priority?) })
}

const SELECTORS: &[&str] = &["namespaces", "pods"];

/// Namespaces and instances of a subject or a peer: exactly one of the two fields.
fn instances(fields: &Fields<'_>, faults: &mut Faults) -> Option<(Selector, Selector)> {
    match (fields.get("namespaces"), fields.get("pods")) {
        (Some(namespaces), None) => Some((selector(&namespaces, faults)?, Selector::default())),
        (None, Some(pods)) => {
            let fields = pods.fields(&["namespaceSelector", "podSelector"], faults)?;
            let [namespaces, instances] = ["namespaceSelector", "podSelector"]
                .map(|name| fields.need(name, faults).and_then(|node| selector(&node, faults)));
            Some((namespaces?, instances?))
        }
        (Some(_), Some(pods)) => pods.fault(faults, "stands beside namespaces; write one of the two"),
        (None, None) => fields.fault(faults, "names nobody; write namespaces or pods"),
    }
}

fn rule(node: &Node<'_>, direction: &str, kind: &str, words: Words, faults: &mut Faults) -> Option<TierRule> {
    let fields = node.fields(&["name", "action", direction, words.ports], faults)?;
    let passes = kind != BASELINE;
    let action = fields.need("action", faults).and_then(|node| match node.text(faults)? {
        word if word == words.accept => Some(Action::Accept),
        "Deny" => Some(Action::Deny),
        // No word of Kubernetes'.
        "Reject" => Some(Action::Reject),
        "Pass" if passes => Some(Action::Pass),
        other => {
            let pass = if passes { ", Deny, Reject or Pass" } else { ", Deny or Reject" };
            node.fault(faults, format_args!("{other:?} is not an action; write {}{pass}", words.accept))
        }
    });
    // A list that selects nobody by mistake must not be read as everybody.
    let items = fields.need(direction, faults).and_then(|node| node.items(faults))?;
    if items.is_empty() {
        node.fault::<()>(faults, format_args!("{direction} names nobody; write at least one peer"));
    }
    let opens = direction == "to" && action == Some(Action::Accept);
    let peers = items.iter().flat_map(|node| peer(node, direction, opens, faults)).collect();
    let ports = fields.filled_list(words.ports, "all", faults);
    let ports =
        ports.iter().filter_map(|node| if kind == CLUSTER { protocol(node, faults) } else { port(node, faults) });
    Some(TierRule { ports: ports.collect(), peers, action: action? })
}

fn peer(node: &Node<'_>, direction: &str, opens: bool, faults: &mut Faults) -> Vec<PolicyPeer> {
    const EGRESS: &[&str] = &["namespaces", "pods", "networks", "nodes", "domainNames"];
    let known = if direction == "to" { EGRESS } else { SELECTORS };
    let Some(fields) = node.fields(known, faults) else { return Vec::new() };
    if let Some(node) = fields.get("nodes") {
        let why = "nodes have no labels here, and an instance's own node always passes; write networks";
        node.fault::<()>(faults, why);
        return Vec::new();
    }
    if let Some(node) = fields.get("domainNames") {
        if ["namespaces", "pods", "networks"].iter().any(|field| fields.get(field).is_some()) {
            node.fault::<()>(faults, "stands beside another selector; write two peers");
        }
        return words::dns_names(&fields, "domainNames", opens, faults);
    }
    if let Some(networks) = fields.get("networks") {
        if fields.get("namespaces").is_some() || fields.get("pods").is_some() {
            networks.fault::<()>(faults, "stands beside a selector; write two peers");
        }
        let items = fields.filled_list("networks", "no networks", faults);
        let nets = items.iter().filter_map(|node| words::net(node, faults));
        return nets.map(|cidr| PolicyPeer::Block(BlockPeer { cidr, except: Vec::new() })).collect();
    }
    let found = instances(&fields, faults)
        .map(|(namespaces, instances)| PolicyPeer::Instances(InstancePeer { namespaces: Some(namespaces), instances }));
    found.into_iter().collect()
}

const NO_NAMES: &str = "ports of apps have no names yet; write the port's number";

/// `tcp: {destinationPort: {number: 80}}`, or `{range: {start: 1, end: 2}}`
fn protocol(node: &Node<'_>, faults: &mut Faults) -> Option<PolicyPort> {
    let fields = node.fields(&["tcp", "udp", "sctp", "destinationNamedPort"], faults)?;
    if let Some(node) = fields.get("destinationNamedPort") {
        return node.fault(faults, NO_NAMES);
    }
    let named = [("tcp", PolicyProtocol::Tcp), ("udp", PolicyProtocol::Udp), ("sctp", PolicyProtocol::Sctp)];
    let mut found = named.iter().filter_map(|(name, protocol)| Some((fields.get(name)?, *protocol)));
    let (Some((inner, protocol)), None) = (found.next(), found.next()) else {
        return node.fault(faults, "write one of tcp, udp and sctp");
    };
    let Some(port) = inner.fields(&["destinationPort"], faults)?.get("destinationPort") else {
        return Some(PolicyPort { protocol, port: None });
    };
    let fields = port.fields(&["number", "range"], faults)?;
    match (fields.get("number"), fields.get("range")) {
        (Some(number), None) => {
            let number = number_of(&number, faults)?;
            Some(PolicyPort { protocol, port: Some(PortMatch::Range(number, number)) })
        }
        (None, Some(node)) => range(&node, node.fields(&["start", "end"], faults)?, protocol, faults),
        _ => port.fault(faults, "write one of number and range"),
    }
}

/// `portNumber: {protocol: TCP, port: 80}`, or `portRange: {protocol: TCP, start: 1, end: 2}`
fn port(node: &Node<'_>, faults: &mut Faults) -> Option<PolicyPort> {
    let fields = node.fields(&["portNumber", "portRange", "namedPort"], faults)?;
    if let Some(node) = fields.get("namedPort") {
        return node.fault(faults, NO_NAMES);
    }
    match (fields.get("portNumber"), fields.get("portRange")) {
        (Some(node), None) => {
            let fields = node.fields(&["protocol", "port"], faults)?;
            let protocol = super::kubernetes::protocol(&fields, faults)?;
            let number = number_of(&fields.need("port", faults)?, faults)?;
            Some(PolicyPort { protocol, port: Some(PortMatch::Range(number, number)) })
        }
        (None, Some(node)) => {
            let fields = node.fields(&["protocol", "start", "end"], faults)?;
            let protocol = super::kubernetes::protocol(&fields, faults)?;
            range(&node, fields, protocol, faults)
        }
        _ => node.fault(faults, "write one of portNumber and portRange"),
    }
}

fn range(node: &Node<'_>, fields: Fields<'_>, protocol: PolicyProtocol, faults: &mut Faults) -> Option<PolicyPort> {
    let [first, last] =
        ["start", "end"].map(|name| fields.need(name, faults).and_then(|node| number_of(&node, faults)));
    let (first, last) = (first?, last?);
    if last < first {
        return node.fault(faults, format_args!("the range {first} to {last} is empty; exchange start and end"));
    }
    Some(PolicyPort { protocol, port: Some(PortMatch::Range(first, last)) })
}

fn number_of(node: &Node<'_>, faults: &mut Faults) -> Option<u16> {
    let number = words::port_number(PolicyProtocol::Tcp, whole_number(node.value));
    number.map_err(|why| faults.say(&node.path, format_args!("is not a port; {why}"))).ok()
}

/// Whether a document is of one of the kinds.
pub(super) fn kind(node: &Node<'_>) -> Option<&'static str> {
    let kind = node.value.get("kind").and_then(Value::as_str)?;
    KINDS.into_iter().find(|known| *known == kind)
}
