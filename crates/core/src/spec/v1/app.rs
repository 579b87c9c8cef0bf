//! What can be said of an app.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    balance::BalanceSpec,
    container::ContainerSpec,
    file::FileSpec,
    health::{HealthSpec, ProbesSpec, start_allowance_ms},
    limit::LimitSpec,
    logs::LogSpec,
    mount::{MountSource, MountSpec},
    project::Dependency,
    service::ServiceSpec,
    sidecar::SidecarSpec,
    update::UpdateSpec,
};
use crate::model::{AppName, Bytes, ContentKind, MilliCpu, Protocol, ServiceName};

fn one() -> u32 {
    1
}

/// An app: an image and how to run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// The image, e.g. `nginx:latest`, `registry.local:5000/team/web@sha256:…`.
    pub image: String,
    /// How many instances, 0 to [`super::MAX_REPLICAS`].
    #[serde(default = "one")]
    pub replicas: u32,
    /// Replaces the image's entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's default arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment variables, added to the image's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; the image's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory, absolute; the image's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// How its containers are made: rights, file systems in memory, devices, hooks.
    #[serde(default, skip_serializing_if = "ContainerSpec::is_default")]
    pub container: ContainerSpec,
    /// Containers beside its own in each instance, in its network namespace: started before it in this order, and ended after it in
    /// the reverse one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sidecars: Vec<SidecarSpec>,
    /// Ports of the instances, whichever container listens there, that the service offers, and that are published on the nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSpec>,
    /// DNS names of the app's service besides `<app>.<namespace>.<tenant>.hivemind`, e.g. `web.local`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// Whether the app's service has no virtual address: its names stand for its Ready instances themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub headless: bool,
    /// More services over its instances, by their names, each with ports of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, ServiceSpec>)]
    pub more_services: BTreeMap<ServiceName, ServiceSpec>,
    /// The networks that its instances are in, each with the names that they have there besides the app's. An instance
    /// that is in networks sees of the others of its namespace that are in any only those that are in one with it. Networks are
    /// their namespace's; `shared/NAME` is the tenant's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, BTreeSet<String>>,
    /// Apps of its namespace that come first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Dependency>)]
    pub depends_on: BTreeMap<AppName, Dependency>,
    /// How the service spreads connections over the instances.
    #[serde(default, skip_serializing_if = "BalanceSpec::is_default")]
    pub balance: BalanceSpec,
    /// Limits of the traffic of each instance.
    #[serde(default, skip_serializing_if = "LimitSpec::is_default")]
    pub limits: LimitSpec,
    /// Volumes, and folders of the node, in the instances' file systems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountSpec>,
    /// Secrets of the namespace as files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<FileSpec>,
    /// Configs of the namespace as files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<FileSpec>,
    /// How to see whether an instance is well. Without it, the first TCP port must accept a connection once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// The same by up to three checks with a purpose each, instead of [`AppSpec::health`].
    #[serde(default, skip_serializing_if = "ProbesSpec::is_empty")]
    pub probes: ProbesSpec,
    /// How much of each instance's log is kept.
    #[serde(default, skip_serializing_if = "LogSpec::is_default")]
    pub logging: LogSpec,
    /// What to do when the process ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How to stop an instance.
    #[serde(default)]
    pub stop: StopSpec,
    /// How instances are replaced when the app is changed.
    #[serde(default, skip_serializing_if = "UpdateSpec::is_default")]
    pub update: UpdateSpec,
    /// When to fetch the image.
    #[serde(default)]
    pub pull: PullPolicy,
    /// Labels for people and selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl AppSpec {
    /// The specification of one instance of `image` with all defaults.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            replicas: one(),
            command: None,
            args: None,
            env: BTreeMap::new(),
            user: None,
            workdir: None,
            resources: Resources::default(),
            container: ContainerSpec::default(),
            sidecars: Vec::new(),
            ports: Vec::new(),
            services: Vec::new(),
            headless: false,
            more_services: BTreeMap::new(),
            networks: BTreeMap::new(),
            depends_on: BTreeMap::new(),
            balance: BalanceSpec::default(),
            limits: LimitSpec::default(),
            mounts: Vec::new(),
            secrets: Vec::new(),
            configs: Vec::new(),
            health: None,
            probes: ProbesSpec::default(),
            logging: LogSpec::default(),
            restart: RestartPolicy::default(),
            stop: StopSpec::default(),
            update: UpdateSpec::default(),
            pull: PullPolicy::default(),
            labels: BTreeMap::new(),
        }
    }

    /// The images that an instance is made of: the app's own, and those of what runs before and beside it.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let before = self.container.hooks.pre_start.iter().filter_map(|init| init.image.as_deref());
        let beside = self.sidecars.iter().map(|sidecar| &*sidecar.image);
        std::iter::once(&*self.image).chain(before).chain(beside)
    }

    /// What is mounted in any of an instance's containers.
    pub fn all_mounts(&self) -> impl Iterator<Item = &MountSpec> {
        self.mounts.iter().chain(self.sidecars.iter().flat_map(|sidecar| &sidecar.mounts))
    }

    /// The fields that give rights on the machine itself, by name: folders of the node, and those of
    /// [`ContainerSpec::operator_only`].
    pub fn operator_only(&self) -> Vec<String> {
        let container = self.container.operator_only().into_iter().map(|field| format!("container.{field}"));
        let folders = self.mounts.iter().enumerate();
        let folders = folders.filter(|(_, mount)| matches!(mount.source, MountSource::Bind { .. }));
        let folders = folders.map(|(at, _)| format!("mounts[{at}].source"));
        container.chain(folders).chain(self.sidecars.iter().flat_map(SidecarSpec::operator_only)).collect()
    }

    /// The DNS names of all its services, but for those that services have by themselves.
    pub fn all_dns_names(&self) -> impl Iterator<Item = &String> {
        self.services.iter().chain(self.more_services.values().flat_map(|service| &service.dns_names))
    }

    /// The secrets and configs that any of an instance's containers has as files; one that is there twice is said twice.
    pub fn contents(&self) -> impl Iterator<Item = (ContentKind, &FileSpec)> {
        let beside = self.sidecars.iter().flat_map(|sidecar| files(&sidecar.secrets, &sidecar.configs));
        self.own_contents().chain(beside)
    }

    /// The same of the app's own container.
    pub fn own_contents(&self) -> impl Iterator<Item = (ContentKind, &FileSpec)> {
        files(&self.secrets, &self.configs)
    }

    /// How long, in milliseconds, an instance may take to start before anything is wrong with it: its containers start one
    /// after the other.
    pub fn start_allowance_ms(&self) -> i64 {
        let beside = self.sidecars.iter().map(|it| start_allowance_ms(it.health.as_ref(), &it.probes));
        start_allowance_ms(self.health.as_ref(), &self.probes) + beside.sum::<i64>()
    }

    /// Whether going from `self` to `new` needs new instances, i.e. something differs other than `replicas`, what is
    /// the service's alone, what is for the next instances only, and what changes while an instance runs.
    pub fn needs_new_instances(&self, new: &Self) -> bool {
        let Self { replicas, limits, services, headless, more_services, .. } = self.clone();
        let Self { balance, networks, depends_on, pull, update, .. } = self.clone();
        // Names in a network are the service's; which networks there are is the instances'.
        let moved = !networks.keys().eq(new.networks.keys());
        let same_instances = Self {
            replicas,
            limits,
            services,
            headless,
            more_services,
            balance,
            networks,
            depends_on,
            pull,
            update,
            ..new.clone()
        };
        moved || *self != same_instances
    }
}

fn files<'a>(secrets: &'a [FileSpec], configs: &'a [FileSpec]) -> impl Iterator<Item = (ContentKind, &'a FileSpec)> {
    let secrets = secrets.iter().map(|file| (ContentKind::Secret, file));
    secrets.chain(configs.iter().map(|file| (ContentKind::Config, file)))
}

/// The most a container may use. Absent means unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// CPUs; at least 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<MilliCpu>,
    /// Memory; at least [`super::MIN_MEMORY`]. Swap is not added to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Processes and threads; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl Resources {
    /// Whether nothing is limited.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads `[OUTER:]TARGET[/tcp|/udp]`. `forms` are told to who writes anything else.
pub(super) fn port_text(text: &str, forms: &str) -> Result<(Option<u16>, u16, Protocol), String> {
    let refuse = |why: &str| format!("port {text:?} {why}; write {forms}");
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(refuse(&format!("has the protocol {other:?}"))),
    };
    let number = |part: &str| match part.parse::<u16>() {
        Ok(0) | Err(_) => Err(refuse("is not a number from 1 to 65535")),
        Ok(port) => Ok(port),
    };
    match ports.split_once(':') {
        None => Ok((None, number(ports)?, protocol)),
        Some((outer, target)) => Ok((Some(number(outer)?), number(target)?, protocol)),
    }
}

/// A port. As text: `80`, `8080:80`, `8080:80/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The instance's port.
    pub target: u16,
    /// The port on all addresses of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<u16>,
    /// TCP by default.
    #[serde(default)]
    pub protocol: Protocol,
}

impl FromStr for PortSpec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (published, target, protocol) = port_text(text, "80, 8080:80 or 8080:80/udp")?;
        Ok(Self { target, published, protocol })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(published) = self.published {
            write!(f, "{published}:")?;
        }
        write!(f, "{}/{}", self.target, self.protocol)
    }
}

/// What to do when the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Start it again, whatever its exit code.
    #[default]
    Always,
    /// Start it again unless its exit code is 0.
    OnFailure,
    /// Leave it.
    Never,
}

/// How to stop an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopSpec {
    /// The first signal, e.g. `SIGTERM`; the image's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Seconds until SIGKILL, 0 to 3600.
    #[serde(default = "StopSpec::default_grace")]
    pub grace_seconds: u32,
    /// Seconds before the first signal, 0 to 3600: an instance that is to stop gets no new connections, and this long keeps
    /// those that it has. When it has none left, it does not wait.
    #[serde(default = "StopSpec::default_drain", skip_serializing_if = "StopSpec::is_default_drain")]
    pub drain_seconds: u32,
}

impl StopSpec {
    /// Ten seconds, as Docker gives.
    fn default_grace() -> u32 {
        10
    }

    const fn default_drain() -> u32 {
        5
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    const fn is_default_drain(seconds: &u32) -> bool {
        *seconds == Self::default_drain()
    }
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: None, grace_seconds: Self::default_grace(), drain_seconds: Self::default_drain() }
    }
}

/// When to fetch the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// When the node does not have it.
    #[default]
    IfMissing,
    /// Before every creation of an instance.
    Always,
    /// Never: the node must have it.
    Never,
}
