//! The objects of the store. Each has one writer per field: what the user wants is written by the API,
//! what was decided by `control`, what is by the agent (through `control`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AppKey, ContainerId, ContentVersions, ErrorCode, InstanceId, NodeName, PolicyKey, Scope, ServiceKey, Shares,
    SidecarName, SidecarStatus, TenantName, Timestamp,
};
use crate::spec::v1::{AppSpec, BalanceSpec, LimitSpec, PolicySpec, PortSpec, ServedPort, ServiceSpec, SidecarSpec};

/// A transport protocol that carries ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port with its protocol, shown as `80/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct PortProto {
    /// 1 to 65535.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl fmt::Display for PortProto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// The addresses of an instance or a service: one of each family in a dual-stack cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema)]
pub struct Addresses {
    /// The IPv4 address; absent in an IPv6-only cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address; absent in an IPv4-only cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The addresses there are, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = std::net::IpAddr> {
        self.v4.map(Into::into).into_iter().chain(self.v6.map(Into::into))
    }
}

/// An owner of namespaces. `default` always exists, also without a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Limits of the traffic of its instances, on each node together.
    #[serde(default, skip_serializing_if = "LimitSpec::is_default")]
    pub limits: LimitSpec,
    /// When it was made, or first given limits.
    pub created_at: Timestamp,
}

/// A namespace of a tenant. The namespace `default` of every tenant always exists, also without a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Namespace {
    /// Tenant and name.
    pub scope: Scope,
    /// Labels for selectors. [`NAMESPACE_NAME_LABEL`] is not among them: it is always the name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The label that every namespace has, with its name as the value, as in Kubernetes.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Namespace {
    /// All labels, with [`NAMESPACE_NAME_LABEL`].
    pub fn all_labels(scope: &Scope, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut all = labels.clone();
        all.insert(NAMESPACE_NAME_LABEL.into(), scope.namespace.to_string());
        all
    }
}

/// A policy of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// Its full name.
    pub key: PolicyKey,
    /// What it says.
    pub spec: PolicySpec,
    /// When it was first applied.
    pub created_at: Timestamp,
}

/// What the user wants: an app with its specification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct App {
    /// Its full name.
    pub key: AppKey,
    /// What was asked for.
    pub spec: AppSpec,
    /// Grows with every change that needs new instances ([`AppSpec::needs_new_instances`], and `app restart`).
    pub generation: u64,
    /// When it was first deployed.
    pub created_at: Timestamp,
    /// Set by `app rm`: the instances are stopped, then the app's rows go.
    #[serde(default)]
    pub deleting: bool,
}

/// How an app stands, derived from its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct AppStatus {
    /// Instances that should run.
    pub desired: u32,
    /// Instances of the newest generation that are Ready.
    pub ready: u32,
    /// Instances of any generation that are Ready: while an app is changed, the former ones go on serving.
    #[serde(default)]
    pub serving: u32,
    /// Instances of the newest generation.
    pub updated: u32,
    /// Instances of any generation that still exist.
    pub total: u32,
}

/// Whether an instance is to run or to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// It is to run.
    Run,
    /// It is to be stopped and removed.
    Stop,
}

/// One replica of an app, placed on a node. Written by `control` only; the addresses belong to the instance
/// as long as this row exists, which is what makes address management leak-free.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// The app it is a replica of.
    pub app: AppKey,
    /// The app's generation that it runs.
    pub generation: u64,
    /// The specification that it runs (the app's, at `generation`).
    pub spec: AppSpec,
    /// Where it runs.
    pub node: NodeName,
    /// Its addresses.
    pub addresses: Addresses,
    /// Run or stop.
    pub desired: Desired,
    /// The secrets and configs that it is given, as they were when it was placed: it has these versions or later ones.
    /// Versions before this field existed noted none.
    #[serde(default, skip_serializing_if = "ContentVersions::is_empty")]
    pub contents: ContentVersions,
    /// When it was placed.
    pub created_at: Timestamp,
}

impl Instance {
    /// The name people see, and the container's host name: the app's name and the id's first five characters.
    pub fn name(&self) -> String {
        format!("{}-{}", self.app.name, &self.id.as_str()[..5])
    }

    /// Its containers: the app's own first, and then its sidecars in the order in which they are started.
    pub fn containers(&self) -> impl Iterator<Item = ContainerId> {
        let of = |it: &SidecarSpec| ContainerId::of_sidecar(self.id.clone(), it.name.clone());
        std::iter::once(ContainerId::from(&self.id)).chain(self.spec.sidecars.iter().map(of))
    }
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Placed; nothing done yet.
    #[default]
    Pending,
    /// The image is being fetched.
    Pulling,
    /// Network and container are being made.
    Creating,
    /// The process runs, but the health check has not passed.
    Starting,
    /// Running and served.
    Ready,
    /// Running, but its readiness probe fails: it gets no traffic until that passes again.
    NotReady,
    /// Running, fails its health check, its startup or its liveness probe: it is started again.
    Unhealthy,
    /// Running, but all its processes stand still by request: it gets no traffic, and nobody asks how it is.
    Paused,
    /// The process ended; it is started again after a pause.
    Backoff,
    /// The process ended and is not to be started again, with exit code 0.
    Completed,
    /// It cannot run: its process ended for good, or its image or start failed.
    Failed,
    /// It is being stopped.
    Stopping,
    /// Nothing of it is left on the node.
    Gone,
}

impl Phase {
    /// The phase as the API and `ps` write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Pulling => "pulling",
            Self::Creating => "creating",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::NotReady => "not-ready",
            Self::Unhealthy => "unhealthy",
            Self::Paused => "paused",
            Self::Backoff => "backoff",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
            Self::Gone => "gone",
        }
    }
}

impl Phase {
    /// Whether its process runs, so that something can be run in it.
    pub const fn has_process(self) -> bool {
        matches!(self, Self::Starting | Self::Ready | Self::NotReady | Self::Unhealthy)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    /// Exit code; 128 + n when signal n ended it.
    pub code: u32,
    /// Whether the kernel killed it for its memory limit.
    pub oom: bool,
    /// When.
    pub at: Timestamp,
    /// Why it was ended, if it was not by itself: which probe has failed, or hook, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// What the agent saw of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct InstanceStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// It is being stopped, was Ready before, and its process still runs: it is served as long as nobody else is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serving: bool,
    /// The code of the fault that keeps it from being Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// Why it is there, in the user's words; empty when there is nothing to say.
    #[serde(default)]
    pub message: String,
    /// How often the process was started again.
    pub restarts: u32,
    /// How the process last ended.
    #[serde(default)]
    pub last_exit: Option<Exit>,
    /// The digest of the image it runs.
    #[serde(default)]
    pub image_digest: Option<String>,
    /// The ports the image says it listens on (EXPOSE).
    #[serde(default)]
    pub exposed: Vec<PortProto>,
    /// When the process was last started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// The secrets and configs that its process was started with. `control` keeps what was said last: an agent that begins
    /// anew does not know it.
    #[serde(default, skip_serializing_if = "ContentVersions::is_empty")]
    pub contents: ContentVersions,
    /// Its sidecars.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, SidecarStatus>)]
    pub sidecars: BTreeMap<SidecarName, SidecarStatus>,
    /// Since when it is Ready. `control` notes it: an agent that begins anew does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since: Option<Timestamp>,
}

/// One port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct ServicePort {
    /// The port on the service's addresses.
    pub port: u16,
    /// The port of the instances.
    pub target: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port on every address of the nodes, if it is published.
    #[serde(default)]
    pub published: Option<u16>,
}

impl ServicePort {
    /// The ports that instances of this specification serve: the declared ones; without any, those the image says it
    /// listens on.
    pub fn all(spec: &AppSpec, exposed: &[PortProto]) -> Vec<Self> {
        let declared = |port: &PortSpec| Self {
            port: port.target,
            target: port.target,
            protocol: port.protocol,
            published: port.published,
        };
        let hinted = |exposed: &PortProto| Self {
            port: exposed.port,
            target: exposed.port,
            protocol: exposed.protocol,
            published: None,
        };
        if spec.ports.is_empty() {
            exposed.iter().map(hinted).collect()
        } else {
            spec.ports.iter().map(declared).collect()
        }
    }

    /// The ports that instances of this specification serve for a service of their app.
    pub fn of(service: &Service, spec: &AppSpec, exposed: &[PortProto]) -> Vec<Self> {
        match service.is_apps_own() {
            true => Self::all(spec, exposed),
            false => spec.more_services.get(&service.key.name).map(Self::further).unwrap_or_default(),
        }
    }

    /// The ports of a service that an app has besides its own.
    pub fn further(service: &ServiceSpec) -> Vec<Self> {
        let port =
            |port: &ServedPort| Self { port: port.port, target: port.target, protocol: port.protocol, published: None };
        service.ports.iter().map(port).collect()
    }
}

/// A name with dual-stack virtual addresses and ports over the Ready instances of an app.
/// Written by `control` only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its full name: the app's name, unless the app has several services.
    pub key: ServiceKey,
    /// Its number in the data plane; never 0, never reused while any node may know it.
    pub id: u32,
    /// Its virtual addresses; none if it is headless.
    pub addresses: Addresses,
    /// The DNS names besides [`Service::own_dns_name`], e.g. `web.local`; lower case, no final dot.
    pub dns_names: Vec<String>,
    /// The networks that its instances are in, with all names that they have there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, BTreeSet<String>>,
    /// Its ports. Empty until one is declared or the image says what it listens on.
    pub ports: Vec<ServicePort>,
    /// The app whose instances serve it.
    pub app: AppKey,
    /// How it spreads connections; the app's.
    #[serde(default)]
    pub balance: BalanceSpec,
    /// What each instance gets of new connections.
    #[serde(default)]
    pub shares: Shares,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Service {
    /// The DNS name that it always has: `<service>.<namespace>.<tenant>.hivemind`.
    pub fn own_dns_name(&self) -> String {
        format!("{}.{}", self.key.name, self.key.scope.dns_domain())
    }

    /// Whether it is the one that has its app's name.
    pub fn is_apps_own(&self) -> bool {
        self.key.name.as_str() == self.app.name.as_str()
    }

    /// Whether it has no virtual address: its names stand for its Ready instances themselves.
    pub fn is_headless(&self) -> bool {
        self.addresses == Addresses::default()
    }

    /// All DNS names it is found under: those that were given to it, then its own.
    pub fn all_dns_names(&self) -> impl Iterator<Item = String> + use<'_> {
        self.dns_names.iter().cloned().chain([self.own_dns_name()])
    }
}

/// A machine that runs instances. Written by `control` when the node registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// The IPv4 range its instances get addresses from.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub instances_v4: Option<ipnet::Ipv4Net>,
    /// The IPv6 range its instances get addresses from.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub instances_v6: Option<ipnet::Ipv6Net>,
    /// When it joined.
    pub created_at: Timestamp,
}

/// What the agent says of its node.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Whether it can take and serve instances.
    pub ready: bool,
    /// Why not, if it is not.
    #[serde(default)]
    pub message: String,
    /// Thousandths of CPUs it has.
    pub cpu_milli: u32,
    /// Bytes of memory it has.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Version of containerd.
    pub containerd: String,
    /// Version of hivemind.
    pub hivemind: String,
    /// Operating system's name.
    pub os: String,
    /// Architecture as OCI spells it: `amd64`, `arm64`.
    pub arch: String,
    /// The node's own addresses, where published ports are reached.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<std::net::IpAddr>,
}
