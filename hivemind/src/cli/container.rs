//! How containers are made: Docker's flags, with Docker's names.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;

use crate::{
    model::Bytes,
    spec::v1::{
        self, ContainerSpec, DeviceName, DnsSpec, ExtraHost, HookSpec, HooksSpec, InitSpec, SecuritySpec, TmpfsSpec,
        Ulimit, device_name, extra_host, security_option, sysctl, ulimit,
    },
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Container")]
pub(super) struct ContainerArgs {
    /// Host name [default: the instance's name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Domain of the host name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// The root file system cannot be written to
    #[arg(long)]
    read_only: bool,
    /// All rights of the host
    #[arg(long)]
    privileged: bool,
    /// Capability to add, e.g. NET_ADMIN, or ALL; may be repeated
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Capability to take away, or ALL; may be repeated
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// no-new-privileges[=false], seccomp=unconfined|FILE, apparmor=PROFILE; may be repeated
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Limit of each process, e.g. nofile=1024:2048; -1 is unlimited; may be repeated
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit, allow_hyphen_values = true)]
    ulimit: Vec<(String, Ulimit)>,
    /// File system in memory, e.g. /tmp:size=64m,mode=1777,uid=0,exec; may be repeated
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = v1::tmpfs)]
    tmpfs: Vec<TmpfsSpec>,
    /// Size of /dev/shm [default: 64Mi]
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<Bytes>,
    /// Kernel parameter of the container's own namespaces; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = sysctl)]
    sysctl: Vec<(String, String)>,
    /// Process 1 passes signals on and takes care of orphans
    #[arg(long)]
    init: bool,
    /// Device of the host, or of CDI by its name, e.g. nvidia.com/gpu=all; may be repeated
    #[arg(long, value_name = "HOST[:CONTAINER][:rwm]", value_parser = device_name)]
    device: Vec<DeviceName>,
    /// Line of /etc/hosts; host-gateway is the node; may be repeated
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = extra_host)]
    add_host: Vec<ExtraHost>,
    /// Server for names that are not of services; may be repeated [default: the node's]
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<std::net::IpAddr>,
    /// Domain to look short names up in; may be repeated [default: the namespace's]
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Option of the resolver, e.g. ndots:2; may be repeated
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// The process has a terminal
    #[arg(long, short)]
    tty: bool,
    /// The standard input is kept open
    #[arg(long, short)]
    interactive: bool,
    /// Group of the process, by name or number; may be repeated
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// How soon the kernel ends it where memory is out, -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// Shell command before the app begins, to its end, in a container of its own; may be repeated
    #[arg(long, value_name = "COMMAND")]
    pre_start: Vec<String>,
    /// Shell command in the container after its process has begun; may be repeated
    #[arg(long, value_name = "COMMAND")]
    post_start: Vec<String>,
    /// Shell command in the container before the stop signal; may be repeated
    #[arg(long, value_name = "COMMAND")]
    pre_stop: Vec<String>,
    /// Note for the runtime; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
}

impl ContainerArgs {
    pub(super) fn spec(self, faults: &mut Vec<String>) -> ContainerSpec {
        let mut security = SecuritySpec::default();
        let read = |file: &str| std::fs::read_to_string(file).map_err(|why| format!("{file}: {why}"));
        for option in &self.security_opt {
            let set = security_option(&mut security, option, read);
            faults.extend(set.err().map(|why| format!("--security-opt: {why}")));
        }
        let mut annotations = BTreeMap::new();
        for flag in &self.annotation {
            match flag.split_once('=') {
                Some((name, value)) if !name.is_empty() => drop(annotations.insert(name.to_owned(), value.to_owned())),
                _ => faults.push(format!("--annotation {flag:?}: write NAME=VALUE")),
            }
        }
        let (mut devices, mut cdi) = (Vec::new(), Vec::new());
        for device in self.device {
            match device {
                DeviceName::Host(device) => devices.push(device),
                DeviceName::Cdi(name) => cdi.push(name),
            }
        }
        let shell = |command: String| vec!["/bin/sh".into(), "-c".into(), command];
        let init = |command| InitSpec { command: Some(shell(command)), ..InitSpec::default() };
        let hooks = |commands: Vec<String>| -> Vec<HookSpec> {
            commands.into_iter().map(|command| HookSpec::new(shell(command))).collect()
        };
        ContainerSpec {
            hostname: self.hostname,
            domainname: self.domainname,
            read_only: self.read_only,
            privileged: self.privileged,
            cap_add: self.cap_add,
            cap_drop: self.cap_drop,
            security,
            ulimits: self.ulimit.into_iter().collect(),
            tmpfs: self.tmpfs,
            shm_size: self.shm_size,
            sysctls: self.sysctl.into_iter().collect(),
            init: self.init,
            devices,
            cdi,
            extra_hosts: self.add_host,
            dns: DnsSpec { servers: self.dns, search: self.dns_search, options: self.dns_option },
            tty: self.tty,
            stdin_open: self.interactive,
            group_add: self.group_add,
            oom_score_adj: self.oom_score_adj,
            hooks: HooksSpec {
                pre_start: self.pre_start.into_iter().map(init).collect(),
                post_start: hooks(self.post_start),
                pre_stop: hooks(self.pre_stop),
            },
            annotations,
        }
    }
}

/// What was said, by the names of the fields and in short; values of hooks' environments may be secrets and are not
/// shown.
pub(super) fn shown(spec: &ContainerSpec) -> String {
    let document = serde_json::to_value(spec).unwrap_or_default();
    let field = |(name, value): (&String, &Value)| match value {
        Value::Bool(true) => name.clone(),
        Value::String(_) | Value::Number(_) => format!("{name}={}", plain(value)),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            format!("{name}={}", items.iter().map(plain).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("{name} ({})", items.len()),
        Value::Object(fields) => {
            let names = fields.keys().map(String::as_str).collect::<Vec<_>>();
            format!("{name}={}", names.join(","))
        }
        other => format!("{name}={other}"),
    };
    document.as_object().into_iter().flatten().map(field).collect::<Vec<_>>().join(" ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_shown_in_a_line() {
        assert_eq!(shown(&ContainerSpec::default()), "");
        let spec = ContainerSpec {
            hostname: Some("box".into()),
            read_only: true,
            cap_drop: vec!["ALL".into(), "x".into()],
            tmpfs: vec![TmpfsSpec::new("/tmp")],
            sysctls: [("net.core.somaxconn".to_owned(), "1".to_owned())].into(),
            ..ContainerSpec::default()
        };
        assert_eq!(shown(&spec), "cap_drop=ALL,x hostname=box read_only sysctls=net.core.somaxconn tmpfs (1)");
    }
}
