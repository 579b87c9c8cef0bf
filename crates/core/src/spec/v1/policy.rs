//! A policy: what traffic the instances of a namespace may have.
//!
//! The canonical form. Documents in the form of Kubernetes' NetworkPolicy (`networking.k8s.io/v1`) and in our own
//! shorter one are read into it by [`crate::policy`]. Semantics are NetworkPolicy's: a direction that no policy names
//! for an instance is open to its tenant; one that some policy names is closed but for what the union of their rules
//! allows; replies and the instance's own node always pass.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A policy of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// The instances it is about, by their labels; the empty selector is all of the namespace.
    #[serde(default)]
    pub instances: Selector,
    /// What may come in. Absent: says nothing about this direction. Empty: nothing may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<PolicyRule>>,
    /// What may go out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<PolicyRule>>,
    /// Counts and records what it would deny, and denies nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// What becomes of what no rule allows. Of several policies the one that is silent decides.
    #[serde(default, skip_serializing_if = "Otherwise::is_deny")]
    pub otherwise: Otherwise,
}

/// What becomes of what no rule allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Otherwise {
    /// It is dropped.
    #[default]
    Deny,
    /// It is dropped, and the sender is told.
    Reject,
}

impl Otherwise {
    /// Whether nothing is said to the sender.
    pub const fn is_deny(&self) -> bool {
        matches!(self, Self::Deny)
    }
}

/// What is allowed: these peers on these ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// Any of them; without one, everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PolicyPeer>,
    /// Any of them; without one, all protocols and ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PolicyPort>,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyPeer {
    /// Instances, by the labels of their namespace and by their own; both must match.
    Instances(InstancePeer),
    /// A block of addresses.
    Block(BlockPeer),
    /// A kind of peer.
    Entity(Entity),
    /// Who a name stands for: the addresses that the node's name server has told instances of policies with this name,
    /// for as long as they last. In rules that accept, outwards. `*.` at the begin is one or more labels.
    Dns(String),
}

/// Instances of the policy's tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstancePeer {
    /// In which namespaces of the tenant, by their labels. Absent: only in the policy's own. Empty: in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Selector>,
    /// Which instances, by their labels. Empty: all.
    #[serde(default)]
    pub instances: Selector,
}

/// A block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockPeer {
    /// The block.
    #[schema(value_type = String)]
    pub cidr: IpNet,
    /// Blocks in it that are not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub except: Vec<IpNet>,
}

/// A kind of peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Entity {
    /// The instance's own node.
    Host,
    /// Everybody who is neither an instance nor the node.
    World,
    /// Every instance of the cluster, and the node.
    Cluster,
    /// Every instance of the tenant.
    SameTenant,
    /// Every instance of other tenants.
    OtherTenants,
}

/// Labels that must be so. Without any, everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// These labels with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// And all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expressions: Vec<Requirement>,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What must hold.
    pub operator: Operator,
    /// The values, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What must hold of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Operator {
    /// It is there with one of the values.
    In,
    /// It is not there, or with none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// A protocol, and ports of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyPort {
    /// The protocol.
    #[serde(default)]
    pub protocol: PolicyProtocol,
    /// The ports; without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortMatch>,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PortMatch {
    /// From the first to the last, both included; the same for one port. For ICMP, types.
    Range(u16, u16),
    /// The port that the receiving instance's app gives this name.
    Name(String),
}

/// Protocols that policies know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyProtocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
    /// ICMP for IPv4, ICMPv6 for IPv6.
    Icmp,
}

/// `80/tcp`, `8000-8100/tcp`, `http/tcp`, `all of udp`
impl fmt::Display for PolicyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.as_str();
        match &self.port {
            None => write!(f, "all of {protocol}"),
            Some(PortMatch::Range(first, last)) if first == last => write!(f, "{first}/{protocol}"),
            Some(PortMatch::Range(first, last)) => write!(f, "{first}-{last}/{protocol}"),
            Some(PortMatch::Name(name)) => write!(f, "{name}/{protocol}"),
        }
    }
}

impl PolicyProtocol {
    /// The word that documents have.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }
}

impl Selector {
    /// Whether these labels are so.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = self.labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal && self.expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = || value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
