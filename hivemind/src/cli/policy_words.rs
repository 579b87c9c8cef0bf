//! A policy in words: what it selects, and a line for each of its rules.

use super::output::age;
use crate::{
    api::object_view::{PolicyView, TrialView},
    spec::v1::{
        Action, BlockPeer, Entity, InstancePeer, Operator, Otherwise, PolicyPeer, PolicyPort, PolicyRule, Requirement,
        Selector, TierRule,
    },
};

/// What is said of a policy in audit mode.
pub(super) const AUDIT: &str = "it counts what it would deny, and denies nothing";

/// What `policy show` prints.
pub(super) fn describe(policy: &PolicyView) -> Vec<String> {
    let mut lines = Vec::new();
    let mut show = |title: &str, text: String| lines.push(format!("{title:<12}{text}"));
    show("Name", policy.name.clone());
    show("Scope", format!("{}/{}", policy.tenant, policy.namespace));
    show("Selects", selector(&policy.spec.instances, "all instances of the namespace"));
    show(
        "Instances",
        match policy.instances {
            Some(0) => "none now".into(),
            Some(number) => format!("{number} now"),
            None => String::new(),
        },
    );
    if policy.spec.audit {
        show("Audit", AUDIT.into());
    }
    trial(policy.trial.as_ref()).into_iter().for_each(|line| show("On trial", line));
    for (title, word, rules) in [("In", "from", &policy.spec.ingress), ("Out", "to", &policy.spec.egress)] {
        match rules.as_deref() {
            None => show(title, "says nothing: open, unless another policy closes it".into()),
            Some([]) => show(title, "nothing is allowed by this policy".into()),
            Some(rules) => {
                for (at, line) in rules.iter().enumerate() {
                    show(if at == 0 { title } else { "" }, rule(word, line));
                }
            }
        }
    }
    if policy.spec.otherwise == Otherwise::Reject {
        show("Otherwise", "who is denied is told".into());
    }
    show("Age", age(policy.created_at));
    lines
}

/// What a policy on trial would have denied, and how to see whom.
pub(super) fn trial(trial: Option<&TrialView>) -> Vec<String> {
    let Some(TrialView { since, inwards, outwards, beside }) = trial else { return Vec::new() };
    let since = age(*since);
    let mut lines =
        vec![format!("would have denied {inwards} in and {outwards} out on this node, counted for {since}")];
    if !beside.is_empty() {
        lines.push(format!("together with {}: only what none of them allows is counted", beside.join(", ")));
    }
    lines.push("who it was: hivemind flows --reason audit".into());
    lines
}

/// `from instances app=client in the namespace, or 10.0.0.0/8; on 80/tcp, 53/udp`
fn rule(word: &str, rule: &PolicyRule) -> String {
    parts(word, &rule.peers, &rule.ports)
}

/// `deny to everybody; on all ports`
pub(super) fn tier_rule(word: &str, rule: &TierRule) -> String {
    let action = match rule.action {
        Action::Accept => "accept",
        Action::Deny => "deny",
        Action::Reject => "reject",
        Action::Pass => "pass",
    };
    format!("{action} {}", parts(word, &rule.peers, &rule.ports))
}

fn parts(word: &str, peers: &[PolicyPeer], ports: &[PolicyPort]) -> String {
    let peers: Vec<_> = peers.iter().map(peer).collect();
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    let peers = if peers.is_empty() { "everybody".into() } else { peers.join(", or ") };
    let ports = if ports.is_empty() { "all ports".into() } else { ports.join(", ") };
    format!("{word} {peers}; on {ports}")
}

fn peer(peer: &PolicyPeer) -> String {
    match peer {
        PolicyPeer::Instances(InstancePeer { namespaces, instances }) => {
            let whom = match selector(instances, "") {
                text if text.is_empty() => "all instances".to_owned(),
                text => format!("instances {text}"),
            };
            match namespaces {
                None => format!("{whom} of the namespace"),
                Some(namespaces) if *namespaces == Selector::default() => format!("{whom} of the tenant"),
                Some(namespaces) => format!("{whom} of namespaces {}", selector(namespaces, "")),
            }
        }
        PolicyPeer::Block(BlockPeer { cidr, except }) if except.is_empty() => cidr.to_string(),
        PolicyPeer::Block(BlockPeer { cidr, except }) => {
            let except: Vec<_> = except.iter().map(ToString::to_string).collect();
            format!("{cidr} but not {}", except.join(" "))
        }
        PolicyPeer::Dns(name) => format!("who {name} stands for"),
        PolicyPeer::Entity(entity) => match entity {
            Entity::Host => "the instance's own node",
            Entity::World => "whoever is outside the cluster",
            Entity::Cluster => "all instances of the cluster and the node",
            Entity::SameTenant => "all instances of the tenant",
            Entity::OtherTenants => "all instances of other tenants",
        }
        .into(),
    }
}

/// `app=web, tier in (a b), not canary`; `everything` if it matches that.
pub(super) fn selector(selector: &Selector, everything: &str) -> String {
    let labels = selector.labels.iter().map(|(key, value)| format!("{key}={value}"));
    let parts: Vec<_> = labels.chain(selector.expressions.iter().map(requirement)).collect();
    if parts.is_empty() { everything.to_owned() } else { parts.join(", ") }
}

fn requirement(requirement: &Requirement) -> String {
    let Requirement { key, operator, values } = requirement;
    let values = values.join(" ");
    match operator {
        Operator::In => format!("{key} in ({values})"),
        Operator::NotIn => format!("{key} not in ({values})"),
        Operator::Exists => format!("with {key}"),
        Operator::DoesNotExist => format!("without {key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn every_rule_is_a_line() {
        let spec = serde_json::json!({
            "instances": {"labels": {"app": "web"}, "expressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "canary", "operator": "DoesNotExist"},
            ]},
            "audit": true,
            "ingress": [
                {"peers": [{"instances": {"instances": {"labels": {"app": "client"}}}}, {"entity": "world"}],
                 "ports": [{"port": [80, 80]}, {"protocol": "udp", "port": [53, 54]}, {"port": "metrics"}]},
                {"peers": [{"instances": {"namespaces": {"labels": {"env": "prod"}}}}, {"instances": {"namespaces": {}}}]},
                {"peers": [{"block": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                 "ports": [{"protocol": "icmp"}]},
            ],
            "egress": [],
        });
        let policy = PolicyView {
            tenant: "default".parse().expect("a name"),
            namespace: "prod".parse().expect("a name"),
            name: "web".into(),
            spec: serde_json::from_value(spec).expect("a policy"),
            instances: Some(3),
            trial: Some(TrialView {
                since: Timestamp::default(),
                inwards: 7,
                outwards: 0,
                beside: vec!["default/prod/other".into()],
            }),
            revision: 1,
            created_at: Timestamp::default(),
        };
        let mut lines = describe(&policy);
        lines.pop();
        let counted = lines.remove(5);
        assert!(
            counted.starts_with("On trial    would have denied 7 in and 0 out on this node, counted for "),
            "{counted}"
        );
        assert_eq!(
            lines,
            [
                "Name        web",
                "Scope       default/prod",
                "Selects     app=web, tier in (a b), without canary",
                "Instances   3 now",
                "Audit       it counts what it would deny, and denies nothing",
                "On trial    together with default/prod/other: only what none of them allows is counted",
                "On trial    who it was: hivemind flows --reason audit",
                "In          from instances app=client of the namespace, or whoever is outside the cluster; on 80/tcp, \
                 53-54/udp, metrics/tcp",
                "            from all instances of namespaces env=prod, or all instances of the tenant; on all ports",
                "            from 10.0.0.0/8 but not 10.1.0.0/16; on all of icmp",
                "Out         nothing is allowed by this policy",
            ]
        );
    }
}
