//! What can be said of a volume.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::validate_labels;
use crate::model::Bytes;

/// The smallest volume that has a limit: what a file system needs for itself is a small part of it.
pub const MIN_VOLUME: Bytes = Bytes(32 << 20);
/// The largest: what a file system with blocks of 4 KiB and 32 bits for their numbers holds.
pub const MAX_VOLUME: Bytes = Bytes((16 << 40) - (1 << 30));

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// The most that it may hold with what its file system needs for itself, [`MIN_VOLUME`] to [`MAX_VOLUME`]. It is given
    /// when the volume is created, and can grow. Without it, the node's file system is the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Labels for people and selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl VolumeSpec {
    /// The size that a volume with `self` has when `wanted` is asked for; nothing is said of it: it stays.
    ///
    /// # Errors
    /// Why it cannot be, in the user's words.
    pub fn resized(&self, wanted: Option<Bytes>) -> Result<Option<Bytes>, String> {
        match (self.size, wanted) {
            (size, None) => Ok(size),
            (Some(size), Some(wanted)) if wanted >= size => Ok(Some(wanted)),
            (Some(size), Some(wanted)) => Err(format!(
                "size: a volume cannot be made smaller, and it has {size}: make another of {wanted}, and copy what is in it"
            )),
            (None, Some(wanted)) => Err(format!(
                "size: it was made without a limit, and gets none later: make another of {wanted}, and copy what is in it"
            )),
        }
    }
}

/// Every fault of `spec`. Empty means valid.
pub fn validate_volume(spec: &VolumeSpec) -> Vec<String> {
    let mut faults: Vec<_> =
        validate_labels(&spec.labels).into_iter().map(|fault| format!("labels: {fault}")).collect();
    if let Some(size) = spec.size.filter(|size| !(MIN_VOLUME..=MAX_VOLUME).contains(size)) {
        faults.push(format!("size: {size} is not from {MIN_VOLUME} to {MAX_VOLUME}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_only_grows() {
        let of = |size: Option<u64>| VolumeSpec { size: size.map(|mib| Bytes(mib << 20)), ..VolumeSpec::default() };
        let to = |size: u64| Some(Bytes(size << 20));
        assert_eq!(of(Some(64)).resized(None), Ok(to(64)));
        assert_eq!(of(Some(64)).resized(to(64)), Ok(to(64)));
        assert_eq!(of(Some(64)).resized(to(65)), Ok(to(65)));
        assert_eq!(of(None).resized(None), Ok(None));
        assert!(of(Some(64)).resized(to(63)).expect_err("refused").contains("it has 64Mi"));
        assert!(of(None).resized(to(64)).expect_err("refused").contains("another of 64Mi"));
        for (mib, faults) in [(31, 1), (32, 0), (16 << 20, 1)] {
            assert_eq!(validate_volume(&of(Some(mib))).len(), faults, "{mib}");
        }
    }
}
