//! A containerd of a test's own: its own root, state and socket, ended and cleaned up with everything it started.
//!
//! Not the sandbox of `xtask`: the runtime under test is this process, which must see containerd's mounts and pids.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// containerd is ready in a third of a second on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// What no test needs, and what would complain of it in the log.
const DISABLED: &str = r#"["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]"#;

const SOCKET: &str = "c.sock";

/// A running containerd. Dropping it kills its shims and containers, and removes their mounts and cgroups.
#[derive(Debug)]
pub(crate) struct Containerd {
    root: PathBuf,
    cgroup: String,
    child: Child,
}

impl Containerd {
    /// Starts one in the network namespace of the calling thread. `root` must be an empty directory; `cgroup` is where
    /// the test makes its containers' cgroups, e.g. `/hivemind-test-1`.
    pub(crate) async fn start(root: &Path, cgroup: &str) -> Result<Self> {
        let path = root.display();
        let config = format!(
            "version = 2\nroot = \"{path}/lib\"\nstate = \"{path}/run\"\ndisabled_plugins = {DISABLED}\n\
             [grpc]\n  address = \"{path}/c.sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{path}/opt\"\n\
             [plugins.\"io.containerd.gc.v1.scheduler\"]\n  startup_delay = \"10ms\"\n"
        );
        fs::write(root.join("config.toml"), config)?;
        let child = spawn(root)?;
        let mut containerd = Self { root: root.to_owned(), cgroup: cgroup.to_owned(), child };
        containerd.wait_until_ready().await?;
        Ok(containerd)
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join(SOCKET)
    }

    /// Kills containerd, not its containers, and starts it again.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.root)?;
        self.wait_until_ready().await
    }

    /// What `ctr <args>` prints for `namespace`.
    pub(crate) fn ctr(&self, namespace: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new("ctr");
        let output = command.arg("-a").arg(self.socket()).args(["-n", namespace]).args(args).output()?;
        anyhow::ensure!(output.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while self.ctr("default", &["version"]).is_err() {
            anyhow::ensure!(self.child.try_wait()?.is_none(), "containerd ended: {}", self.log());
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "containerd is not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// The test's cgroup in every hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        cgroups(&self.cgroup)
    }
}

fn cgroups(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter(|l| l.contains(" - cgroup")).filter_map(|l| l.split(' ').nth(4));
    points.map(|p| Path::new(p).join(name.trim_start_matches('/'))).filter(|p| p.exists()).collect()
}

/// The pids of the shims of the containerd in `root`.
fn shims(root: &Path) -> Vec<Pid> {
    let socket = root.join(SOCKET);
    let ours = |cmdline: &[u8]| {
        let args: Vec<&[u8]> = cmdline.split(|b| *b == 0).collect();
        args.first().is_some_and(|a| a.ends_with(b"containerd-shim-runc-v2"))
            && args.windows(2).any(|w| w[0] == b"-address" && w[1] == socket.as_os_str().as_encoded_bytes())
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let of_ours = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| ours(&c));
    pids.filter(of_ours).map(Pid::from_raw).collect()
}

fn spawn(root: &Path) -> Result<Child> {
    let log = fs::OpenOptions::new().append(true).create(true).open(root.join("log"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "containerd", "--config"]).arg(root.join("config.toml"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("cannot start containerd (is it installed?)")
}

impl Drop for Containerd {
    fn drop(&mut self) {
        clean_up(&self.root, &self.cgroup, || {
            let _ = self.child.kill();
            let _ = self.child.wait();
        });
    }
}

/// Ends and removes what the containerd in `root` and its containers left; `end` ends containerd itself, once nothing of
/// it can start.
pub(crate) fn clean_up(root: &Path, cgroup: &str, end: impl FnOnce()) {
    let groups: Vec<PathBuf> = cgroups(cgroup).iter().flat_map(|g| children(g)).collect();
    for group in &groups {
        for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = pid.parse().map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
        }
    }
    for shim in shims(root) {
        let _ = kill(shim, Signal::SIGKILL);
    }
    end();
    // A killed shim leaves its socket.
    for dir in children(&root.join("run/io.containerd.runtime.v2.task")) {
        let address = fs::read_to_string(dir.join("address")).unwrap_or_default();
        let _ = address.strip_prefix("unix://").map(fs::remove_file);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().rev().filter_map(|l| l.split(' ').nth(4));
    for point in points.filter(|p| Path::new(p).starts_with(root)) {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
    // A killed process leaves its cgroup a moment later; the attempts are bounded.
    for group in groups.iter().rev() {
        for _ in 0..1000 {
            match fs::remove_dir(group) {
                Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => std::thread::yield_now(),
                _ => break,
            }
        }
    }
}

/// `dir` and everything below it, parents first.
fn children(dir: &Path) -> Vec<PathBuf> {
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
    std::iter::once(dir.to_owned()).chain(below.flat_map(|p| children(&p))).collect()
}
