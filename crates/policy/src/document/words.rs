//! The words that both forms share, with the rules that Kubernetes has for them.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr};

use ipnet::IpNet;

use super::fields::{Faults, Fields, Node};
use hivemind_core::{
    model::{PolicyKey, Scope},
    spec::v1::{
        BlockPeer, DNS_ONLY_OPENS, MAX_PRIORITY, Operator, PolicyPeer, PolicyProtocol, PortMatch, Requirement, dns_name,
    },
};

/// A word of the model.
pub(super) fn name<T: FromStr<Err: Display>>(node: &Node<'_>, faults: &mut Faults) -> Option<T> {
    node.text(faults)?.parse().map_err(|error| faults.say(&node.path, error)).ok()
}

/// The key of a policy, from the fields that have its name and its namespace.
pub(super) fn key(fields: &Fields<'_>, named: &str, scope: &Scope, faults: &mut Faults) -> Option<PolicyKey> {
    let policy = fields.need(named, faults).and_then(|node| name(&node, faults));
    let namespace = match fields.get("namespace") {
        Some(node) => name(&node, faults),
        None => Some(scope.namespace.clone()),
    };
    Some(PolicyKey::new(Scope { tenant: scope.tenant.clone(), namespace: namespace? }, policy?))
}

/// A priority of a tier.
pub(super) fn priority(node: &Node<'_>, faults: &mut Faults) -> Option<u16> {
    let number = node.value.as_u64().and_then(|number| u16::try_from(number).ok());
    let found = number.filter(|number| *number <= MAX_PRIORITY);
    if found.is_none() {
        faults.say(
            &node.path,
            format_args!("is not a priority; write a number from 0, decided by first, to {MAX_PRIORITY}"),
        );
    }
    found
}

/// Labels with their values.
pub(super) fn labels(node: &Node<'_>, faults: &mut Faults) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (key, value) in node.mapping(faults)?.all(faults) {
        check(&value.path, label_key(key), faults);
        if let Some(text) = value.text(faults) {
            check(&value.path, label_value(text), faults);
            labels.insert(key.to_owned(), text.to_owned());
        }
    }
    Some(labels)
}

/// Says what is wrong with a word.
pub(super) fn check(path: &str, result: Result<(), String>, faults: &mut Faults) {
    if let Err(why) = result {
        faults.say(path, why);
    }
}

/// Says what is wrong with a condition on a label.
pub(super) fn check_requirement(path: &str, requirement: &Requirement, faults: &mut Faults) {
    let Requirement { key, operator, values } = requirement;
    check(path, label_key(key), faults);
    for value in values {
        check(path, label_value(value), faults);
    }
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            faults.say(path, format_args!("{operator:?} needs at least one of values"));
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            faults.say(path, format_args!("{operator:?} has no values; leave them out, or write In or NotIn"));
        }
        _ => {}
    }
}

/// A label's key: a name, or a DNS name and a name (`example.org/role`).
fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if let Some(prefix) = prefix
        && (prefix.len() > 253 || !prefix.split('.').all(is_dns_label))
    {
        return Err(format!("{key:?} is not a label's key; before the '/' write a DNS name in lower case"));
    }
    if name.is_empty() {
        return Err(format!("{key:?} is not a label's key; write a name of 1 to 63 characters"));
    }
    label_word(name).map_err(|why| format!("{key:?} is not a label's key; {why}"))
}

/// A label's value: may be empty.
fn label_value(value: &str) -> Result<(), String> {
    label_word(value).map_err(|why| format!("{value:?} is not a label's value; {why}"))
}

fn label_word(word: &str) -> Result<(), &'static str> {
    if word.len() > 63 {
        return Err("write at most 63 characters");
    }
    if !word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err("use letters, digits, '-', '_' and '.'");
    }
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    if !edge(word.as_bytes().first()) || !edge(word.as_bytes().last()) {
        return Err("begin and end with a letter or a digit");
    }
    Ok(())
}

fn is_dns_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

/// A block and its exceptions, from the fields that have them.
pub(super) fn block(fields: &Fields<'_>, named: &str, faults: &mut Faults) -> Option<BlockPeer> {
    let cidr = fields.need(named, faults).and_then(|node| net(&node, faults));
    let mut except = Vec::new();
    for node in fields.list("except", faults) {
        let Some(hole) = net(&node, faults) else { continue };
        except.push(hole);
        // A block that is wrong was said already.
        let Some(cidr) = cidr else { continue };
        if hole == cidr {
            node.fault(faults, format_args!("{hole} is all of the block; write a smaller one, or leave the block out"))
        } else if hole.addr().is_ipv4() != cidr.addr().is_ipv4() {
            node.fault(faults, format_args!("{hole} is of another family of addresses than {cidr}"))
        } else if !cidr.contains(&hole) {
            node.fault(faults, format_args!("{hole} is not in {cidr}; write a block inside of it"))
        } else {
            Some(())
        };
    }
    Some(BlockPeer { cidr: cidr?, except })
}

/// Names of hosts, which only a rule may have that accepts what goes out (`opens`).
pub(super) fn dns_names(fields: &Fields<'_>, named: &str, opens: bool, faults: &mut Faults) -> Vec<PolicyPeer> {
    if !opens {
        fields.get(named).and_then(|node| node.fault::<()>(faults, DNS_ONLY_OPENS));
        return Vec::new();
    }
    let items = fields.filled_list(named, "no names", faults);
    let name = |node: &Node<'_>| {
        let text = node.text(faults)?;
        dns_name(text).map_err(|why| faults.say(&node.path, why)).ok().map(PolicyPeer::Dns)
    };
    items.iter().filter_map(name).collect()
}

pub(super) fn net(node: &Node<'_>, faults: &mut Faults) -> Option<IpNet> {
    let text = node.text(faults)?;
    let Ok(net) = text.parse::<IpNet>() else {
        let why = format!("{text:?} is not a block of addresses; write e.g. 10.0.0.0/8 or 2001:db8::/32");
        return node.fault(faults, why);
    };
    if net != net.trunc() {
        let why = format!(
            "{text} has bits set behind its prefix; write {}, or {}/{}",
            net.trunc(),
            net.addr(),
            net.max_prefix_len()
        );
        return node.fault(faults, why);
    }
    Some(net)
}

/// The numbers that ports of a protocol have.
pub(super) fn port_numbers(protocol: PolicyProtocol) -> RangeInclusive<u16> {
    match protocol {
        // Types, of which 0 is one.
        PolicyProtocol::Icmp => 0..=255,
        PolicyProtocol::Tcp | PolicyProtocol::Udp | PolicyProtocol::Sctp => 1..=u16::MAX,
    }
}

/// The port of a number.
pub(super) fn port_number(protocol: PolicyProtocol, number: Option<u64>) -> Result<u16, String> {
    let range = port_numbers(protocol);
    let found = number.and_then(|number| u16::try_from(number).ok()).filter(|number| range.contains(number));
    found.ok_or_else(|| format!("write a number from {} to {}", range.start(), range.end()))
}

/// A port's name (RFC 6335): 1 to 15 of `a-z 0-9 -` with a letter among them.
pub(super) fn port_name(text: &str) -> Result<PortMatch, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} in quotes would be a name, which has a letter; write {text} without quotes"));
    }
    if text.len() > 15 || !is_dns_label(text) || text.contains("--") || !text.bytes().any(|b| b.is_ascii_lowercase()) {
        let why = "write a number, or a name of at most 15 of a-z, 0-9 and single '-' with a letter among them";
        return Err(format!("{text:?} is not a port; {why}"));
    }
    Ok(PortMatch::Name(text.to_owned()))
}
