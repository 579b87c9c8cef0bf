//! A policy of a tier: what the operator, or a tenant for all its namespaces, says before or after the policies of
//! namespaces. Semantics are those of Kubernetes' ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    PolicyPeer, PolicyPort, Selector,
    validate_policy::{check_parts, check_selector},
};

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
}

/// When a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Before the policies of namespaces; they cannot overrule it.
    Admin,
    /// Where no policy of a namespace is about the direction.
    Baseline,
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
    if spec.ingress.is_empty() && spec.egress.is_empty() {
        faults.push("ingress, egress: it has no rule; a policy of a tier says something only by its rules".into());
    }
    for (direction, rules) in [("ingress", &spec.ingress), ("egress", &spec.egress)] {
        if rules.len() > MAX_TIER_RULES {
            let why = format!("{} rules are more than {MAX_TIER_RULES}; write several policies", rules.len());
            faults.push(format!("{direction}: {why}"));
        }
        for (at, rule) in rules.iter().enumerate() {
            let opens = direction == "egress" && rule.action == Action::Accept;
            check_parts(&format!("{direction}[{at}]"), opens, &rule.peers, &rule.ports, &mut faults);
        }
    }
    faults
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
}
