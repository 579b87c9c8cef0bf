//! What the agent says, in the user's words. Pure.

use std::net::IpAddr;

use nix::sys::signal::Signal;

use hivemind_core::{
    model::{Addresses, Bytes, Protocol},
    spec::v1::{AppSpec, ContainerSpec, ExtraHost, HOST_GATEWAY},
};
use hivemind_runtime::{Image, PullProgress};

/// How a process ended.
pub(super) fn exit(code: u32, oom: bool, memory: Option<Bytes>) -> String {
    if oom {
        return match memory {
            Some(limit) => format!("killed by the kernel: it used more than its memory limit of {limit}"),
            None => "killed by the kernel: the machine ran out of memory".into(),
        };
    }
    let signal = i32::try_from(code).ok().and_then(|code| Signal::try_from(code - 128).ok());
    match (code, signal) {
        (0, _) => "exited with code 0".into(),
        (126, _) => "exited with code 126: the command cannot be executed".into(),
        (127, _) => "exited with code 127: the command was not found".into(),
        (code, Some(signal)) => match meaning(signal) {
            "" => format!("ended by {signal} (exit code {code})"),
            meaning => format!("ended by {signal} (exit code {code}): {meaning}"),
        },
        (code, None) => format!("exited with code {code}"),
    }
}

/// What a signal says of the process that it ended; empty where its name says it all.
fn meaning(signal: Signal) -> &'static str {
    match signal {
        Signal::SIGABRT => "it gave up by itself",
        Signal::SIGBUS => "it used memory that is not there",
        Signal::SIGFPE => "it divided by zero, or the like",
        Signal::SIGILL => "it has an instruction that this CPU does not know",
        Signal::SIGKILL => "it was killed from outside, not for its memory limit",
        Signal::SIGPIPE => "it wrote to somebody who had gone",
        Signal::SIGSEGV => "it used memory that is not its own",
        Signal::SIGSYS => "it made a system call that its seccomp profile does not allow",
        Signal::SIGXCPU => "it used more CPU time than its ulimit",
        Signal::SIGXFSZ => "it wrote a larger file than its ulimit",
        _ => "",
    }
}

/// How far a fetch is.
pub(super) fn progress(progress: &PullProgress) -> String {
    match (progress.step, progress.total) {
        ("fetching", total) if total > 0 => {
            let percent = u128::from(progress.done) * 100 / u128::from(total);
            format!("fetching {percent}% of {} MB", total / 1_000_000)
        }
        (step, _) => step.to_owned(),
    }
}

/// The signal of that name; SIGTERM if there is none.
pub(super) fn signal(name: Option<&str>) -> i32 {
    name.and_then(hivemind_core::model::signal_number).unwrap_or(nix::libc::SIGTERM)
}

/// The lines of `/etc/hosts` that an app asks for; the node has an address of each family.
pub(super) fn extra_hosts(spec: &ContainerSpec, node: &Addresses) -> Vec<(String, IpAddr)> {
    let addresses = |address: &str| -> Vec<IpAddr> {
        if address == HOST_GATEWAY { node.iter().collect() } else { address.parse().into_iter().collect() }
    };
    let line =
        |host: &ExtraHost| addresses(&host.address).into_iter().map(|address| (host.name.clone(), address)).collect();
    spec.extra_hosts.iter().flat_map(|host| -> Vec<_> { line(host) }).collect()
}

/// The port whose first accepted connection shows that an instance without a health check is up.
pub(super) fn first_tcp_port(spec: &AppSpec, image: Option<&Image>) -> Option<u16> {
    let declared = spec.ports.iter().find(|port| port.protocol == Protocol::Tcp).map(|port| port.target);
    if !spec.ports.is_empty() {
        return declared;
    }
    // EXPOSE is a hint only: an image may expose what a given command does not open.
    let exposed = image.and_then(|image| image.exposed.iter().find(|port| port.protocol == Protocol::Tcp));
    exposed.filter(|_| spec.command.is_none() && spec.args.is_none()).map(|port| port.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_explained() {
        for (code, oom, memory, part) in [
            (0, false, None, "code 0"),
            (1, false, None, "code 1"),
            (127, false, None, "not found"),
            (137, false, None, "SIGKILL"),
            (139, false, None, "SIGSEGV (exit code 139): it used memory"),
            (159, false, None, "seccomp profile"),
            (143, false, None, "SIGTERM (exit code 143)"),
            (255, false, None, "exited with code 255"),
            (137, true, Some(Bytes(64 << 20)), "memory limit of 64Mi"),
        ] {
            assert!(exit(code, oom, memory).contains(part), "{code} {oom}: {}", exit(code, oom, memory));
        }
    }

    #[test]
    fn signals_are_read_in_every_form_images_use() {
        for (name, number) in [
            (Some("SIGQUIT"), 3),
            (Some("QUIT"), 3),
            (Some("9"), 9),
            (Some("SIGRTMIN+3"), nix::libc::SIGRTMIN() + 3),
            (Some("nonsense"), 15),
            (None, 15),
        ] {
            assert_eq!(signal(name), number, "{name:?}");
        }
    }

    #[test]
    fn the_first_port_is_the_declared_one() {
        let mut spec = AppSpec::new("x");
        assert_eq!(first_tcp_port(&spec, None), None);
        spec.ports = vec!["53:53/udp".parse().expect("valid"), "8080:80".parse().expect("valid")];
        assert_eq!(first_tcp_port(&spec, None), Some(80));
    }
}
