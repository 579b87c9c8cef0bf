//! The rules for documents. All faults are collected, each with the field it is in.

use std::collections::BTreeSet;

use super::AppSpec;
use crate::model::{Bytes, in_dns_zone};

/// The most instances an app may have.
pub const MAX_REPLICAS: u32 = 1_000;
/// The least memory limit: below it runc cannot start its own process in the container.
pub const MIN_MEMORY: Bytes = Bytes(6 << 20);
/// The least CPU limit in thousandths; the kernel's smallest quota is 1 ms of 100 ms.
const MIN_CPU_MILLI: u32 = 10;
/// The longest that a stop may wait, for connections or for the process.
const MAX_GRACE_SECONDS: u32 = 3_600;

/// Every fault of `spec`, as `field: what is wrong, and what would be right`. Empty means valid.
pub fn validate_app(spec: &AppSpec) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |field: &str, why: String| faults.push(format!("{field}: {why}"));

    if spec.image.trim().is_empty() {
        fault("image", "is empty; name one, e.g. nginx:latest".into());
    } else if spec.image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        fault("image", format!("{:?} contains white space", spec.image));
    }
    if spec.replicas > MAX_REPLICAS {
        fault("replicas", format!("{} is more than {MAX_REPLICAS}, the most an app may have", spec.replicas));
    }
    if spec.command.as_ref().is_some_and(Vec::is_empty) {
        fault("command", "is an empty list; leave it out to use the image's".into());
    }
    for (field, words) in [("command", &spec.command), ("args", &spec.args)] {
        if words.iter().flatten().any(|word| word.contains('\0')) {
            fault(field, "contains a NUL character".into());
        }
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            fault("env", format!("{name:?} is not a variable's name"));
        }
        if value.contains('\0') {
            fault("env", format!("{name} contains a NUL character"));
        }
    }
    if let Some(dir) = spec.workdir.as_ref().filter(|dir| !dir.starts_with('/')) {
        fault("workdir", format!("{dir:?} is not absolute; begin with '/'"));
    }
    let limits = &spec.resources;
    if let Some(cpu) = limits.cpu.filter(|cpu| cpu.0 < MIN_CPU_MILLI) {
        fault("resources.cpu", format!("{cpu} is below the minimum of {MIN_CPU_MILLI}m"));
    }
    if let Some(memory) = limits.memory.filter(|memory| *memory < MIN_MEMORY) {
        fault("resources.memory", format!("{memory} is below the minimum of {MIN_MEMORY}"));
    }
    if limits.pids == Some(0) {
        fault("resources.pids", "0 is below the minimum of 1".into());
    }
    super::container::check(&spec.container, &mut fault);
    super::sidecar::check(spec, &mut fault);

    let mut targets = BTreeSet::new();
    let mut published = BTreeSet::new();
    for port in &spec.ports {
        if port.target == 0 || port.published == Some(0) {
            fault("ports", format!("{port}: a port is from 1 to 65535"));
        }
        if port.published.is_some_and(|p| !published.insert((p, port.protocol))) {
            fault("ports", format!("{port}: the published port is there twice"));
        }
        if !targets.insert((port.target, port.protocol, port.published)) {
            fault("ports", format!("{port} is there twice"));
        }
    }
    let mut names = BTreeSet::new();
    for name in &spec.services {
        if let Err(why) = check_dns_name(name) {
            fault("services", format!("{name:?} is not a DNS name: {why}"));
        } else if !names.insert(name.to_ascii_lowercase()) {
            fault("services", format!("{name:?} is there twice"));
        }
    }
    super::service::check(spec, &mut names, &mut fault);
    for (network, aliases) in &spec.networks {
        if network.is_empty() || network.chars().any(|c| c.is_whitespace() || c.is_control()) {
            fault("networks", format!("{network:?} is not a network's name"));
        }
        for name in aliases {
            if let Err(why) = check_dns_name(name) {
                fault("networks", format!("{name:?} is not a DNS name: {why}"));
            }
        }
    }
    super::balance::check(&spec.balance, !published.is_empty(), &mut fault);
    super::validate_mounts::check(spec, &mut fault);
    super::validate_health::check(spec, &mut fault);
    super::logs::check(&spec.logging, &mut fault);
    if spec.stop.grace_seconds > MAX_GRACE_SECONDS {
        fault("stop.grace_seconds", format!("{} is more than {MAX_GRACE_SECONDS}", spec.stop.grace_seconds));
    }
    if spec.stop.drain_seconds > MAX_GRACE_SECONDS {
        fault("stop.drain_seconds", format!("{} is more than {MAX_GRACE_SECONDS}", spec.stop.drain_seconds));
    }
    super::update::check(&spec.update, &mut fault);
    if let Some(signal) = &spec.stop.signal
        && crate::model::signal_number(signal).is_none()
    {
        fault("stop.signal", format!("{signal:?} is not a signal; write e.g. SIGTERM or SIGQUIT"));
    }
    faults.extend(super::validate_limits(&spec.limits));
    faults
}

/// A host name of RFC 1123: labels of 1 to 63 of `a-z 0-9 - _`, at most 253 in all, no final dot.
pub(super) fn check_dns_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 253 {
        return Err("it must have 1 to 253 characters");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("each part must have 1 to 63 characters");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("no part may begin or end with '-'");
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err("use letters, digits, '-' and '.'");
        }
    }
    if in_dns_zone(name) {
        return Err("names under 'hivemind' are given by hivemind itself");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::MilliCpu,
        spec::v1::{Affinity, Check, External, HealthSpec},
    };

    #[test]
    fn a_plain_app_is_valid() {
        assert_eq!(validate_app(&AppSpec::new("nginx:latest")), Vec::<String>::new());
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let mut spec = AppSpec::new("");
        spec.replicas = 4_000_000_000;
        spec.command = Some(vec![]);
        spec.env.insert("A=B".into(), String::new());
        spec.workdir = Some("srv".into());
        spec.resources.cpu = Some(MilliCpu(1));
        spec.resources.memory = Some(Bytes(1024));
        spec.resources.pids = Some(0);
        spec.ports = vec!["8080:80".parse().expect("valid"), "8080:81".parse().expect("valid")];
        spec.services = vec!["web..local".into(), "a.hivemind".into(), "a.b.HiveMind".into()];
        spec.health = Some(HealthSpec { interval_ms: 1, ..HealthSpec::new(Check::Exec { command: vec![] }) });
        spec.stop.signal = Some("SIGNOPE".into());
        spec.stop.grace_seconds = 86_400;
        spec.stop.drain_seconds = 3_601;
        spec.update.progress_seconds = 0;
        spec.update.delay_seconds = 86_401;
        spec.update.max_surge = Some(crate::spec::v1::Portion::Count(0));
        spec.update.max_unavailable = Some(crate::spec::v1::Portion::Percent(0));
        let faults = validate_app(&spec);
        let fields: Vec<_> = faults.iter().map(|f| f.split(':').next().expect("field")).collect();
        assert_eq!(
            fields,
            [
                "image",
                "replicas",
                "command",
                "env",
                "workdir",
                "resources.cpu",
                "resources.memory",
                "resources.pids",
                "ports",
                "services",
                "services",
                "services",
                "health.command",
                "health.interval_ms",
                "stop.grace_seconds",
                "stop.drain_seconds",
                "update.delay_seconds",
                "update.progress_seconds",
                "update.max_surge",
                "stop.signal",
            ]
        );
    }

    #[test]
    fn the_same_port_on_tcp_and_udp_is_fine() {
        let mut spec = AppSpec::new("dns");
        spec.ports = vec!["53:53/tcp".parse().expect("valid"), "53:53/udp".parse().expect("valid")];
        assert_eq!(validate_app(&spec), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_balanced_is_refused_with_what_would_be_right() {
        let mut spec = AppSpec::new("web");
        let range = |text: &str| text.parse().expect("a block");
        spec.balance.affinity = Some(Affinity { client_ip_seconds: 0 });
        spec.balance.source_ranges = vec![range("10.1.2.3/8"), range("10.0.0.0/8"), range("10.0.0.0/8")];
        spec.balance.external = External::Local;
        assert_eq!(
            validate_app(&spec),
            [
                "balance.affinity.client_ip_seconds: 0 is not from 1 to 86400",
                "balance.source_ranges: no port is published; publish one (8080:80), or use a policy",
                "balance.external: no port is published; publish one (8080:80), or leave it out",
                "balance.source_ranges: 10.1.2.3/8 has bits beyond its length; write 10.0.0.0/8",
                "balance.source_ranges: 10.0.0.0/8 is there twice",
            ]
        );
        spec.ports = vec!["8080:80".parse().expect("valid")];
        spec.balance.affinity = Some(Affinity { client_ip_seconds: 86_400 });
        spec.balance.source_ranges = vec![range("10.0.0.0/8"), range("fd00::/8")];
        assert_eq!(validate_app(&spec), Vec::<String>::new());
        spec.balance.affinity = Some(Affinity { client_ip_seconds: 86_401 });
        assert_eq!(validate_app(&spec).len(), 1);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let e = serde_json::from_str::<AppSpec>(r#"{"image":"a","replica":3}"#).expect_err("refused");
        assert!(e.to_string().contains("replica"), "{e}");
    }
}
