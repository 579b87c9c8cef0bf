//! The mounts of a container, and the content of the files that are made for it.

use std::{net::IpAddr, path::Path};

use serde_json::{Value, json};

use super::{Host, INIT, INPUT, process};
use crate::types::{ContainerSpec, Mount};
use hivemind_core::spec::v1::{ContainerSpec as Options, TmpfsSpec};

/// The size of `/dev/shm` without a word: Docker's.
const SHM_SIZE: u64 = 64 << 20;

pub(super) fn mounts(spec: &ContainerSpec, host: &Host<'_>) -> Value {
    let options = &spec.options;
    let mut mounts = standard(options, host.files);
    if process::has_init(options) {
        mounts.push(bind(INIT, host.init));
    }
    if process::needs_input(options) {
        mounts.push(bind(INPUT, host.input));
    }
    // What is said replaces what is there without a word, and parents come before what is in them.
    let mut own: Vec<(&str, Value)> =
        options.tmpfs.iter().map(|tmpfs| (clean(&tmpfs.path), in_memory(tmpfs, options))).collect();
    own.extend(spec.mounts.iter().map(|mount| (clean(&mount.target), of_node(mount))));
    own.sort_by_key(|(path, _)| path.split('/').count());
    mounts.retain(|mount| own.iter().all(|(path, _)| mount["destination"] != *path));
    mounts.extend(own.into_iter().map(|(_, mount)| mount));
    Value::Array(mounts)
}

/// What is mounted on the node later does not come in, nor goes out what the container mounts.
fn of_node(mount: &Mount) -> Value {
    let rights = if mount.read_only { ["ro", "rro"].as_slice() } else { &["rw"] };
    let options: Vec<_> = ["rbind", "rprivate"].iter().chain(rights).collect();
    json!({"destination": clean(&mount.target), "type": "bind", "source": mount.source, "options": options})
}

fn standard(options: &Options, files: &Path) -> Vec<Value> {
    let shm = format!("size={}", options.shm_size.map_or(SHM_SIZE, |size| size.0));
    // Who has all rights may change what the kernel shows.
    let shown = if options.privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", shown]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[shown, "nosuid", "noexec", "nodev", "relatime"]),
        mount("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        bind("/etc/resolv.conf", &files.join("resolv.conf")),
        bind("/etc/hosts", &files.join("hosts")),
        bind("/etc/hostname", &files.join("hostname")),
    ]
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

/// Read-only: writing there would fill the host's disk, or change what is not the container's.
fn bind(destination: &str, source: &Path) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", "ro"]})
}

fn in_memory(tmpfs: &TmpfsSpec, options: &Options) -> Value {
    let mut words = vec!["nosuid".to_owned(), "nodev".to_owned()];
    words.push(if tmpfs.exec { "exec" } else { "noexec" }.to_owned());
    words.push(format!("mode={}", tmpfs.mode.as_deref().unwrap_or("1777")));
    let shm = options.shm_size.filter(|_| clean(&tmpfs.path) == "/dev/shm");
    words.extend(tmpfs.size.or(shm).map(|size| format!("size={}", size.0)));
    words.extend(tmpfs.uid.map(|uid| format!("uid={uid}")));
    words.extend(tmpfs.gid.map(|gid| format!("gid={gid}")));
    json!({"destination": clean(&tmpfs.path), "type": "tmpfs", "source": "tmpfs", "options": words})
}

fn clean(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// The content of `/etc/hosts`.
pub(crate) fn hosts(spec: &ContainerSpec) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let full = spec.options.domainname.as_ref().map(|domain| format!("{}.{domain} ", spec.hostname));
    let mut line = |address: &IpAddr, names: &str| text += &format!("{address}\t{names}\n");
    for address in &spec.addresses {
        line(address, &format!("{}{}", full.as_deref().unwrap_or_default(), spec.hostname));
    }
    for (name, address) in &spec.extra_hosts {
        line(address, name);
    }
    text
}
