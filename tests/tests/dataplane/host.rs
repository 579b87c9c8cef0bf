//! Policies of the host with real sockets: who is cut, who goes on, and who is told.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

use hivemind::{dataplane::Dataplane, model::Protocol, net::Family};

use crate::{
    in_both_ways,
    lab::{FAMILIES, GATEWAY, Lab, Ns, firewall, nft, outside, uplink},
    traffic::{Echo, PATIENCE, tcp_ask, tcp_ask_on, tcp_connects_within, udp_ask},
};

/// How long something is waited for that must not come.
const VAIN: Duration = Duration::from_millis(300);

/// Two instances, of which the second serves the published port 9000; servers on the host, outside and in instance 0; and
/// what the host does for instances that go outside.
fn lab(cgroup: &Path, open: crate::Open) -> (Lab, Vec<Echo>) {
    let mut lab = Lab::with(cgroup, 2, open);
    firewall("9000", 9001);
    nft("table inet test { chain out { type nat hook postrouting priority 100; policy accept;
        ip saddr 10.88.0.0/16 oifname uplink masquerade
        ip6 saddr fd68:6d00:0:1::/64 oifname uplink masquerade\n}\n}\n");
    for i in [0, 1] {
        lab.ready(i);
    }
    lab.service(1, 80, 8080, Protocol::Tcp, &[1]);
    lab.publish(1, 9000, 8080, Protocol::Tcp, &[1]);
    lab.sync();
    let echoes = vec![
        Echo::here(80, "host"),
        Echo::here(81, "host"),
        Echo::here(22, "host"),
        Echo::start(&lab.outside, 7000, "outside"),
        Echo::start(&lab.instances[1].ns, 8080, "instance"),
    ];
    (lab, echoes)
}

fn gateway(family: Family) -> IpAddr {
    if family == Family::V4 { GATEWAY.0.into() } else { GATEWAY.1.into() }
}

#[test]
fn a_closed_host_lets_in_what_is_allowed_and_what_it_has_asked_for() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = lab(cgroup, open);
        // Before there is a policy: the host's own connections go on after it, those that it closes do not.
        let own: Vec<_> = FAMILIES
            .iter()
            .map(|family| TcpStream::connect(SocketAddr::new(outside(*family), 7000)).expect("a connection"))
            .collect();
        let asked = |family, port| SocketAddr::new(uplink(family), port);
        let others: Vec<_> = FAMILIES
            .iter()
            .map(|family| lab.outside.run(|| TcpStream::connect(asked(*family, 80)).expect("a connection")))
            .collect();
        lab.host("policy: p\nhost: {}\ningress: [{ports: [81]}]\n");
        lab.sync();
        own.iter().for_each(|stream| drop(tcp_ask_on(stream).expect("an answer")));
        for stream in &others {
            stream.set_nonblocking(false).expect("blocking");
            assert!(lab.outside.run(|| tcp_ask_on(stream)).is_err(), "a connection that no rule allows");
        }
        for family in FAMILIES {
            for (port, passes) in [(81, true), (22, true), (80, false)] {
                let came =
                    lab.outside.run(|| tcp_connects_within(asked(family, port), if passes { PATIENCE } else { VAIN }));
                assert_eq!(came, passes, "{family:?} port {port}");
            }
            let elsewhere = SocketAddr::new(outside(family), 7000);
            assert_eq!(tcp_ask(elsewhere).expect("the host's own").client, uplink(family));
            udp_ask(elsewhere, true).expect("the host's own");
            // Instances go out with the host's address, and are no concern of its policies.
            let answer = lab.instances[0].ns.run(|| tcp_ask(elsewhere)).expect("an instance's");
            assert_eq!(answer.client, uplink(family));
            lab.instances[0].ns.run(|| udp_ask(elsewhere, false)).expect("an instance's");
            let answer = lab.outside.run(|| tcp_ask(asked(family, 9000))).expect("a published port");
            assert_eq!(answer.client, outside(family));
            // Instances to the host, and the host to instances.
            for at in [gateway(family), uplink(family)] {
                let ask = |port| SocketAddr::new(at, port);
                lab.instances[0].ns.run(|| tcp_ask(ask(81))).expect("allowed");
                assert!(!lab.instances[0].ns.run(|| tcp_connects_within(ask(80), VAIN)), "{at}");
            }
            tcp_ask(SocketAddr::new(lab.instances[1].address(family), 8080)).expect("the host to an instance");
            tcp_ask(SocketAddr::new(uplink(family), 80)).expect("the host to itself");
        }
        lab.host("");
        lab.sync();
        for family in FAMILIES {
            lab.outside.run(|| tcp_ask(asked(family, 80))).expect("open again");
        }
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn a_closed_way_out_leaves_answers_and_instances() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = lab(cgroup, open);
        lab.host("policy: p\nhost: {}\negress: []\n");
        lab.sync();
        for family in FAMILIES {
            let elsewhere = SocketAddr::new(outside(family), 7000);
            assert!(!tcp_connects_within(elsewhere, VAIN), "{family:?}");
            lab.outside.run(|| tcp_ask(SocketAddr::new(uplink(family), 80))).expect("an answer to the outside");
            lab.outside.run(|| tcp_ask(SocketAddr::new(uplink(family), 9000))).expect("a published port");
            lab.instances[0].ns.run(|| tcp_ask(elsewhere)).expect("an instance's");
            tcp_ask(SocketAddr::new(lab.instances[1].address(family), 8080)).expect("the host to an instance");
        }
        // What was decided before is decided anew, whoever sends first.
        let streams: Vec<_> = FAMILIES
            .iter()
            .map(|family| lab.instances[0].ns.run(|| TcpStream::connect(SocketAddr::new(outside(*family), 7000))))
            .collect();
        lab.host("policy: p\nhost: {}\ningress: []\negress: []\n");
        lab.sync();
        for stream in streams {
            tcp_ask_on(&stream.expect("a connection")).expect("an instance's connection goes on");
        }
        lab.dataplane.unload().expect("unload");
    });
}

/// A connection: who has begun it, who has not; and who waits for others.
struct Pair(Socket, Socket, Option<TcpListener>);

enum Socket {
    Stream(TcpStream),
    /// With its peer, if it is not connected to that.
    Datagrams(UdpSocket, Option<SocketAddr>),
}

impl Socket {
    fn says(&self) {
        match self {
            Self::Stream(stream) => (&*stream).write_all(b"x").expect("sent"),
            Self::Datagrams(socket, None) => drop(socket.send(b"x").expect("sent")),
            Self::Datagrams(socket, Some(peer)) => drop(socket.send_to(b"x", peer).expect("sent")),
        }
    }

    /// Whether it hears something in time.
    fn hears(&self, time: Duration) -> bool {
        let mut byte = [0];
        match self {
            Self::Stream(stream) => {
                stream.set_read_timeout(Some(time)).expect("a timeout");
                (&*stream).read_exact(&mut byte).is_ok()
            }
            Self::Datagrams(socket, _) => {
                socket.set_read_timeout(Some(time)).expect("a timeout");
                socket.recv(&mut byte).is_ok()
            }
        }
    }
}

/// Runs something in the host's namespace, or in another.
fn at<R: Send>(ns: Option<&Ns>, f: impl FnOnce() -> R + Send) -> R {
    match ns {
        Some(ns) => ns.run(f),
        None => f(),
    }
}

/// `from` has begun, towards `to` at this address: by TCP, by a UDP socket that is connected, and by one that is not.
fn pairs(from: Option<&Ns>, to: Option<&Ns>, address: IpAddr) -> Vec<Pair> {
    let any = SocketAddr::new(if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
    let listener = at(to, || TcpListener::bind((address, 0)).expect("a port"));
    let there = listener.local_addr().expect("an address");
    let stream = at(from, || TcpStream::connect(there).expect("a connection"));
    let accepted = listener.accept().expect("it").0;
    // Where nobody waits any more, the host knows by what it has tracked.
    let listener = address.is_ipv4().then_some(listener);
    let mut pairs = vec![Pair(Socket::Stream(stream), Socket::Stream(accepted), listener)];
    for connected in [true, false] {
        let server = at(to, || UdpSocket::bind((address, 0)).expect("a port"));
        let there = server.local_addr().expect("an address");
        let client = at(from, || UdpSocket::bind(any).expect("a socket"));
        if connected {
            at(from, || client.connect(there).expect("connected"));
        }
        client.send_to(b"x", there).or_else(|_| client.send(b"x")).expect("sent");
        server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (_, client_is) = server.recv_from(&mut [0; 4]).expect("the first");
        let begins = Socket::Datagrams(client, (!connected).then_some(there));
        pairs.push(Pair(begins, Socket::Datagrams(server, Some(client_is)), None));
    }
    for Pair(begins, answers, _) in &pairs {
        answers.says();
        assert!(begins.hears(PATIENCE), "an answer");
    }
    pairs
}

/// What was begun before there was a policy is judged by who has begun it, whoever speaks next.
#[test]
fn connections_from_before_the_first_policy_go_on_or_end_by_who_has_begun_them() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = lab(cgroup, open);
        for (policy, own, others) in [("ingress: []\n", true, false), ("egress: []\n", false, true)] {
            for speaks in ["who has begun", "who has not"] {
                lab.host("");
                lab.sync();
                let mut all = Vec::new();
                for family in FAMILIES {
                    let (own_ns, elsewhere) = (&lab.instances[0].ns, outside(family));
                    all.push(("the host's", own, pairs(None, Some(&lab.outside), elsewhere)));
                    all.push(("others'", others, pairs(Some(&lab.outside), None, uplink(family))));
                    all.push(("an instance's", true, pairs(Some(own_ns), Some(&lab.outside), elsewhere)));
                }
                lab.host(&format!("policy: p\nhost: {{}}\n{policy}"));
                lab.sync();
                for (whose, goes_on, pairs) in all {
                    for (kind, Pair(begun, other, _waits)) in ["tcp", "connected udp", "udp"].into_iter().zip(&pairs) {
                        let first = if speaks == "who has begun" { [begun, other] } else { [other, begun] };
                        let name = format!("{policy}: {whose} {kind}, {speaks} speaks");
                        first[0].says();
                        // Datagrams of the other side are a beginning of its own where nothing is closed for them.
                        if !goes_on && kind != "tcp" && speaks == "who has not" {
                            continue;
                        }
                        assert_eq!(first[1].hears(if goes_on { PATIENCE } else { VAIN }), goes_on, "{name}");
                        if goes_on {
                            first[1].says();
                            assert!(first[0].hears(PATIENCE), "{name}, and back");
                        }
                    }
                }
            }
        }
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn who_is_rejected_hears_of_it_at_once() {
    in_both_ways(|cgroup, open| {
        let (mut lab, _echoes) = lab(cgroup, open);
        lab.host("policy: p\nhost: {}\notherwise: reject\ningress: []\negress: []\npublished: []\n");
        lab.sync();
        let refused = |to: SocketAddr| {
            let error = TcpStream::connect_timeout(&to, PATIENCE).expect_err("nobody is let in");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
        };
        // Linux takes "administratively prohibited" for EHOSTUNREACH with IPv4 and for EACCES with IPv6.
        let prohibited = |to: SocketAddr| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket.connect(to).expect("to connect");
            socket.send(b"who\n").expect("to send");
            let error = socket.recv(&mut [0; 16]).expect_err("no answer");
            let expected = if to.is_ipv4() { ErrorKind::HostUnreachable } else { ErrorKind::PermissionDenied };
            assert_eq!(error.kind(), expected, "{to}: {error}");
        };
        for family in FAMILIES {
            let at_host = |port| SocketAddr::new(uplink(family), port);
            for to in [at_host(80), at_host(9000)] {
                lab.outside.run(|| refused(to));
            }
            lab.outside.run(|| prohibited(at_host(80)));
            lab.instances[0].ns.run(|| refused(SocketAddr::new(gateway(family), 80)));
            lab.instances[0].ns.run(|| prohibited(SocketAddr::new(gateway(family), 80)));
            lab.instances[0].ns.run(|| refused(at_host(9000)));
            refused(SocketAddr::new(outside(family), 7000));
            prohibited(SocketAddr::new(outside(family), 7000));
            // From the host itself published ports are reached, whatever is said of others.
            let loopback = if family == Family::V4 { "127.0.0.1" } else { "::1" };
            for own in [loopback.parse().expect("an address"), uplink(family)] {
                tcp_ask(SocketAddr::new(own, 9000)).expect("the host's own");
            }
        }
        lab.dataplane.unload().expect("unload");
    });
}
