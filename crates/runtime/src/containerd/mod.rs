//! The real runtime: containerd 1.6 to 2.x over its socket.
//!
//! containerd is the only owner of the state of images and containers: nothing about them is remembered here, so that
//! a daemon that was killed goes on where it was. Files of ours are a folder per container in the run directory
//! (`resolv.conf`, `hosts`, `hostname`, pipes of execs), whose existence says "not removed", and the log folders.
//!
//! Order makes a crash harmless: a container's record comes first and holds its file system (an object that nothing
//! holds is garbage to containerd), and goes last but one. Whatever was begun is finished or removed by the same call
//! made again.
//!
//! Deliberately absent: removing old images; a container that ran before a reboot is found as never started.

mod attach;
mod client;
mod containers;
mod content;
mod copy;
mod events;
mod exec;
mod images;
mod locks;
mod namespace;
mod pull;
mod push;
mod shims;
mod snapshots;
mod tasks;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use futures::stream::BoxStream;
use tokio::{sync::watch, task::JoinSet};

use self::{client::Client, containers::file_error, locks::Locks, pull::Puller, snapshots::Snapshots};
use super::{
    AttachSpec, ContainerSpec, ContainerState, ExecSession, ExecSpec, Image, LogLine, LogQuery, Mark, PullProgress,
    Runtime, RuntimeError, RuntimeEvent,
    cgroup::MemoryTree,
    logs,
    registry::{Mirror, Notices, Registries},
    user::UserDb,
};
use hivemind_core::{
    model::{ContainerId, Timestamp},
    spec::v1::PullPolicy,
};

/// Where containerd is and how it is to be used.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// containerd's socket, usually `/run/containerd/containerd.sock`.
    pub socket: PathBuf,
    /// The containerd namespace that is ours alone.
    pub namespace: String,
    /// Logs, a folder per container.
    pub log_dir: PathBuf,
    /// Generated files, a folder per container. Where they outlive a reboot: so do the containers, which ask for them.
    pub files_dir: PathBuf,
    /// The snapshotter, usually `overlayfs`.
    pub snapshotter: String,
    /// The program that containerd starts as `<program> log-writer <dir>`; an absolute path.
    pub log_writer: PathBuf,
    /// The cgroup in which the containers' are made, e.g. `/hivemind`.
    pub cgroup_parent: String,
    /// Registries (`host:port`) that are spoken to without TLS.
    pub plain_http_registries: Vec<String>,
    /// A Docker `config.json` with credentials; read for every image, and need not exist.
    pub registry_auth: Option<PathBuf>,
    /// A PEM file with certificates of authorities to trust besides the machine's; read for every image.
    pub registry_ca: Option<PathBuf>,
    /// Who is asked for images before their registries, in this order.
    pub registry_mirrors: Vec<Mirror>,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            socket: "/run/containerd/containerd.sock".into(),
            namespace: "hivemind".to_owned(),
            log_dir: "/var/lib/hivemind/logs".into(),
            files_dir: "/var/lib/hivemind/containers".into(),
            snapshotter: "overlayfs".to_owned(),
            // A link like /proc/self/exe would name the shim, which starts it.
            log_writer: std::env::current_exe().unwrap_or_else(|_| "/usr/bin/hivemind".into()),
            cgroup_parent: "/hivemind".to_owned(),
            plain_http_registries: Vec::new(),
            registry_auth: None,
            registry_ca: None,
            registry_mirrors: Vec::new(),
        }
    }
}

/// containerd as a [`Runtime`]. Dropping it ends its execs.
#[derive(Debug)]
pub struct ContainerdRuntime {
    config: RuntimeConfig,
    client: Client,
    snapshots: Snapshots,
    puller: Puller,
    memory: Option<MemoryTree>,
    /// One change of a container at a time, by id.
    locks: Locks,
    /// The user databases of images, by chain id: they cannot change.
    users: Mutex<HashMap<String, Arc<UserDb>>>,
    /// The pumps of the execs.
    execs: Mutex<JoinSet<()>>,
}

impl ContainerdRuntime {
    /// Makes the runtime. containerd need not be there yet: it is connected to when first needed, and again whenever
    /// the connection broke. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the namespace's name cannot be sent, or a path is not absolute.
    pub fn connect(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        for path in [&config.log_dir, &config.files_dir, &config.log_writer] {
            if !path.is_absolute() {
                let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
                return Err(RuntimeError::File { action: "use the relative path", path: path.clone(), source });
            }
        }
        let client = Client::new(&config.socket, &config.namespace)?;
        let snapshots = Snapshots { client: client.clone(), name: config.snapshotter.clone() };
        let puller = Puller {
            client: client.clone(),
            snapshots: snapshots.clone(),
            registries: Registries {
                plain_http: config.plain_http_registries.clone(),
                auth_file: config.registry_auth.clone(),
                ca_file: config.registry_ca.clone(),
                mirrors: config.registry_mirrors.clone(),
                notices: Notices::default(),
            },
            looked: images::Looked::default(),
            locks: Locks::default(),
        };
        let memory = MemoryTree::here();
        Ok(Self {
            config,
            client,
            snapshots,
            puller,
            memory,
            locks: Locks::default(),
            users: Mutex::default(),
            execs: Mutex::default(),
        })
    }

    /// The folder of a container's generated files.
    fn files(&self, id: &ContainerId) -> PathBuf {
        self.config.files_dir.join(id.as_str())
    }

    /// The folder of a container's log. Those of sidecars are in that of their instance's, which goes as a whole.
    fn log_files(&self, id: &ContainerId) -> PathBuf {
        let of_instance = self.config.log_dir.join(id.instance().as_str());
        id.sidecar().map_or_else(|| of_instance.clone(), |name| of_instance.join(name.as_str()))
    }
}

#[async_trait::async_trait]
impl Runtime for ContainerdRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        let answer = self.client.call(self.client.version().version(self.client.request(()))).await;
        answer.map(|v| v.version).map_err(|s| self.client.error("ask the version of", "containerd", &s))
    }

    async fn ensure_image(
        &self,
        reference: &str,
        pull: PullPolicy,
        progress: watch::Sender<PullProgress>,
    ) -> Result<Image, RuntimeError> {
        self.puller.ensure(reference, pull, &progress).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let _one = self.locks.lock(spec.id.as_str()).await;
        self.create_container(spec).await
    }

    async fn copy_out(&self, image: &Image, path: &str, into: &Path) -> Result<(), RuntimeError> {
        self.copy_of_image(image, path, into).await
    }

    async fn start(&self, id: &ContainerId) -> Result<u32, RuntimeError> {
        let _one = self.locks.lock(id.as_str()).await;
        self.start_task(id).await
    }

    async fn set_mark(&self, id: &ContainerId, mark: Mark) -> Result<(), RuntimeError> {
        let path = self.files(id).join(mark.file());
        tokio::fs::write(&path, "").await.map_err(file_error("write", path))
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let _one = self.locks.lock(id.as_str()).await;
        self.pause_task(id.as_str()).await
    }

    async fn resume(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let _one = self.locks.lock(id.as_str()).await;
        self.resume_task(id.as_str()).await
    }

    async fn kill(&self, id: &ContainerId, signal: i32, all: bool) -> Result<(), RuntimeError> {
        self.kill_task(id.as_str(), signal, all).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let _one = self.locks.lock(id.as_str()).await;
        self.remove_task(id.as_str()).await?;
        self.remove_files(id).await?;
        self.remove_container(id.as_str()).await?;
        shims::end_leftover(&self.config.namespace, id.as_str()).await;
        Ok(())
    }

    async fn remove_logs(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        logs::remove(&self.log_files(id)).await
    }

    async fn list(&self) -> Result<Vec<ContainerState>, RuntimeError> {
        self.list_containers().await
    }

    async fn state(&self, id: &ContainerId) -> Result<Option<ContainerState>, RuntimeError> {
        self.container_state(id.as_str()).await
    }

    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
        events::subscribe(&self.client, &self.config.namespace).await
    }

    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        self.start_exec(id, spec).await
    }

    async fn exec_detached(&self, id: &ContainerId, spec: ExecSpec) -> Result<u32, RuntimeError> {
        self.start_detached(id, spec).await
    }

    async fn attach(&self, id: &ContainerId, spec: AttachSpec) -> Result<ExecSession, RuntimeError> {
        self.look_on(id, spec).await
    }

    async fn logs(
        &self,
        id: &ContainerId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine, RuntimeError>>, RuntimeError> {
        if let Some(position) = query.after {
            logs::check(&self.log_files(id), position)?;
        }
        Ok(logs::stream(self.log_files(id), query, self.files(id)))
    }
}

/// containerd's time as ours; 0 where it has none.
fn timestamp(at: Option<&prost_types::Timestamp>) -> Timestamp {
    Timestamp::from_millis(at.map_or(0, |t| t.seconds * 1000 + i64::from(t.nanos) / 1_000_000))
}
