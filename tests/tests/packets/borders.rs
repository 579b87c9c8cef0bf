//! Limits and counts where one part of the programs hands over to another: published ports, pieces, ends of connections.

use std::net::{IpAddr, SocketAddr};

use hivemind::{
    dataplane::Dataplane,
    model::{BitRate, PerSecond},
    net::Family,
    spec::v1::LimitSpec,
};
use hivemind_ebpf::{
    abi::{Addr, IN, Translation, Tuple},
    map, program,
    reason::Reason,
};

use crate::{
    bench::{Bench, DROP, Expect, REDIRECT, service},
    frame::{ACK, Frame, RST, SYN, TCP, UDP},
    lab::{self, FAMILIES, UPLINK, isolated, outside, uplink},
    limit::{limit, none, of},
};

fn device(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("a device")
}

/// What a client outside sends to a published port.
fn comes(family: Family, protocol: u8, port: u16) -> Frame {
    Frame::new(protocol, (outside(family), port), (uplink(family), 9000))
}

#[test]
fn what_comes_to_a_published_port_is_counted_and_limited_as_what_its_instance_gets() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        limit(&mut bench, 1, LimitSpec { ingress_packets: Some(PerSecond(1)), ..none() }, none());
        // One bucket for both families.
        for (family, expected) in FAMILIES.into_iter().zip([91..=93, 0..=2]) {
            let packet = comes(family, UDP, 7000).bytes();
            assert_eq!(bench.run(program::PUB_SELECT, &packet, device("hm-pub")).0, REDIRECT, "accepted");
            let ifindex = bench.ifindex(1);
            let before = bench.lab.packets(ifindex, IN, 0);
            let goes = |_: &usize| bench.run(program::FROM_UPLINK, &packet, device("uplink")).0 == DROP;
            let passed = (0..1_000).find(goes).expect("a limit");
            assert!(expected.contains(&passed), "{family:?}: {passed}");
            assert_eq!(bench.lab.packets(ifindex, IN, 0) - before, passed as u64, "those that passed");
            assert!(bench.lab.packets(0, IN, Reason::RateLimited as u8) > 0);
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn each_piece_of_what_is_cut_later_costs_its_headers() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        // As slow as in `limit`: next to nothing comes in meanwhile.
        limit(&mut bench, 0, LimitSpec { egress: Some(BitRate(800)), ..none() }, none());
        const PIECES: u32 = 30;
        const BURST: usize = 131_072;
        let to = SocketAddr::new(UPLINK[1].0.into(), 7000);
        let (mut left, mut sent) = (BURST, 0);
        for (protocol, headers) in [(TCP, 14 + 20 + 20), (UDP, 14 + 20 + 8)] {
            // Half of the bucket for each.
            let frame = Frame { payload: vec![0; 1_000], ..bench.sent(0, protocol, 5_000, to) }.bytes();
            let cost = frame.len() + (PIECES as usize - 1) * headers;
            let run = || bench.lab.dataplane.test_run_cut(program::FROM_CONTAINER, &frame, bench.ifindex(0), PIECES);
            let passes = || run().unwrap_or_else(|error| panic!("{error}")).verdict != DROP;
            let count = if protocol == TCP { BURST / 2 / cost } else { left / cost + 1 };
            for n in 0..count {
                assert!(passes(), "{n} of {count}, {protocol}");
                left = left.saturating_sub(cost);
                sent += 1;
            }
            if protocol == UDP {
                // A few bytes come in: as much as a piece or two in these moments.
                assert!((0..3).any(|_| !passes()), "{sent} have passed, of which each costs {cost} bytes");
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_connection_that_a_reset_did_not_end_is_counted_again_and_once() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        limit(&mut bench, 0, LimitSpec { connections: Some(10), ..none() }, none());
        for family in FAMILIES {
            let asks = bench.sent(0, TCP, 6_001, service(family, 1));
            let answers = bench.sent(1, TCP, 8080, (bench.address(0, family), 6_001).into());
            let says = |detail| (Frame { detail, ..asks.clone() }.bytes(), 0);
            let hears = |detail| (Frame { detail, ..answers.clone() }.bytes(), 1);
            let all = [
                (says(SYN), 1),
                (hears(SYN | ACK), 1),
                (says(ACK), 1),
                (hears(ACK), 1),
                (hears(RST), 0),
                // The client did not believe it, nor the next one.
                (says(ACK), 1),
                (says(ACK), 1),
                (hears(RST), 0),
                (says(ACK), 1),
                (says(RST), 0),
            ];
            for (n, ((packet, from), counted)) in all.into_iter().enumerate() {
                let verdict = bench.run(program::FROM_CONTAINER, &packet, bench.ifindex(from)).0;
                assert_eq!(verdict, REDIRECT, "{family:?}: packet {n}");
                let found = (of(&mut bench, 0).connections, of(&mut bench, 1).connections);
                assert_eq!(found, ([counted, 0], [0, counted]), "{family:?}: after packet {n}");
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_connection_for_whose_backend_is_no_room_is_not_counted() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        limit(&mut bench, 0, LimitSpec { connections: Some(10), ..none() }, none());
        // The table of what stands for services is full of what nobody's flow needs.
        let mut rows = lab::map::<Tuple, Translation>(map::TRANSLATIONS);
        let nobody = Addr::from(IpAddr::from([203, 0, 113, 9]));
        let row = Translation { addr: nobody, port_be: 1, pad: 0 };
        let key =
            |n: u32| Tuple { src: nobody, dst: Addr::v4(n), sport_be: 1, dport_be: 1, protocol: TCP, pad: [0; 3] };
        let full = (0..1_000_000).find(|n| rows.insert(key(*n), row, 0).is_err()).expect("it is full at last");
        assert!(full > 1_000, "{full}");
        for family in FAMILIES {
            let asks = bench.sent(0, TCP, 6_001, service(family, 1));
            bench.check(&bench.sends("no room", &asks, Expect::Drop(Reason::TableFull)));
            let (own, other) = (of(&mut bench, 0), of(&mut bench, 1));
            assert_eq!((own.connections, own.flows, other.connections), ([0, 0], 0, [0, 0]), "{family:?}");
            assert_eq!(bench.entries()[map::FLOWS], 0);
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}
