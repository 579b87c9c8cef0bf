//! Containers: record, file system, generated files; and what there is.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use containerd_client::{
    services::v1::{
        Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, ListContainersRequest,
        container::Runtime,
    },
    types,
};
use nix::sys::resource::{Resource, getrlimit};
use prost_types::Any;

use super::{
    ContainerdRuntime,
    client::found,
    tasks::{Task, TaskStatus},
};
use crate::{
    ContainerSpec, ContainerState, Mark, RunState, RuntimeError, devices, init, logs, manifest::digest_of, oci, rootfs,
    user::UserDb,
};
use hivemind_core::model::ContainerId;

/// The digest of everything a container was made from.
const SPEC_LABEL: &str = "hivemind.io/spec";

/// containerd's name of runc, since 1.4.
const RUNC: &str = "io.containerd.runc.v2";

const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The first process of a container that asks for one, in its folder.
const INIT_FILE: &str = "init";

/// User databases kept in memory; some kilobytes each.
const USERS_KEPT: usize = 64;

impl ContainerdRuntime {
    pub(super) async fn create_container(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let id = spec.id.as_str();
        let refuse = |why| RuntimeError::Start { id: id.to_owned(), why };
        let users = self.users_of(&spec.image.chain_id).await?;
        let mut user = users.resolve(spec.user.as_deref().or(spec.image.user.as_deref())).map_err(refuse)?;
        users.add_groups(&mut user, &spec.options.group_add).map_err(refuse)?;
        let (files, logs) = (self.files(&spec.id), self.log_files(&spec.id));
        let devices = devices::devices_of(&spec.options).map_err(refuse)?;
        let cdi = devices::cdi(&spec.options.cdi).map_err(refuse)?;
        let (capabilities, apparmor) = (devices::capabilities(), devices::apparmor());
        let host = oci::Host {
            cgroup_parent: &self.config.cgroup_parent,
            files: &files,
            init: &files.join(INIT_FILE),
            input: &logs.join(logs::INPUT),
            open_files: open_files(),
            swap: self.memory.as_ref().is_some_and(|m| m.limits_swap()),
            seccomp: oci::seccomp::supported(),
            cgroup_namespace: Path::new("/proc/self/ns/cgroup").exists(),
            arch: architecture(),
            kernel: devices::kernel(),
            capabilities: &capabilities,
            apparmor: apparmor.as_deref(),
            devices: &devices,
            cdi: &cdi,
        };
        let oci = oci::container(spec, &user, &host).map_err(refuse)?.to_string();
        let contents = [
            ("resolv.conf", spec.resolv_conf.clone()),
            ("hosts", oci::hosts(spec)),
            ("hostname", format!("{}\n", spec.hostname)),
        ];
        let init = oci::has_init(&spec.options).then_some(init::PROGRAM);
        let digest = digest_of(format!("{oci}{contents:?}{:?}{}", spec.labels, spec.image.chain_id).as_bytes());

        let existing = self.container(id).await?;
        let equal = existing.as_ref().is_some_and(|c| c.labels.get(SPEC_LABEL) == Some(&digest));
        let keep = equal && self.task(id).await?.is_none();
        if existing.is_some() && !keep {
            self.remove_task(id).await?;
            self.remove_container(id).await?;
        }
        write_files(files, contents, init).await?;
        logs::write_limits(&logs, &spec.logging).await?;
        if spec.options.stdin_open {
            logs::make_input(&logs).map_err(file_error("make the input in", logs))?;
        }
        if !keep {
            self.create_record(spec, oci, digest).await?;
        }
        if !keep || !self.snapshots.exists(id).await? {
            self.snapshots.prepare(id, &spec.image.chain_id, None).await?;
        }
        Ok(())
    }

    async fn create_record(&self, spec: &ContainerSpec, oci: String, digest: String) -> Result<(), RuntimeError> {
        let mut labels: std::collections::HashMap<_, _> = spec.labels.clone().into_iter().collect();
        labels.insert(SPEC_LABEL.to_owned(), digest);
        let container = Container {
            id: spec.id.to_string(),
            labels,
            image: spec.image.reference.clone(),
            runtime: Some(Runtime { name: RUNC.to_owned(), options: None }),
            spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value: oci.into_bytes() }),
            snapshotter: self.snapshots.name.clone(),
            snapshot_key: spec.id.to_string(),
            ..Default::default()
        };
        let c = &self.client;
        let request = c.request(CreateContainerRequest { container: Some(container) });
        let created = c.call(c.containers().create(request)).await;
        created.map(|_| ()).map_err(|s| c.error("create", spec.id.as_str(), &s))
    }

    /// Removes record and file system; ok if there are none. The task must be gone.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let c = &self.client;
        let request = c.request(DeleteContainerRequest { id: id.to_owned() });
        found(c.call(c.containers().delete(request)).await).map_err(|s| c.error("remove", id, &s))?;
        self.snapshots.remove(id).await
    }

    pub(super) async fn remove_files(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let dir = self.files(id);
        match tokio::fs::remove_dir_all(&dir).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file_error("remove", dir)(e)),
            _ => Ok(()),
        }
    }

    /// Forgets what was noted of the last process: another is about to start.
    pub(super) async fn remove_marks(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        for mark in Mark::ALL {
            let path = self.files(id).join(mark.file());
            match tokio::fs::remove_file(&path).await {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file_error("remove", path)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) async fn container(&self, id: &str) -> Result<Option<Container>, RuntimeError> {
        let c = &self.client;
        let request = c.request(GetContainerRequest { id: id.to_owned() });
        let answer = found(c.call(c.containers().get(request)).await);
        answer.map(|a| a.and_then(|a| a.container)).map_err(|s| c.error("look up", id, &s))
    }

    pub(super) async fn container_state(&self, id: &str) -> Result<Option<ContainerState>, RuntimeError> {
        let Some(container) = self.container(id).await? else { return Ok(None) };
        let task = self.task(id).await?;
        // Record and file system are two writes: what has only the first cannot be started, and is made anew.
        if task.is_none() && !self.snapshots.exists(id).await? {
            return Ok(None);
        }
        Ok(Some(self.state_of(container, task)))
    }

    pub(super) async fn list_containers(&self) -> Result<Vec<ContainerState>, RuntimeError> {
        let c = &self.client;
        let request = c.request(ListContainersRequest::default());
        let containers = c.call(c.containers().list(request)).await;
        let containers = containers.map_err(|s| c.error("list", "containers", &s))?.containers;
        let mut tasks = self.tasks().await?;
        Ok(containers.into_iter().map(|c| (tasks.remove(&c.id), c)).map(|(t, c)| self.state_of(c, t)).collect())
    }

    fn state_of(&self, mut container: Container, task: Option<Task>) -> ContainerState {
        container.labels.remove(SPEC_LABEL);
        let run = match task.map(|t| t.status) {
            None | Some(TaskStatus::Created) => RunState::Created,
            Some(TaskStatus::Running { pid }) => RunState::Running { pid },
            Some(TaskStatus::Paused { pid }) => RunState::Paused { pid },
            Some(TaskStatus::Ended { code, at }) => {
                RunState::Exited { code, oom: self.out_of_memory(&container.id), at }
            }
        };
        // Only of a container of ours: the id of another may be no file's name.
        let files = container.id.parse().ok().map(|id| self.files(&id));
        let marked = |mark: &Mark| files.as_ref().is_some_and(|files| files.join(mark.file()).exists());
        let marks = Mark::ALL.into_iter().filter(marked).collect();
        ContainerState { id: container.id, run, labels: container.labels.into_iter().collect(), marks }
    }

    fn out_of_memory(&self, id: &str) -> bool {
        let cgroup = format!("{}/{id}", self.config.cgroup_parent.trim_end_matches('/'));
        self.memory.as_ref().is_some_and(|m| m.killed(&cgroup))
    }

    /// The user database of an unpacked image.
    async fn users_of(&self, chain: &str) -> Result<Arc<UserDb>, RuntimeError> {
        let known = self.users.lock().unwrap_or_else(PoisonError::into_inner).get(chain).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        // The view is not held by anything, so that a crash leaves nothing: the garbage collector may take it in this
        // moment, and then it is made again.
        let key = format!("hivemind-users-{chain}");
        let _one = self.puller.locks.lock(&key).await;
        let failed = |e| file_error("read the users of the image", PathBuf::from(chain))(e);
        tokio::fs::create_dir_all(&self.config.files_dir)
            .await
            .map_err(file_error("make", self.config.files_dir.clone()))?;
        let mut last = None;
        for _ in 0..3 {
            let plan = mount_plan(self.snapshots.view(&key, chain).await?);
            match rootfs::user_db_of_image(plan, self.config.files_dir.clone()).await {
                Ok(users) => {
                    self.snapshots.remove(&key).await?;
                    let users = Arc::new(users);
                    let mut all = self.users.lock().unwrap_or_else(PoisonError::into_inner);
                    if all.len() >= USERS_KEPT {
                        all.clear();
                    }
                    all.insert(chain.to_owned(), users.clone());
                    return Ok(users);
                }
                Err(e) => last = Some(e),
            }
        }
        self.snapshots.remove(&key).await?;
        Err(failed(last.unwrap_or_else(|| io::ErrorKind::NotFound.into())))
    }
}

/// This machine's architecture as OCI spells it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Where even root may not raise limits (no CAP_SYS_RESOURCE), asking for more than we have fails every start.
fn open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(oci::MAX_OPEN_FILES, |(_, hard)| hard.min(oci::MAX_OPEN_FILES))
}

pub(super) fn mount_plan(mounts: Vec<types::Mount>) -> rootfs::MountPlan {
    // A snapshotter for containers gives one mount.
    let mount = mounts.into_iter().next().unwrap_or_default();
    rootfs::MountPlan { kind: mount.r#type, source: mount.source, options: mount.options }
}

/// Writes the generated files in place: the container may be looking at them.
async fn write_files(
    dir: PathBuf,
    contents: [(&'static str, String); 3],
    init: Option<&[u8]>,
) -> Result<(), RuntimeError> {
    tokio::fs::create_dir_all(&dir).await.map_err(file_error("make", dir.clone()))?;
    for (name, content) in contents {
        let path = dir.join(name);
        tokio::fs::write(&path, content).await.map_err(file_error("write", path))?;
    }
    if let Some(program) = init {
        let path = dir.join(INIT_FILE);
        let write = async {
            tokio::fs::write(&path, program).await?;
            tokio::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).await
        };
        write.await.map_err(file_error("write", path))?;
    }
    Ok(())
}

pub(super) fn file_error(action: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull => RuntimeError::DiskFull { path, action: action.to_owned() },
        _ => RuntimeError::File { action, path, source },
    }
}
