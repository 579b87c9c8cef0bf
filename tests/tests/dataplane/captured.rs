//! Captures: what passes at an instance and what is dropped, as it lies in the packet.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use hivemind::{
    dataplane::{
        CaptureFilter, CapturedPacket, Capturing, Dataplane,
        bpf::{BpfDataplane, PacketRing},
    },
    model::Protocol,
    policy::{ALL_PORTS, ANYBODY, Direction, EndpointPolicy, RuleKey, RuleRow},
    spec::v1::Action,
};
use hivemind_ebpf::{
    packet::{self, Packet, RST, SYN, TCP, UDP},
    reason::Reason,
};
use tokio::time::timeout;

use super::{
    in_both_ways,
    lab::{FAMILIES, Lab, firewall, isolated, past_the_sockets, uplink, vip},
    traffic::{Echo, tcp_bulk, tcp_connects_within, udp_ask},
};

/// How long a packet may take that should be captured.
const PATIENCE: Duration = Duration::from_secs(5);

fn of(lab: &Lab, index: usize) -> CaptureFilter {
    let device = lab.instances[index].link.ifindex;
    CaptureFilter { device, snaplen: 2048, dropped: false, host: None, port: None, protocol: None }
}

/// The headers that a packet has.
fn headers(packet: &CapturedPacket) -> Packet {
    let mut headers = Packet::BLANK;
    let kind = u16::from_be_bytes([packet.bytes[12], packet.bytes[13]]);
    let _ = packet::parse(&packet.bytes[..], kind, &mut headers);
    headers
}

fn ends(packet: &CapturedPacket) -> (SocketAddr, SocketAddr) {
    let tuple = headers(packet).tuple;
    let end = |addr: hivemind_ebpf::abi::Addr, port_be| SocketAddr::new(addr.into(), u16::from_be(port_be));
    (end(tuple.src, tuple.sport_be), end(tuple.dst, tuple.dport_be))
}

/// Reads the ring for a while.
struct Reader {
    ring: Option<PacketRing>,
    runtime: tokio::runtime::Runtime,
}

impl Reader {
    fn new(lab: &mut Lab) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { ring: Some(lab.dataplane.packets().expect("the ring is read once")), runtime }
    }

    /// Starts to read what is captured, in the background.
    fn run(&mut self) {
        let ring = self.ring.take().expect("it is not read yet");
        self.runtime.spawn(ring.run());
    }

    /// All packets up to the first that `last` says so of.
    fn until(&self, capturing: &mut Capturing, last: impl Fn(&CapturedPacket) -> bool) -> Vec<CapturedPacket> {
        let mut all = Vec::new();
        let read = self.runtime.block_on(async {
            let packets = async {
                loop {
                    let packet = capturing.next().await.expect("packets come");
                    let is_last = last(&packet);
                    all.push(packet);
                    if is_last {
                        return;
                    }
                }
            };
            timeout(PATIENCE, packets).await
        });
        assert!(read.is_ok(), "it was not captured: {all:?}");
        all
    }
}

/// Sends a datagram of `bytes` bytes from a port of the first instance.
fn datagram(lab: &Lab, port: u16, to: SocketAddr, bytes: usize) {
    lab.instances[0].ns.run(|| {
        let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        let socket = UdpSocket::bind((any, port)).expect("a free port");
        socket.send_to(&vec![b'x'; bytes], to).expect("sent");
    });
}

#[test]
fn both_instances_see_what_passes_as_they_send_and_get_it() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 2, open);
        (0..2).for_each(|index| lab.ready(index));
        lab.service(1, 80, 8080, Protocol::Udp, &[1]);
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "server");
        let mut reader = Reader::new(&mut lab);
        reader.run();
        for family in FAMILIES {
            let service = SocketAddr::new(vip(family, 1), 80);
            let server = SocketAddr::new(lab.instances[1].address(family), 8080);
            let udp = |lab: &Lab, index| CaptureFilter { protocol: Some(UDP), ..of(lab, index) };
            let mut client = lab.dataplane.captures().start(udp(&lab, 0)).expect("it starts");
            let mut backend = lab.dataplane.captures().start(udp(&lab, 1)).expect("it starts");
            // Balanced packet by packet: the one asks the service, the other is asked itself.
            past_the_sockets(cgroup, || {
                lab.instances[0].ns.run(|| udp_ask(service, true)).expect("an answer");
            });
            let seen = reader.until(&mut client, |packet| packet.direction == Direction::In);
            assert_eq!((seen.len(), ends(&seen[0]).1, ends(&seen[1]).0), (2, service, service));
            let got = reader.until(&mut backend, |packet| packet.direction == Direction::Out);
            assert_eq!((got.len(), ends(&got[0]).1, ends(&got[1]).0), (2, server, server));
            assert_eq!(got[0].direction, Direction::In);
            for packet in seen.iter().chain(&got) {
                assert!(packet.reason.is_none() && !packet.answer && packet.rule == 0, "{packet:?}");
                assert_eq!(packet.length as usize, packet.bytes.len());
            }
            assert!(seen[0].at_ns <= seen[1].at_ns);
            // By the backend's address: what is sent to the service on its way there as well.
            let mut by_backend = lab
                .dataplane
                .captures()
                .start(CaptureFilter { host: Some(server.ip()), ..udp(&lab, 0) })
                .expect("it starts");
            past_the_sockets(cgroup, || {
                lab.instances[0].ns.run(|| udp_ask(service, true)).expect("an answer");
            });
            let found = reader.until(&mut by_backend, |packet| packet.direction == Direction::In);
            assert_eq!((found.len(), ends(&found[0]).1), (2, service), "{found:?}");
            let age = hivemind::lifecycle::clock::since_epoch().as_nanos() - u128::from(seen[1].at_ns);
            assert!(age < 60_000_000_000, "by the wall clock: {age}");
        }
        // What comes by the host's stack.
        let mut server = lab.dataplane.captures().start(of(&lab, 1)).expect("it starts");
        let to = SocketAddr::new(lab.instances[1].v4.into(), 8080);
        udp_ask(to, true).expect("the host is answered");
        let seen =
            reader.until(&mut server, |packet| packet.direction == Direction::Out && headers(packet).is_balanced());
        assert!(seen.iter().any(|packet| ends(packet).1 == to && packet.direction == Direction::In), "{seen:?}");
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn what_is_dropped_is_seen_with_the_reason_and_the_answer_that_is_made() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        (0..2).for_each(|index| lab.ready(index));
        let ifindex = lab.instances[1].link.ifindex;
        let closed =
            EndpointPolicy { sets: [0, 0, 7, 0, 0], isolated_in: true, ruled_in: true, ..EndpointPolicy::default() };
        lab.tables.endpoints.get_mut(&ifindex).expect("a row").policy = closed;
        lab.sync();
        let mut reader = Reader::new(&mut lab);
        reader.run();
        let only = |lab: &Lab, index| CaptureFilter { dropped: true, ..of(lab, index) };
        let mut sender = lab.dataplane.captures().start(only(&lab, 0)).expect("it starts");
        let mut closed = lab.dataplane.captures().start(only(&lab, 1)).expect("it starts");
        for (port, family) in (21_000..).zip(FAMILIES) {
            let to = SocketAddr::new(lab.instances[1].address(family), 9);
            datagram(&lab, port, to, 10);
            // It is dropped where it leaves the one; the other, which did not get it, is shown it too.
            for (capturing, direction) in [(&mut sender, Direction::Out), (&mut closed, Direction::In)] {
                let all = reader.until(capturing, |packet| ends(packet).0.port() == port);
                let packet = all.last().expect("a packet");
                assert_eq!((packet.reason, packet.direction), (Some(Reason::PolicyIn), direction));
                assert_eq!((ends(packet).1, packet.length), (to, if family == FAMILIES[0] { 52 } else { 72 }));
                assert!(all.iter().all(|packet| packet.reason.is_some()), "only what is dropped: {all:?}");
            }
        }
        // Nobody has this address: the client is answered, and that is shown as what it is.
        drop(sender);
        let mut sender = lab.dataplane.captures().start(CaptureFilter { protocol: Some(TCP), ..of(&lab, 0) });
        let sender = sender.as_mut().expect("it starts");
        let nobody: SocketAddr = "10.88.0.99:80".parse().expect("an address");
        lab.instances[0].ns.run(|| assert!(!tcp_connects_within(nobody, PATIENCE), "nobody is there"));
        let all = reader.until(sender, |packet| packet.answer);
        let [.., dropped, answer] = &all[..] else { panic!("two packets: {all:?}") };
        assert_eq!((dropped.reason, ends(dropped).1), (Some(Reason::NoSuchInstance), nobody));
        assert_eq!((headers(dropped).flags(), dropped.direction), (SYN, Direction::Out));
        assert!(answer.reason.is_none() && answer.direction == Direction::In, "{answer:?}");
        let detail = headers(answer);
        assert!(detail.tuple.protocol != TCP || detail.flags() & RST != 0, "{detail:?}");
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn what_a_rule_rejects_is_seen_with_the_rule() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        (0..2).for_each(|index| lab.ready(index));
        let ifindex = lab.instances[1].link.ifindex;
        let ruled = EndpointPolicy { sets: [7, 0, 0, 0, 0], ruled_in: true, ..EndpointPolicy::default() };
        lab.tables.endpoints.get_mut(&ifindex).expect("a row").policy = ruled;
        let mut reader = Reader::new(&mut lab);
        reader.run();
        for (port, (action, reason)) in
            (23_000..).zip([(Action::Reject, Reason::Rejected), (Action::Deny, Reason::PolicyIn)])
        {
            let key = RuleKey { set: 7, direction: Direction::In, peer: ANYBODY, protocol: None, port: ALL_PORTS };
            lab.tables.rules = vec![(key, RuleRow { number: 41, action, order: 1 })].into();
            lab.sync();
            let filter = CaptureFilter { dropped: true, protocol: Some(UDP), ..of(&lab, 1) };
            let mut capturing = lab.dataplane.captures().start(filter).expect("it starts");
            datagram(&lab, port, SocketAddr::new(lab.instances[1].v4.into(), 9), 10);
            let all = reader.until(&mut capturing, |packet| ends(packet).0.port() == port);
            let packet = all.last().expect("a packet");
            assert_eq!((packet.reason, packet.rule), (Some(reason), 41), "{packet:?}");
        }
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn what_comes_to_a_published_port_is_seen_as_the_instance_gets_it() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 2, open);
        firewall("9000", 9001);
        (0..2).for_each(|index| lab.ready(index));
        lab.publish(1, 9000, 8080, Protocol::Udp, &[1]);
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "server");
        let mut reader = Reader::new(&mut lab);
        reader.run();
        for family in FAMILIES {
            let server = SocketAddr::new(lab.instances[1].address(family), 8080);
            let filter = CaptureFilter { protocol: Some(UDP), ..of(&lab, 1) };
            let mut capturing = lab.dataplane.captures().start(filter).expect("it starts");
            // The first goes by the firewall, those after it do not.
            lab.outside.run(|| {
                let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).expect("a socket");
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                socket.connect(SocketAddr::new(uplink(family), 9000)).expect("connected");
                for _ in 0..3 {
                    socket.send(b"who\n").expect("sent");
                    socket.recv(&mut [0; 64]).expect("an answer");
                }
            });
            let answers = std::cell::Cell::new(0);
            let all = reader.until(&mut capturing, |packet| {
                answers.set(answers.get() + usize::from(packet.direction == Direction::Out));
                answers.get() == 3
            });
            let got: Vec<_> = all.iter().filter(|packet| packet.direction == Direction::In).collect();
            assert_eq!(got.len(), 3, "{all:?}");
            assert!(got.iter().all(|packet| ends(packet).1 == server), "{got:?}");
        }
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn only_what_is_asked_for_is_captured_and_as_much_of_it() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        (0..2).for_each(|index| lab.ready(index));
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "server");
        let mut reader = Reader::new(&mut lab);
        reader.run();
        let server = SocketAddr::new(lab.instances[1].v4.into(), 8080);
        let whole = of(&lab, 0);
        let captures = lab.dataplane.captures();
        let start = |filter| captures.start(filter).expect("it starts");
        let mut all = start(CaptureFilter { protocol: Some(UDP), ..whole });
        let mut others = [
            start(CaptureFilter { port: Some(22_001), snaplen: 20, ..whole }),
            start(CaptureFilter { host: Some("10.88.0.77".parse().expect("an address")), ..whole }),
            start(CaptureFilter { protocol: Some(TCP), ..whole }),
            start(CaptureFilter { dropped: true, protocol: Some(UDP), ..whole }),
        ];
        // Another instance's device, and one more than there may be.
        let _rest: Vec<_> = (0..3).map(|_| start(of(&lab, 1))).collect();
        assert!(captures.start(whole).is_err(), "there are eight already");
        for port in 22_000..22_003 {
            datagram(&lab, port, server, 100);
        }
        // Larger than a packet may be: each of the fragments is one.
        datagram(&lab, 22_003, SocketAddr::new(lab.instances[1].v4.into(), 9), 4_000);
        datagram(&lab, 22_004, "10.88.0.77:9".parse().expect("an address"), 10);
        let seen = reader.until(&mut all, |packet| ends(packet).0.port() == 22_004);
        let sent: Vec<_> = seen.iter().filter(|packet| packet.direction == Direction::Out).collect();
        assert_eq!(sent.iter().filter(|packet| headers(packet).fragment != packet::WHOLE).count(), 3, "{sent:?}");
        assert_eq!(sent.iter().map(|packet| packet.length).filter(|length| *length > 1_400).count(), 2);
        let [port, host, tcp, dropped] = &mut others;
        let of_port: Vec<_> = std::iter::from_fn(|| port.try_next()).collect();
        assert!(!of_port.is_empty() && of_port.iter().all(|packet| packet.bytes.len() == 20), "{of_port:?}");
        assert_eq!(of_port[0].length, 142);
        // As much as the one that asks for most gets, whoever asked first.
        assert!(sent.iter().all(|packet| packet.bytes.len() == packet.length as usize), "{sent:?}");
        let host: Vec<_> = std::iter::from_fn(|| host.try_next()).filter(|packet| packet.bytes[13] == 0).collect();
        // ICMP tells that nobody is there; it is about the address, but not from it.
        assert!(host.iter().any(|packet| packet.reason == Some(Reason::NoSuchInstance)), "{host:?}");
        assert_eq!(std::iter::from_fn(|| dropped.try_next()).count(), 1);
        assert!(tcp.try_next().is_none());

        // What the device will cut is one packet still.
        let (sent, came) = lab.instances[0].ns.run(|| tcp_bulk(server, 2 << 20)).expect("an answer");
        assert_eq!(sent, came);
        let bulk = reader.until(tcp, |packet| packet.length > 3_000);
        let large = bulk.last().expect("a packet");
        assert_eq!(large.bytes.len(), 2048, "and as much of it is kept as was asked for");
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn what_finds_no_room_is_counted_and_a_new_daemon_captures_nothing() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        (0..2).for_each(|index| lab.ready(index));
        lab.sync();
        let to = SocketAddr::new(lab.instances[1].v4.into(), 9);
        let whole = CaptureFilter { snaplen: 65_536, ..of(&lab, 0) };
        let capturing = lab.dataplane.captures().start(whole).expect("it starts");
        assert_eq!(capturing.lost().expect("a count"), 0);
        let socket = lab.instances[0].ns.run(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
        for _ in 0..3_000 {
            socket.send_to(&[b'x'; 1_400], to).expect("sent");
        }
        let lost = capturing.lost().expect("a count");
        assert!((500..3_500).contains(&lost), "the ring is not read and holds some 500: {lost}");
        drop(capturing);
        let after = lab.dataplane.captures().start(whole).expect("it starts");
        assert_eq!(after.lost().expect("a count"), 0, "what was lost before is not this one's");

        // A daemon that is killed while it captures leaves nothing switched on for the next.
        let mut again = BpfDataplane::open(super::lab::config(cgroup)).unwrap_or_else(|error| panic!("{error}"));
        let mut fresh = again.captures().start(CaptureFilter { port: Some(9), ..whole }).expect("it starts");
        drop(again.captures().start(whole));
        // Something of the kernel's own may have come while it opened.
        let before = after.lost().expect("a count");
        socket.send_to(b"y", to).expect("sent");
        assert_eq!(
            after.lost().expect("a count"),
            before,
            "the old programs are gone, and with them what they captured"
        );
        let mut reader = Reader { ring: again.packets(), ..Reader::new(&mut lab) };
        reader.run();
        let seen = reader.until(&mut fresh, |packet| packet.length == 43);
        assert_eq!(ends(&seen[0]).1, to);
        drop((fresh, after));
        lab.dataplane.unload().expect("unload");
    });
}
