//! Which backend a packet's connection gets: by weight, alike on every node, and again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use hivemind::{
    dataplane::{
        Dataplane,
        bpf::BpfDataplane,
        tables::{BackendRow, Frontend, PeerRow, ServiceRow},
    },
    model::Protocol,
    net::Family,
};
use hivemind_ebpf::{map, program};
use hivemind_tests::each_row;

use crate::{
    bench::{Bench, REDIRECT, service},
    frame::{Frame, UDP},
    lab::{self, FAMILIES, UPLINK, isolated},
};

/// All three instances serve service 1 inside and outside, with these weights.
fn served(cgroup: &Path, weights: [u16; 3], change: impl Fn(&mut ServiceRow)) -> Bench {
    let mut bench = Bench::new(cgroup);
    bench.lab.ready(2);
    bench.lab.service(1, 80, 8080, Protocol::Udp, &[0, 1, 2]);
    bench.lab.publish(1, 9000, 8080, Protocol::Udp, &[0, 1, 2]);
    each_row(&mut bench.lab.tables.services, |_, row| {
        if row.id != 1 || row.backends.len() != 3 {
            return;
        }
        for (backend, weight) in row.backends.iter_mut().zip(weights) {
            backend.weight = weight;
        }
        row.backends.retain(|backend| backend.weight > 0);
        change(row);
    });
    bench.lab.sync();
    bench
}

/// Where a packet from outside to the published port goes: the last byte of the backend's address.
fn outside(bench: &Bench, family: Family, client: IpAddr, sport: u16) -> u8 {
    let node = if family == Family::V4 { UPLINK[0].0.into() } else { IpAddr::from(UPLINK[0].1) };
    let frame = Frame::new(UDP, (client, sport), (node, 9000));
    let device = nix::net::if_::if_nametoindex("hm-pub").expect("the device");
    let (verdict, out) = bench.run(program::PUB_SELECT, &frame.bytes(), device);
    assert_eq!(verdict, REDIRECT, "port {sport}");
    last_byte(family, &out)
}

/// The same from an instance to the virtual address.
fn inside(bench: &Bench, family: Family, sport: u16) -> u8 {
    let frame = bench.sent(0, UDP, sport, service(family, 1));
    let (verdict, out) = bench.run(program::FROM_CONTAINER, &frame.bytes(), bench.ifindex(0));
    assert_eq!(verdict, REDIRECT, "port {sport}");
    last_byte(family, &out)
}

fn last_byte(family: Family, packet: &[u8]) -> u8 {
    packet[if family == Family::V4 { 14 + 19 } else { 14 + 39 }]
}

fn client(family: Family) -> IpAddr {
    if family == Family::V4 { UPLINK[1].0.into() } else { UPLINK[1].1.into() }
}

fn tally(of: impl Iterator<Item = u8>) -> BTreeMap<u8, u32> {
    let mut hits = BTreeMap::new();
    of.for_each(|backend| *hits.entry(backend).or_default() += 1);
    hits
}

#[test]
fn weights_share_connections_from_inside_and_outside() {
    isolated(|cgroup| {
        // Instances have the addresses .2, .3 and .4; the first asks, and is not sent to itself.
        let mut bench = served(cgroup, [0, 1, 3], |_| ());
        for family in FAMILIES {
            for (name, hits) in [
                ("inside", tally((10_000..14_000).map(|port| inside(&bench, family, port)))),
                ("outside", tally((10_000..14_000).map(|port| outside(&bench, family, client(family), port)))),
            ] {
                println!("{family:?} {name}: {hits:?}");
                assert_eq!(hits.len(), 2, "weight 0 gets nothing: {hits:?}");
                assert!(hits[&3].abs_diff(1000) < 150 && hits[&4].abs_diff(3000) < 150, "{name}: {hits:?}");
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn every_node_sends_a_connection_from_outside_to_the_same_backend() {
    // Another node: another daemon, another order of backends, another history, and none of the connections.
    let chosen = |reverse: bool| {
        let (send, receive) = std::sync::mpsc::channel();
        isolated(move |cgroup| {
            let mut bench = served(cgroup, [5, 5, 7], |row| {
                if reverse {
                    row.backends.reverse();
                }
            });
            for family in FAMILIES {
                let all: Vec<u8> = (20_000..20_500).map(|port| outside(&bench, family, client(family), port)).collect();
                assert_eq!(tally(all.iter().copied()).len(), 3, "all are used");
                send.send(all).expect("a receiver");
            }
            bench.lab.dataplane.unload().expect("to unload");
        });
        receive.iter().collect::<Vec<_>>()
    };
    assert_eq!(chosen(false), chosen(true));
}

#[test]
fn a_client_stays_with_its_backend_also_after_a_restart_until_that_goes() {
    isolated(|cgroup| {
        let mut bench = served(cgroup, [1, 1, 1], |row| row.choice.affinity = 60);
        for family in FAMILIES {
            let clients = (0..16u8).map(|n| match family {
                Family::V4 => IpAddr::from([198, 51, 100, n]),
                Family::V6 => IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, n.into()]),
            });
            let clients: Vec<IpAddr> = clients.collect();
            let ask = |bench: &Bench, base: u16| -> Vec<u8> {
                let one = |client: &IpAddr| {
                    let hits = tally((base..base + 8).map(|port| outside(bench, family, *client, port)));
                    assert_eq!(hits.len(), 1, "{client} wanders: {hits:?}");
                    *hits.keys().next().expect("one")
                };
                clients.iter().map(one).collect()
            };
            let first = ask(&bench, 30_000);
            assert_eq!(tally(first.iter().copied()).len(), 3, "different clients, different backends");
            let from_inside = tally((30_000..30_064).map(|port| inside(&bench, family, port)));
            assert_eq!(from_inside.len(), 1, "{from_inside:?}");
            // Another daemon on the same maps.
            bench.lab.dataplane = BpfDataplane::open(lab::config(cgroup)).expect("to take over");
            bench.lab.sync();
            assert_eq!(ask(&bench, 31_000), first, "a restart changes nothing");
            // .3 gets nothing new: who was with it gets another and stays there; the others stay where they are.
            let before = bench.lab.tables.clone();
            each_row(&mut bench.lab.tables.services, |_, row| {
                row.backends.retain(|backend| row.id != 1 || !backend.address.to_string().ends_with('3'));
            });
            bench.lab.sync();
            let second = ask(&bench, 32_000);
            for (old, new) in first.iter().zip(&second) {
                assert!(if *old == 3 { *new != 3 } else { new == old }, "{first:?} {second:?}");
            }
            bench.lab.tables = before;
            bench.lab.sync();
            assert_eq!(ask(&bench, 33_000), second, "and stays with the new one");
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn ten_thousand_services_are_written_once_and_leave_nothing() {
    const SERVICES: u32 = 10_000;
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let (begin, start) = (bench.lab.tables.clone(), bench.entries());
        for n in 0..SERVICES {
            let [_, a, b, c] = n.to_be_bytes();
            let backend =
                |low: u8| BackendRow { address: [10, 89 + a, b, c].into(), port: low.into(), weight: low.into() };
            let mut row = ServiceRow { id: 1000 + n, backends: vec![backend(1), backend(2)], ..ServiceRow::default() };
            let address = IpAddr::from([10, 100 + a, b, c]);
            let peer = PeerRow { class: 300, tenant: lab::TENANT, ifindex: 0, node: None };
            bench.lab.tables.peers.insert(row.backends[0].address, peer);
            bench
                .lab
                .tables
                .services
                .insert(Frontend::Address(address), ServiceRow { id: row.id, ..ServiceRow::default() });
            bench.lab.tables.services.insert(Frontend::Virtual(address, 80, Protocol::Tcp), row.clone());
            // One in ten is published, with a table.
            row.choice.alike = true;
            if n % 10 == 0 {
                let port = u16::try_from(10_000 + n).expect("a port");
                bench.lab.tables.services.insert(Frontend::Published(Family::V4, port, Protocol::Tcp), row);
            }
        }
        // How long it takes is measured by `cargo xtask bench services`.
        let report = bench.lab.sync();
        let after = bench.entries();
        let more = |name: &str| after[name] - start[name];
        let rows = [map::FRONTENDS, map::SLOTS, map::PARTS, map::MEMBERS, map::PEERS].map(more);
        assert_eq!(rows, [21_000, 22_000, 2_000, 0, 10_000], "a table only where nodes must agree");
        assert_eq!(report.written, rows.iter().sum::<usize>() as u64, "each row is written once");
        let to = SocketAddr::new([10, 100, 0, 7].into(), 80);
        let asks = bench.sent(0, crate::frame::TCP, 6000, to);
        assert_eq!(
            bench.run(program::FROM_CONTAINER, &asks.bytes(), bench.ifindex(0)).0,
            -1,
            "by the stack, to another node"
        );
        bench.lab.tables = begin;
        bench.lab.sync();
        let mut after = bench.entries();
        for flows in [map::FLOWS, map::TRANSLATIONS] {
            after.insert(flows, start[flows]);
        }
        assert_eq!(after, start);
        bench.lab.dataplane.unload().expect("to unload");
    });
}
