//! The OCI runtime specification of a container, and of a further process in it. Pure: facts about the host come in.
//!
//! The starting point is containerd's default: its mounts (a tmpfs on `/run` included, which images' entrypoints
//! expect), Docker's capabilities, masked and read-only paths, no devices but the harmless ones (the runtime adds
//! them), and no new privileges. Deliberately absent: privileged containers and host namespaces.

use std::{net::IpAddr, path::Path};

use serde_json::{Value, json};

use super::{
    seccomp,
    types::{ContainerSpec, ExecSpec, TtySize},
    user::ResolvedUser,
};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's.
const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The scheduler's accounting period, microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// Open files, unless a process raises it: more breaks `select`.
const OPEN_FILES: u64 = 1024;

/// Open files at most: systemd's default.
pub(super) const MAX_OPEN_FILES: u64 = 524_288;

/// What the specification depends on besides the container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host<'a> {
    /// The parent of the containers' cgroups, e.g. `/hivemind`.
    pub cgroup_parent: &'a str,
    /// Where `resolv.conf`, `hosts` and `hostname` of this container are.
    pub files: &'a Path,
    /// How far a process may raise its limit of open files.
    pub open_files: u64,
    /// Whether swap can be limited.
    pub swap: bool,
    /// Whether system calls can be filtered.
    pub seccomp: bool,
    /// Whether there are cgroup namespaces.
    pub cgroup_namespace: bool,
}

/// The whole specification. The error is for people: the spec asks for what the image cannot give.
pub(super) fn container(spec: &ContainerSpec, user: &ResolvedUser, host: Host<'_>) -> Result<Value, String> {
    let mut namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount"].iter().map(|t| json!({"type": t})).collect();
    namespaces.push(json!({"type": "network", "path": spec.netns}));
    if host.cgroup_namespace {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let mut linux = json!({
        "cgroupsPath": format!("{}/{}", host.cgroup_parent.trim_end_matches('/'), spec.id),
        "namespaces": namespaces,
        "resources": resources(spec, host.swap),
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
        // As Docker does: ports below 1024 and ping for every user of the container's own network.
        "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"},
    });
    if host.seccomp {
        linux["seccomp"] = seccomp::profile();
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": false},
        "hostname": spec.hostname,
        "process": process(spec, user, host.open_files)?,
        "mounts": mounts(spec, host.files),
        "linux": linux,
    }))
}

fn process(spec: &ContainerSpec, user: &ResolvedUser, open_files: u64) -> Result<Value, String> {
    let image = &spec.image;
    let (first, rest) = match (&spec.command, &spec.args) {
        (Some(command), args) => (command, args.as_deref().unwrap_or_default()),
        (None, Some(args)) => (&image.entrypoint, args.as_slice()),
        (None, None) => (&image.entrypoint, image.cmd.as_slice()),
    };
    let args: Vec<&String> = first.iter().chain(rest).collect();
    if args.first().is_none_or(|program| program.is_empty()) {
        return Err(format!("the image {} has no command and none was given", image.reference));
    }
    let cwd = spec.workdir.as_deref().or(image.workdir.as_deref()).unwrap_or("/");
    let cwd = if cwd.starts_with('/') { cwd.to_owned() } else { format!("/{cwd}") };
    let own = spec.env.iter().map(|(name, value)| format!("{name}={value}"));
    let base = [PATH.to_owned(), format!("HOSTNAME={}", spec.hostname), format!("HOME={}", user.home)];
    let env = merge_env(base.into_iter().chain(image.env.iter().cloned()).chain(own));
    // Not inheritable and not ambient: a process that is not root keeps none of them.
    let caps = json!({"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES});
    Ok(json!({
        "terminal": false,
        "user": user_json(user),
        "args": args,
        "env": env,
        "cwd": cwd,
        "capabilities": caps,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": OPEN_FILES.min(open_files), "hard": open_files}],
        "noNewPrivileges": true,
    }))
}

fn user_json(user: &ResolvedUser) -> Value {
    json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.extra_groups})
}

/// The process of an exec: the container's own, changed.
pub(super) fn exec_process(container: &Value, spec: &ExecSpec, user: Option<&ResolvedUser>) -> Value {
    let mut process = container["process"].clone();
    process["args"] = json!(spec.command);
    process["terminal"] = json!(spec.tty.is_some());
    if let Some(TtySize { rows, cols }) = spec.tty {
        process["consoleSize"] = json!({"height": rows, "width": cols});
    }
    if let Some(cwd) = &spec.workdir {
        process["cwd"] = json!(cwd);
    }
    if let Some(user) = user {
        process["user"] = user_json(user);
    }
    let inherited = process["env"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let home = user.map(|u| format!("HOME={}", u.home));
    let term = spec.tty.map(|_| "TERM=xterm".to_owned());
    process["env"] = json!(merge_env(term.into_iter().chain(inherited).chain(home).chain(spec.env.iter().cloned())));
    process
}

/// The last value of a name wins, in the place of its first.
fn merge_env(all: impl Iterator<Item = String>) -> Vec<String> {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    for pair in all {
        match merged.iter_mut().find(|have| name(have) == name(&pair)) {
            Some(have) => *have = pair,
            None => merged.push(pair),
        }
    }
    merged
}

fn resources(spec: &ContainerSpec, swap: bool) -> Value {
    let limits = &spec.resources;
    let mut resources = json!({"devices": [{"allow": false, "access": "rwm"}]});
    if let Some(cpu) = limits.cpu {
        resources["cpu"] = json!({"quota": u64::from(cpu.0) * CPU_PERIOD / 1000, "period": CPU_PERIOD});
    }
    if let Some(memory) = limits.memory {
        let limit = i64::try_from(memory.0).unwrap_or(i64::MAX);
        resources["memory"] = json!({"limit": limit});
        if swap {
            // Memory and swap together, so this means: none.
            resources["memory"]["swap"] = json!(limit);
        }
    }
    if let Some(pids) = limits.pids {
        resources["pids"] = json!({"limit": pids});
    }
    resources
}

fn mounts(spec: &ContainerSpec, files: &Path) -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let bind = |destination: &str, name: &str| {
        // Read-only: writing there would fill the host's /run.
        let options = ["rbind", "rprivate", "ro"];
        json!({"destination": destination, "type": "bind", "source": files.join(name), "options": options})
    };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev", "relatime"]),
        mount("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        bind("/etc/resolv.conf", "resolv.conf"),
        bind("/etc/hosts", "hosts"),
        bind("/etc/hostname", "hostname"),
    ];
    all.extend(spec.mounts.iter().map(|mount| {
        // What is mounted on the node later does not come in, nor goes out what the container mounts.
        let rights = if mount.read_only { ["ro", "rro"].as_slice() } else { &["rw"] };
        let options: Vec<_> = ["rbind", "rprivate"].iter().chain(rights).collect();
        json!({"destination": mount.target, "type": "bind", "source": mount.source, "options": options})
    }));
    Value::Array(all)
}

/// The content of `/etc/hosts`.
pub(super) fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for address in addresses {
        text += &format!("{address}\t{hostname}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        model::{Bytes, InstanceId, MilliCpu},
        runtime::types::{Image, Mount},
        spec::v1::Resources,
    };

    fn image() -> Image {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect();
        Image {
            reference: "docker.io/library/x:latest".to_owned(),
            digest: String::new(),
            chain_id: String::new(),
            entrypoint: words(&["/entry"]),
            cmd: words(&["serve"]),
            env: words(&["A=image", "HOME=/img"]),
            user: None,
            workdir: None,
            stop_signal: None,
            exposed: Vec::new(),
            volumes: Vec::new(),
            health: None,
        }
    }

    fn spec() -> ContainerSpec {
        ContainerSpec {
            id: InstanceId::from_bits(7),
            image: image(),
            hostname: "web-1".to_owned(),
            command: None,
            args: None,
            env: BTreeMap::from([("A".to_owned(), "own".to_owned())]),
            user: None,
            workdir: Some("srv".to_owned()),
            resources: Resources { cpu: Some(MilliCpu(250)), memory: Some(Bytes(64 << 20)), pids: Some(9) },
            netns: "/run/netns/x".into(),
            resolv_conf: String::new(),
            mounts: Vec::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    fn user() -> ResolvedUser {
        ResolvedUser { uid: 5, gid: 6, extra_groups: vec![7], home: "/home/u".to_owned() }
    }

    fn build(spec: &ContainerSpec) -> Result<Value, String> {
        let files = Path::new("/run/h/x");
        let host = Host {
            cgroup_parent: "/hivemind",
            files,
            open_files: 4096,
            swap: true,
            seccomp: true,
            cgroup_namespace: true,
        };
        container(spec, &user(), host)
    }

    #[test]
    fn is_a_valid_specification() {
        let value = build(&spec()).expect("builds");
        let typed: oci_spec::runtime::Spec = serde_json::from_value(value.clone()).expect("is one");
        let resources = typed.linux().as_ref().and_then(|l| l.resources().clone()).expect("has limits");
        assert_eq!(resources.cpu().as_ref().and_then(|c| c.quota()), Some(25_000));
        assert_eq!(resources.memory().and_then(|m| m.swap()), Some(64 << 20));
        let process = typed.process().as_ref().expect("has one");
        assert_eq!(process.cwd(), Path::new("/srv"));
        let env = [PATH, "HOSTNAME=web-1", "HOME=/img", "A=own"].map(str::to_owned).to_vec();
        assert_eq!(process.env(), &Some(env));
        let exec = ExecSpec {
            command: vec!["ls".to_owned()],
            env: vec!["A=exec".to_owned()],
            user: None,
            workdir: None,
            tty: Some(TtySize { rows: 24, cols: 80 }),
            stdin: true,
        };
        let process: oci_spec::runtime::Process =
            serde_json::from_value(exec_process(&value, &exec, None)).expect("is one");
        assert_eq!(process.terminal(), Some(true));
        assert!(process.env().as_ref().is_some_and(|e| e.contains(&"A=exec".to_owned())));
    }

    #[test]
    fn mounts_are_private_and_come_after_the_kernels_own() {
        let mount = |target: &str, read_only| Mount { source: "/v/data".into(), target: target.into(), read_only };
        let value = build(&ContainerSpec { mounts: vec![mount("/a", false), mount("/run/x", true)], ..spec() });
        let mounts = value.expect("builds")["mounts"].as_array().cloned().expect("a list");
        let shown: Vec<_> =
            mounts[mounts.len() - 2..].iter().map(|m| (m["destination"].clone(), m["options"].clone())).collect();
        let expected = [
            (json!("/a"), json!(["rbind", "rprivate", "rw"])),
            (json!("/run/x"), json!(["rbind", "rprivate", "ro", "rro"])),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn rights_are_dockers_and_no_more() {
        let value = build(&spec()).expect("builds");
        // Written down again, from Docker's documentation: a right more is a decision.
        let rights = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID \
                      SETPCAP SETUID SYS_CHROOT";
        let rights: Vec<String> = rights.split_whitespace().map(|right| format!("CAP_{right}")).collect();
        let expected = json!({"bounding": rights, "effective": rights, "permitted": rights});
        assert_eq!(value["process"]["capabilities"], expected, "nothing inheritable, nothing ambient");
        assert_eq!(value["process"]["noNewPrivileges"], json!(true));
        assert_eq!(value["process"]["user"], json!({"uid": 5, "gid": 6, "additionalGids": [7]}));
        let exec = ExecSpec {
            command: vec!["id".to_owned()],
            env: Vec::new(),
            user: None,
            workdir: None,
            tty: None,
            stdin: false,
        };
        let other = ResolvedUser { uid: 8, gid: 9, extra_groups: vec![10, 11], home: "/".to_owned() };
        let process = exec_process(&value, &exec, Some(&other));
        assert_eq!(process["user"], json!({"uid": 8, "gid": 9, "additionalGids": [10, 11]}));
        assert_eq!(process["capabilities"], expected);
        assert_eq!(exec_process(&value, &exec, None)["user"], value["process"]["user"]);
    }

    #[test]
    fn what_tells_of_or_changes_the_host_is_masked_or_read_only() {
        let linux = &build(&spec()).expect("builds")["linux"];
        let paths = |of: &str| -> Vec<String> { serde_json::from_value(linux[of].clone()).expect("a list") };
        let masked = paths("maskedPaths");
        for path in "acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats".split(' ')
        {
            assert!(masked.contains(&format!("/proc/{path}")), "{path}: {masked:?}");
        }
        assert!(masked.contains(&"/sys/firmware".into()) && masked.contains(&"/sys/devices/virtual/powercap".into()));
        let read_only = paths("readonlyPaths");
        for path in "bus fs irq sys sysrq-trigger".split(' ') {
            assert!(read_only.contains(&format!("/proc/{path}")), "{path}: {read_only:?}");
        }
    }

    #[test]
    fn command_and_args_replace_as_docker_does() {
        let words = |w: &[&str]| Some(w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let args = |command: Option<Vec<String>>, args: Option<Vec<String>>| {
            build(&ContainerSpec { command, args, ..spec() }).map(|v| v["process"]["args"].clone())
        };
        assert_eq!(args(None, None), Ok(json!(["/entry", "serve"])));
        assert_eq!(args(None, words(&["b"])), Ok(json!(["/entry", "b"])));
        assert_eq!(args(words(&["a"]), None), Ok(json!(["a"])));
        assert_eq!(args(words(&["a"]), words(&["b"])), Ok(json!(["a", "b"])));
        assert!(args(words(&[]), None).is_err());
    }
}
