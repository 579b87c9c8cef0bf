//! Docker Engine and Docker Compose as Debian 13 has them, on a machine of their own: a sandbox with a containerd, a
//! registry and their daemon. Their packages are unpacked and not installed.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::{
    containerd::Containerd,
    docker::Docker as Programs,
    image::Image,
    registry::{Access, Registry},
    sandbox::Sandbox,
    wait,
};

/// The registry's port inside.
const REGISTRY: u16 = 5000;
/// Longer than it takes to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any command.
const COMMAND: Duration = Duration::from_secs(300);

/// A machine that runs Docker Engine.
pub(crate) struct Docker {
    dir: PathBuf,
    client: PathBuf,
    compose: PathBuf,
    registry: Registry,
    /// Both end with the sandbox.
    _processes: (Child, Containerd),
    sandbox: Sandbox,
}

impl Docker {
    /// Everything, ready.
    ///
    /// # Errors
    /// If a package cannot be had, or the engine does not answer in time: with the end of its log.
    pub(crate) fn start(name: &str) -> Result<Self> {
        let programs = Programs::fetch()?;
        let compose = programs.plugin("compose")?;
        let sandbox = Sandbox::new(name)?;
        let containerd = Containerd::start(&sandbox)?;
        let registry = Registry::start(&sandbox, REGISTRY, Access::Open)?;
        let dir = sandbox.dir().join("docker");
        fs::create_dir_all(&dir)?;
        let daemon = programs.start(&sandbox, &containerd.socket(), &dir, &[])?;
        let docker =
            Self { dir, client: programs.client, compose, registry, _processes: (daemon, containerd), sandbox };
        wait::until("Docker Engine", PATIENCE, || docker.get("/_ping").map(drop)).with_context(|| docker.log())?;
        Ok(docker)
    }

    /// Puts an image into the machine's registry and has the engine fetch it; returns its name.
    pub(crate) fn push(&self, image: &Image, name: &str) -> Result<String> {
        let name = self.registry.push(&self.sandbox, image, name, "1")?;
        self.run(&["pull", "--quiet", &name])?;
        Ok(name)
    }

    /// Its folder, for files of a project.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its machine.
    pub(crate) const fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// `docker <args>`, to be run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.of(&self.client, args)
    }

    /// `docker-compose <args>` in a folder, to be run.
    pub(crate) fn compose(&self, dir: &Path, args: &[&str]) -> Command {
        let dir = dir.display().to_string();
        self.of(&self.compose, &[&["--project-directory", &dir][..], args].concat())
    }

    /// `docker <args>`; what it prints.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        let said = xtask::daemon::finish(self.command(args), &format!("docker {}", args.join(" ")), COMMAND)?;
        said.ok()
    }

    /// An answer of the engine's API, without a process in between.
    pub(crate) fn api(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.get(path)?).with_context(|| format!("no JSON from {path}"))
    }

    /// The end of the engine's log.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(20).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Ends everything.
    pub(crate) fn close(self) -> Result<()> {
        self.sandbox.close()
    }

    fn of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(program);
        command.args(args).env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        // Not what the machine's user has configured.
        command.env("DOCKER_CONFIG", &self.dir).env("HOME", &self.dir);
        command
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// HTTP/1.0, so that the connection's end is the answer's.
    fn get(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no head")?;
        ensure!(head.lines().next().is_some_and(|line| line.contains(" 200")), "GET {path}: {answer}");
        Ok(body.to_owned())
    }
}
