//! A containerd of a sandbox's own.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{sandbox::Sandbox, shell, wait};

/// The folder with another containerd's programs than this machine's: `cargo xtask containerds` sets it.
pub const PROGRAMS: &str = "HIVEMIND_CONTAINERD_PROGRAMS";

/// It is ready in a third of a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What nobody needs here, and what would complain in the log.
const DISABLED: &str = r#"["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]"#;

/// A running containerd. It ends with its sandbox.
#[derive(Debug)]
pub struct Containerd {
    dir: PathBuf,
    child: Child,
}

impl Containerd {
    /// Starts one and waits until it answers.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        let dir = sandbox.dir().join("containerd");
        fs::create_dir_all(&dir)?;
        let path = dir.display();
        let config = format!(
            "version = 2\nroot = \"{path}/lib\"\nstate = \"{path}/run\"\ndisabled_plugins = {DISABLED}\n\
             [grpc]\n  address = \"{path}/containerd.sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{path}/opt\"\n"
        );
        fs::write(dir.join("config.toml"), config)?;
        let child = spawn(sandbox, &dir)?;
        let containerd = Self { dir, child };
        containerd.ready()?;
        Ok(containerd)
    }

    fn ready(&self) -> Result<()> {
        wait::until("containerd", PATIENCE, || self.ctr(&["version"]).map(drop))
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Kills containerd, but not its containers.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).context("cannot kill containerd").map(drop)
    }

    /// Starts it again after [`Self::kill`].
    pub fn restart(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.child = spawn(sandbox, &self.dir)?;
        self.ready()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What `ctr <args>` prints, in hivemind's namespace.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let mut ctr = Command::new(program("ctr")?);
        shell::output(ctr.arg("--address").arg(self.socket()).args(["--namespace", "hivemind"]).args(args))
    }

    /// Everything it keeps for hivemind: containers, tasks, snapshots, images, leases, content; one line each.
    pub fn keeps(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for (kind, args) in [
            ("container", &["containers", "ls", "-q"][..]),
            ("task", &["tasks", "ls", "-q"]),
            ("snapshot", &["snapshots", "ls"]),
            ("lease", &["leases", "ls", "-q"]),
        ] {
            let listed = self.ctr(args)?;
            let titled = listed.lines().skip(usize::from(kind == "snapshot"));
            all.extend(titled.filter_map(|line| Some(format!("{kind} {}", line.split_whitespace().next()?))));
        }
        Ok(all)
    }
}

fn spawn(sandbox: &Sandbox, dir: &std::path::Path) -> Result<Child> {
    let program = program("containerd")?;
    ensure!(shell::find("runc").is_some(), "runc is not installed (hint: cargo xtask setup)");
    let log = fs::File::options().create(true).append(true).open(dir.join("log"))?;
    let mut command = sandbox.command(program);
    if let Some(folder) = std::env::var_os(PROGRAMS) {
        // The shim is found by the path.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(PathBuf::from(folder)).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders)?);
    }
    command.arg("--config").arg(dir.join("config.toml")).stdout(Stdio::null()).stderr(log);
    command.spawn().context("cannot start containerd")
}

/// A program of containerd's.
pub fn program(name: &str) -> Result<PathBuf> {
    let named = std::env::var_os(PROGRAMS).map(|folder| PathBuf::from(folder).join(name));
    let program = named
        .or_else(|| shell::find(name))
        .with_context(|| format!("{name} is not installed (hint: cargo xtask setup)"))?;
    ensure!(program.is_file(), "{} is not there ({PROGRAMS})", program.display());
    Ok(program)
}
