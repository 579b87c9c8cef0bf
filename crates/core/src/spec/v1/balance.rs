//! How a service spreads connections over its instances, and whose.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How long a client stays with its instance if nothing else is said, in seconds: three hours, as in Kubernetes.
pub const DEFAULT_AFFINITY: u32 = 10_800;
/// The longest time that may be said: a day.
pub const MAX_AFFINITY: u32 = 86_400;

/// How a service spreads connections. A change needs no new instances, and moves no connection that is open.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BalanceSpec {
    /// Which instance gets a connection from inside.
    #[serde(default, skip_serializing_if = "is_default")]
    pub method: Method,
    /// Whether a client stays with its instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Which instances clients inside the cluster get.
    #[serde(default, skip_serializing_if = "is_default")]
    pub internal: Internal,
    /// Which instances clients of the published ports get.
    #[serde(default, skip_serializing_if = "is_default")]
    pub external: External,
    /// From where the published ports are reached; empty: from everywhere. With blocks of one address family only,
    /// nobody has access by the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub source_ranges: Vec<IpNet>,
}

impl BalanceSpec {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        is_default(self)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Which instance gets a connection from inside. For one from outside every node chooses alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// One at random, by weight.
    #[default]
    Random,
    /// Of two at random the one to which fewer connections of this node are open, for its weight.
    LeastConnections,
}

/// A client stays with its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Affinity {
    /// Seconds after its last connection, 1 to [`MAX_AFFINITY`].
    #[serde(default = "Affinity::default_seconds")]
    pub client_ip_seconds: u32,
}

impl Affinity {
    const fn default_seconds() -> u32 {
        DEFAULT_AFFINITY
    }
}

/// Which instances clients inside the cluster get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Internal {
    /// Those of all nodes.
    #[default]
    Cluster,
    /// Those of the client's node if one is ready there, else those of all nodes.
    PreferLocal,
    /// Those of the client's node only.
    Local,
}

/// Which instances clients of the published ports get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum External {
    /// Those of all nodes.
    #[default]
    Cluster,
    /// Those of the node that the client asks only.
    Local,
}

impl Method {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::LeastConnections => "least-connections",
        }
    }
}

impl Internal {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::PreferLocal => "prefer-local",
            Self::Local => "local",
        }
    }
}

impl External {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Local => "local",
        }
    }
}

/// The most source ranges of one app.
pub const MAX_SOURCE_RANGES: usize = 256;

/// Every fault, as field and what is wrong with it.
pub(super) fn check(balance: &BalanceSpec, published: bool, fault: &mut impl FnMut(&str, String)) {
    if let Some(Affinity { client_ip_seconds: seconds }) = balance.affinity
        && !(1..=MAX_AFFINITY).contains(&seconds)
    {
        fault("balance.affinity.client_ip_seconds", format!("{seconds} is not from 1 to {MAX_AFFINITY}"));
    }
    let ranges = &balance.source_ranges;
    if !ranges.is_empty() && !published {
        fault("balance.source_ranges", "no port is published; publish one (8080:80), or use a policy".into());
    }
    if balance.external != External::Cluster && !published {
        fault("balance.external", "no port is published; publish one (8080:80), or leave it out".into());
    }
    if ranges.len() > MAX_SOURCE_RANGES {
        fault("balance.source_ranges", format!("{} are more than {MAX_SOURCE_RANGES}", ranges.len()));
    }
    for (i, range) in ranges.iter().enumerate() {
        if range.addr() != range.network() {
            fault("balance.source_ranges", format!("{range} has bits beyond its length; write {}", range.trunc()));
        } else if ranges[..i].contains(range) {
            fault("balance.source_ranges", format!("{range} is there twice"));
        }
    }
}
