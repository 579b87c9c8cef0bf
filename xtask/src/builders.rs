//! What builds images, in a sandbox: buildah, or Docker with buildx, out of Debian's packages, not installed.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{deb, docker::Docker, sandbox::Sandbox, shell, wait};

/// The package.
const BUILDAH: &str = "buildah";
/// Docker's daemon is ready in two seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Anything is taken: what is built here is signed by nobody.
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Variables of a command line that builds.
pub type Environment = Vec<(&'static str, OsString)>;

/// Fetches what [`buildah`] needs, so that the tests need no network.
///
/// # Errors
/// If a package cannot be had.
pub fn fetch() -> Result<()> {
    deb::program(BUILDAH, BUILDAH)?;
    deb::library_folders(BUILDAH).map(drop)
}

/// buildah with images of its own in the sandbox's folder, for a command line that finds it: these are its variables.
/// Base images come from the registry at `host`, without TLS. Commands of a build are run by runc, in the sandbox; those that
/// need a network need `network: host` or `none`, for no plug-ins of networks are there.
///
/// # Errors
/// If a package cannot be had, or a file not be written.
pub fn buildah(sandbox: &Sandbox, host: &str) -> Result<Environment> {
    let program = deb::program(BUILDAH, BUILDAH)?;
    let libraries = env::join_paths(deb::library_folders(BUILDAH)?)?;
    let dir = sandbox.dir().join("buildah");
    let (bin, containers) = (dir.join("bin"), dir.join(".config/containers"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&containers)?;
    fs::write(containers.join("policy.json"), POLICY)?;
    let (storage, registries) = (dir.join("storage.conf"), dir.join("registries.conf"));
    let path = dir.display();
    fs::write(
        &storage,
        format!("[storage]\ndriver = \"vfs\"\nrunroot = \"{path}/run\"\ngraphroot = \"{path}/images\"\n"),
    )?;
    fs::write(&registries, format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"))?;
    // The libraries are for it alone.
    let script =
        format!("#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n", libraries.to_string_lossy(), program.display());
    write_program(&bin.join(BUILDAH), &script)?;
    Ok(vec![
        ("PATH", before(&bin)?),
        ("HOME", dir.clone().into()),
        ("TMPDIR", sandbox.dir().into()),
        ("CONTAINERS_STORAGE_CONF", storage.into()),
        ("CONTAINERS_REGISTRIES_CONF", registries.into()),
        ("BUILDAH_ISOLATION", "oci".into()),
    ])
}

/// A Docker daemon in the sandbox, on its containerd, for a command line that finds it: these are its variables. Builds need
/// `network: host` or `none`: it makes no networks.
///
/// # Errors
/// If a package cannot be had, or the daemon does not answer in time: with its log.
pub fn docker(sandbox: &Sandbox, containerd: &Path) -> Result<Environment> {
    let programs = Docker::fetch()?;
    let dir = sandbox.dir().join("docker");
    let (bin, plugins) = (dir.join("bin"), dir.join("cli-plugins"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&plugins)?;
    symlink(&programs.client, bin.join("docker"))?;
    symlink(programs.plugin("buildx")?, plugins.join("docker-buildx"))?;
    // Not among the instances of hivemind, which are counted.
    let cgroup = format!("--cgroup-parent=/{}/docker", sandbox.name());
    let flags = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", &cgroup];
    programs.start(sandbox, containerd, &dir, &flags)?;
    let environment = vec![
        ("PATH", before(&bin)?),
        ("HOME", dir.clone().into()),
        ("TMPDIR", sandbox.dir().into()),
        ("DOCKER_CONFIG", dir.clone().into()),
        ("DOCKER_HOST", format!("unix://{}", dir.join("docker.sock").display()).into()),
    ];
    let version = || {
        let mut command = sandbox.command(&programs.client);
        command.arg("version").envs(environment.iter().map(|(name, value)| (name, value)));
        shell::output(&mut command)
    };
    let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
    wait::until("Docker Engine", PATIENCE, version).with_context(log)?;
    Ok(environment)
}

/// A script that can be run.
fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// The machine's path with a folder before it.
pub(crate) fn before(folder: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths([folder.to_owned()].into_iter().chain(env::split_paths(&path)))?)
}
