//! Volumes: what outlives the containers that write it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Timestamp, VolumeId, VolumeKey};
use crate::spec::v1::VolumeSpec;

/// A named volume. Its folder on the node is made when it is first used, and named by its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its full name.
    pub key: VolumeKey,
    /// What was asked for.
    #[serde(default)]
    pub spec: VolumeSpec,
    /// When it was created.
    pub created_at: Timestamp,
    /// Set when it is deleted: the node removes the folder, then the row goes. So a folder without a row is never one
    /// that somebody wanted to be removed.
    #[serde(default)]
    pub deleting: bool,
}
