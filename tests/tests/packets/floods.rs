//! Floods of what only begins: they fill no table, whoever they are towards and whichever processor sees them, and nobody
//! else notices.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hivemind::{
    dataplane::{Dataplane, flows::FlowRecord},
    model::Protocol,
    net::Family,
};
use hivemind_ebpf::{
    abi::{FLOWS, OUT, TRANSLATIONS},
    begun::{LISTS, OPEN_PLACES, OWN_PLACES},
    map, program,
    reason::Reason,
};
use nix::net::if_::if_nametoindex;

use crate::{
    bench::{Bench, PASS, REDIRECT, on_cpu, service},
    frame::{ACK, Frame, SYN, TCP, UDP},
    lab::{UPLINK, isolated},
};

/// Ports of the node: those of instances 0 and 1 are flooded, that of instance 2 is another tenant's.
const FLOODED: [u16; 2] = [9005, 9000];
const OTHERS: u16 = 9006;
/// Beginnings in a flood towards one: more than a holder's share, and two of them more than any table holds.
const FLOOD: u32 = TRANSLATIONS / 2 + 300;
/// What the lists have places for of what anybody can begin.
const PLACES: usize = (OPEN_PLACES + (LISTS - 2) * OWN_PLACES) as usize;

/// Three instances with a published port each.
fn published(bench: &mut Bench) {
    bench.lab.ready(2);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        bench.lab.publish(5, FLOODED[0], 8080, protocol, &[0]);
        bench.lab.publish(6, OTHERS, 8080, protocol, &[2]);
    }
    bench.lab.sync();
}

/// What a client of this number sends to a port of the node.
fn comes(protocol: u8, client: u32, port: u16) -> Frame {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + client);
    Frame::new(protocol, (address.into(), 7_000), (UPLINK[0].0.into(), port))
}

/// One after the other.
const fn either(n: u32) -> u8 {
    if n.is_multiple_of(2) { TCP } else { UDP }
}

/// The firewall has accepted it.
fn begins(bench: &Bench, frame: &Frame) -> i32 {
    bench.run(program::PUB_SELECT, &frame.bytes(), if_nametoindex("hm-pub").expect("a device")).0
}

/// Instance 2 answers, the client acknowledges that, and both go on.
fn goes_on(bench: &Bench, asked: &Frame) {
    let uplink = if_nametoindex("uplink").expect("a device");
    for flags in [SYN | ACK, ACK] {
        let answer = Frame { detail: flags, ..bench.sent(2, asked.protocol, 8080, asked.src.into()) };
        let (_, out) = bench.run(program::FROM_CONTAINER, &answer.bytes(), bench.ifindex(2));
        assert_eq!(out[26..30], UPLINK[0].0.octets(), "with the address that the client knows: {:?}", asked.src);
        let confirms = Frame { detail: ACK, numbers: [1, 2], ..asked.clone() }.bytes();
        assert_eq!(bench.run(program::FROM_UPLINK, &confirms, uplink).0, REDIRECT, "{:?} goes on", asked.src);
    }
}

/// Others begin connections, on another processor than all before, and those that had begun, and have sent so many packets,
/// go on with the rows that they had.
fn nobody_else_notices(bench: &mut Bench, begun: &[Frame], sent: u64) {
    on_cpu(1);
    let new = (0..100).map(|n| comes(either(n), 0x1_0000 + n, OTHERS)).collect::<Vec<_>>();
    for asks in &new {
        assert_eq!(begins(bench, asks), REDIRECT, "{:?}", asks.src);
    }
    begun.iter().chain(&new[90..]).for_each(|asks| goes_on(bench, asks));
    let flows = bench.lab.dataplane.flows().expect("the flows");
    let of = |asks: &Frame| flows.iter().find(|flow| (flow.from.address, flow.from.port) == asks.src).expect("a flow");
    for (asks, sent) in begun.iter().map(|asks| (asks, sent)).chain(new[90..].iter().map(|asks| (asks, 1))) {
        let FlowRecord { from, answered, .. } = of(asks);
        assert_eq!((from.packets, answered), (sent + 2, &true), "{:?}", asks.src);
    }
    assert_eq!(bench.lab.packets(0, OUT, Reason::TableFull as u8), 0);
}

#[test]
fn beginnings_from_outside_keep_nobody_else_out() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        published(&mut bench);
        on_cpu(0);
        let begun = (0..20).map(|n| comes(either(n), 0x1_8000 + n, OTHERS)).collect::<Vec<_>>();
        for asks in &begun {
            assert_eq!(begins(&bench, asks), REDIRECT);
        }
        let mut sent = 1;
        for n in 0..FLOOD {
            // Who gets no answer asks again, before the row is over.
            if n % 2_000 == 0 {
                begun.iter().for_each(|asks| assert_eq!(begins(&bench, asks), REDIRECT));
                sent += 1;
            }
            for port in FLOODED {
                assert_eq!(begins(&bench, &comes(either(n), n, port)), REDIRECT, "{n} to {port}");
            }
        }
        let entries = bench.entries();
        for table in [map::FLOWS, map::TRANSLATIONS] {
            assert!((PLACES / 2..=PLACES).contains(&entries[table]), "{table}: {}", entries[table]);
        }
        nobody_else_notices(&mut bench, &begun, sent);
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn instances_that_go_past_the_sockets_keep_nobody_else_out() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        published(&mut bench);
        on_cpu(0);
        for n in 0..FLOOD {
            for from in [0, 2] {
                let asks = bench.sent(from, UDP, (n % 60_000) as u16 + 1, service(Family::V4, 1));
                let verdict = bench.run(program::FROM_CONTAINER, &asks.bytes(), bench.ifindex(from)).0;
                assert_eq!(verdict, REDIRECT, "{n} of {from}");
            }
        }
        let there = bench.entries()[map::TRANSLATIONS];
        assert!((PLACES / 2..=PLACES).contains(&there), "{there}");
        nobody_else_notices(&mut bench, &[], 0);
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_full_table_of_flows_makes_room_for_what_another_processor_sees() {
    isolated(|cgroup| {
        // Without shares one instance fills all of it.
        let mut bench = Bench::with_share(cgroup, 0);
        published(&mut bench);
        on_cpu(0);
        for n in 0..FLOWS + OWN_PLACES {
            let to = SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + n)), 53);
            let asks = bench.sent(0, UDP, 7_000, to);
            assert_eq!(bench.run(program::FROM_CONTAINER, &asks.bytes(), bench.ifindex(0)).0, PASS, "{n}");
        }
        assert_eq!(bench.entries()[map::FLOWS], FLOWS as usize);
        nobody_else_notices(&mut bench, &[], 0);
        assert_eq!(bench.lab.packets(bench.ifindex(0), OUT, Reason::Untracked as u8), 0);
        bench.lab.dataplane.unload().expect("to unload");
    });
}
