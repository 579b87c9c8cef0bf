//! How many instances of a service, where, with what, of which image; and commands around their lives.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{
    read::{Size, leaf, or_default, settings},
    service::{Grant, Ulimit},
};

/// How many, where, with what.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Deploy {
    /// `replicated`, `global`, or a job.
    pub mode: Option<String>,
    /// How many instances.
    #[serde(deserialize_with = "leaf")]
    pub replicas: Option<u64>,
    /// Labels of the service, as opposed to its instances.
    #[serde(deserialize_with = "settings")]
    pub labels: BTreeMap<String, String>,
    /// How instances are replaced.
    pub update_config: Option<Rollout>,
    /// How they are replaced on the way back.
    pub rollback_config: Option<Rollout>,
    /// What they get at least and at most.
    #[serde(deserialize_with = "or_default")]
    pub resources: Resources,
    /// When they are started again.
    pub restart_policy: Option<RestartPolicy>,
    /// Where they may run.
    #[serde(deserialize_with = "or_default")]
    pub placement: Placement,
}

/// How instances are replaced.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Rollout {
    /// How many at once; 0 is all.
    #[serde(deserialize_with = "leaf")]
    pub parallelism: Option<u64>,
    /// Between two steps.
    #[serde(deserialize_with = "leaf")]
    pub delay: Option<Duration>,
    /// `continue`, `rollback` or `pause`.
    pub failure_action: Option<String>,
    /// How long a new instance is watched.
    #[serde(deserialize_with = "leaf")]
    pub monitor: Option<Duration>,
    /// How many may fail, from 0 to 1.
    #[serde(deserialize_with = "leaf")]
    pub max_failure_ratio: Option<f64>,
    /// `start-first` or `stop-first`.
    pub order: Option<String>,
}

/// What instances get at least and at most.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// At most.
    #[serde(deserialize_with = "or_default")]
    pub limits: Amount,
    /// At least.
    #[serde(deserialize_with = "or_default")]
    pub reservations: Amount,
}

/// Amounts of CPU time, memory and more.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Amount {
    /// CPUs, as a number with a fraction.
    #[serde(deserialize_with = "leaf")]
    pub cpus: Option<f64>,
    /// Memory.
    #[serde(deserialize_with = "leaf")]
    pub memory: Option<Size>,
    /// Processes; -1 is without a limit.
    #[serde(deserialize_with = "leaf")]
    pub pids: Option<i64>,
    /// Devices by what they can.
    pub devices: Vec<DeviceRequest>,
}

/// Devices that are asked for by what they can.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// What they can, e.g. `gpu`.
    pub capabilities: Vec<String>,
    /// How many, or `all`.
    #[serde(deserialize_with = "leaf")]
    pub count: Option<String>,
    /// Which.
    pub device_ids: Vec<String>,
    /// Whose, e.g. `nvidia`.
    pub driver: Option<String>,
}

/// When instances are started again.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// `none`, `on-failure` or `any`.
    pub condition: Option<String>,
    /// Before a start.
    #[serde(deserialize_with = "leaf")]
    pub delay: Option<Duration>,
    /// How often.
    #[serde(deserialize_with = "leaf")]
    pub max_attempts: Option<u64>,
    /// How long an instance runs until its start counts as a success.
    #[serde(deserialize_with = "leaf")]
    pub window: Option<Duration>,
}

/// Where instances may run.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// E.g. `node.labels.disk == ssd`.
    pub constraints: Vec<String>,
    /// The most on one node.
    #[serde(deserialize_with = "leaf")]
    pub max_replicas_per_node: Option<u64>,
}

/// How an image is made.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Build {
    /// The folder, absolute, or an address.
    pub context: Option<String>,
    /// The Dockerfile's name in it.
    pub dockerfile: Option<String>,
    /// The Dockerfile itself.
    pub dockerfile_inline: Option<String>,
    /// Arguments; `None`: of the environment, which has none of the name.
    pub args: BTreeMap<String, Option<String>>,
    /// Further folders by name.
    #[serde(deserialize_with = "settings")]
    pub additional_contexts: BTreeMap<String, String>,
    /// Where layers are looked for.
    pub cache_from: Vec<String>,
    /// Where layers are kept.
    pub cache_to: Vec<String>,
    /// Names of hosts with their addresses.
    pub extra_hosts: BTreeMap<String, Vec<String>>,
    /// Labels of the image.
    #[serde(deserialize_with = "settings")]
    pub labels: BTreeMap<String, String>,
    /// The network of its commands.
    pub network: Option<String>,
    /// Whether no layer is reused.
    #[serde(deserialize_with = "leaf")]
    pub no_cache: Option<bool>,
    /// Platforms.
    pub platforms: Vec<String>,
    /// Whether base images are fetched anew.
    #[serde(deserialize_with = "leaf")]
    pub pull: Option<bool>,
    /// Secrets that commands see.
    pub secrets: Vec<Grant>,
    /// The size of `/dev/shm`.
    #[serde(deserialize_with = "leaf")]
    pub shm_size: Option<Size>,
    /// Agents of SSH by name.
    #[serde(deserialize_with = "settings")]
    pub ssh: BTreeMap<String, String>,
    /// Further names of the image.
    pub tags: Vec<String>,
    /// The stage.
    pub target: Option<String>,
    /// Limits of processes.
    pub ulimits: BTreeMap<String, Ulimit>,
}

/// A command in an instance, or a container before it.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// The words of the command.
    pub command: Option<Vec<String>>,
    /// Of a container before it: its image; `None`: the service's.
    pub image: Option<String>,
    /// `USER[:GROUP]`; `None`: the service's.
    pub user: Option<String>,
    /// Whether it has all rights of the host.
    #[serde(deserialize_with = "leaf")]
    pub privileged: Option<bool>,
    /// The folder it begins in.
    pub working_dir: Option<String>,
    /// Variables beside the service's.
    pub environment: BTreeMap<String, Option<String>>,
    /// Of a container before it: whether each instance has its own.
    #[serde(deserialize_with = "leaf")]
    pub per_replica: Option<bool>,
}
