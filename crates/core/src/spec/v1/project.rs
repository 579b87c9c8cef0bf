//! A project: apps of one namespace that are changed together, with the policies that keep their networks apart.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppSpec, ContentSpec, PolicySpec, VolumeSpec};
use crate::model::{AppName, ContentName, PolicyName, VolumeName};

/// The label of a project's namespace, of its apps, and of what its policies select: the project's name.
pub const PROJECT_LABEL: &str = "hivemind.project";
/// The label of a project's app: the service's name, as the project's files have it.
pub const SERVICE_LABEL: &str = "hivemind.service";
/// Before the name of a network it is the label of who is in that network.
pub const NETWORK_LABEL: &str = "network.hivemind/";
/// Before the name of a network: it is its tenant's, and projects share it. Others are their namespace's alone.
pub const SHARED_NETWORK: &str = "shared/";
/// Before the name of a shared network it is the label of who is in that network.
pub const SHARED_NETWORK_LABEL: &str = "shared-network.hivemind/";
/// Before an app's name it is the name of the policy that keeps its networks apart from others.
pub const POLICY_PREFIX: &str = "project-";
/// The label of the namespace of a project that is being removed: it goes with the last app. Its value says what goes with
/// it: [`REMOVING_VOLUMES`], or anything else.
pub const REMOVING_LABEL: &str = "hivemind.project-removing";

/// The volumes that the project has made go, too.
pub const REMOVING_VOLUMES: &str = "volumes";

/// What a project is to be. All of it is taken, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    /// Its apps, or those of them that are to be changed.
    #[schema(value_type = BTreeMap<String, AppSpec>)]
    pub apps: BTreeMap<AppName, AppSpec>,
    /// Its policies: those of former documents that are not here go, but for those of `others`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, PolicySpec>)]
    pub policies: BTreeMap<PolicyName, PolicySpec>,
    /// Its secrets. Apps that have one whose content is another get new instances. Former ones that are not here stay until the
    /// project is removed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, ContentSpec>)]
    pub secrets: BTreeMap<ContentName, ContentSpec>,
    /// Its configs, likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, ContentSpec>)]
    pub configs: BTreeMap<ContentName, ContentSpec>,
    /// What is asked for of its volumes, which come with the apps that name them. Those that it has made go with it only if that
    /// is asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, VolumeSpec>)]
    pub volumes: BTreeMap<VolumeName, VolumeSpec>,
    /// Volumes of the namespace that are not the project's, and must be there.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub external_volumes: BTreeSet<VolumeName>,
    /// Apps that are the project's too and stay as they are, if they are there.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub others: BTreeSet<AppName>,
    /// Whether apps of the project that are named nowhere here are removed. Without it, they are named in the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove_orphans: bool,
    /// Apps that get new instances, whether or not they have changed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub renew: BTreeSet<AppName>,
}

/// An app that comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// What is waited for before the first instance of a generation is made.
    pub condition: Condition,
    /// Whether a change of the project that gives that app new instances gives this one new ones too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
}

/// What is waited for of an app that comes first. One of which no instances are wanted is not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// All its instances of the newest generation have been started.
    Started,
    /// All of them are Ready.
    Healthy,
    /// All of them have ended with exit code 0.
    Completed,
}
