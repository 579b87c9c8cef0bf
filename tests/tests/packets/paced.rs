//! Rates where the uplinks keep packets until their time of departure: which time a packet gets, and which gets none.

use std::net::SocketAddr;

use hivemind::{
    dataplane::{
        Dataplane,
        tables::{LimitOwner, Part},
    },
    model::{BitRate, PerSecond},
    net::Family,
    spec::v1::LimitSpec,
};
use hivemind_ebpf::limit::{QUEUE_FRAMES, QUEUE_NS};
use nix::time::{ClockId, clock_gettime};

use crate::{
    bench::{Bench, service},
    frame::{ACK, Frame, TCP, UDP},
    lab::{GATEWAY, TENANT, UPLINK, isolated},
    limit::{limit, none, of},
};

/// So slow that an emulated machine sends more.
const RATE: PerSecond = PerSecond(1_000);
/// The time that one packet takes at it.
const EACH_NS: u64 = 1_000_000;
/// A full bucket of it.
const DEPTH: usize = 250;
/// How much earlier the programs may have asked: a tick of the slowest timer.
const TICK_NS: u64 = 10_000_000;

/// A bench whose uplinks keep packets, with an instance that may send at [`RATE`].
fn paced(cgroup: &std::path::Path) -> Bench {
    let mut bench = Bench::new(cgroup);
    bench.lab.tables.paced = true;
    limit(&mut bench, 0, LimitSpec { egress_packets: Some(RATE), ..none() }, none());
    bench
}

fn outside(bench: &Bench, from: usize, protocol: u8) -> Frame {
    Frame { detail: if protocol == TCP { ACK } else { 0 }, ..bench.sent(from, protocol, 5_000, outside_at(53)) }
}

fn outside_at(port: u16) -> SocketAddr {
    SocketAddr::new(UPLINK[1].0.into(), port)
}

/// By the clock that the programs ask, which is as late as theirs where ticks are, as on an emulated machine.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock");
    u64::try_from(now.tv_sec() * 1_000_000_000 + now.tv_nsec()).expect("since the machine was started")
}

/// The times of departure of what passes until something is dropped; and for how long the last had to wait: less than the
/// one and more than the other, whatever came in between.
fn until_dropped(bench: &Bench, from: usize, packet: &[u8]) -> (Vec<u64>, [u64; 2]) {
    let (mut departs, mut waits) = (Vec::new(), [0; 2]);
    for _ in 0..10_000 {
        let before = now();
        let Some(at) = bench.departs(from, packet) else {
            waits[1] = departs.last().copied().unwrap_or(0_u64).saturating_sub(before);
            return (departs, waits);
        };
        waits[0] = at.saturating_sub(now());
        departs.push(at);
    }
    panic!("nothing is dropped");
}

/// How many wait. They depart as far apart as the rate has it, whenever they came; what passes at once in between, after a
/// pause, pays as well.
fn as_the_rate_has_it(departs: &[u64]) -> usize {
    let waiting: Vec<_> = departs.iter().zip(0_u64..).filter(|(at, _)| **at != 0).collect();
    for ((before, first), (after, second)) in waiting.iter().zip(waiting.iter().skip(1)) {
        let between = second - first;
        assert!((*after - *before).abs_diff(between * EACH_NS) <= between, "{departs:?}");
    }
    waiting.len()
}

/// Whether the last that passed waited for so long: the clock of the programs may be a tick late, and the next would have
/// been the first for which there is no room.
fn is_full(waits: [u64; 2], queue: u64) -> bool {
    waits[0] <= queue && waits[1] + TICK_NS + EACH_NS >= queue
}

#[test]
fn what_is_over_the_rate_departs_when_the_rate_has_it_and_is_dropped_beyond_the_queue() {
    for (protocol, queue) in [(TCP, QUEUE_NS), (UDP, QUEUE_NS.min(QUEUE_FRAMES * EACH_NS))] {
        isolated(|cgroup| {
            let mut bench = paced(cgroup);
            let packet = outside(&bench, 0, protocol).bytes();
            let start = now();
            let (departs, waits) = until_dropped(&bench, 0, &packet);
            let come_in = usize::try_from((now() - start + TICK_NS) / EACH_NS).expect("few");
            let at_once = departs.iter().take_while(|at| **at == 0).count();
            let in_queue = usize::try_from(queue / EACH_NS).expect("few");
            let bucket = DEPTH - in_queue;
            assert!((bucket..=bucket + come_in).contains(&at_once), "{protocol}: {at_once} at once, not {bucket}");
            let waiting = as_the_rate_has_it(&departs);
            assert!(waiting + 1 >= in_queue, "{protocol}: {waiting} wait, not {in_queue}");
            assert!(is_full(waits, queue), "{protocol}: the last waits for {waits:?} ns, not {queue}");
            assert_eq!(of(&mut bench, 0).dropped_packets, [1, 0], "{protocol}");
            bench.lab.dataplane.unload().expect("to unload");
        });
    }
}

#[test]
fn datagrams_wait_no_longer_than_as_many_as_a_flow_may_have_in_the_queue() {
    isolated(|cgroup| {
        let mut bench = paced(cgroup);
        // At twice the rate, 64 packets take 32 ms.
        let rate = PerSecond(2_000);
        for (protocol, queue) in [(UDP, 32_000_000), (TCP, QUEUE_NS)] {
            limit(
                &mut bench,
                0,
                LimitSpec { egress_packets: Some(rate), connections: Some(protocol.into()), ..none() },
                none(),
            );
            let (_, waits) = until_dropped(&bench, 0, &outside(&bench, 0, protocol).bytes());
            assert!(is_full(waits, queue), "{protocol}: the last waits for {waits:?} ns, not {queue}");
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn only_what_leaves_the_node_waits_and_what_stays_is_dropped_at_the_same_moment() {
    isolated(|cgroup| {
        let mut bench = paced(cgroup);
        let outside = outside(&bench, 0, TCP).bytes();
        let local =
            Frame { detail: ACK, ..bench.sent(0, TCP, 5_000, SocketAddr::new(bench.address(1, Family::V4), 7)) };
        let (local, asks) = (local.bytes(), bench.sent(0, UDP, 5_000, service(Family::V4, 1)).bytes());
        let node = bench.sent(0, UDP, 5_001, SocketAddr::new(GATEWAY.0.into(), 53)).bytes();
        // Into the queue.
        let waits = (0..10_000).find_map(|_| bench.departs(0, &outside).filter(|at| *at != 0));
        assert!(waits.is_some(), "nothing waits");
        for packet in [&local, &asks] {
            assert_eq!(bench.departs(0, packet), Some(0), "what stays on the node passes at once, or not");
        }
        // To the node itself: the stack takes it, whatever its time says.
        assert!(bench.departs(0, &node).is_some());
        // Full for the one and for the other.
        let (departs, _) = until_dropped(&bench, 0, &local);
        assert!(departs.iter().all(|at| *at == 0), "{departs:?}");
        let full = |_: usize| bench.departs(0, &local).is_none() && bench.departs(0, &outside).is_none();
        assert!((0..10_000).any(full), "for one of them there is still room");
        // What the instance is sent has no time either.
        limit(&mut bench, 0, LimitSpec { ingress_packets: Some(RATE), ..none() }, none());
        limit(&mut bench, 1, LimitSpec { egress_packets: None, ..none() }, none());
        let to = SocketAddr::new(bench.address(0, Family::V4), 5_000);
        let answer = Frame { detail: ACK, ..bench.sent(1, TCP, 7, to) }.bytes();
        let (departs, _) = until_dropped(&bench, 1, &answer);
        assert!(departs.iter().all(|at| *at == 0), "{departs:?}");
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn without_such_queues_nothing_waits_and_the_next_packet_knows() {
    isolated(|cgroup| {
        let mut bench = paced(cgroup);
        let packet = outside(&bench, 0, TCP).bytes();
        assert!(bench.lab.dataplane.info().paced);
        assert!((0..10_000).any(|_| bench.departs(0, &packet).is_some_and(|at| at != 0)), "nothing waits");
        // It is read from the maps, and what someone else has changed is put right.
        assert!(bench.lab.dataplane.held(&[]).expect("tables").paced);
        bench.lab.tables.paced = false;
        assert!(bench.lab.sync().written > 0);
        assert!(!bench.lab.dataplane.held(&[]).expect("tables").paced && !bench.lab.dataplane.info().paced);
        let (departs, _) = until_dropped(&bench, 0, &packet);
        assert!(departs.iter().all(|at| *at == 0), "{departs:?}");
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn the_slowest_of_all_buckets_says_when() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.lab.tables.paced = true;
        // Its own rate is never reached: only its tenant's is, which both instances share.
        let own = LimitSpec {
            egress: Some(BitRate(80_000_000_000)),
            egress_packets: Some(PerSecond(1_000_000_000)),
            ..none()
        };
        let tenant = LimitSpec { egress_packets: Some(RATE), ..none() };
        limit(&mut bench, 0, own, tenant);
        limit(&mut bench, 1, own, tenant);
        let packets = [0, 1].map(|from| outside(&bench, from, TCP).bytes());
        let mut departs = Vec::new();
        for n in 0..10_000 {
            let from = n % 2;
            match bench.departs(from, &packets[from]) {
                Some(at) => departs.push(at),
                None => break,
            }
        }
        assert!(as_the_rate_has_it(&departs) + 1 >= usize::try_from(QUEUE_NS / EACH_NS).expect("few"), "{departs:?}");
        let held = bench.lab.dataplane.held(&[Part::Limits]).expect("tables").limits;
        assert_eq!(held, bench.lab.tables.limits, "limits as they are in the maps");
        assert_eq!(held[&LimitOwner::Tenant(TENANT)].spec, tenant);
        // What stays on the node asks the same bucket of the tenant, which is full.
        let local = bench.sent(1, UDP, 5_000, SocketAddr::new(bench.address(0, Family::V4), 7)).bytes();
        let full = |_: usize| bench.departs(0, &packets[0]).is_none() && bench.departs(1, &local).is_none();
        assert!((0..10_000).any(full), "for one of them there is still room");
        bench.lab.dataplane.unload().expect("to unload");
    });
}
