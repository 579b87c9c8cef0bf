//! The rules for policies. All faults are collected, each with the field it is in.

use super::{
    BlockPeer, Operator, PolicyPeer, PolicyPort, PolicyProtocol, PolicySpec, PortMatch, Selector,
    dns_name::dns_name,
    labels::{check_label_key, check_label_value, validate_labels},
};

/// The most rules a direction may have.
const MAX_RULES: usize = 500;
/// Where names of hosts may stand. A name that is not known yet would deny nothing, and nobody comes in by a name.
pub const DNS_ONLY_OPENS: &str = "names of hosts may stand in egress rules that accept only; write a block here";
/// The highest ICMP type.
const MAX_ICMP_TYPE: u16 = 255;

/// Every fault of `spec`, as `field: what is wrong, and what would be right`. Empty means valid.
pub fn validate_policy(spec: &PolicySpec) -> Vec<String> {
    let mut faults = Vec::new();
    check_selector("instances", &spec.instances, &mut faults);
    if spec.ingress.is_none() && spec.egress.is_none() {
        faults.push("ingress, egress: it has neither; an empty list closes that direction".into());
    }
    for (direction, rules) in [("ingress", &spec.ingress), ("egress", &spec.egress)] {
        let Some(rules) = rules else { continue };
        if rules.len() > MAX_RULES {
            faults.push(format!("{direction}: {} rules are more than {MAX_RULES}", rules.len()));
        }
        for (at, rule) in rules.iter().enumerate() {
            let opens = direction == "egress";
            check_parts(&format!("{direction}[{at}]"), opens, &rule.peers, &rule.ports, &mut faults);
        }
    }
    faults
}

/// The peers and the ports of a rule. `opens`: it accepts what goes out, so that it may have names of hosts.
pub(super) fn check_parts(
    field: &str,
    opens: bool,
    peers: &[PolicyPeer],
    ports: &[PolicyPort],
    faults: &mut Vec<String>,
) {
    for (at, peer) in peers.iter().enumerate() {
        let field = format!("{field}.peers[{at}]");
        match peer {
            PolicyPeer::Instances(peer) => {
                if let Some(namespaces) = &peer.namespaces {
                    check_selector(&format!("{field}.namespaces"), namespaces, faults);
                }
                check_selector(&format!("{field}.instances"), &peer.instances, faults);
            }
            PolicyPeer::Block(block) => check_block(&field, block, faults),
            PolicyPeer::Entity(_) => {}
            PolicyPeer::Dns(_) if !opens => faults.push(format!("{field}.dns: {DNS_ONLY_OPENS}")),
            PolicyPeer::Dns(name) => match dns_name(name) {
                Ok(normal) if normal == *name => {}
                Ok(normal) => faults.push(format!("{field}.dns: {name:?} is not as names are kept; write {normal}")),
                Err(why) => faults.push(format!("{field}.dns: {why}")),
            },
        }
    }
    for (at, port) in ports.iter().enumerate() {
        if let Err(why) = check_port(port) {
            faults.push(format!("{field}.ports[{at}]: {why}"));
        }
    }
}

pub(super) fn check_selector(field: &str, selector: &Selector, faults: &mut Vec<String>) {
    faults.extend(validate_labels(&selector.labels).into_iter().map(|fault| format!("{field}.labels: {fault}")));
    for (at, requirement) in selector.expressions.iter().enumerate() {
        let mut fault = |why: String| faults.push(format!("{field}.expressions[{at}]: {why}"));
        if let Err(why) = check_label_key(&requirement.key) {
            fault(format!("{:?} is not a label's name: {why}", requirement.key));
        }
        let wants_values = matches!(requirement.operator, Operator::In | Operator::NotIn);
        if wants_values && requirement.values.is_empty() {
            fault("In and NotIn need values".into());
        } else if !wants_values && !requirement.values.is_empty() {
            fault("Exists and DoesNotExist take no values".into());
        }
        for value in &requirement.values {
            if let Err(why) = check_label_value(value) {
                fault(format!("{value:?} is not a label's value: {why}"));
            }
        }
    }
}

fn check_block(field: &str, block: &BlockPeer, faults: &mut Vec<String>) {
    for net in std::iter::once(&block.cidr).chain(&block.except) {
        if net.trunc() != *net {
            faults.push(format!("{field}: {net} has bits behind its prefix; write {}", net.trunc()));
        }
    }
    for except in &block.except {
        if !block.cidr.contains(except) || except == &block.cidr {
            faults.push(format!("{field}.except: {except} is not a part of {}", block.cidr));
        }
    }
}

fn check_port(port: &PolicyPort) -> Result<(), String> {
    match &port.port {
        None => Ok(()),
        Some(PortMatch::Range(first, last)) if first > last => Err(format!("{first} is more than {last}")),
        Some(PortMatch::Range(_, last)) if port.protocol == PolicyProtocol::Icmp => match *last {
            ..=MAX_ICMP_TYPE => Ok(()),
            last => Err(format!("{last} is not a type of ICMP; types are from 0 to {MAX_ICMP_TYPE}")),
        },
        Some(PortMatch::Range(0, _)) => Err("0 is not a port; ports are from 1 to 65535".into()),
        Some(PortMatch::Range(..)) => Ok(()),
        Some(PortMatch::Name(_)) if port.protocol == PolicyProtocol::Icmp => Err("types of ICMP have no names".into()),
        // To take it and to match nothing would close what the author meant to open.
        Some(PortMatch::Name(name)) => Err(format!("{name:?}: ports of apps have no names yet; write its number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: serde_json::Value) -> Vec<String> {
        validate_policy(&serde_json::from_value(json).expect("a policy"))
    }

    #[test]
    fn a_policy_of_every_part_is_valid() {
        let good = serde_json::json!({
            "instances": {"labels": {"app": "web"}, "expressions": [{"key": "tier", "operator": "Exists"}]},
            "ingress": [
                {"peers": [{"instances": {"namespaces": {}, "instances": {"labels": {"app": "client"}}}}],
                 "ports": [{"port": [80, 90]}, {"protocol": "udp", "port": [53, 53]}, {"protocol": "icmp", "port": [0, 8]}]},
                {"peers": [{"block": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"entity": "world"}]},
            ],
            "egress": [],
        });
        assert_eq!(faults(good), Vec::<String>::new());
    }

    #[test]
    fn all_faults_are_named_at_once() {
        assert_eq!(faults(serde_json::json!({})).len(), 1, "it says nothing");
        let bad = serde_json::json!({
            "instances": {"labels": {"a b": "x"}},
            "ingress": [{
                "peers": [
                    {"instances": {"instances": {"expressions": [
                        {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["x"]},
                    ]}}},
                    {"block": {"cidr": "10.0.0.1/8", "except": ["11.0.0.0/16"]}},
                ],
                "ports": [{"port": [90, 80]}, {"port": [0, 0]}, {"protocol": "icmp", "port": [0, 256]}, {"port": "dns"}],
            }],
        });
        let faults = faults(bad);
        let fields: Vec<_> = faults.iter().map(|fault| fault.split(':').next().expect("a field")).collect();
        assert_eq!(
            fields,
            [
                "instances.labels",
                "ingress[0].peers[0].instances.expressions[0]",
                "ingress[0].peers[0].instances.expressions[1]",
                "ingress[0].peers[1]",
                "ingress[0].peers[1].except",
                "ingress[0].ports[0]",
                "ingress[0].ports[1]",
                "ingress[0].ports[2]",
                "ingress[0].ports[3]",
            ],
            "{faults:?}"
        );
    }
}
