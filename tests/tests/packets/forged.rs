//! What somebody outside brings about who forges where packets come from: nothing that lasts, and nothing for others.

use hivemind::{
    dataplane::{
        Dataplane,
        flows::FlowRecord,
        tables::{LimitOwner, LimitRow},
    },
    net::Family,
    spec::v1::LimitSpec,
};
use hivemind_ebpf::{abi::OUT, program, reason::Reason};
use nix::net::if_::if_nametoindex;

use crate::{
    bench::{Bench, DROP, REDIRECT, one_cpu},
    frame::{ACK, Frame, RST, SYN, TCP, UDP},
    lab::{FAMILIES, UPLINK, isolated},
};

/// A client's packet to the port that instance 1 has published.
fn comes(family: Family, protocol: u8, port: u16) -> Frame {
    let (node, client) = match family {
        Family::V4 => (UPLINK[0].0.into(), UPLINK[1].0.into()),
        Family::V6 => (UPLINK[0].1.into(), UPLINK[1].1.into()),
    };
    Frame::new(protocol, (client, port), (node, 9000))
}

/// Shows a packet of the client to the programs: the first of a connection where the firewall has accepted it.
fn shows(bench: &Bench, frame: &Frame) -> i32 {
    let first = frame.protocol == UDP || frame.detail == SYN;
    let (program, device) = if first { (program::PUB_SELECT, "hm-pub") } else { (program::FROM_UPLINK, "uplink") };
    bench.run(program, &frame.bytes(), if_nametoindex(device).expect("a device")).0
}

/// Instance 1 answers the client with these flags.
fn answers(bench: &Bench, asked: &Frame, flags: u8) {
    let frame = Frame { detail: flags, ..bench.sent(1, asked.protocol, 8080, asked.src.into()) };
    bench.run(program::FROM_CONTAINER, &frame.bytes(), bench.ifindex(1));
}

fn flow(bench: &mut Bench, asked: &Frame) -> FlowRecord {
    let of = |flow: &FlowRecord| (flow.from.address, flow.from.port) == asked.src;
    bench.lab.dataplane.flows().expect("the flows").into_iter().find(of).expect("a flow")
}

fn connections(bench: &mut Bench) -> (u64, u64) {
    let owner = LimitOwner::Instance(bench.ifindex(1));
    let uses = bench.lab.dataplane.uses().expect("uses").get(&owner).copied().unwrap_or_default();
    (uses.connections[1], uses.refused[1])
}

fn limit(bench: &mut Bench, connections: u32) {
    let spec = LimitSpec { connections: Some(connections), ..LimitSpec::default() };
    let owner = LimitOwner::Instance(bench.ifindex(1));
    bench.lab.tables.limits.insert(owner, LimitRow { spec, tenant: 0 });
    bench.lab.sync();
}

#[test]
fn a_connection_is_one_when_the_client_knows_what_was_answered() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        for family in FAMILIES {
            let asks = comes(family, TCP, 7000);
            let says = |numbers| Frame { detail: ACK, numbers, ..asks.clone() };
            assert_eq!(shows(&bench, &asks), REDIRECT);
            for numbers in [[1, 2], [77, 1_000_000], [1, 0]] {
                // Before there is an answer, then with a guess: the instance gets it, and says that it does not fit.
                assert_eq!(shows(&bench, &says(numbers)), REDIRECT);
                answers(&bench, &asks, SYN | ACK);
                answers(&bench, &asks, ACK);
                let established = flow(&mut bench, &asks).answered;
                assert!(!established, "{family:?} {numbers:?}");
            }
            assert_eq!(shows(&bench, &says([1, 2])), REDIRECT);
            assert!(flow(&mut bench, &asks).answered, "{family:?}");
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_reset_that_the_receiver_does_not_believe_ends_no_connection() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        limit(&mut bench, 2);
        for family in FAMILIES {
            let before = connections(&mut bench).0;
            let asks = comes(family, TCP, 7000);
            let says = |detail| Frame { detail, ..asks.clone() };
            shows(&bench, &asks);
            answers(&bench, &asks, SYN | ACK);
            shows(&bench, &says(ACK));
            answers(&bench, &asks, ACK);
            assert_eq!((connections(&mut bench).0, flow(&mut bench, &asks).closed), (before + 1, false));
            assert_eq!(shows(&bench, &says(RST)), REDIRECT);
            assert_eq!((connections(&mut bench).0, flow(&mut bench, &asks).closed), (before, true));
            // What the one who has reset it says is no sign of life.
            shows(&bench, &says(ACK));
            assert_eq!((connections(&mut bench).0, flow(&mut bench, &asks).closed), (before, true));
            // The receiver says that the number was wrong.
            answers(&bench, &asks, ACK);
            assert_eq!((connections(&mut bench).0, flow(&mut bench, &asks).closed), (before + 1, false));
            shows(&bench, &says(ACK));
            answers(&bench, &asks, ACK);
            assert_eq!(connections(&mut bench).0, before + 1, "it is counted once");
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn beginnings_from_outside_take_no_connections_from_those_that_are_meant() {
    isolated(|cgroup| {
        one_cpu();
        let mut bench = Bench::new(cgroup);
        limit(&mut bench, 3);
        let asks = |port| comes(Family::V4, TCP, port);
        for port in 6_000..6_100 {
            assert_eq!(shows(&bench, &asks(port)), REDIRECT, "{port}");
            assert!(connections(&mut bench).0 <= 3, "{port}");
        }
        assert_eq!(connections(&mut bench), (3, 0));
        // Connections make no room for others.
        for port in 7_000..7_003 {
            shows(&bench, &asks(port));
            answers(&bench, &asks(port), SYN | ACK);
            shows(&bench, &Frame { detail: ACK, ..asks(port) });
            answers(&bench, &asks(port), ACK);
        }
        assert_eq!(shows(&bench, &asks(7_003)), DROP);
        assert_eq!(connections(&mut bench), (3, 1));
        assert_eq!(bench.lab.packets(0, 1, Reason::ConnectionLimit as u8), 1);
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn datagrams_with_forged_sources_leave_room_for_connections() {
    isolated(|cgroup| {
        one_cpu();
        let mut bench = Bench::with_share(cgroup, 100);
        for port in 10_000..10_200 {
            let asks = comes(Family::V4, UDP, port);
            assert_eq!(shows(&bench, &asks), REDIRECT, "{port}");
            answers(&bench, &asks, 0);
        }
        let asks = comes(Family::V4, TCP, 7000);
        assert_eq!(shows(&bench, &asks), REDIRECT);
        assert_eq!(bench.lab.packets(0, OUT, Reason::Evicted as u8), 101);
        bench.lab.dataplane.unload().expect("to unload");
    });
}
