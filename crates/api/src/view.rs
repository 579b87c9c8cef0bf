//! The documents that the API answers with. Their JSON is stable: fields are added, never changed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::round_trips::RoundTripView;
use hivemind_core::{
    model::{
        Addresses, App, AppStatus, ErrorCode, Exit, Instance, InstanceId, InstanceStatus, NamespaceName, Node,
        NodeName, NodeStatus, Phase, PortProto, Revision, Rollout, RolloutState, Service, ServicePort, SidecarName,
        SidecarStatus, TenantName, Timestamp,
    },
    model::{ClusterSnapshot, Row},
    spec::v1::{AppSpec, BalanceSpec, SidecarSpec},
};

/// How an app stands, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AppState {
    /// All instances that are wanted are Ready, and there are no others.
    Ready,
    /// Instances are being replaced, started or stopped.
    Updating,
    /// Its first instance is made when the apps that come before it are as they must be.
    Waiting,
    /// An instance of the newest generation does not come up, or was Ready and no longer is.
    Degraded,
    /// All instances have done their work and are not to be started again.
    Completed,
    /// No instance is wanted, and there is none.
    Stopped,
    /// It was removed; its instances are being stopped.
    Removing,
}

impl AppState {
    /// The state as the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Updating => "updating",
            Self::Waiting => "waiting",
            Self::Degraded => "degraded",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Removing => "removing",
        }
    }
}

impl std::fmt::Display for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// An app and how it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AppView {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: String,
    /// What was asked for.
    pub spec: AppSpec,
    /// How it stands.
    pub status: AppStatus,
    /// How it stands, in a word.
    pub state: AppState,
    /// Why it is not what was asked for, if that is no matter of time: no node fits, no address is free.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<String>,
    /// Which apps are waited for before the first instance of the newest generation is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<String>,
    /// Grows with every change that needs new instances.
    pub generation: u64,
    /// How far it is on the way to that generation; absent while no instance was ever planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The ETag: the revision that last wrote it.
    pub revision: Revision,
    /// When it was first deployed.
    pub created_at: Timestamp,
}

/// An instance and what was seen of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// Its id.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its app.
    pub app: String,
    /// The app's generation that it runs.
    pub generation: u64,
    /// Its node.
    pub node: NodeName,
    /// Its image, as it was asked for.
    pub image: String,
    /// The digest of its image.
    pub image_digest: Option<String>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Why it is there.
    pub message: String,
    /// The code of what keeps it from being Ready.
    pub code: Option<ErrorCode>,
    /// Its addresses.
    pub addresses: Addresses,
    /// How often it was started again.
    pub restarts: u32,
    /// How its process last ended.
    pub last_exit: Option<Exit>,
    /// The ports its image says it listens on.
    pub exposed: Vec<PortProto>,
    /// When it was placed.
    pub created_at: Timestamp,
    /// When its process was last started.
    pub started_at: Option<Timestamp>,
    /// Whether its process has a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Whether its process has an input that can be written to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin_open: bool,
    /// Its sidecars, in the order in which they are started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sidecars: Vec<SidecarView>,
    /// The secrets and configs of which it has an older content than there is: `secret db_password`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outdated: Vec<String>,
}

/// A sidecar of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SidecarView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: SidecarName,
    /// Its image, as it was asked for.
    pub image: String,
    /// Whether its process has a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Whether its process has an input that can be written to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin_open: bool,
    /// How it is.
    #[serde(flatten)]
    pub status: SidecarStatus,
}

impl SidecarView {
    fn new(spec: &SidecarSpec, of: &InstanceStatus) -> Self {
        let status = of.sidecars.get(&spec.name).cloned().unwrap_or_default();
        let (tty, stdin_open) = (spec.container.tty, spec.container.stdin_open);
        Self { name: spec.name.clone(), image: spec.image.clone(), tty, stdin_open, status }
    }
}

/// A service and who serves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: String,
    /// All names it is found under.
    pub dns_names: Vec<String>,
    /// Its virtual addresses.
    pub addresses: Addresses,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The app whose instances serve it.
    pub app: String,
    /// How it spreads connections.
    #[serde(default)]
    pub balance: BalanceSpec,
    /// Its Ready instances. Without any, those that are being stopped and can still serve.
    pub backends: Vec<BackendView>,
    /// What went to its instances and came back, as this node's data plane counted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Round-trip times of TCP by who has connected to it, as the sockets of this node have measured them; only where one
    /// service is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub round_trips: Vec<RoundTripView>,
}

/// A Ready instance behind a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendView {
    /// Its name.
    pub instance: String,
    /// Its node.
    pub node: NodeName,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its share of new connections, 0 to 256.
    #[serde(default)]
    pub weight: u16,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Packets to the instances.
    pub packets_in: u64,
    /// Bytes to the instances.
    pub bytes_in: u64,
    /// Packets from the instances.
    pub packets_out: u64,
    /// Bytes from the instances.
    pub bytes_out: u64,
    /// Packets that were dropped.
    pub packets_dropped: u64,
    /// Connections that were opened by sockets of this node, the host's processes included.
    #[serde(default)]
    pub connections: u64,
    /// Connections that were refused, as no instance was Ready or the service has no such port.
    #[serde(default)]
    pub connections_refused: u64,
}

/// What the data plane of the answering node uses of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DataplaneView {
    /// ABI version of programs and maps.
    pub abi: u32,
    /// `tcx` or `tc`.
    pub attach: String,
    /// The programs.
    pub programs: Vec<ProgramView>,
    /// The maps.
    pub maps: Vec<MapView>,
    /// Connections that are tracked.
    pub connections: u64,
    /// Rows, attachments and pins that were found changed by someone else, and put right.
    pub repaired: u64,
}

/// A program in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgramView {
    /// Its name.
    pub name: String,
    /// Instructions that the verifier looked at.
    pub instructions: u32,
}

/// A table in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MapView {
    /// Its name.
    pub name: String,
    /// Rows it can hold.
    pub capacity: u32,
    /// Memory it takes.
    pub bytes: u64,
}

/// A node and how it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// What it is.
    #[serde(flatten)]
    pub node: Node,
    /// How it is.
    pub status: NodeStatus,
    /// How many instances it has.
    pub instances: u32,
    /// Its data plane; only of the node that answers, and only when it is asked for by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane: Option<DataplaneView>,
}

impl AppView {
    /// An app of the snapshot.
    pub fn new(snapshot: &ClusterSnapshot, row: &Row<App>) -> Self {
        let app = &row.object;
        let mut status = AppStatus { desired: app.spec.replicas, ..AppStatus::default() };
        let (mut completed, mut in_trouble) = (0, false);
        for instance in snapshot.instances_of(&app.key) {
            let phase = snapshot.phase_of(&instance.id);
            status.total += 1;
            status.serving += u32::from(phase == Phase::Ready);
            if instance.generation == app.generation {
                status.updated += 1;
                status.ready += u32::from(phase == Phase::Ready);
                completed += u32::from(phase == Phase::Completed);
                in_trouble |= matches!(
                    phase,
                    Phase::Paused | Phase::NotReady | Phase::Unhealthy | Phase::Backoff | Phase::Failed
                );
            }
        }
        let rollout = snapshot.rollouts.get(&app.key).map(|row| row.object.state);
        let paused = rollout == Some(RolloutState::Paused);
        // One that has been Ready for a moment may not count yet.
        let all_there = status.total == status.desired
            && status.updated == status.desired
            && rollout != Some(RolloutState::Progressing);
        let state = if app.deleting {
            AppState::Removing
        } else if status.desired == 0 && status.total == 0 {
            AppState::Stopped
        } else if all_there && status.ready == status.desired {
            AppState::Ready
        } else if all_there && completed > 0 && status.ready + completed == status.desired {
            AppState::Completed
        } else if in_trouble || paused || snapshot.unmet.contains_key(&app.key) {
            AppState::Degraded
        } else if snapshot.waits.contains_key(&app.key) {
            AppState::Waiting
        } else {
            AppState::Updating
        };
        Self {
            tenant: app.key.scope.tenant.clone(),
            namespace: app.key.scope.namespace.clone(),
            name: app.key.name.to_string(),
            spec: app.spec.clone(),
            status,
            state,
            unmet: snapshot.unmet.get(&app.key).map(|unmet| (**unmet).clone()).unwrap_or_default(),
            waits: snapshot.waits.get(&app.key).map(|waits| (**waits).clone()).unwrap_or_default(),
            generation: app.generation,
            rollout: snapshot.rollouts.get(&app.key).map(|row| (*row.object).clone()),
            revision: row.modified,
            created_at: app.created_at,
        }
    }
}

impl InstanceView {
    /// An instance of the snapshot.
    pub fn new(snapshot: &ClusterSnapshot, instance: &Instance) -> Self {
        let status = snapshot.status_of(&instance.id);
        let sidecars = instance.spec.sidecars.iter().map(|it| SidecarView::new(it, &status)).collect();
        Self {
            id: instance.id.clone(),
            name: instance.name(),
            tenant: instance.app.scope.tenant.clone(),
            namespace: instance.app.scope.namespace.clone(),
            app: instance.app.name.to_string(),
            generation: instance.generation,
            node: instance.node.clone(),
            image: instance.spec.image.clone(),
            image_digest: status.image_digest,
            phase: status.phase,
            message: status.message,
            code: status.code,
            addresses: instance.addresses,
            restarts: status.restarts,
            last_exit: status.last_exit,
            exposed: status.exposed,
            created_at: instance.created_at,
            started_at: status.started_at,
            tty: instance.spec.container.tty,
            stdin_open: instance.spec.container.stdin_open,
            sidecars,
            outdated: snapshot
                .outdated_contents(instance)
                .iter()
                .map(|(kind, name)| format!("{kind} {name}"))
                .collect(),
        }
    }
}

impl ServiceView {
    /// A service of the snapshot.
    pub fn new(snapshot: &ClusterSnapshot, service: &Service, traffic: Option<Traffic>) -> Self {
        let scope = &service.key.scope;
        let backends = snapshot.served(service).backends.into_iter().map(|backend| BackendView {
            instance: snapshot
                .instances
                .get(&backend.id)
                .map_or_else(|| backend.id.to_string(), |row| row.object.name()),
            node: backend.node,
            addresses: backend.addresses,
            weight: backend.weight,
        });
        Self {
            tenant: scope.tenant.clone(),
            namespace: scope.namespace.clone(),
            name: service.key.name.to_string(),
            dns_names: service.all_dns_names().collect(),
            addresses: service.addresses,
            ports: service.ports.clone(),
            balance: service.balance.clone(),
            app: service.app.name.to_string(),
            backends: backends.collect(),
            traffic,
            round_trips: Vec::new(),
        }
    }
}

impl NodeView {
    /// A node of the snapshot.
    pub fn new(snapshot: &ClusterSnapshot, node: &Node) -> Self {
        let on_it = snapshot.instances.values().filter(|row| row.object.node == node.name).count();
        Self {
            node: node.clone(),
            status: snapshot.node_status.get(&node.name).map(|row| (*row.object).clone()).unwrap_or_default(),
            instances: u32::try_from(on_it).unwrap_or(u32::MAX),
            dataplane: None,
        }
    }
}
