//! Policies of tiers, which belong to no namespace.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{InvalidName, PolicyName, TenantName, Timestamp};
use crate::spec::v1::TierSpec;

/// The full name of a policy of a tier: `NAME` if it is the operator's, `TENANT/NAME` if it is a tenant's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct TierKey {
    /// Whose it is; none: the operator's, about all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Its name.
    pub name: PolicyName,
}

/// As store keys, events and metrics write it.
impl fmt::Display for TierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tenant {
            Some(tenant) => write!(f, "{tenant}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

impl FromStr for TierKey {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Ok(match text.split_once('/') {
            Some((tenant, name)) => Self { tenant: Some(tenant.parse()?), name: name.parse()? },
            None => Self { tenant: None, name: text.parse()? },
        })
    }
}

/// A policy of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TierPolicy {
    /// Its full name.
    pub key: TierKey,
    /// What it says.
    pub spec: TierSpec,
    /// When it was first applied.
    pub created_at: Timestamp,
}

impl TierKey {
    /// Whether it may say anything about the instances of a tenant.
    pub fn reaches(&self, tenant: &TenantName) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
    }
}
