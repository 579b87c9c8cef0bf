//! Level 3: the data plane with real sockets and packets, in network namespaces.

#[path = "dataplane/abi.rs"]
mod abi;
#[path = "dataplane/balance.rs"]
mod balance;
#[path = "dataplane/captured.rs"]
mod captured;
#[path = "dataplane/changes.rs"]
mod changes;
#[path = "dataplane/drift.rs"]
mod drift;
#[path = "dataplane/foreign.rs"]
mod foreign;
#[path = "dataplane/host.rs"]
mod host;
#[path = "dataplane/lab.rs"]
mod lab;
#[path = "dataplane/limits.rs"]
mod limits;
#[path = "dataplane/paced.rs"]
mod paced;
#[path = "dataplane/pieces.rs"]
mod pieces;
#[path = "dataplane/round_trips.rs"]
mod round_trips;
#[path = "dataplane/sockets.rs"]
mod sockets;
#[path = "dataplane/told.rs"]
mod told;
#[path = "dataplane/traffic.rs"]
mod traffic;
#[path = "dataplane/tunnel.rs"]
mod tunnel;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use hivemind::{
    dataplane::{
        Dataplane, DataplaneError, Way,
        bpf::{BpfDataplane, DataplaneConfig},
    },
    model::Protocol,
    net::Family,
};
use hivemind_ebpf::reason::Reason;
use lab::{FAMILIES, GATEWAY, Lab, firewall, isolated, outside, past_the_sockets, uplink, vip};
use traffic::{Echo, tcp_ask, udp_ask};

/// A way to open the data plane.
type Open = fn(DataplaneConfig) -> Result<BpfDataplane, DataplaneError>;
/// With TCX, and as on kernels that lack it.
const WAYS: [Open; 2] = [BpfDataplane::open, BpfDataplane::open_without_tcx];

/// Runs a test with TCX, and as on kernels that lack it.
fn in_both_ways(test: impl Fn(&Path, Open) + Sync) {
    for open in WAYS {
        isolated(|cgroup| test(cgroup, open));
    }
}

#[test]
fn sockets_reach_a_service_and_see_its_address() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 3, open);
        for i in 0..3 {
            lab.ready(i);
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            lab.service(1, 80, 8080, protocol, &[1, 2]);
        }
        lab.sync();
        let _echoes: Vec<_> =
            [1, 2].iter().map(|i| Echo::start(&lab.instances[*i].ns, 8080, &format!("i{i}"))).collect();
        for family in FAMILIES {
            let service = SocketAddr::new(vip(family, 1), 80);
            let client = lab.instances[0].address(family);
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..32 {
                let answer = lab.instances[0].ns.run(|| tcp_ask(service)).expect("tcp");
                assert_eq!(answer.peer, service, "getpeername shows the service");
                assert_eq!(answer.client, client, "the backend sees the client");
                seen.insert(answer.name);
            }
            assert_eq!(seen.len(), 2, "both backends are used: {seen:?}");
            for connected in [true, false] {
                let answer = lab.instances[0].ns.run(|| udp_ask(service, connected)).expect("udp");
                assert_eq!(answer.peer, service, "the answer comes from the service");
                assert_eq!(answer.client, client);
            }
            // From the host as well.
            let answer = tcp_ask(service).expect("tcp from the host");
            assert_eq!(answer.peer, service);
            let own = if service.is_ipv4() { IpAddr::from(GATEWAY.0) } else { GATEWAY.1.into() };
            assert_eq!(answer.client, own, "the node's own address");
        }
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn published_ports_keep_the_client_and_obey_the_firewall() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 3, open);
        firewall("9000, 9001", 9001);
        for i in 0..3 {
            lab.ready(i);
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            lab.service(1, 80, 8080, protocol, &[1, 2]);
            lab.publish(1, 9000, 8080, protocol, &[1, 2]);
            lab.publish(1, 9001, 8080, protocol, &[1, 2]);
        }
        lab.sync();
        let _echoes: Vec<_> =
            [1, 2].iter().map(|i| Echo::start(&lab.instances[*i].ns, 8080, &format!("i{i}"))).collect();
        for family in FAMILIES {
            let published = SocketAddr::new(uplink(family), 9000);
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..32 {
                let answer = lab.outside.run(|| tcp_ask(published)).expect("tcp from outside");
                assert_eq!(answer.client, outside(family), "the client's address is kept");
                seen.insert(answer.name);
            }
            assert_eq!(seen.len(), 2, "{seen:?}");
            for connected in [true, false] {
                let answer = lab.outside.run(|| udp_ask(published, connected)).expect("udp from outside");
                assert_eq!((answer.client, answer.peer), (outside(family), published));
            }
            // A large transfer: more than the first packets of a connection.
            let (sent, received) = lab.outside.run(|| traffic::tcp_bulk(published, 4 << 20)).expect("bulk");
            assert_eq!(sent, received);
            // The host's own firewall decides.
            let refused = SocketAddr::new(uplink(family), 9001);
            let answer =
                lab.outside.run(|| traffic::tcp_connects_within(refused, std::time::Duration::from_millis(300)));
            assert!(!answer, "the firewall drops {refused}");
            // From the node itself, by loopback and by its own address.
            let own = [
                uplink(family),
                if family == Family::V4 { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() },
            ];
            for address in own {
                let answer = tcp_ask(SocketAddr::new(address, 9000)).expect("tcp from the node");
                assert_eq!(answer.peer, SocketAddr::new(address, 9000));
            }
            // From an instance.
            let answer = lab.instances[0].ns.run(|| tcp_ask(published)).expect("tcp from an instance");
            assert_eq!(answer.client, lab.instances[0].address(family));
        }
        assert!(lab.dataplane.sweep().expect("sweep").connections > 0);
    });
}

#[test]
fn what_goes_past_the_sockets_is_balanced_packet_by_packet() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 3, open);
        for i in 0..3 {
            lab.ready(i);
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            lab.service(1, 80, 8080, protocol, &[1, 2]);
        }
        lab.sync();
        let _echoes: Vec<_> =
            [1, 2].iter().map(|i| Echo::start(&lab.instances[*i].ns, 8080, &format!("i{i}"))).collect();
        let ifindex = lab.instances[0].link.ifindex;
        past_the_sockets(cgroup, || {
            for family in FAMILIES {
                let service = SocketAddr::new(vip(family, 1), 80);
                let client = lab.instances[0].address(family);
                let mut seen = std::collections::BTreeSet::new();
                for _ in 0..32 {
                    let answer = lab.instances[0].ns.run(|| tcp_ask(service)).expect("tcp");
                    assert_eq!((answer.client, answer.peer), (client, service));
                    seen.insert(answer.name);
                }
                assert_eq!(seen.len(), 2, "{seen:?}");
                let answer = lab.instances[0].ns.run(|| udp_ask(service, true)).expect("udp");
                assert_eq!((answer.client, answer.peer), (client, service));
                let (sent, received) = lab.instances[0].ns.run(|| traffic::tcp_bulk(service, 4 << 20)).expect("bulk");
                assert_eq!(sent, received);
                // Neither another port nor another address answers, and each drop has its reason.
                for (address, port) in [(vip(family, 1), 81), (vip(family, 9), 80)] {
                    let to = SocketAddr::new(address, port);
                    // Not for want of an answer.
                    let refused = lab.instances[0].ns.run(|| tcp_ask(to)).expect_err("nobody there");
                    assert_eq!(refused.raw_os_error(), Some(111), "{to}: {refused}");
                    let refused = lab.instances[0].ns.run(|| udp_ask(to, true)).expect_err("nobody there");
                    assert_eq!(refused.raw_os_error(), Some(111), "udp {to}: {refused}");
                }
            }
        });
        assert!(lab.packets(ifindex, 0, Reason::NoSuchPort as u8) >= 2);
        assert!(lab.packets(ifindex, 0, Reason::NoSuchService as u8) >= 2);
    });
}

#[test]
fn nothing_passes_before_an_instance_is_ready() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 2, open);
        lab.ready(0);
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "i1");
        let short = std::time::Duration::from_millis(200);
        let (from, to) = (lab.instances[0].link.ifindex, lab.instances[1].link.ifindex);
        for family in FAMILIES {
            let target = SocketAddr::new(lab.instances[1].address(family), 8080);
            assert!(!lab.instances[0].ns.run(|| traffic::tcp_connects_within(target, short)), "{target}");
            assert!(!traffic::tcp_connects_within(target, short), "from the host");
            let other = SocketAddr::new(lab.instances[0].address(family), 8080);
            assert!(!lab.instances[1].ns.run(|| traffic::tcp_connects_within(other, short)), "it may not send either");
        }
        assert!(lab.packets(to, 0, Reason::NotReady as u8) >= 2);
        assert!(lab.packets(to, 1, Reason::NotReady as u8) >= 2);
        assert!(lab.packets(from, 0, Reason::NoSuchInstance as u8) >= 2);
        lab.ready(1);
        lab.sync();
        for family in FAMILIES {
            let target = SocketAddr::new(lab.instances[1].address(family), 8080);
            lab.instances[0].ns.run(|| tcp_ask(target)).expect("ready now");
        }
    });
}

#[test]
fn sockets_are_refused_at_once_where_nothing_answers() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 1, open);
        lab.ready(0);
        lab.service(1, 80, 8080, Protocol::Tcp, &[]);
        lab.sync();
        for family in FAMILIES {
            let error = |address, port| {
                let to = SocketAddr::new(address, port);
                lab.instances[0].ns.run(|| tcp_ask(to)).expect_err("nobody there").raw_os_error()
            };
            assert_eq!(error(vip(family, 1), 80), Some(111), "no instance is ready: connection refused");
            assert_eq!(error(vip(family, 1), 81), Some(111), "no such port: connection refused");
            assert_eq!(error(vip(family, 9), 80), Some(113), "no such service: no route to host");
        }
        for reason in [Reason::NoBackend, Reason::NoSuchPort, Reason::NoSuchService] {
            assert_eq!(lab.packets(0, 2, reason as u8), 2, "{reason:?}");
        }
    });
}

/// The child process of the test below: a daemon that starts again and again until it is killed.
#[test]
#[ignore = "run by another test"]
fn daemon_that_is_killed() {
    let Some(cgroup) = std::env::var_os(CHILD) else { return };
    loop {
        drop(BpfDataplane::open(lab::config(cgroup.as_ref())).expect("to open"));
        println!("{OPENED}");
    }
}

/// No datagram.
const NONE: Vec<u32> = Vec::new();

/// Tells the child its cgroup.
const CHILD: &str = "HIVEMIND_TEST_CHILD";
const OPENED: &str = "opened once more";

#[test]
fn no_packet_is_lost_over_restarts_and_kills() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        firewall("9000", 9001);
        for i in 0..2 {
            lab.ready(i);
        }
        lab.service(1, 80, 8080, Protocol::Udp, &[1]);
        lab.publish(1, 9000, 8080, Protocol::Udp, &[1]);
        lab.service(1, 80, 8080, Protocol::Tcp, &[1]);
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "i1");
        let kept = past_the_sockets(cgroup, || {
            let connect = || std::net::TcpStream::connect((vip(Family::V6, 1), 80));
            lab.instances[0].ns.run(connect).expect("a long connection, balanced packet by packet")
        });
        let inside = lab.instances[0].ns.spawn(|| traffic::udp_stream((vip(Family::V4, 1), 80).into(), 10_000));
        let from_outside = lab.outside.spawn(|| traffic::udp_stream((uplink(Family::V4), 9000).into(), 10_000));
        let (mut restarts, mut kills) = (0, 0);
        while !(inside.is_finished() && from_outside.is_finished()) {
            // A daemon that ends and begins again.
            lab.dataplane = BpfDataplane::open(lab::config(cgroup)).expect("to open again");
            lab.dataplane.attach_uplinks(&["uplink".into()]).expect("uplinks");
            let report = lab.sync();
            assert_eq!(
                (report.written, report.removed, report.repaired),
                (0, 0, 0),
                "what is pinned is what was written"
            );
            restarts += 1;
            // One that is killed somewhere on its way.
            let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", "daemon_that_is_killed", "--ignored", "--nocapture"])
                .env(CHILD, cgroup)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("a child");
            let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("its output")));
            let opened = lines.map_while(Result::ok).filter(|line| line.contains(OPENED)).nth(1);
            assert!(opened.is_some(), "the child opens the data plane");
            child.kill().expect("to kill it");
            child.wait().expect("to bury it");
            kills += 1;
        }
        assert!(restarts > 0 && kills > 0, "{restarts} restarts, {kills} kills");
        println!("{restarts} restarts, {kills} kills");
        assert_eq!(inside.join().expect("a result").expect("a stream"), NONE, "lost between instances");
        assert_eq!(from_outside.join().expect("a result").expect("a stream"), NONE, "lost from outside");
        traffic::tcp_ask_on(&kept).expect("the long connection lives");
    });
}

#[test]
fn the_way_without_tcx_works_as_well() {
    isolated(|cgroup| {
        let mut lab = Lab::with(cgroup, 2, BpfDataplane::open_without_tcx);
        assert_eq!(lab.dataplane.info().attach, "tc");
        firewall("9000", 9001);
        for i in 0..2 {
            lab.ready(i);
        }
        lab.service(1, 80, 8080, Protocol::Udp, &[1]);
        lab.publish(1, 9000, 8080, Protocol::Udp, &[1]);
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "i1");
        assert_eq!(lab.dataplane.attached().expect("attached").len(), 2);
        let stream = lab.outside.spawn(|| traffic::udp_stream((uplink(Family::V6), 9000).into(), 2_000));
        let inside = lab.instances[0].ns.spawn(|| traffic::udp_stream((vip(Family::V6, 1), 80).into(), 2_000));
        while !(stream.is_finished() && inside.is_finished()) {
            lab.dataplane = BpfDataplane::open_without_tcx(lab::config(cgroup)).expect("to open again");
            lab.dataplane.attach_uplinks(&["uplink".into()]).expect("uplinks");
        }
        assert_eq!(inside.join().expect("a result").expect("a stream"), NONE, "lost between instances");
        assert_eq!(stream.join().expect("a result").expect("a stream"), NONE, "lost from outside");
        let filters = || {
            let show = std::process::Command::new("tc").args(["filter", "show", "dev", "uplink", "ingress"]).output();
            show.expect("tc").stdout
        };
        assert!(!filters().is_empty());
        lab.dataplane.attach_uplinks(&[]).expect("no uplinks");
        assert!(filters().is_empty(), "a device that is no uplink any more is left alone");
        lab.dataplane.attach_uplinks(&["uplink".into()]).expect("uplinks");
        lab.dataplane.unload().expect("to unload");
        assert!(filters().is_empty(), "nothing is left");
    });
}

#[test]
fn a_backend_that_goes_is_left_by_udp_and_ends_tcp() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 3, open);
        for i in 0..3 {
            lab.ready(i);
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            lab.service(1, 80, 8080, protocol, &[1]);
        }
        lab.sync();
        let _echoes: Vec<_> =
            [1, 2].iter().map(|i| Echo::start(&lab.instances[*i].ns, 8080, &format!("i{i}"))).collect();
        let service = SocketAddr::new(vip(Family::V4, 1), 80);
        let (udp, tcp) = past_the_sockets(cgroup, || {
            lab.instances[0].ns.run(|| {
                let udp = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
                udp.connect(service).expect("to connect");
                udp.set_read_timeout(Some(traffic::PATIENCE)).expect("a timeout");
                (udp, std::net::TcpStream::connect(service).expect("to connect"))
            })
        });
        let ask = |udp: &std::net::UdpSocket| {
            let mut buffer = [0; 256];
            udp.send(b"who\n").expect("to send");
            let length = udp.recv(&mut buffer).expect("an answer");
            String::from_utf8_lossy(&buffer[..length]).split(' ').next().map(str::to_owned)
        };
        assert_eq!(ask(&udp).as_deref(), Some("i1"));
        assert_eq!(traffic::tcp_ask_on(&tcp).expect("an answer").name, "i1");
        // No longer ready, but still there: TCP may drain, UDP goes to another at once.
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            lab.service(1, 80, 8080, protocol, &[2]);
        }
        lab.sync();
        assert_eq!(ask(&udp).as_deref(), Some("i2"));
        assert_eq!(traffic::tcp_ask_on(&tcp).expect("an answer").name, "i1");
        // Gone: TCP is not sent into the void.
        lab.gone(1);
        lab.sync();
        let from = lab.instances[0].link.ifindex;
        let before = lab.packets(from, 0, Reason::BackendGone as u8);
        std::io::Write::write_all(&mut &tcp, b"who\n").expect("into the buffer");
        wait_for(|| lab.packets(from, 0, Reason::BackendGone as u8) > before);
        let read = std::io::Read::read(&mut &tcp, &mut [0; 16]).expect_err("the connection is over");
        assert_eq!(read.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

/// Polls until `done`, with a deadline.
#[track_caller]
fn wait_for(mut done: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + traffic::PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < end, "waited in vain");
        std::thread::yield_now();
    }
}

#[test]
fn counters_count_every_packet_once() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 2, open);
        for i in 0..2 {
            lab.ready(i);
        }
        lab.service(1, 80, 8080, Protocol::Udp, &[1]);
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "i1");
        let lost = lab.instances[0].ns.run(|| traffic::udp_stream((vip(Family::V6, 1), 80).into(), 500));
        assert_eq!(lost.expect("a stream"), NONE);
        let all = lab.dataplane.counters().expect("counters");
        let of = |instance: usize, service, direction| {
            let endpoint = lab.instances[instance].link.ifindex;
            let one = |c: &&hivemind::dataplane::Counter| {
                (c.endpoint, c.service, c.direction, c.reason) == (endpoint, service, direction, None)
            };
            all.iter().filter(one).map(|c| (c.packets, c.bytes)).next().unwrap_or_default()
        };
        // Ethernet, IPv6, UDP, and 2 to 4 bytes: 0 to 499 and a newline.
        let sent = 500 * (14 + 40 + 8) + (10 * 2 + 90 * 3 + 400 * 4);
        assert_eq!(of(0, 0, Way::Out), (500, sent), "out of the client");
        assert_eq!(of(1, 1, Way::In), (500, sent), "into the backend, for the service");
        let answered = of(1, 1, Way::Out);
        assert_eq!((answered.0, of(0, 0, Way::In)), (500, answered), "and back");
        let opened = all.iter().find(|c| (c.endpoint, c.service, c.direction) == (0, 1, Way::Opened)).expect("a row");
        assert_eq!(opened.packets, 1, "one connection was opened by a socket");
        // When the device goes, what it has counted is kept. The kernel's own messages, which are dropped, may come now.
        let into = |all: &[hivemind::dataplane::Counter]| {
            all.iter().filter(|c| c.direction == Way::In && c.reason.is_none()).map(|c| c.packets).sum::<u64>()
        };
        let total = into(&all);
        lab.gone(0);
        lab.sync();
        let id = lab.instances[0].id.clone();
        lab.dataplane.detach(&id).expect("to detach");
        lab::sh(&format!("ip link del hm{id}"));
        lab.dataplane.sweep().expect("to sweep");
        let after = lab.dataplane.counters().expect("counters");
        assert!(after.iter().all(|c| c.endpoint != lab.instances[0].link.ifindex));
        assert_eq!(into(&after), total);
    });
}
