//! What can be said of an app's containers beyond the command: names, rights, limits of processes, file systems in
//! memory, devices, hooks. Every field's default is what Docker does without the option, but for
//! [`SecuritySpec::no_new_privileges`].

mod check;
#[cfg(test)]
mod check_tests;
mod seccomp;
mod text;

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::Bytes;

pub(super) use check::check;
pub use check::{DEFAULT_CAPABILITIES, all_capabilities, capability};
pub use seccomp::{Machine, Seccomp, check_profile, profile_for};
pub use text::{DeviceName, device_name, extra_host, seccomp_file, security_option, sysctl, tmpfs, ulimit};

/// The address of [`ExtraHost`] that stands for the node: Docker's word.
pub const HOST_GATEWAY: &str = "host-gateway";
/// A limit of [`Ulimit`] that is none.
pub const UNLIMITED: i64 = -1;
/// The most seconds that a hook may take.
pub const MAX_HOOK_SECONDS: u32 = 3_600;

fn yes() -> bool {
    true
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How an app's containers are made.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// The host name; the instance's name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The domain of the host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// The root file system cannot be written to. File systems in memory and volumes still can.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// All rights of the host. For the operator only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub privileged: bool,
    /// Capabilities besides the default ones, e.g. `NET_ADMIN`, or `ALL`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities that are taken away, or `ALL`: then only those of `cap_add` are left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// What processes may not do, whatever their rights.
    #[serde(default, skip_serializing_if = "SecuritySpec::is_default")]
    pub security: SecuritySpec,
    /// Limits of each process by name, e.g. `nofile`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// File systems in memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<TmpfsSpec>,
    /// The size of `/dev/shm`; 64Mi by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<Bytes>,
    /// Kernel parameters of the container's own namespaces: `net.*`, `fs.mqueue.*`, and those of System V IPC.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Whether process 1 is a small program that passes signals on and takes care of orphans.
    #[serde(default, skip_serializing_if = "is_false")]
    pub init: bool,
    /// Devices of the host. For the operator only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceSpec>,
    /// Devices by their names of CDI, e.g. `nvidia.com/gpu=all`. For the operator only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdi: Vec<String>,
    /// More lines of `/etc/hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<ExtraHost>,
    /// How names are looked up.
    #[serde(default, skip_serializing_if = "DnsSpec::is_default")]
    pub dns: DnsSpec,
    /// Whether the process has a terminal; its output is then one stream.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tty: bool,
    /// Whether the standard input is kept open, though nobody writes; else it is empty.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stdin_open: bool,
    /// More groups of the process, by name or number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_add: Vec<String>,
    /// How soon the kernel ends the process where memory is out: -1000 (never) to 1000 (first).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// What is run in the container besides its process.
    #[serde(default, skip_serializing_if = "HooksSpec::is_default")]
    pub hooks: HooksSpec,
    /// Notes for the runtime. For the operator only: some runtimes take orders from them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl ContainerSpec {
    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The fields that give rights on the machine itself, by name. Who is not the operator may use none of them: the
    /// one place that says so.
    pub fn operator_only(&self) -> Vec<&'static str> {
        let beyond = |name: &String| !capability(name).is_some_and(|name| DEFAULT_CAPABILITIES.contains(&&*name));
        [
            ("privileged", self.privileged),
            ("cap_add", self.cap_add.iter().any(beyond)),
            ("security.seccomp", self.security.seccomp != Seccomp::Default),
            ("security.apparmor", self.security.apparmor.is_some()),
            ("devices", !self.devices.is_empty()),
            ("cdi", !self.cdi.is_empty()),
            ("oom_score_adj", self.oom_score_adj.is_some_and(|score| score < 0)),
            ("annotations", !self.annotations.is_empty()),
        ]
        .into_iter()
        .filter_map(|(field, used)| used.then_some(field))
        .collect()
    }
}

/// What processes may not do, whatever their rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecuritySpec {
    /// Which system calls there are. Other than `default` is for the operator only.
    #[serde(default, skip_serializing_if = "Seccomp::is_default")]
    pub seccomp: Seccomp,
    /// Programs with set-user-id or file capabilities give no more rights than the process has. Stricter than Docker:
    /// true by default.
    #[serde(default = "yes")]
    pub no_new_privileges: bool,
    /// The AppArmor profile, which must be loaded on the node, or `unconfined`; by default `docker-default` or
    /// `cri-containerd.apparmor.d` where it is loaded. For the operator only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor: Option<String>,
}

impl SecuritySpec {
    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for SecuritySpec {
    fn default() -> Self {
        Self { seccomp: Seccomp::Default, no_new_privileges: true, apparmor: None }
    }
}

/// Both limits of a kind, in the kernel's units (`man 2 getrlimit`); -1 is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// What holds at first; at most `hard`.
    pub soft: i64,
    /// How far a process may raise it.
    pub hard: i64,
}

/// A file system in memory. What is in it counts as the container's memory, and is gone when the process ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TmpfsSpec {
    /// Where, absolute.
    pub path: String,
    /// The most it holds; half of the machine's memory by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// The rights of its root in octal, e.g. `1777`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The user that its root belongs to; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group that its root belongs to; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Whether programs in it can be run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exec: bool,
}

impl TmpfsSpec {
    /// One at `path`, as Docker makes it.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), size: None, mode: None, uid: None, gid: None, exec: false }
    }
}

/// A device of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Its path on the host: a device, or a folder of devices.
    pub host: String,
    /// Its path in the container; the same by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What may be done with it: `r` read, `w` write, `m` make its node.
    #[serde(default = "DeviceSpec::all")]
    pub permissions: String,
}

impl DeviceSpec {
    /// All that can be done with a device.
    pub fn all() -> String {
        "rwm".into()
    }
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address, or [`HOST_GATEWAY`] for the node.
    pub address: String,
}

/// How names are looked up. Services are found by their names in any case.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsSpec {
    /// Who is asked for names that are not of services; the node's name servers by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub servers: Vec<IpAddr>,
    /// Domains that names without a final dot are looked up in; that of the app's namespace by default, and `.` alone
    /// is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver (`man 5 resolv.conf`), e.g. `ndots:2`; instead of `ndots:1 timeout:2 attempts:2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl DnsSpec {
    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is run before an instance, and in its container besides its process; one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HooksSpec {
    /// Before the instance begins, each in a container of its own in its place: with its network, its rights and its log.
    /// One that fails is begun again, with growing pauses, unless the app is never restarted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre_start: Vec<InitSpec>,
    /// After the process has begun, before the instance can be Ready. When one fails, the instance is ended and started
    /// again as after a crash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post_start: Vec<HookSpec>,
    /// Before the stop signal, and inside the time until SIGKILL. When one fails, the stop goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre_stop: Vec<HookSpec>,
}

impl HooksSpec {
    /// Whether there are none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A container that runs to its end before the app's.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InitSpec {
    /// Its image; the app's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Replaces the image's entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's default arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment variables, added to the app's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Who runs it; the app's user by default, or the image's if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory, absolute; the app's by default, or the image's if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
}

/// A command in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HookSpec {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Seconds until it has failed, 1 to 3600.
    #[serde(default = "HookSpec::default_timeout")]
    pub timeout_seconds: u32,
    /// Who runs it; the container's user by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where, absolute; the container's working directory by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Environment variables, added to the container's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl HookSpec {
    fn default_timeout() -> u32 {
        30
    }

    /// `command` with all defaults.
    pub fn new(command: Vec<String>) -> Self {
        Self { command, timeout_seconds: Self::default_timeout(), user: None, workdir: None, env: BTreeMap::new() }
    }
}
