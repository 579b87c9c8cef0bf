//! Services between real sockets: who stays where, who is counted, who is let in, and who drains.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use hivemind::{dataplane::Dataplane, model::Protocol, net::Family};
use hivemind_ebpf::{abi::OPENED, reason::Reason};
use hivemind_tests::{each_row, netlab::until};

use crate::{
    in_both_ways,
    lab::{self, FAMILIES, Lab, UPLINK, firewall, vip},
    traffic::{Echo, PATIENCE, tcp_ask, tcp_ask_on, udp_ask},
};

/// Instances 1 and 2 serve service 1 inside, and as port 9000 outside.
fn served(cgroup: &Path, open: crate::Open) -> (Lab, Vec<Echo>) {
    let mut lab = Lab::with(cgroup, 3, open);
    firewall("9000", 9999);
    for i in 0..3 {
        lab.ready(i);
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        lab.service(1, 80, 8080, protocol, &[1, 2]);
        lab.publish(1, 9000, 8080, protocol, &[1, 2]);
    }
    lab.sync();
    let echoes = [1, 2].iter().map(|i| Echo::start(&lab.instances[*i].ns, 8080, &format!("i{i}"))).collect();
    (lab, echoes)
}

fn service(family: Family) -> SocketAddr {
    SocketAddr::new(vip(family, 1), 80)
}

fn published(family: Family) -> SocketAddr {
    let node = if family == Family::V4 { UPLINK[0].0.into() } else { IpAddr::from(UPLINK[0].1) };
    SocketAddr::new(node, 9000)
}

/// The names of the backends that answer.
fn asked(times: usize, to: SocketAddr) -> BTreeSet<String> {
    (0..times).map(|_| tcp_ask(to).expect("an answer").name).collect()
}

#[test]
fn sockets_of_a_namespace_stay_with_a_backend_until_it_gets_nothing_new() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = served(cgroup, open);
        each_row(&mut lab.tables.services, |_, row| row.choice.affinity = 60);
        lab.sync();
        for family in FAMILIES {
            let ask = |lab: &Lab| lab.instances[0].ns.run(|| asked(16, service(family)));
            let first = ask(&lab);
            assert_eq!(first.len(), 1, "{first:?}");
            let by_udp = lab.instances[0].ns.run(|| udp_ask(service(family), false)).expect("udp").name;
            assert_eq!(first, BTreeSet::from([by_udp]), "the same over UDP");
            lab.dataplane = open(lab::config(cgroup)).expect("another daemon takes over");
            lab.sync();
            assert_eq!(ask(&lab), first, "also after a restart");
            let outside = lab.outside.run(|| asked(16, published(family)));
            assert_eq!(outside.len(), 1, "{outside:?}");
            // It gets nothing new: another is chosen, and stays chosen.
            let before = lab.tables.clone();
            let left = if first.contains("i1") { 2 } else { 1 };
            let own = lab.instances[left].address(family);
            each_row(&mut lab.tables.services, |_, row| {
                row.backends.retain(|backend| backend.address.is_ipv4() != own.is_ipv4() || backend.address == own);
            });
            lab.sync();
            let second = ask(&lab);
            assert_eq!(second, BTreeSet::from([format!("i{left}")]));
            lab.tables = before;
            lab.sync();
            assert_eq!(ask(&lab), second);
        }
        lab.dataplane.unload().expect("to unload");
    });
}

/// Open sockets of all backends, as the kernel counts them.
fn counted(lab: &Lab) -> u64 {
    lab.dataplane.loads().expect("the counts").values().sum()
}

#[test]
fn a_socket_that_is_connected_again_is_counted_for_the_last_backend_only() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = served(cgroup, open);
        each_row(&mut lab.tables.services, |_, row| row.choice.least = true);
        lab.sync();
        for family in FAMILIES {
            let any = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
            let socket = lab.instances[0].ns.run(|| UdpSocket::bind(any).expect("a socket"));
            for times in 1..=8 {
                socket.connect(service(family)).expect("connected");
                assert_eq!(counted(&lab), 1, "{family:?}, connected {times} times");
            }
            drop(socket);
            until("the count to be taken back", || (counted(&lab) == 0).then_some(()));
        }
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn the_backend_with_fewer_open_connections_is_taken_and_no_count_leaks() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = served(cgroup, open);
        each_row(&mut lab.tables.services, |_, row| row.choice.least = true);
        lab.sync();
        for family in FAMILIES {
            let held: Vec<TcpStream> = lab.instances[0].ns.run(|| {
                (0..20).map(|_| TcpStream::connect_timeout(&service(family), PATIENCE).expect("connected")).collect()
            });
            let names = held.iter().map(|stream| tcp_ask_on(stream).expect("an answer").name).collect::<Vec<_>>();
            // Of two backends both are looked at each time, so that they are even.
            assert_eq!(names.iter().filter(|name| *name == "i1").count(), 10, "{names:?}");
            assert_eq!(counted(&lab), 20);
            // Another daemon goes on with the counts.
            lab.dataplane = open(lab::config(cgroup)).expect("another daemon takes over");
            lab.sync();
            assert_eq!(counted(&lab), 20);
            // Those of one backend are closed: the next ten are its.
            let (closed, mut held): (Vec<_>, Vec<_>) = held.into_iter().zip(names).partition(|(_, name)| name == "i1");
            drop(closed);
            assert_eq!(counted(&lab), 10);
            for _ in 0..10 {
                let stream = lab.instances[0].ns.run(|| TcpStream::connect_timeout(&service(family), PATIENCE));
                let stream = stream.expect("connected");
                let name = tcp_ask_on(&stream).expect("an answer").name;
                assert_eq!(name, "i1");
                held.push((stream, name));
            }
            drop(held);
            assert_eq!(counted(&lab), 0);
        }
        killed(&mut lab);
        // What is no backend any more has no row.
        lab.tables.services.clear();
        lab.sync();
        lab.dataplane.sweep().expect("to sweep");
        assert!(lab.dataplane.loads().expect("the counts").is_empty());
        lab.dataplane.unload().expect("to unload");
    });
}

/// Tells the process that is to be killed where to connect to.
const HOLD: &str = "HIVEMIND_TEST_HOLD";

#[test]
#[ignore = "run by another test"]
fn holds_a_connection() {
    let to: SocketAddr = std::env::var(HOLD).expect("started by a test").parse().expect("an address");
    let _stream = TcpStream::connect_timeout(&to, PATIENCE).expect("connected");
    println!("\nopen");
    loop {
        std::thread::park();
    }
}

/// A process that holds a connection is killed.
fn killed(lab: &mut Lab) {
    let own = std::env::current_exe().expect("this program");
    let mut child = lab.instances[0].ns.run(|| {
        let mut command = Command::new(own);
        command.args(["--exact", "balance::holds_a_connection", "--ignored", "--nocapture"]);
        let mut child = command.env(HOLD, service(Family::V4).to_string()).stdout(Stdio::piped()).spawn().expect("it");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let open = output.lines().map_while(Result::ok).any(|line| line == "open");
        assert!(open, "it is connected");
        child
    });
    assert_eq!(counted(lab), 1);
    child.kill().expect("SIGKILL");
    child.wait().expect("its end");
    assert_eq!(counted(lab), 0);
}

#[test]
fn a_published_port_is_closed_to_those_outside_its_source_ranges_on_every_way() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = served(cgroup, open);
        for family in FAMILIES {
            tcp_ask_from_outside(&lab, family).expect("before there are ranges");
        }
        each_row(&mut lab.tables.services, |_, row| row.choice.sources = true);
        lab.tables.sources.insert((1, "198.51.100.0/24".parse().expect("a block")));
        lab.tables.sources.insert((1, "2001:db8:7::/48".parse().expect("a block")));
        lab.sync();
        let short = Duration::from_millis(300);
        for family in FAMILIES {
            let to = published(family);
            let connects = || TcpStream::connect_timeout(&to, short).is_ok();
            let before = lab.packets(0, hivemind_ebpf::abi::IN, Reason::SourceRange as u8);
            assert!(!lab.outside.run(connects), "from outside");
            assert!(!lab.instances[0].ns.run(connects), "from an instance");
            assert!(!crate::past_the_sockets(cgroup, || lab.instances[0].ns.run(connects)), "past the sockets");
            let dropped = lab.packets(0, hivemind_ebpf::abi::IN, Reason::SourceRange as u8) - before;
            assert!(dropped >= 3, "{dropped} dropped");
            // The node itself may, by every address of its own; and so may clients inside by the service's address.
            let loopback = if family == Family::V4 { "127.0.0.1" } else { "::1" };
            for own in [to.ip(), loopback.parse().expect("an address")] {
                tcp_ask(SocketAddr::new(own, 9000)).expect("from the node");
            }
            lab.instances[0].ns.run(|| tcp_ask(service(family))).expect("by the service's address");
        }
        // A range of this family lets the client in, and only of this family.
        lab.tables.sources.insert((1, "192.0.2.2/32".parse().expect("a block")));
        lab.sync();
        tcp_ask_from_outside(&lab, Family::V4).expect("it is in a range now");
        let to = published(Family::V6);
        assert!(!lab.outside.run(|| TcpStream::connect_timeout(&to, short).is_ok()));
        lab.dataplane.unload().expect("to unload");
    });
}

fn tcp_ask_from_outside(lab: &Lab, family: Family) -> std::io::Result<String> {
    lab.outside.run(|| tcp_ask(published(family))).map(|answer| answer.name)
}

#[test]
fn without_an_instance_here_local_services_refuse_and_say_why() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = served(cgroup, open);
        each_row(&mut lab.tables.services, |_, row| {
            row.choice.local = true;
            row.backends.clear();
        });
        lab.sync();
        for family in FAMILIES {
            let before = lab.packets(0, OPENED, Reason::NoLocalBackend as u8);
            let error = lab.instances[0].ns.run(|| tcp_ask(service(family))).expect_err("nobody is here");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            assert_eq!(lab.packets(0, OPENED, Reason::NoLocalBackend as u8) - before, 1);
            let before = lab.packets(0, hivemind_ebpf::abi::IN, Reason::NoLocalBackend as u8);
            let to = published(family);
            assert!(!lab.outside.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok()));
            assert!(lab.packets(0, hivemind_ebpf::abi::IN, Reason::NoLocalBackend as u8) > before, "dropped outside");
        }
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn who_drains_keeps_its_connections_and_gets_no_new_ones() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = served(cgroup, open);
        for family in FAMILIES {
            let before = lab.tables.clone();
            let connect = |to: SocketAddr| {
                // One to the instance that drains.
                let streams = std::iter::repeat_with(|| TcpStream::connect_timeout(&to, PATIENCE).expect("connected"));
                let to_first = |stream: &TcpStream| tcp_ask_on(stream).expect("an answer").name == "i1";
                streams.take(64).find(to_first).expect("both are used")
            };
            let open = [
                lab.instances[0].ns.run(|| connect(service(family))),
                crate::past_the_sockets(cgroup, || lab.instances[0].ns.run(|| connect(service(family)))),
                lab.outside.run(|| connect(published(family))),
            ];
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                lab.service(1, 80, 8080, protocol, &[2]);
                lab.publish(1, 9000, 8080, protocol, &[2]);
            }
            lab.sync();
            lab.dataplane.sweep().expect("to sweep");
            for stream in &open {
                assert_eq!(tcp_ask_on(stream).expect("the connection lives").name, "i1");
            }
            let second = BTreeSet::from(["i2".to_owned()]);
            assert_eq!(lab.instances[0].ns.run(|| asked(16, service(family))), second);
            assert_eq!(lab.outside.run(|| asked(16, published(family))), second);
            lab.tables = before;
            lab.sync();
        }
        lab.dataplane.unload().expect("to unload");
    });
}
