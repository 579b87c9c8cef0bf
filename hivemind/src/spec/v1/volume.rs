//! What can be said of a volume.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::validate_labels;
use crate::model::Bytes;

/// The least limit of a volume: below it a file system has hardly any room for files.
pub const MIN_VOLUME: Bytes = Bytes(16 << 20);
/// The greatest limit of a volume.
pub const MAX_VOLUME: Bytes = Bytes(16 << 40);

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// The most it may hold, [`MIN_VOLUME`] to [`MAX_VOLUME`]; what the disk has, if nothing is said. It is given when the
    /// volume is created, and can only grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Labels for people and selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Every fault of `spec`. Empty means valid.
pub fn validate_volume(spec: &VolumeSpec) -> Vec<String> {
    let range = MIN_VOLUME..=MAX_VOLUME;
    let size = spec.size.filter(|size| !range.contains(size));
    let size = size.map(|size| format!("size: {size} is not from {MIN_VOLUME} to {MAX_VOLUME}"));
    size.into_iter().chain(validate_labels(&spec.labels).into_iter().map(|fault| format!("labels: {fault}"))).collect()
}
