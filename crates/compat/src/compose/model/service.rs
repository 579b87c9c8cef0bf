//! A service: everything about the instances of one image that the product honours.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{
    super::short::Ports,
    deploy::{Build, Deploy, DeviceRequest, Hook},
    read::{Mode, Size, leaf, or_default, settings, texts},
};

/// A service. What is `None` was not said: the image's, or the product's default holds.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Notes for the runtime.
    #[serde(deserialize_with = "settings")]
    pub annotations: BTreeMap<String, String>,
    /// How the image is made.
    pub build: Option<Build>,
    /// Capabilities that are added, without `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities that are taken away.
    pub cap_drop: Vec<String>,
    /// The words of the command; empty: none. `None`: the image's.
    pub command: Option<Vec<String>>,
    /// Configs that instances see as files.
    pub configs: Vec<Grant>,
    /// A name of its own: here a further DNS name.
    pub container_name: Option<String>,
    /// A share of CPU time against others; 1024 is the usual one.
    #[serde(deserialize_with = "leaf")]
    pub cpu_shares: Option<f64>,
    /// CPUs, as a number with a fraction.
    #[serde(deserialize_with = "leaf")]
    pub cpus: Option<f64>,
    /// CPUs by number, e.g. `0-3`.
    pub cpuset: Option<String>,
    /// Services that come first.
    pub depends_on: BTreeMap<String, Dependency>,
    /// How many, where, with what.
    #[serde(deserialize_with = "or_default")]
    pub deploy: Deploy,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// DNS servers.
    pub dns: Vec<String>,
    /// Options of the resolver.
    pub dns_opt: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// The domain of the host name.
    pub domainname: Option<String>,
    /// The words of the entry point; empty: none. `None`: the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Files of variables; a load has read them into `environment`.
    pub env_file: Vec<EnvFile>,
    /// Variables. `None` as a value: the name was said, and nothing gives it a value.
    pub environment: BTreeMap<String, Option<String>>,
    /// Ports that other services may use.
    #[serde(deserialize_with = "texts")]
    pub expose: Vec<String>,
    /// Names of hosts with their addresses; `host-gateway` is the node.
    pub extra_hosts: BTreeMap<String, Vec<String>>,
    /// GPUs.
    pub gpus: Vec<DeviceRequest>,
    /// Further groups of the process.
    #[serde(deserialize_with = "texts")]
    pub group_add: Vec<String>,
    /// How it is found out whether an instance is well.
    pub healthcheck: Option<HealthCheck>,
    /// The host name.
    pub hostname: Option<String>,
    /// The image's reference.
    pub image: Option<String>,
    /// Whether a small init process reaps.
    #[serde(deserialize_with = "leaf")]
    pub init: Option<bool>,
    /// Whose IPC namespace.
    pub ipc: Option<String>,
    /// Files of labels; a load has read them into `labels`.
    pub label_file: Vec<String>,
    /// Labels.
    #[serde(deserialize_with = "settings")]
    pub labels: BTreeMap<String, String>,
    /// Services under other names: `SERVICE:ALIAS`.
    pub links: Vec<String>,
    /// What happens to what instances write.
    pub logging: Option<Logging>,
    /// The memory limit.
    #[serde(deserialize_with = "leaf")]
    pub mem_limit: Option<Size>,
    /// The memory that is kept for an instance.
    #[serde(deserialize_with = "leaf")]
    pub mem_reservation: Option<Size>,
    /// How readily memory is swapped out, from 0 to 100.
    #[serde(deserialize_with = "leaf")]
    pub mem_swappiness: Option<i64>,
    /// The limit of memory and swap together.
    #[serde(deserialize_with = "leaf")]
    pub memswap_limit: Option<Size>,
    /// `none`, `service:NAME`, or what else is not a network.
    pub network_mode: Option<String>,
    /// Networks by their key in the project.
    pub networks: BTreeMap<String, Option<Attachment>>,
    /// How soon the kernel ends it where memory is out, from -1000 to 1000.
    #[serde(deserialize_with = "leaf")]
    pub oom_score_adj: Option<i64>,
    /// Whose PID namespace.
    pub pid: Option<String>,
    /// The most processes; -1 is without a limit.
    #[serde(deserialize_with = "leaf")]
    pub pids_limit: Option<i64>,
    /// The image's platform, e.g. `linux/arm64`.
    pub platform: Option<String>,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Commands in an instance that has begun.
    pub post_start: Vec<Hook>,
    /// Containers that end before an instance begins.
    pub pre_start: Vec<Hook>,
    /// Commands in an instance that is to end.
    pub pre_stop: Vec<Hook>,
    /// Whether it has all rights of the host.
    #[serde(deserialize_with = "leaf")]
    pub privileged: Option<bool>,
    /// Profiles that enable it; none: always enabled.
    pub profiles: Vec<String>,
    /// When the image is fetched.
    pub pull_policy: Option<String>,
    /// Whether the root file system is read only.
    #[serde(deserialize_with = "leaf")]
    pub read_only: Option<bool>,
    /// `no`, `always`, `on-failure[:N]` or `unless-stopped`.
    pub restart: Option<String>,
    /// How many instances.
    #[serde(deserialize_with = "leaf")]
    pub scale: Option<u64>,
    /// Secrets that instances see as files.
    pub secrets: Vec<Grant>,
    /// Options such as `no-new-privileges:true`, `seccomp=FILE`.
    pub security_opt: Vec<String>,
    /// What the files of `seccomp` hold, by their paths: a load fills it in.
    #[serde(skip)]
    pub seccomp_profiles: BTreeMap<String, String>,
    /// The size of `/dev/shm`.
    #[serde(deserialize_with = "leaf")]
    pub shm_size: Option<Size>,
    /// Whether the standard input is kept open.
    #[serde(deserialize_with = "leaf")]
    pub stdin_open: Option<bool>,
    /// How long an instance may take to end.
    #[serde(deserialize_with = "leaf")]
    pub stop_grace_period: Option<Duration>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
    /// Kernel parameters of its namespaces.
    #[serde(deserialize_with = "settings")]
    pub sysctls: BTreeMap<String, String>,
    /// File systems in memory: `PATH[:OPTIONS]`.
    pub tmpfs: Vec<String>,
    /// Whether it has a terminal.
    #[serde(deserialize_with = "leaf")]
    pub tty: Option<bool>,
    /// Limits of its processes by name.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// `USER[:GROUP]`.
    pub user: Option<String>,
    /// Mounts.
    pub volumes: Vec<Mount>,
    /// The folder that the command begins in.
    pub working_dir: Option<String>,
}

/// A service that comes first, and what is waited for.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Dependency {
    /// What is waited for.
    pub condition: Condition,
    /// Whether this one is restarted with it.
    #[serde(default, deserialize_with = "leaf")]
    pub restart: Option<bool>,
    /// Whether it must be there; `None` is yes.
    #[serde(default, deserialize_with = "leaf")]
    pub required: Option<bool>,
}

/// What is waited for of a service that comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum Condition {
    /// It runs.
    #[serde(rename = "service_started")]
    Started,
    /// It is well.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// It has ended with 0.
    #[serde(rename = "service_completed_successfully")]
    Completed,
}

/// A config or secret that instances see.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// Its key in the project.
    pub source: String,
    /// The path in the container; `None`: `/run/secrets/NAME`, or `/NAME` of a config.
    pub target: Option<String>,
    /// The owner.
    pub uid: Option<String>,
    /// The group.
    pub gid: Option<String>,
    /// The rights.
    pub mode: Option<Mode>,
}

/// A device of the host.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Device {
    /// The path on the host, or a device's name of CDI.
    pub source: String,
    /// The path in the container; `None`: the same.
    pub target: Option<String>,
    /// Of `r`, `w`, `m`; `None`: all three.
    pub permissions: Option<String>,
}

/// A file of variables.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct EnvFile {
    /// The path, absolute.
    pub path: String,
    /// `raw`, or nothing for the usual grammar.
    pub format: Option<String>,
    /// Whether it must be there; `None` is yes.
    #[serde(deserialize_with = "leaf")]
    pub required: Option<bool>,
}

/// A health check.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// Whether the image's check is switched off.
    #[serde(deserialize_with = "leaf")]
    pub disable: Option<bool>,
    /// `NONE`, `CMD` with words, or `CMD-SHELL` with one text.
    pub test: Option<Vec<String>>,
    /// Between two checks.
    #[serde(deserialize_with = "leaf")]
    pub interval: Option<Duration>,
    /// How long one may take.
    #[serde(deserialize_with = "leaf")]
    pub timeout: Option<Duration>,
    /// How many in a row make an instance unwell.
    #[serde(deserialize_with = "leaf")]
    pub retries: Option<u64>,
    /// How long failures do not count after the start.
    #[serde(deserialize_with = "leaf")]
    pub start_period: Option<Duration>,
    /// Between two checks in that time.
    #[serde(deserialize_with = "leaf")]
    pub start_interval: Option<Duration>,
}

/// What happens to what instances write.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// The driver.
    pub driver: Option<String>,
    /// Its options, e.g. `max-size`.
    #[serde(deserialize_with = "settings")]
    pub options: BTreeMap<String, String>,
}

/// What a service is in a network.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Further names in it.
    pub aliases: Vec<String>,
}

/// A published port, or a range of them.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Port {
    /// A name for people.
    pub name: Option<String>,
    /// The ports in the container; checked to be there.
    #[serde(deserialize_with = "leaf")]
    pub target: Option<Ports>,
    /// The ports of the node; `None`, or 0: one that is free.
    #[serde(deserialize_with = "leaf")]
    pub published: Option<Ports>,
    /// The node's address; `None`: all of them.
    pub host_ip: Option<String>,
    /// `tcp` or `udp`; `None` is `tcp`.
    pub protocol: Option<String>,
    /// What is spoken over it.
    pub app_protocol: Option<String>,
    /// `ingress` or `host`.
    pub mode: Option<String>,
}

/// Both limits of a kind.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Ulimit {
    /// What holds at first; -1 is without a limit.
    #[serde(deserialize_with = "leaf")]
    pub soft: Option<i64>,
    /// How far a process may raise it; -1 is without a limit.
    #[serde(deserialize_with = "leaf")]
    pub hard: Option<i64>,
}

/// A mount.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs` or another kind of the specification.
    #[serde(rename = "type")]
    pub kind: String,
    /// A volume's key in the project, or an absolute path of the host; `None`: a volume without a name.
    pub source: Option<String>,
    /// The path in the container; checked to be there.
    pub target: String,
    /// Whether it cannot be written to.
    #[serde(deserialize_with = "leaf")]
    pub read_only: Option<bool>,
    /// What is special of a bind.
    pub bind: Option<Bind>,
    /// What is special of a volume.
    pub volume: Option<VolumeMount>,
    /// What is special of a file system in memory.
    pub tmpfs: Option<Tmpfs>,
}

/// What is special of a bind.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Bind {
    /// How mounts in it are seen from outside.
    pub propagation: Option<String>,
    /// Whether a missing folder is made.
    #[serde(deserialize_with = "leaf")]
    pub create_host_path: Option<bool>,
    /// Whether what is mounted in it comes along.
    pub recursive: Option<String>,
}

/// What is special of a volume.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// Whether it is left empty at first, as opposed to filled from the image.
    #[serde(deserialize_with = "leaf")]
    pub nocopy: Option<bool>,
    /// A folder in it.
    pub subpath: Option<String>,
}

/// What is special of a file system in memory.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Tmpfs {
    /// The most it holds.
    #[serde(deserialize_with = "leaf")]
    pub size: Option<Size>,
    /// The rights of its root.
    pub mode: Option<Mode>,
}
