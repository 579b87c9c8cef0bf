//! Namespaces, limits, parameters of the kernel, and what is hidden of it.

use serde_json::{Map, Value, json};

use super::{Host, process, seccomp};
use crate::types::ContainerSpec;
use hivemind_core::spec::v1::{Machine, Seccomp, profile_for};

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

pub(super) fn linux(spec: &ContainerSpec, host: &Host<'_>) -> Result<Value, String> {
    let mut namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount"].iter().map(|t| json!({"type": t})).collect();
    namespaces.push(json!({"type": "network", "path": spec.netns}));
    if host.cgroup_namespace {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let privileged = spec.options.privileged;
    let mut linux = json!({
        "cgroupsPath": format!("{}/{}", host.cgroup_parent.trim_end_matches('/'), spec.id),
        "namespaces": namespaces,
        "resources": resources(spec, host),
        "sysctl": sysctls(spec),
    });
    if !privileged {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    let devices: Vec<Value> = host.devices.iter().map(super::Device::node).collect();
    if !devices.is_empty() {
        linux["devices"] = json!(devices);
    }
    if let Some(filter) = filter(spec, host)? {
        linux["seccomp"] = filter;
    }
    Ok(linux)
}

fn filter(spec: &ContainerSpec, host: &Host<'_>) -> Result<Option<Value>, String> {
    let capabilities = process::capabilities(&spec.options, host)?;
    match &spec.options.security.seccomp {
        Seccomp::Profile(_) if !host.seccomp => {
            Err("the seccomp profile cannot be used: this node's kernel filters no system calls".into())
        }
        Seccomp::Profile(profile) => {
            let machine = Machine { arch: host.arch, kernel: host.kernel, capabilities: &capabilities };
            profile_for(profile, &machine).map(Some)
        }
        Seccomp::Default if host.seccomp && !spec.options.privileged => Ok(Some(seccomp::profile(&capabilities))),
        Seccomp::Default | Seccomp::Unconfined => Ok(None),
    }
}

fn sysctls(spec: &ContainerSpec) -> Value {
    // As Docker does: ports below 1024 and ping for every user of the container's own network.
    let ours = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];
    let mut all: Map<String, Value> = ours.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    // OCI's own field for it came with 1.1, which runc before 1.2 does not know.
    all.extend(spec.options.domainname.as_ref().map(|name| ("kernel.domainname".to_owned(), json!(name))));
    all.extend(spec.options.sysctls.iter().map(|(name, value)| (name.clone(), json!(value))));
    Value::Object(all)
}

fn resources(spec: &ContainerSpec, host: &Host<'_>) -> Value {
    let limits = &spec.resources;
    let mut devices = vec![json!({"allow": spec.options.privileged, "access": "rwm"})];
    if !spec.options.privileged {
        devices.extend(host.devices.iter().map(super::Device::rule));
    }
    let mut resources = json!({"devices": devices});
    if let Some(cpu) = limits.cpu {
        resources["cpu"] = json!({"quota": u64::from(cpu.0) * CPU_PERIOD / 1000, "period": CPU_PERIOD});
    }
    if let Some(memory) = limits.memory {
        let limit = i64::try_from(memory.0).unwrap_or(i64::MAX);
        resources["memory"] = json!({"limit": limit});
        if host.swap {
            // Memory and swap together, so this means: none.
            resources["memory"]["swap"] = json!(limit);
        }
    }
    if let Some(pids) = limits.pids {
        resources["pids"] = json!({"limit": pids});
    }
    resources
}
