//! Limits, packet by packet: buckets at their edges, connections, and the share of the table of flows.

use std::net::{IpAddr, SocketAddr};

use hivemind::{
    dataplane::{
        Dataplane,
        bpf::{BpfDataplane, DataplaneConfig},
        tables::{LimitOwner, LimitRow, Usage},
    },
    model::{BitRate, PerSecond},
    net::Family,
    spec::v1::LimitSpec,
};
use hivemind_ebpf::{abi::OUT, map, program, reason::Reason};

use crate::{
    bench::{Bench, DROP, Expect, REDIRECT, one_cpu, service},
    frame::{ACK, Frame, ICMP, ICMPV6, RST, TCP, UDP},
    lab::{self, FAMILIES, GATEWAY, TENANT, UPLINK, isolated},
};

/// So slow that next to nothing comes in during a test, also on a machine that is emulated: 100 bytes in a second. No user
/// may ask for so little.
const SLOW: BitRate = BitRate(800);
/// What a bucket of bytes has at least.
const BURST: usize = 131_072;
const SYN_ACK: u8 = 0x12;
const FIN_ACK: u8 = 0x11;

/// Gives an instance limits, and its tenant some.
pub(crate) fn limit(bench: &mut Bench, instance: usize, spec: LimitSpec, tenant: LimitSpec) {
    let ifindex = bench.ifindex(instance);
    let tables = &mut bench.lab.tables;
    let number = if tenant.is_default() { 0 } else { TENANT };
    tables.limits.insert(LimitOwner::Instance(ifindex), LimitRow { spec, tenant: number });
    if number != 0 {
        tables.limits.insert(LimitOwner::Tenant(number), LimitRow { spec: tenant, tenant: 0 });
    }
    let row = tables.endpoints.get_mut(&ifindex).expect("a row");
    row.limited = spec.has_rates() || tenant.has_rates();
    bench.lab.sync();
}

pub(crate) fn none() -> LimitSpec {
    LimitSpec::default()
}

/// How many of a frame that an instance sends pass until one is dropped; at most 10,000.
fn passes(bench: &Bench, from: usize, frame: &Frame) -> usize {
    let bytes = frame.bytes();
    let drops = |_: &usize| bench.run(program::FROM_CONTAINER, &bytes, bench.ifindex(from)).0 == DROP;
    (0..10_000).find(drops).unwrap_or(10_000)
}

fn usage(bench: &mut Bench, owner: LimitOwner) -> Usage {
    bench.lab.dataplane.uses().expect("uses").get(&owner).copied().unwrap_or_default()
}

pub(crate) fn of(bench: &mut Bench, instance: usize) -> Usage {
    let owner = LimitOwner::Instance(bench.ifindex(instance));
    usage(bench, owner)
}

/// A datagram of `length` bytes as a frame, to the other instance.
fn datagram(bench: &Bench, from: usize, port: u16, length: usize) -> Frame {
    let to = SocketAddr::new(bench.address(1 - from, Family::V4), 7000);
    Frame { payload: vec![0; length - 42], ..bench.sent(from, UDP, port, to) }
}

#[test]
fn a_bucket_of_bytes_lets_its_burst_pass_and_then_nothing() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        for length in [500, 1_000, 1_514] {
            let frame = datagram(&bench, 0, 5_000, length);
            assert_eq!(passes(&bench, 0, &frame), 10_000, "no limit");
            limit(&mut bench, 0, LimitSpec { egress: Some(SLOW), ..none() }, none());
            // The last one overdraws the bucket. Meanwhile a few bytes come in.
            let passed = passes(&bench, 0, &frame);
            let expected = BURST / length + 1;
            assert!((expected..=expected + 1 + 4_000 / length).contains(&passed), "{length}: {passed}, not {expected}");
            bench.check(&bench.sends("over the rate", &frame, Expect::Drop(Reason::RateLimited)));
            let used = of(&mut bench, 0);
            assert_eq!((used.dropped_packets, used.dropped_bytes[0]), ([2, 0], 2 * length as u64), "{length}");
            // The other direction, and others, are as they were.
            assert_eq!(passes(&bench, 1, &datagram(&bench, 1, 5_001, length)), 10_000);
            // What is lifted is lifted at once, also for what is known.
            limit(&mut bench, 0, none(), none());
            assert_eq!(passes(&bench, 0, &frame), 10_000, "{length}: lifted");
            bench.lab.tables.limits.clear();
            let frame = datagram(&bench, 0, 5_000, length);
            limit(&mut bench, 1, LimitSpec { ingress: Some(SLOW), ..none() }, none());
            let passed = passes(&bench, 0, &frame);
            assert!((expected..=expected + 1 + 4_000 / length).contains(&passed), "in, {length}: {passed}");
            // It is the receiver's, although the packet was dropped where it was sent.
            assert_eq!(of(&mut bench, 1).dropped_packets, [0, 1]);
            bench.check(&bench.sends("over the rate", &frame, Expect::Drop(Reason::RateLimited)));
            limit(&mut bench, 1, none(), none());
            bench.lab.tables.limits.clear();
            restart_accounts(&mut bench);
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

/// The instances go and come again: what they used is forgotten.
fn restart_accounts(bench: &mut Bench) {
    let tables = bench.lab.tables.clone();
    bench.lab.tables.endpoints.clear();
    bench.lab.sync();
    bench.lab.dataplane.sweep().expect("to sweep");
    bench.lab.tables = tables;
    bench.lab.sync();
    assert_eq!(of(bench, 0), Usage::default());
}

#[test]
fn packets_are_limited_whatever_their_size_and_what_comes_by_the_stack_as_well() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let rate = Some(PerSecond(1));
        limit(&mut bench, 0, LimitSpec { egress_packets: rate, ingress_packets: rate, ..none() }, none());
        let frame = datagram(&bench, 0, 5_000, 60);
        let passed = passes(&bench, 0, &frame);
        assert!((91..=93).contains(&passed), "{passed}");
        // From outside, by the stack.
        let outside = SocketAddr::new(UPLINK[1].0.into(), 53);
        let come = Frame::new(UDP, (outside.ip(), 53), (bench.address(0, Family::V4), 5_000));
        let bytes = bench.by_device(0, come).bytes();
        let drops = |_: &usize| bench.run(program::TO_CONTAINER, &bytes, bench.ifindex(0)).0 == DROP;
        let passed = (0..1_000).find(drops).expect("a limit");
        assert!((91..=93).contains(&passed), "{passed}");
        // What the node itself begins is never held up: else a busy instance would not look well.
        let asks = Frame::new(UDP, (GATEWAY.0.into(), 40_000), (bench.address(0, Family::V4), 5_000));
        let bytes = bench.by_device(0, asks).bytes();
        let passed = (0..500).all(|_| bench.run(program::TO_CONTAINER, &bytes, bench.ifindex(0)).0 != DROP);
        assert!(passed, "what the node asks");
        let answer = bench.sent(0, UDP, 5_000, SocketAddr::new(GATEWAY.0.into(), 40_000)).bytes();
        let passed = (0..500).all(|_| bench.run(program::FROM_CONTAINER, &answer, bench.ifindex(0)).0 != DROP);
        assert!(passed, "what is answered to the node");
        // What it asks of the node is.
        let asks = bench.sent(0, UDP, 5_001, SocketAddr::new(GATEWAY.0.into(), 53));
        bench.check(&bench.sends("to the node", &asks, Expect::Drop(Reason::RateLimited)));
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn the_instances_of_a_tenant_share_its_limit() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let tenant = LimitSpec { egress: Some(SLOW), connections: Some(3), ..none() };
        let more = LimitSpec { egress: Some(BitRate(8_000_000_000)), connections: Some(2), ..none() };
        limit(&mut bench, 0, more, tenant);
        limit(&mut bench, 1, more, tenant);
        let outside = SocketAddr::new(UPLINK[1].0.into(), 53);
        let frame = |bench: &Bench, from| Frame { payload: vec![0; 958], ..bench.sent(from, UDP, 5_000, outside) };
        let (first, second) = (frame(&bench, 0), frame(&bench, 1));
        let half = BURST / 2_000;
        let pass = |bench: &Bench, from: usize, frame: &Frame| {
            let bytes = frame.bytes();
            (0..half).all(|_| bench.run(program::FROM_CONTAINER, &bytes, bench.ifindex(from)).0 != DROP)
        };
        assert!(pass(&bench, 0, &first));
        let passed = passes(&bench, 1, &second);
        assert!((half..=half + 5).contains(&passed), "{passed}");
        bench.check(&bench.sends("its tenant's is used up", &first, Expect::Drop(Reason::RateLimited)));
        let used = usage(&mut bench, LimitOwner::Tenant(TENANT));
        assert_eq!((used.dropped_packets, used.connections), ([2, 0], [2, 0]));
        assert_eq!(of(&mut bench, 0).dropped_packets, [0, 0], "not its own");

        let lifted = LimitSpec { egress: None, ..tenant };
        limit(&mut bench, 0, more, lifted);
        limit(&mut bench, 1, more, lifted);
        assert!(pass(&bench, 0, &first) && pass(&bench, 0, &first) && pass(&bench, 0, &first));
        let third = bench.sent(0, UDP, 5_001, outside);
        bench.check(&bench.sends("the third of the tenant", &third, Expect::Pass));
        let fourth = bench.sent(1, TCP, 5_001, outside);
        let drop = Expect::Drop(Reason::ConnectionLimit);
        bench.check(&bench.sends_from(1, "the fourth, the second of the instance", &fourth, drop));
        let used = usage(&mut bench, LimitOwner::Tenant(TENANT));
        assert_eq!((used.connections, used.refused), ([3, 0], [1, 0]));
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn connections_are_counted_from_both_ends_until_they_are_closed() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        limit(&mut bench, 0, LimitSpec { connections: Some(2), ..none() }, none());
        limit(&mut bench, 1, LimitSpec { connections: Some(3), ..none() }, none());
        for family in FAMILIES {
            let to = service(family, 1);
            let asks = |bench: &Bench, port| bench.sent(0, TCP, port, to);
            for port in [6_001, 6_002] {
                assert_eq!(
                    bench.run(program::FROM_CONTAINER, &asks(&bench, port).bytes(), bench.ifindex(0)).0,
                    REDIRECT
                );
            }
            let third = asks(&bench, 6_003);
            bench.check(&bench.sends("a third", &third, Expect::Drop(Reason::ConnectionLimit)));
            assert_eq!((of(&mut bench, 0).connections, of(&mut bench, 1).connections), ([2, 0], [0, 2]));
            // Pings and what it asks of the node are none of them.
            let v4 = family == Family::V4;
            let (protocol, detail) = if v4 { (ICMP, 8) } else { (ICMPV6, 128) };
            let ping = Frame { detail, ..bench.sent(0, protocol, 1, SocketAddr::new(bench.address(1, family), 1)) };
            let there = ping.bytes();
            bench.check(&bench.sends("a ping", &ping, Expect::RedirectAs(there)));
            let gateway = if v4 { GATEWAY.0.into() } else { IpAddr::from(GATEWAY.1) };
            let name = bench.sent(0, UDP, 6_004, SocketAddr::new(gateway, 53));
            bench.check(&bench.sends("a name", &name, Expect::Pass));
            // One is closed by both, the other reset: there is room for two.
            let answers = |bench: &Bench, port, detail| {
                let client = SocketAddr::new(bench.address(0, family), port);
                Frame { detail, ..bench.sent(1, TCP, 8080, client) }.bytes()
            };
            let says = |bench: &Bench, port, detail| Frame { detail, ..asks(bench, port) }.bytes();
            for (from, packet) in [
                (1, answers(&bench, 6_001, SYN_ACK)),
                (0, says(&bench, 6_001, ACK)),
                (0, says(&bench, 6_001, FIN_ACK)),
                (1, answers(&bench, 6_001, FIN_ACK)),
                (0, says(&bench, 6_001, ACK)),
                (1, answers(&bench, 6_002, RST | ACK)),
            ] {
                assert_eq!(bench.run(program::FROM_CONTAINER, &packet, bench.ifindex(from)).0, REDIRECT);
            }
            assert_eq!((of(&mut bench, 0).connections, of(&mut bench, 1).connections), ([0, 0], [0, 0]));
            for port in [6_003, 6_005] {
                assert_eq!(
                    bench.run(program::FROM_CONTAINER, &asks(&bench, port).bytes(), bench.ifindex(0)).0,
                    REDIRECT
                );
                let reset = answers(&bench, port, RST | ACK);
                assert_eq!(bench.run(program::FROM_CONTAINER, &reset, bench.ifindex(1)).0, REDIRECT);
            }
        }
        // The receiver's limit: the sender has none any more.
        limit(&mut bench, 0, none(), none());
        for port in 6_010..6_013 {
            let asks = bench.sent(0, TCP, port, service(Family::V4, 1));
            assert_eq!(bench.run(program::FROM_CONTAINER, &asks.bytes(), bench.ifindex(0)).0, REDIRECT);
        }
        let fourth = bench.sent(0, TCP, 6_013, service(Family::V4, 1));
        bench.check(&bench.sends("more than the receiver may have", &fourth, Expect::Drop(Reason::ConnectionLimit)));
        assert_eq!((of(&mut bench, 0).refused, of(&mut bench, 1).refused), ([2, 0], [0, 1]));
        // What was there before a limit is not cut, nor a connection that the table does not know.
        limit(&mut bench, 1, LimitSpec { connections: Some(1), ..none() }, none());
        let known = Frame { detail: ACK, ..bench.sent(0, TCP, 6_010, service(Family::V4, 1)) };
        assert_eq!(bench.run(program::FROM_CONTAINER, &known.bytes(), bench.ifindex(0)).0, REDIRECT);
        let peer = SocketAddr::new(bench.address(1, Family::V4), 8080);
        let unknown = Frame { detail: ACK, ..bench.sent(0, TCP, 6_014, peer) };
        let there = unknown.bytes();
        bench.check(&bench.sends("a connection from before", &unknown, Expect::RedirectAs(there)));
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn so_many_connections_begin_in_a_second() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        limit(&mut bench, 0, LimitSpec { new_connections: Some(PerSecond(20)), ..none() }, none());
        for port in 7_000..7_040 {
            let asks = bench.sent(0, if port % 2 == 0 { TCP } else { UDP }, port, service(Family::V4, 1));
            bench.run(program::FROM_CONTAINER, &asks.bytes(), bench.ifindex(0));
        }
        // One comes in every 50 ms.
        let [begun, _] = of(&mut bench, 0).connections;
        assert!((20..=25).contains(&begun), "{begun}");
        assert_eq!(of(&mut bench, 0).refused, [40 - begun, 0]);
        // What has begun goes on.
        let known = bench.sent(0, UDP, 7_001, service(Family::V4, 1));
        let there = Frame { dst: (bench.address(1, Family::V4), 8080), ..known.clone() }.bytes();
        bench.check(&bench.sends("what has begun", &known, Expect::RedirectAs(there)));
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn an_instance_that_holds_its_share_of_the_table_makes_room_among_its_own() {
    isolated(|cgroup| {
        one_cpu();
        let mut bench = Bench::with_share(cgroup, 100);
        let asks = |bench: &mut Bench, port: u16| {
            let packet = bench.sent(0, UDP, port, service(Family::V4, 1));
            let there = Frame { dst: (bench.address(1, Family::V4), 8080), ..packet.clone() }.bytes();
            bench.check(&bench.sends(&format!("{port}"), &packet, Expect::RedirectAs(there)));
        };
        let answer = |bench: &Bench, port: u16| {
            let packet = bench.sent(1, UDP, 8080, (bench.address(0, Family::V4), port).into()).bytes();
            assert_eq!(
                bench.run(program::FROM_CONTAINER, &packet, bench.ifindex(1)).0,
                REDIRECT,
                "the answer to {port}"
            );
        };
        // Another instance's: a beginning and a conversation.
        let outside = SocketAddr::new(UPLINK[1].0.into(), 53);
        let others = bench.sent(1, UDP, 9_000, outside);
        bench.check(&bench.sends_from(1, "another's", &others, Expect::Pass));
        // As many again as its share: the oldest that nobody has answered go.
        for port in 10_000..10_100 {
            asks(&mut bench, port);
        }
        for port in 10_100..10_200 {
            let packet = bench.sent(0, UDP, port, service(Family::V4, 1)).bytes();
            assert_eq!(bench.run(program::FROM_CONTAINER, &packet, bench.ifindex(0)).0, REDIRECT, "{port}");
        }
        let used = of(&mut bench, 0);
        assert_eq!((used.flows, used.connections, used.unshared), (100, [100, 0], 0));
        assert_eq!(bench.lab.packets(0, OUT, Reason::Evicted as u8), 100);
        assert_eq!(bench.entries()[map::FLOWS], 101);
        // Answered datagrams are no conversation yet, and make room as well; connections stay, and so there is no room
        // for another one at last.
        for port in 10_100..10_200 {
            answer(&bench, port);
        }
        let to = service(Family::V4, 1);
        for port in 10_200..10_300 {
            let client = (bench.address(0, Family::V4), port).into();
            let (asks, answers) = (bench.sent(0, TCP, port, to), bench.sent(1, TCP, 8080, client));
            for (frame, from) in [
                (asks.clone(), 0),
                (Frame { detail: SYN_ACK, ..answers.clone() }, 1),
                (Frame { detail: ACK, ..asks }, 0),
                (Frame { detail: ACK, ..answers }, 1),
            ] {
                let verdict = bench.run(program::FROM_CONTAINER, &frame.bytes(), bench.ifindex(from)).0;
                assert_eq!(verdict, REDIRECT, "the connection from {port}");
            }
        }
        assert_eq!(bench.lab.packets(0, OUT, Reason::Evicted as u8), 200);
        let more = bench.sent(0, TCP, 10_300, service(Family::V4, 1));
        bench.check(&bench.sends("its share is full", &more, Expect::Drop(Reason::FlowShare)));
        let more = bench.sent(0, UDP, 10_300, service(Family::V4, 1));
        bench.check(&bench.sends("its share is full", &more, Expect::Drop(Reason::FlowShare)));
        assert_eq!(of(&mut bench, 0).unshared, 2);
        // What does not depend on its row passes without one.
        let free = bench.sent(0, UDP, 10_300, outside);
        let packet = free.bytes();
        assert_eq!(bench.run(program::FROM_CONTAINER, &packet, bench.ifindex(0)).0, crate::bench::PASS);
        assert_eq!(bench.lab.packets(bench.ifindex(0), OUT, Reason::Untracked as u8), 1);
        assert_eq!(bench.entries()[map::FLOWS], 101);
        // Others have their own.
        for port in 9_001..9_050 {
            bench.check(&bench.sends_from(1, "another's", &bench.sent(1, UDP, port, outside), Expect::Pass));
        }
        assert_eq!((of(&mut bench, 0).flows, of(&mut bench, 1).flows), (100, 50));
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn counts_outlive_the_daemon_and_are_put_right_by_the_flows() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let spec = LimitSpec { connections: Some(10), ..none() };
        limit(&mut bench, 0, spec, none());
        for port in 6_000..6_004 {
            let asks = bench.sent(0, TCP, port, service(Family::V4, 1));
            assert_eq!(bench.run(program::FROM_CONTAINER, &asks.bytes(), bench.ifindex(0)).0, REDIRECT);
        }
        // The next daemon finds them.
        bench.lab.dataplane = BpfDataplane::open(lab::config(cgroup)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((of(&mut bench, 0).connections, of(&mut bench, 0).flows), ([4, 0], 4));
        assert_eq!(bench.lab.sync().written, 0, "limits are as they were");
        // A tenant that gets limits has the connections that there are, after two sweeps.
        limit(&mut bench, 0, spec, LimitSpec { connections: Some(5), ..none() });
        assert_eq!(usage(&mut bench, LimitOwner::Tenant(TENANT)).connections, [0, 0]);
        let corrected = [(), ()].map(|()| bench.lab.dataplane.sweep().expect("to sweep").corrected);
        assert_eq!(corrected, [0, 1]);
        assert_eq!(usage(&mut bench, LimitOwner::Tenant(TENANT)).connections, [4, 0]);
        // The backend goes, and with it the flows: nothing stays counted.
        bench.lab.gone(1);
        bench.lab.sync();
        assert_eq!(bench.lab.dataplane.sweep().expect("to sweep").expired, 4);
        assert_eq!((of(&mut bench, 0).connections, of(&mut bench, 0).flows), ([0, 0], 0));
        assert_eq!(usage(&mut bench, LimitOwner::Tenant(TENANT)).connections, [0, 0]);
        let corrected = [(), ()].map(|()| bench.lab.dataplane.sweep().expect("to sweep").corrected);
        assert_eq!(corrected, [0, 0]);
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn an_instance_that_holds_more_than_its_share_still_gets_one_row_for_another() {
    isolated(|cgroup| {
        one_cpu();
        let mut bench = Bench::with_share(cgroup, 100);
        let begins = |bench: &mut Bench, ports: std::ops::Range<u16>| {
            for port in ports {
                let packet = bench.sent(0, UDP, port, service(Family::V4, 1)).bytes();
                assert_eq!(bench.run(program::FROM_CONTAINER, &packet, bench.ifindex(0)).0, REDIRECT, "{port}");
            }
        };
        begins(&mut bench, 10_000..10_100);
        // As if CPUs had counted at the same time and let in some more than may be.
        let config = DataplaneConfig { flow_share: 97, ..lab::config(cgroup) };
        bench.lab.dataplane = BpfDataplane::open(config).expect("to open");
        bench.lab.sync();
        begins(&mut bench, 10_100..10_150);
        let used = of(&mut bench, 0);
        assert_eq!((used.flows, used.unshared), (100, 0));
        bench.lab.dataplane.unload().expect("to unload");
    });
}
