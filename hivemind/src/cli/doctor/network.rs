//! Ranges, forwarding, ports.

use std::{fs, io, net::TcpListener};

use super::Finding;
use crate::{
    client::Client,
    daemon::DaemonConfig,
    net::{NetError, PACING_QUEUE, linux},
    spec::v1::{PolicyPort, PolicyProtocol, PortMatch},
};

/// The port of the name server.
const DNS: u16 = 53;

pub(super) async fn ranges(config: &DaemonConfig) -> Finding {
    let network = config.network();
    let shown = |v4: Option<_>, v6: Option<_>| {
        let v4 = v4.map(|net: ipnet::Ipv4Net| net.to_string());
        let v6 = v6.map(|net: ipnet::Ipv6Net| net.to_string());
        v4.into_iter().chain(v6).collect::<Vec<_>>().join(" ")
    };
    match linux::check_ranges(&network).await {
        Ok(()) => {
            let instances = shown(network.instances_v4, network.instances_v6);
            Finding::ok("ranges", format!("{instances}, {} are free", shown(network.services_v4, network.services_v6)))
        }
        Err(error @ NetError::Overlaps(_)) => {
            let mend = "choose other ranges: --instance-cidr4, --instance-cidr6, --service-cidr4, --service-cidr6";
            Finding::fail("ranges", error.to_string(), mend)
        }
        Err(error) => Finding::warn("ranges", error.to_string(), "the kernel's routes could not be read"),
    }
}

/// Who sends packets of published ports on to other nodes, and what becomes of packets over a rate that leave the node, as
/// the daemon says that runs here.
pub(super) async fn uplinks(client: &Client) -> Vec<Finding> {
    let Ok(view) = client.get_table("uplinks").await else { return Vec::new() };
    let words = view.rows.iter().filter_map(|row| match &row[..] {
        [device, by, why, ..] if why.is_empty() => Some(format!("{device}: sent on by the {by}")),
        [device, by, why, ..] => Some(format!("{device}: sent on by the {by} ({why})")),
        _ => None,
    });
    let words: Vec<_> = words.collect();
    let findings = [("uplinks", words.join(", ")), ("rates", rates(&view.rows))];
    findings
        .into_iter()
        .filter(|(_, found)| !found.is_empty())
        .map(|(check, found)| Finding::ok(check, found))
        .collect()
}

/// What becomes of packets over a rate, by the rows of uplinks; nothing without any.
fn rates(uplinks: &[Vec<String>]) -> String {
    let waits = uplinks.iter().filter_map(|row| row.get(4)).any(|over| over == "waits");
    if uplinks.is_empty() || waits {
        let text = format!("what is over one waits if it leaves the node ({PACING_QUEUE} at every uplink)");
        return if waits { text } else { String::new() };
    }
    let queues = uplinks.iter().filter_map(|row| Some((row.first()?, row.get(3)?)));
    let others = queues.filter(|(_, queue)| *queue != PACING_QUEUE);
    let others = others.map(|(device, queue)| match queue.as_str() {
        "" => format!("{device} has none that is known"),
        queue => format!("{device} has {queue}"),
    });
    let others: Vec<_> = others.collect();
    format!(
        "what is over one is dropped; it would wait with the queue {PACING_QUEUE} at every uplink ({})",
        others.join(", ")
    )
}

pub(super) fn forwarding(config: &DaemonConfig) -> Vec<Finding> {
    let network = config.network();
    let mut findings = Vec::new();
    for (check, wanted, path) in [
        ("forwarding v4", network.instances_v4.is_some(), "/proc/sys/net/ipv4/ip_forward"),
        ("forwarding v6", network.instances_v6.is_some(), "/proc/sys/net/ipv6/conf/all/forwarding"),
    ] {
        if !wanted {
            continue;
        }
        findings.push(match fs::read_to_string(path).as_deref().map(str::trim) {
            Ok("1") => Finding::ok(check, "on"),
            Ok(_) => Finding::ok(check, "off; the daemon turns it on"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mend = "this kernel has the family turned off: --ip-family v4, or boot without ipv6.disable=1";
                Finding::fail(check, format!("no {path}"), mend)
            }
            Err(error) => Finding::warn(check, format!("{path}: {error}"), "mount /proc"),
        });
    }
    findings
}

/// The node's name server has an address of its own; only a server on all addresses is in its way.
pub(super) fn dns_port(config: &DaemonConfig, running: bool) -> Finding {
    let own: Vec<_> = config.name_servers().iter().map(ToString::to_string).collect();
    let own = own.join(" ");
    let read = |name: &str| fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    let taken: Vec<_> =
        ["udp", "udp6", "tcp", "tcp6"].into_iter().filter(|kind| everywhere(&read(kind), DNS)).collect();
    if running || taken.is_empty() {
        return Finding::ok("dns port", format!("{DNS} is free at {own}"));
    }
    let found = format!("another name server has port {DNS} of all addresses ({})", taken.join(", "));
    let mend =
        "ss -lnup 'sport = :53' names it; bind it to its own address (dnsmasq: bind-interfaces; bind9: listen-on)";
    Finding::fail("dns port", found, mend)
}

/// Whether a socket listens on a port of all addresses, by a table of `/proc/net` (proc(5)).
fn everywhere(table: &str, port: u16) -> bool {
    // "  sl  local_address rem_address   st …": 00000000:0035, the state 0A for listening TCP and 07 for UDP.
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next(), words.nth(1));
        let Some((address, number)) = local.and_then(|local| local.split_once(':')) else { return false };
        let any = address.bytes().all(|byte| byte == b'0');
        any && u16::from_str_radix(number, 16) == Ok(port) && matches!(state, Some("0A" | "07"))
    })
}

pub(super) fn web_port(config: &DaemonConfig, running: bool) -> Finding {
    let address = config.listen;
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok("web port", format!("{address} is free")),
        Err(_) if running => Finding::ok("web port", format!("{address} is used; a hivemind daemon runs")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let mend = format!("ss -ltnp 'sport = :{}' names who has it; or choose another --web-port", address.port());
            Finding::fail("web port", format!("{address} is used by another process"), mend)
        }
        Err(error) => Finding::fail("web port", format!("{address}: {error}"), "name another address with --listen"),
    }
}

/// Which ports no policy of the host closes, and whether sshd's are among them.
pub(super) fn failsafe(config: &DaemonConfig, sshd: &str) -> Finding {
    const CHECK: &str = "fail-safe";
    let open = |port: &u16| {
        let ssh = PolicyPort { protocol: PolicyProtocol::Tcp, port: Some(PortMatch::Range(*port, *port)) };
        config.failsafe.inbound.contains(&ssh)
    };
    let closed: Vec<_> = sshd_ports(sshd).into_iter().filter(|port| !open(port)).collect();
    match closed.first() {
        None => Finding::ok(CHECK, config.failsafe.to_string()),
        Some(port) => {
            let found = format!("{}: sshd's port {port} is not among them", config.failsafe);
            let ports: Vec<_> = config.failsafe.inbound.iter().map(ToString::to_string).collect();
            let mend = [&ports[..], &[format!("{port}/tcp")]].concat().join(",");
            Finding::warn(CHECK, found, format!("hivemind daemon --failsafe-inbound {mend}"))
        }
    }
}

/// The ports of sshd_config(5); without any it is 22. None if there is no such file.
fn sshd_ports(text: &str) -> Vec<u16> {
    let words = |line: &str| -> Option<u16> {
        let (key, value) = line.trim().split_once([' ', '\t', '='])?;
        key.eq_ignore_ascii_case("port").then(|| value.trim().parse().ok()).flatten()
    };
    let named: Vec<_> = text.lines().filter_map(words).collect();
    if named.is_empty() && !text.is_empty() { vec![22] } else { named }
}

#[cfg(test)]
mod tests {
    use super::{everywhere, rates, sshd_ports};

    #[test]
    fn what_becomes_of_packets_over_a_rate_is_said_in_a_line() {
        let row =
            |device: &str, queue: &str, over: &str| [device, "kernel", "", queue, over].map(str::to_owned).to_vec();
        assert_eq!(rates(&[]), "");
        assert!(rates(&[row("a", "fq", "waits"), row("b", "fq", "waits")]).contains("waits if it leaves"));
        let mixed = rates(&[row("a", "fq", "dropped"), row("b", "fq_codel", "dropped"), row("c", "", "dropped")]);
        assert!(mixed.ends_with("(b has fq_codel, c has none that is known)"), "{mixed}");
    }

    #[test]
    fn sshd_listens_where_it_says_or_on_22() {
        assert_eq!(sshd_ports("#Port 22\nPermitRootLogin no\n"), [22]);
        assert_eq!(sshd_ports("Port 2222\n  port\t2022\nPortX 1\nGatewayPorts no\n"), [2222, 2022]);
        assert_eq!(sshd_ports(""), Vec::<u16>::new());
    }

    #[test]
    fn only_servers_on_all_addresses_are_in_the_way() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                     \x20 0: 3500007F:0035 00000000:0000 07 00000000:00000000\n\
                     \x20 1: 00000000:0044 00000000:0000 07 00000000:00000000\n";
        assert!(!everywhere(table, 53), "systemd-resolved listens on 127.0.0.53 only");
        assert!(everywhere(table, 68));
        let connected = "h\n 0: 00000000:0035 0100007F:1234 01 00000000:00000000\n";
        assert!(!everywhere(connected, 53));
        let six = "h\n 0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 0A 0\n";
        assert!(everywhere(six, 53));
    }
}
