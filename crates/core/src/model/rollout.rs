//! How far an app is on its way to its newest generation, and which ones it had.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppKey, Timestamp};
use crate::spec::v1::AppSpec;

/// The way of an app to its newest generation. Written by `control` only; from it and the instances alone an update goes
/// on after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// The generation that it leads to.
    pub generation: u64,
    /// How it stands.
    pub state: RolloutState,
    /// The last generation that was in place: what a failure goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<u64>,
    /// The generation whose instances are as good as new ones: it has the same specification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<u64>,
    /// What it takes back, if the former generation failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<Undone>,
    /// When it began.
    pub begun_at: Timestamp,
    /// When it last came further.
    pub moved_at: Timestamp,
    /// The most new instances that were in their place.
    #[serde(default)]
    pub placed: u32,
    /// Why it does not come further.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How an update stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// Instances are being replaced.
    #[default]
    Progressing,
    /// It has failed and stays as it is.
    Paused,
    /// All instances are of the newest generation.
    Complete,
}

/// A generation that did not come up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Undone {
    /// The generation.
    pub generation: u64,
    /// Why, in the user's words.
    pub reason: String,
}

/// A generation that an app had. The newest are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Past {
    /// The app.
    pub app: AppKey,
    /// The generation.
    pub generation: u64,
    /// What was asked for.
    pub spec: AppSpec,
    /// When.
    pub at: Timestamp,
    /// How it came about.
    #[serde(default)]
    pub cause: Cause,
    /// What became of it.
    #[serde(default)]
    pub outcome: Outcome,
}

/// How a generation came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "generation")]
pub enum Cause {
    /// The app was deployed or changed.
    #[default]
    Deployed,
    /// Its instances were to be replaced without a change.
    Restarted,
    /// A secret or a config of it has got another content.
    Contents,
    /// Somebody went back to this generation.
    RolledBack(u64),
    /// The one before did not come up, and this generation was put back.
    Recovered(u64),
}

/// What became of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "reason")]
pub enum Outcome {
    /// It never was in place as a whole, as far as is known.
    #[default]
    Unknown,
    /// It was in place.
    Complete,
    /// It did not come up: why, in the user's words.
    Failed(String),
}
