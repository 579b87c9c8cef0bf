//! Our own form; the module above shows it.

use serde_norway::Value;

use super::{
    fields::{Faults, Fields, Node},
    words,
};
use crate::Document;
use hivemind_core::{
    model::{Scope, TierKey},
    spec::v1::{
        Action, Entity, InstancePeer, MAX_PRIORITY, Operator, Otherwise, PolicyPeer, PolicyPort, PolicyProtocol,
        PolicyRule, PolicySpec, PortMatch, Requirement, SELECTOR_FORM, Selector, Tier, TierRule, TierSpec, Way,
        conditions,
    },
};

const ENTITIES: [(&str, Entity); 5] = [
    ("host", Entity::Host),
    ("world", Entity::World),
    ("cluster", Entity::Cluster),
    ("same-tenant", Entity::SameTenant),
    ("other-tenants", Entity::OtherTenants),
];

const PROTOCOLS: [(&str, PolicyProtocol); 4] = [
    ("tcp", PolicyProtocol::Tcp),
    ("udp", PolicyProtocol::Udp),
    ("sctp", PolicyProtocol::Sctp),
    ("icmp", PolicyProtocol::Icmp),
];

pub(super) fn policy(node: &Node<'_>, scope: &Scope, faults: &mut Faults) -> Option<Document> {
    if node.value.get("host").is_some() {
        return host(node, faults);
    }
    if node.value.get("tier").is_some() {
        return tier(node, scope, faults);
    }
    let fields = node.fields_with_values(POLICY, faults)?;
    let key = words::key(&fields, "policy", scope, faults);
    let instances = selector_or_all(&fields, "instances", faults);
    let (audit, otherwise) = (audit(&fields, faults), otherwise(&fields, faults));
    let [ingress, egress] = [("ingress", "from"), ("egress", "to")].map(|(direction, peers)| {
        let items = fields.get(direction)?.items(faults)?;
        Some(items.iter().filter_map(|node| rule(node, peers, faults)).collect())
    });
    Some(Document::Policy(
        key?,
        PolicySpec { instances: instances?, ingress, egress, audit: audit?, otherwise: otherwise? },
    ))
}

const POLICY: &[&str] = &["policy", "namespace", "instances", "audit", "otherwise", "ingress", "egress"];
const TIER: &[&str] = &["policy", "tier", "priority", "of", "namespaces", "instances", "ingress", "egress"];

/// A policy of a tier: `of: tenant` makes it one of the tenant it is applied to.
fn tier(node: &Node<'_>, scope: &Scope, faults: &mut Faults) -> Option<Document> {
    let fields = node.fields_with_values(TIER, faults)?;
    let name = fields.need("policy", faults).and_then(|node| words::name(&node, faults));
    let tier = fields.need("tier", faults).and_then(|node| match node.text(faults)? {
        "admin" => Some(Tier::Admin),
        "baseline" => Some(Tier::Baseline),
        other => node.fault(faults, format_args!("{other:?} is not a tier; write admin or baseline")),
    });
    let priority = fields.need("priority", faults).and_then(|node| words::priority(&node, faults));
    let tenant = match fields.get("of") {
        None => Some(None),
        Some(node) => match node.text(faults)? {
            "cluster" => Some(None),
            "tenant" => Some(Some(scope.tenant.clone())),
            other => node.fault(faults, format_args!("{other:?} is nobody; write cluster or tenant")),
        },
    };
    let namespaces = match fields.get("namespaces") {
        Some(node) => Some(selector(&node, faults)?),
        None => None,
    };
    let instances = selector_or_all(&fields, "instances", faults);
    let [ingress, egress] = [("ingress", "from"), ("egress", "to")].map(|(direction, peers)| {
        let items = fields.filled_list(direction, "no rules", faults);
        items.iter().filter_map(|node| tier_rule(node, peers, faults)).collect()
    });
    let key = TierKey { tenant: tenant?, name: name? };
    let (tier, priority, instances) = (tier?, priority?, instances?);
    Some(Document::Tier(key, TierSpec { namespaces, instances, ingress, egress, ..TierSpec::new(tier, priority) }))
}

const HOST: &[&str] = &["policy", "host", "priority", "audit", "otherwise", "ingress", "egress", "published"];

/// The priority of a policy of the host that names none: in the middle.
const HOST_PRIORITY: u16 = MAX_PRIORITY / 2;

/// A policy of the host, `host: {}` or `host: {nodes: [NAME]}`. A way that it names is closed but for what it accepts.
fn host(node: &Node<'_>, faults: &mut Faults) -> Option<Document> {
    let fields = node.fields_with_values(HOST, faults)?;
    let name = fields.need("policy", faults).and_then(|node| words::name(&node, faults));
    let nodes = fields.need("host", faults).and_then(|node| {
        let fields = node.fields_with_values(&["nodes"], faults)?;
        let names = fields.filled_list("nodes", "all nodes", faults);
        Some(names.iter().filter_map(|node| words::name(node, faults)).collect())
    });
    let priority = match fields.get("priority") {
        Some(node) => words::priority(&node, faults),
        None => Some(HOST_PRIORITY),
    };
    let (audit, otherwise) = (audit(&fields, faults), otherwise(&fields, faults));
    let mut spec = TierSpec::new(Tier::Host, HOST_PRIORITY);
    for (way, peers) in [(Way::Ingress, "from"), (Way::Egress, "to"), (Way::Published, "from")] {
        let Some(items) = fields.get(way.as_str()).and_then(|node| node.items(faults)) else { continue };
        let rules =
            items.iter().filter_map(|node| rule_with_action(node, peers, Some(Action::Accept), faults)).collect();
        match way {
            Way::Ingress => spec.ingress = rules,
            Way::Egress => spec.egress = rules,
            Way::Published => spec.published = rules,
        }
        spec.closes.insert(way);
    }
    (spec.nodes, spec.otherwise, spec.priority, spec.audit) = (nodes?, otherwise?, priority?, audit?);
    Some(Document::Tier(TierKey { tenant: None, name: name? }, spec))
}

/// Whether it only counts what it would deny; without a word it does not.
fn audit(fields: &Fields<'_>, faults: &mut Faults) -> Option<bool> {
    let Some(node) = fields.get("audit") else { return Some(false) };
    match node.value {
        Value::Bool(audit) => Some(*audit),
        _ => node.fault(faults, "write true or false"),
    }
}

/// `deny`, which it also is without a word, or `reject`.
fn otherwise(fields: &Fields<'_>, faults: &mut Faults) -> Option<Otherwise> {
    let Some(node) = fields.get("otherwise") else { return Some(Otherwise::Deny) };
    match node.text(faults)? {
        "deny" => Some(Otherwise::Deny),
        "reject" => Some(Otherwise::Reject),
        other => {
            node.fault(faults, format_args!("{other:?} is no answer to what no rule allows; write deny or reject"))
        }
    }
}

fn tier_rule(node: &Node<'_>, peers: &str, faults: &mut Faults) -> Option<TierRule> {
    rule_with_action(node, peers, None, faults)
}

/// `unsaid` is what a rule does that does not say it; none: it must.
fn rule_with_action(node: &Node<'_>, peers: &str, unsaid: Option<Action>, faults: &mut Faults) -> Option<TierRule> {
    let fields = node.fields_with_values(&["action", peers, "ports"], faults)?;
    let said = if unsaid.is_some() { fields.get("action") } else { fields.need("action", faults) };
    let action = said.map_or(unsaid, |node| match node.text(faults)? {
        "accept" => Some(Action::Accept),
        "deny" => Some(Action::Deny),
        "reject" => Some(Action::Reject),
        "pass" if unsaid.is_none() => Some(Action::Pass),
        other => {
            let known = if unsaid.is_none() { "accept, deny, reject or pass" } else { "accept, deny or reject" };
            node.fault(faults, format_args!("{other:?} is not an action; write {known}"))
        }
    });
    let opens = peers == "to" && action == Some(Action::Accept);
    let PolicyRule { peers, ports } = parts(&fields, peers, opens, faults);
    Some(TierRule { action: action?, peers, ports })
}

fn rule(node: &Node<'_>, peers: &str, faults: &mut Faults) -> Option<PolicyRule> {
    let fields = node.fields_with_values(&[peers, "ports"], faults)?;
    Some(parts(&fields, peers, peers == "to", faults))
}

/// `opens`: the rule accepts what goes out.
fn parts(fields: &Fields<'_>, peers: &str, opens: bool, faults: &mut Faults) -> PolicyRule {
    PolicyRule {
        peers: fields
            .filled_list(peers, "everybody", faults)
            .iter()
            .flat_map(|node| peers_of(node, opens, faults))
            .collect(),
        ports: fields.filled_list("ports", "all ports", faults).iter().filter_map(|node| port(node, faults)).collect(),
    }
}

/// The peers of an item: one, or as many as it has names of hosts.
fn peers_of(node: &Node<'_>, opens: bool, faults: &mut Faults) -> Vec<PolicyPeer> {
    if node.value.get("dns").is_none() {
        return peer(node, faults).into_iter().collect();
    }
    let fields = node.fields_with_values(&["dns"], faults);
    fields.map(|fields| words::dns_names(&fields, "dns", opens, faults)).unwrap_or_default()
}

fn peer(node: &Node<'_>, faults: &mut Faults) -> Option<PolicyPeer> {
    if let Value::String(text) = node.value {
        let found = ENTITIES.iter().find(|(word, _)| word == text);
        return match found {
            Some((_, entity)) => Some(PolicyPeer::Entity(*entity)),
            None => {
                let known = ENTITIES.map(|(word, _)| word).join(", ");
                node.fault(faults, format_args!("{text:?} is no kind of peer; known are {known}"))
            }
        };
    }
    let fields = node.fields_with_values(&["namespaces", "instances", "block", "except"], faults)?;
    let [namespaces, instances, block, except] =
        ["namespaces", "instances", "block", "except"].map(|name| fields.get(name));
    let selects = namespaces.is_some() || instances.is_some();
    if block.is_some() || except.is_some() {
        if selects {
            node.fault::<()>(faults, "has a block and labels; write two peers");
        }
        return words::block(&fields, "block", faults).map(PolicyPeer::Block);
    }
    if !selects {
        return node.fault(faults, "names nobody; write instances, namespaces, block or dns");
    }
    let namespaces = match namespaces {
        Some(node) => Some(selector(&node, faults)?),
        None => None,
    };
    let instances = selector_or_all(&fields, "instances", faults)?;
    Some(PolicyPeer::Instances(InstancePeer { namespaces, instances }))
}

/// `5432`, `53/udp`, `8000-8999/tcp`, `http` or a protocol.
pub(super) fn port(node: &Node<'_>, faults: &mut Faults) -> Option<PolicyPort> {
    let text = match node.value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return node.fault(faults, "is not a port; write e.g. 5432, 53/udp, 8000-8999 or udp"),
    };
    let named = |word: &str| PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, protocol)| *protocol);
    if let Some(protocol) = named(&text) {
        return Some(PolicyPort { protocol, port: None });
    }
    let (port, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
    let Some(protocol) = named(protocol) else {
        let known = PROTOCOLS.map(|(word, _)| word).join(", ");
        return node.fault(faults, format_args!("{protocol:?} is not a protocol; known are {known}"));
    };
    match port_match(port, protocol) {
        Ok(port) => Some(PolicyPort { protocol, port: Some(port) }),
        Err(why) => node.fault(faults, why),
    }
}

fn port_match(text: &str, protocol: PolicyProtocol) -> Result<PortMatch, String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = |text: &str| {
        words::port_number(protocol, text.parse().ok()).map_err(|why| format!("{text} is not a port; {why}"))
    };
    if digits(text) {
        return number(text).map(|port| PortMatch::Range(port, port));
    }
    if let Some((first, last)) = text.split_once('-').filter(|(first, last)| digits(first) && digits(last)) {
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("the range {text} is empty; write {last}-{first}"));
        }
        return Ok(PortMatch::Range(first, last));
    }
    words::port_name(text)
}

fn selector_or_all(fields: &Fields<'_>, name: &str, faults: &mut Faults) -> Option<Selector> {
    fields.get(name).map_or(Some(Selector::default()), |node| selector(&node, faults))
}

/// A mapping, or a text in the words of `kubectl --selector`.
fn selector(node: &Node<'_>, faults: &mut Faults) -> Option<Selector> {
    if matches!(node.value, Value::Tagged(_)) {
        node.text(faults)?;
    }
    let Value::String(text) = node.value else {
        return words::labels(node, faults).map(|labels| Selector { labels, expressions: Vec::new() });
    };
    if text.trim().is_empty() {
        return node.fault(faults, "is empty; write {} for all");
    }
    let mut selector = Selector::default();
    for part in conditions(text) {
        let Some(requirement) = Requirement::parse(part) else {
            node.fault::<()>(faults, format_args!("{part:?} says nothing about a label; {SELECTOR_FORM}"));
            continue;
        };
        words::check_requirement(&node.path, &requirement, faults);
        let Requirement { key, operator, values } = &requirement;
        match (operator, &values[..]) {
            // One value is what the mapping says as well; a second one for the same label is for the list.
            (Operator::In, [value]) if !selector.labels.contains_key(key) => {
                selector.labels.insert(key.clone(), value.clone());
            }
            _ => selector.expressions.push(requirement),
        }
    }
    Some(selector)
}
