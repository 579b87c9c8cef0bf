//! A policy of a tier: what the operator, or a tenant for all its namespaces, says before or after the policies of
//! namespaces. Semantics are those of Kubernetes' ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`).
//!
//! The tier `host` is about the nodes themselves and their published ports, and the operator's alone.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Entity, Otherwise, PolicyPeer, PolicyPort, Selector,
    validate_policy::{check_parts, check_selector},
};
use crate::model::NodeName;

/// The highest priority number, which is decided by last.
pub const MAX_PRIORITY: u16 = 1000;
/// The most rules a direction may have; Kubernetes takes 25.
const MAX_TIER_RULES: usize = 500;

/// A policy of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierSpec {
    /// Before or after the policies of namespaces.
    pub tier: Tier,
    /// 0 to 1000; the lowest decides first.
    pub priority: u16,
    /// The namespaces whose instances it is about, by their labels; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Selector>,
    /// Which of their instances; the empty selector is all.
    #[serde(default)]
    pub instances: Selector,
    /// What it says of what comes in; the first rule that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<TierRule>,
    /// What it says of what goes out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<TierRule>,
    /// Of the tier `host`: what it says of what comes to published ports, by the ports of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<TierRule>,
    /// Of the tier `host`: the ways in which what no rule of any of its policies accepts is denied.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub closes: BTreeSet<Way>,
    /// Of the tier `host`: what becomes of what is denied so. Of several policies the one that is silent decides.
    #[serde(default, skip_serializing_if = "Otherwise::is_deny")]
    pub otherwise: Otherwise,
    /// Of the tier `host`: counts what it would deny, and denies nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// Of the tier `host`: the nodes that it is about, by name; without one, all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub nodes: BTreeSet<NodeName>,
}

impl TierSpec {
    /// A policy about everybody that says nothing yet.
    pub fn new(tier: Tier, priority: u16) -> Self {
        Self {
            tier,
            priority,
            namespaces: None,
            instances: Selector::default(),
            ingress: Vec::new(),
            egress: Vec::new(),
            published: Vec::new(),
            closes: BTreeSet::new(),
            otherwise: Otherwise::Deny,
            audit: false,
            nodes: BTreeSet::new(),
        }
    }

    /// The rules of a way.
    pub fn rules(&self, way: Way) -> &[TierRule] {
        match way {
            Way::Ingress => &self.ingress,
            Way::Egress => &self.egress,
            Way::Published => &self.published,
        }
    }

    /// Whether it says anything of a way.
    pub fn speaks_of(&self, way: Way) -> bool {
        self.closes.contains(&way) || !self.rules(way).is_empty()
    }
}

/// What the rules of the tier `host` are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// What comes to the host, from outside by an uplink or from instances.
    Ingress,
    /// What the host sends by an uplink.
    Egress,
    /// What comes to published ports.
    Published,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ingress, Self::Egress, Self::Published];

    /// The word that documents have.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Published => "published",
        }
    }
}

/// When a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Before the policies of namespaces; they cannot overrule it.
    Admin,
    /// Where no policy of a namespace is about the direction.
    Baseline,
    /// About the nodes and their published ports, not about instances.
    Host,
}

/// A rule of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierRule {
    /// What to do with what matches.
    pub action: Action,
    /// Any of them; without one, everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PolicyPeer>,
    /// Any of them; without one, all protocols and ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PolicyPort>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It passes, whatever later tiers say.
    #[default]
    Accept,
    /// It is dropped, whatever later tiers say.
    Deny,
    /// The same, and the sender is told: by a TCP reset, or by ICMP "administratively prohibited".
    Reject,
    /// The rest of the tier says nothing; the next one decides.
    Pass,
}

/// Every fault of `spec`, as `field: what is wrong, and what would be right`. Empty means valid.
pub fn validate_tier(spec: &TierSpec) -> Vec<String> {
    let mut faults = Vec::new();
    if spec.priority > MAX_PRIORITY {
        faults.push(format!("priority: {} is more than {MAX_PRIORITY}; write 0 to {MAX_PRIORITY}", spec.priority));
    }
    if let Some(namespaces) = &spec.namespaces {
        check_selector("namespaces", namespaces, &mut faults);
    }
    check_selector("instances", &spec.instances, &mut faults);
    if Way::ALL.iter().all(|way| spec.rules(*way).is_empty()) && spec.closes.is_empty() {
        faults.push("ingress, egress: it has no rule; a policy of a tier says something only by its rules".into());
    }
    if spec.tier == Tier::Host {
        check_host(spec, &mut faults)
    } else {
        check_no_host(spec, &mut faults)
    }
    for way in Way::ALL {
        let (direction, rules) = (way.as_str(), spec.rules(way));
        if rules.len() > MAX_TIER_RULES {
            let why = format!("{} rules are more than {MAX_TIER_RULES}; write several policies", rules.len());
            faults.push(format!("{direction}: {why}"));
        }
        for (at, rule) in rules.iter().enumerate() {
            let opens = way == Way::Egress && rule.action == Action::Accept;
            check_parts(&format!("{direction}[{at}]"), opens, &rule.peers, &rule.ports, &mut faults);
        }
    }
    faults
}

/// The same, and whether it may be `of_tenant`.
pub fn validate_tier_of(of_tenant: bool, spec: &TierSpec) -> Vec<String> {
    let mut faults = validate_tier(spec);
    if of_tenant && spec.tier == Tier::Host {
        faults.push("tier: policies of the host are the operator's alone; write admin or baseline".into());
    }
    faults
}

/// What has no meaning but in the tier `host`.
fn check_no_host(spec: &TierSpec, faults: &mut Vec<String>) {
    let only = [
        ("published", spec.published.is_empty()),
        ("closes", spec.closes.is_empty()),
        ("otherwise", spec.otherwise.is_deny()),
        ("audit", !spec.audit),
        ("nodes", spec.nodes.is_empty()),
    ];
    for (field, _) in only.into_iter().filter(|(_, absent)| !absent) {
        faults.push(format!("{field}: only policies of the tier host have it; leave it out, or write that tier"));
    }
}

fn check_host(spec: &TierSpec, faults: &mut Vec<String>) {
    if spec.namespaces.is_some() || spec.instances != Selector::default() {
        faults.push("namespaces, instances: a policy of the tier host selects nodes; write nodes, or nothing".into());
    }
    for way in Way::ALL {
        for (at, rule) in spec.rules(way).iter().enumerate() {
            let field = format!("{}[{at}]", way.as_str());
            if rule.action == Action::Pass {
                faults
                    .push(format!("{field}.action: nobody is asked after the tier host; write accept, deny or reject"));
            }
            for peer in &rule.peers {
                let PolicyPeer::Entity(entity @ (Entity::Host | Entity::SameTenant | Entity::OtherTenants)) = peer
                else {
                    continue;
                };
                let why = match entity {
                    Entity::Host => "the host always reaches itself",
                    _ => "the host is of no tenant; write cluster, or instances",
                };
                faults.push(format!("{field}.peers: {why}"));
            }
            if way == Way::Egress && rule.peers.iter().any(is_instances) {
                faults.push(format!("{field}.peers: the host always reaches the instances; name who is outside"));
            }
        }
    }
}

fn is_instances(peer: &PolicyPeer) -> bool {
    matches!(peer, PolicyPeer::Instances(_) | PolicyPeer::Entity(Entity::Cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_a_tier_are_named_at_once() {
        let good = serde_json::json!({"tier": "admin", "priority": 1000, "ingress": [{"action": "deny"}]});
        assert_eq!(validate_tier(&serde_json::from_value(good).expect("a policy")), Vec::<String>::new());
        let bad = serde_json::json!({"tier": "baseline", "priority": 1001, "namespaces": {"labels": {"a b": "x"}},
            "egress": [{"action": "pass", "ports": [{"port": [90, 80]}]}]});
        let faults = validate_tier(&serde_json::from_value(bad).expect("a policy"));
        let fields: Vec<_> = faults.iter().map(|fault| fault.split(':').next().expect("a field")).collect();
        assert_eq!(fields, ["priority", "namespaces.labels", "egress[0].ports[0]"], "{faults:?}");
        let silent = serde_json::json!({"tier": "admin", "priority": 0});
        assert_eq!(validate_tier(&serde_json::from_value(silent).expect("a policy")).len(), 1);
    }

    #[test]
    fn what_is_about_the_host_is_in_its_tier_only() {
        let faults = |json| validate_tier(&serde_json::from_value(json).expect("a policy"));
        let fields = |json| {
            let found: Vec<String> = faults(json);
            found.iter().map(|fault| fault.split(':').next().expect("a field").to_owned()).collect::<Vec<_>>()
        };
        let good = serde_json::json!({"tier": "host", "priority": 500, "closes": ["ingress", "published"],
            "otherwise": "reject", "nodes": ["n1"], "published": [{"action": "accept", "peers": [{"entity": "cluster"}]}]});
        assert_eq!(faults(good), Vec::<String>::new());
        let bad = serde_json::json!({"tier": "host", "priority": 0, "instances": {"labels": {"a": "b"}}, 
            "ingress": [{"action": "pass", "peers": [{"entity": "same-tenant"}]}],
            "egress": [{"action": "accept", "peers": [{"entity": "cluster"}, {"dns": "example.org"}]},
                       {"action": "deny", "peers": [{"dns": "example.org"}]}]});
        let expected = [
            "namespaces, instances",
            "ingress[0].action",
            "ingress[0].peers",
            "egress[0].peers",
            "egress[1].peers[0].dns",
        ];
        assert_eq!(fields(bad), expected);
        let of_tenant = TierSpec { closes: [Way::Ingress].into(), ..TierSpec::new(Tier::Host, 0) };
        assert_eq!(validate_tier_of(false, &of_tenant), Vec::<String>::new());
        assert_eq!(validate_tier_of(true, &of_tenant).len(), 1);
        let elsewhere =
            serde_json::json!({"tier": "admin", "priority": 0, "closes": ["egress"], "nodes": ["n1"], "audit": true});
        assert_eq!(fields(elsewhere), ["closes", "audit", "nodes"]);
    }
}
