//! What can be said of a volume.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::validate_labels;

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Labels for people and selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Every fault of `spec`. Empty means valid.
pub fn validate_volume(spec: &VolumeSpec) -> Vec<String> {
    validate_labels(&spec.labels).into_iter().map(|fault| format!("labels: {fault}")).collect()
}
