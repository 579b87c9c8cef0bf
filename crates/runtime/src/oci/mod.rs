//! The OCI runtime specification of a container, and of a further process in it. Pure: facts about the host come in.
//!
//! The starting point is containerd's default: its mounts (a tmpfs on `/run` included, which images' entrypoints
//! expect), Docker's capabilities, masked and read-only paths, no devices but the harmless ones (the runtime adds
//! them), and no new privileges. Deliberately absent: the host's namespaces.

mod cdi;
mod devices;
mod linux;
mod mounts;
mod process;
pub(super) mod seccomp;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::{Value, json};

pub(super) use cdi::{Cdi, cdi_of};
pub(super) use devices::Device;
pub(super) use mounts::hosts;
pub(super) use process::{exec_process, has_init};

use super::{types::ContainerSpec, user::ResolvedUser};

/// Open files at most: systemd's default.
pub(super) const MAX_OPEN_FILES: u64 = 524_288;

/// Where our own first process is in a container: in a file system that the runtime makes, not in the image's.
pub(super) const INIT: &str = "/dev/.hivemind-init";

/// Where the pipe is that [`INIT`] makes the program's input of. With a terminal there is none: the shim reads it there.
pub(super) const INPUT: &str = "/dev/.hivemind-stdin";

/// What the specification depends on besides the container.
#[derive(Clone, Debug)]
pub(super) struct Host<'a> {
    /// The parent of the containers' cgroups, e.g. `/hivemind`.
    pub cgroup_parent: &'a str,
    /// Where `resolv.conf`, `hosts` and `hostname` of this container are.
    pub files: &'a Path,
    /// The program that is process 1 of containers that ask for it, on the host.
    pub init: &'a Path,
    /// The pipe of the input of containers that ask for one, on the host.
    pub input: &'a Path,
    /// How far a process may raise its limit of open files.
    pub open_files: u64,
    /// Whether swap can be limited.
    pub swap: bool,
    /// Whether system calls can be filtered.
    pub seccomp: bool,
    /// Whether there are cgroup namespaces.
    pub cgroup_namespace: bool,
    /// The architecture as OCI spells it.
    pub arch: &'a str,
    /// The kernel's version.
    pub kernel: (u32, u32),
    /// The capabilities that we have, and can therefore give, as `CAP_CHOWN`.
    pub capabilities: &'a [String],
    /// The AppArmor profiles that are loaded; `None` where there is no AppArmor.
    pub apparmor: Option<&'a [String]>,
    /// The devices that the container asks for; all of the host if it is privileged.
    pub devices: &'a [Device],
    /// What its devices of CDI ask for.
    pub cdi: &'a [Cdi],
}

/// The whole specification. The error is for people: the spec asks for what the image or the host cannot give.
pub(super) fn container(spec: &ContainerSpec, user: &ResolvedUser, host: &Host<'_>) -> Result<Value, String> {
    let mut value = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": spec.options.read_only},
        "hostname": spec.hostname,
        "process": process::process(spec, user, host)?,
        "mounts": mounts::mounts(spec, host),
        "linux": linux::linux(spec, host)?,
    });
    if !spec.options.annotations.is_empty() {
        value["annotations"] = json!(spec.options.annotations);
    }
    for edits in host.cdi {
        edits.apply(&mut value);
    }
    Ok(value)
}
