//! Docker Engine as Debian 13 has it, out of its packages, in a sandbox. They are unpacked and not installed.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result};

use crate::{deb::Archive, sandbox::Sandbox};

/// Debian's release whose packages are taken: that of this machine may be older than what people run.
pub const SUITE: &str = "trixie";

/// Its programs.
#[derive(Clone, Debug)]
pub struct Docker {
    engine: PathBuf,
    /// `docker`.
    pub client: PathBuf,
    packages: Archive,
}

impl Docker {
    /// Fetches the packages, unless they are there.
    ///
    /// # Errors
    /// If one cannot be had.
    pub fn fetch() -> Result<Self> {
        let packages = Archive::of(SUITE)?;
        let engine = packages.unpacked("docker.io")?;
        let client = packages.unpacked("docker-cli")?.join("usr/bin/docker");
        Ok(Self { engine, client, packages })
    }

    /// A plug-in of the command line, of the package `docker-NAME`.
    ///
    /// # Errors
    /// If the package cannot be had.
    pub fn plugin(&self, name: &str) -> Result<PathBuf> {
        let package = format!("docker-{name}");
        Ok(self.packages.unpacked(&package)?.join("usr/libexec/docker/cli-plugins").join(package))
    }

    /// Starts the daemon on a containerd, with its files and its socket, `docker.sock`, in `dir`. It ends with the sandbox.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, sandbox: &Sandbox, containerd: &Path, dir: &Path, flags: &[&str]) -> Result<Child> {
        let path = |name: &str| dir.join(name).display().to_string();
        // An empty one: none of the machine's.
        fs::write(dir.join("daemon.json"), "{}")?;
        let log = fs::File::create(dir.join("log"))?;
        let mut command = sandbox.command(self.engine.join("usr/sbin/dockerd"));
        for (flag, value) in [
            ("--config-file", path("daemon.json")),
            ("--host", format!("unix://{}", path("docker.sock"))),
            ("--data-root", path("lib")),
            ("--exec-root", path("run")),
            ("--pidfile", path("pid")),
            ("--containerd", containerd.display().to_string()),
            ("--cgroup-parent", format!("/{}/instances", sandbox.name())),
            ("--exec-opt", "native.cgroupdriver=cgroupfs".into()),
            ("--userland-proxy-path", self.engine.join("usr/sbin/docker-proxy").display().to_string()),
        ] {
            command.arg(flag).arg(value);
        }
        command.args(flags).env("PATH", beside(&self.engine)).stdout(Stdio::null()).stderr(log);
        command.spawn().context("cannot start Docker Engine")
    }
}

/// The path on which the engine finds its own helpers.
fn beside(engine: &Path) -> OsString {
    let own = [engine.join("usr/sbin"), engine.join("usr/bin")];
    let path = env::var_os("PATH").unwrap_or_default();
    // None of these has a colon in it.
    env::join_paths(own.into_iter().chain(env::split_paths(&path))).unwrap_or(path)
}
