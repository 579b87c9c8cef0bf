//! What a test of the runtime runs in: a network namespace, a containerd, a registry, and a namespace for containers.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use hivemind::{
    model::{ContainerId, InstanceId},
    runtime::{ContainerSpec, ContainerdRuntime, Image, LogQuery, PullProgress, RunState, Runtime as _, RuntimeConfig},
    spec::v1::{PullPolicy, Resources},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::{
    containerd::Containerd,
    image::{Packed, Target, busybox, users},
    sweep::{self, CGROUP, FOLDER, NAME, RUNC},
};

/// Generous, because the machines are small and shared; a hang still ends.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a test in a network namespace of its own, with loopback and nothing else.
pub(crate) fn sandboxed<F: Future<Output = Result<()>>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).context("tests of the runtime need root")?;
        anyhow::ensure!(Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success(), "no loopback");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(test())
    };
    let result = std::thread::spawn(run).join().expect("the test panicked, see above");
    result.expect("the test failed");
}

/// A registry; killed when dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    pub(crate) target: Target,
    pub(crate) storage: PathBuf,
}

impl Registry {
    /// Starts one on loopback. With `users`, a file of htpasswd, only those may do anything.
    pub(crate) async fn start(
        dir: &Path,
        port: u16,
        users: Option<&Path>,
        authorization: Option<&str>,
    ) -> Result<Self> {
        let storage = dir.join(format!("registry-{port}"));
        let auth = users.map_or(Value::Null, |u| json!({"htpasswd": {"realm": "test", "path": u}}));
        let mut config = json!({"version": "0.1", "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": storage}}, "http": {"addr": format!("127.0.0.1:{port}")}});
        if !auth.is_null() {
            config["auth"] = auth;
        }
        let path = dir.join(format!("registry-{port}.yml"));
        std::fs::write(&path, config.to_string())?;
        let program = xtask::deb::program("docker-registry", "docker-registry")?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).arg("serve").arg(path);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let target = Target { host: format!("127.0.0.1:{port}"), authorization: authorization.map(str::to_owned) };
        let registry = Self { child, target, storage };
        let up = || registry.target.request("GET", "/v2/", "", &[]).is_ok();
        until("the registry answers", async || up()).await?;
        Ok(registry)
    }

    /// Ends it, as a registry that goes down.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        Ok(self.child.wait().map(drop)?)
    }

    /// Damages a blob on the registry's disk without changing its size.
    pub(crate) fn damage(&self, digest: &str) -> Result<()> {
        let hex = digest.trim_start_matches("sha256:");
        let path = self.storage.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
        let mut data = std::fs::read(&path)?;
        let middle = data.len() / 2;
        data[middle] ^= 0xff;
        Ok(std::fs::write(path, data)?)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything a test needs. Dropping it leaves nothing.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) containerd: Containerd,
    pub(crate) registry: Registry,
    /// Names the network namespace of the containers, and their namespace in containerd: runc keeps its state by the
    /// latter, for all containerds of a machine together.
    pub(crate) name: String,
    cgroup: String,
    /// Last: containerd has mounts in it.
    _dirs: Cleanup,
}

impl World {
    pub(crate) async fn new() -> Result<Self> {
        Self::with_disk(None).await
    }

    /// With containerd's directory on a file system of so many megabytes.
    pub(crate) async fn with_disk(megabytes: Option<u32>) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| sweep::sweep(&std::env::temp_dir()));
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("{FOLDER}{unique}"));
        std::fs::create_dir_all(dir.join("containerd"))?;
        let cgroup = format!("{CGROUP}{unique}");
        if let Some(megabytes) = megabytes {
            let options = format!("size={megabytes}m");
            mount(Some("tmpfs"), &dir.join("containerd"), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        }
        let containerd = Containerd::start(&dir.join("containerd"), &cgroup).await?;
        let registry = Registry::start(&dir, 5000, None, None).await?;
        let name = format!("{NAME}{unique}");
        anyhow::ensure!(Command::new("ip").args(["netns", "add", &name]).status()?.success(), "no netns");
        // runc's state is outside of containerd's.
        let _dirs = Cleanup([dir.clone(), Path::new(RUNC).join(&name)]);
        Ok(Self { dir, containerd, registry, name, cgroup, _dirs })
    }

    pub(crate) fn config(&self) -> RuntimeConfig {
        RuntimeConfig {
            socket: self.containerd.socket(),
            namespace: self.name.clone(),
            log_dir: self.dir.join("logs"),
            files_dir: self.dir.join("files"),
            log_writer: env!("CARGO_BIN_EXE_log_writer").into(),
            cgroup_parent: self.cgroup.clone(),
            plain_http_registries: vec![self.registry.target.host.clone()],
            ..RuntimeConfig::default()
        }
    }

    /// A runtime that knows nothing of the ones before it, as after a restart of the daemon.
    pub(crate) fn runtime(&self) -> Result<ContainerdRuntime> {
        Ok(ContainerdRuntime::connect(self.config())?)
    }

    /// Pushes and fetches the usual image.
    pub(crate) async fn image(&self, runtime: &ContainerdRuntime) -> Result<Image> {
        let layers = [(busybox()?, Packed::Gzip), (users(), Packed::Plain)];
        let process = json!({"Env": ["PATH=/bin", "FROM=image"], "Cmd": ["/bin/sh"], "WorkingDir": "/tmp"});
        self.registry.target.push("team/box", Some("latest"), &layers, architecture(), process)?;
        pull(runtime, &format!("{}/team/box", self.registry.target.host)).await
    }

    /// A container of `image` that runs a script.
    pub(crate) fn container(&self, image: &Image, n: u64, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: ContainerId::from(InstanceId::from_bits(n)),
            image: image.clone(),
            hostname: "box-1".to_owned(),
            command: Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
            args: None,
            env: Default::default(),
            user: None,
            workdir: None,
            resources: Resources::default(),
            netns: PathBuf::from("/run/netns").join(&self.name),
            resolv_conf: "nameserver 10.88.0.1\n".to_owned(),
            mounts: Vec::new(),
            addresses: vec!["10.88.0.7".parse().expect("is one")],
            extra_hosts: Vec::new(),
            logging: Default::default(),
            options: Default::default(),
            labels: [("hivemind/app".to_owned(), "web".to_owned())].into(),
        }
    }

    /// What is left of containers: records, tasks, writable snapshots, files, cgroups.
    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let ctr = |args: &[&str]| self.containerd.ctr(&self.name, args);
        let mut left: Vec<String> = ctr(&["containers", "ls", "-q"])?.lines().map(|l| format!("record {l}")).collect();
        left.extend(ctr(&["tasks", "ls", "-q"])?.lines().map(|l| format!("task {l}")));
        let snapshots = ctr(&["snapshots", "ls"])?;
        left.extend(snapshots.lines().filter(|l| l.contains(" Active") || l.contains(" View")).map(str::to_owned));
        let names = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        left.extend(names(&self.dir.join("files")).map(|p| p.display().to_string()));
        for cgroup in self.containerd.cgroups() {
            left.extend(names(&cgroup).filter(|p| p.is_dir()).map(|p| p.display().to_string()));
        }
        Ok(left)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Removes directories when it is dropped.
struct Cleanup([PathBuf; 2]);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for dir in &self.0 {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

pub(crate) fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

pub(crate) async fn pull(runtime: &ContainerdRuntime, reference: &str) -> Result<Image> {
    let (progress, _) = watch::channel(PullProgress::default());
    Ok(runtime.ensure_image(reference, PullPolicy::IfMissing, progress).await?)
}

/// Polls until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        anyhow::ensure!(Instant::now() < deadline, "{what}: not within {} s", DEADLINE.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Creates and starts a container and waits until it has ended: exit code, and whether it ran out of memory.
pub(crate) async fn run(runtime: &ContainerdRuntime, spec: &ContainerSpec) -> Result<(u32, bool)> {
    runtime.create(spec).await?;
    runtime.start(&spec.id).await?;
    ended(runtime, &spec.id).await
}

pub(crate) async fn ended(runtime: &ContainerdRuntime, id: &ContainerId) -> Result<(u32, bool)> {
    let mut end = None;
    until("the container ends", async || {
        if let Ok(Some(RunState::Exited { code, oom, .. })) = runtime.state(id).await.map(|s| s.map(|s| s.run)) {
            end = Some((code, oom));
        }
        end.is_some()
    })
    .await?;
    end.context("has ended")
}

pub(crate) async fn log(runtime: &ContainerdRuntime, id: &ContainerId) -> Result<Vec<String>> {
    lines(runtime, id, LogQuery::default()).await
}

pub(crate) async fn lines(runtime: &ContainerdRuntime, id: &ContainerId, query: LogQuery) -> Result<Vec<String>> {
    let mut stream = runtime.logs(id, query).await?;
    let mut lines = Vec::new();
    while let Some(line) = stream.next().await {
        lines.push(String::from_utf8_lossy(&line?.line).into_owned());
    }
    Ok(lines)
}

/// The log once it has `n` lines: the last ones may still be on their way when the process has ended.
pub(crate) async fn log_of(runtime: &ContainerdRuntime, id: &ContainerId, n: usize) -> Result<Vec<String>> {
    until("the log is written", async || log(runtime, id).await.is_ok_and(|l| l.len() >= n)).await?;
    log(runtime, id).await
}
