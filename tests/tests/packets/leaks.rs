//! What comes and goes leaves nothing in the maps, and a full map leaves nothing half written.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hivemind::{
    dataplane::{
        Dataplane, DataplaneError,
        tables::{EndpointRow, Frontend, PeerRow, ServiceRow},
    },
    model::Protocol,
    net::{Family, Mac},
    policy::EndpointPolicy,
};
use hivemind_ebpf::{map, program};

use crate::{
    bench::{Bench, REDIRECT, service},
    frame::{ACK, Frame, TCP},
    lab::isolated,
};

/// Services and endpoints that come and go in the test, in rounds of so many.
const COMINGS: u32 = 1_000;
const AT_ONCE: u32 = 100;
/// Interface indices that no device has.
const NO_DEVICE: u32 = 1_000_000;

#[test]
fn what_has_gone_leaves_no_row_behind() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let begin = bench.lab.tables.clone();
        let start = bench.entries();
        for first in (0..COMINGS).step_by(AT_ONCE as usize) {
            for n in first..first + AT_ONCE {
                come(&mut bench, n);
            }
            bench.lab.sync();
            for n in first..first + AT_ONCE {
                connect(&bench, n);
            }
            assert_eq!(bench.entries()[map::FLOWS], AT_ONCE as usize);
            bench.lab.tables = begin.clone();
            bench.lab.sync();
            let report = bench.lab.dataplane.sweep().expect("to sweep");
            assert_eq!((report.expired, report.connections), (AT_ONCE.into(), 0));
            assert_eq!(bench.entries(), start);
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

fn address(net: u8, n: u32) -> IpAddr {
    let [_, _, high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, net, 0x80 + high, low).into()
}

/// Service and endpoint number `n`.
fn come(bench: &mut Bench, n: u32) {
    let tables = &mut bench.lab.tables;
    let (id, ifindex) = (1000 + n, NO_DEVICE + n);
    let IpAddr::V4(v4) = address(88, n) else { return };
    let (instance_mac, host_mac) = (Mac([2, 1, 0, 0, 0, 1]), Mac([2, 1, 0, 0, 0, 2]));
    tables.endpoints.insert(
        ifindex,
        EndpointRow {
            v4: Some(v4),
            v6: None,
            instance_mac,
            host_mac,
            class: 300,
            tenant: crate::lab::TENANT,
            policy: EndpointPolicy::default(),
            blocks: false,
            limited: false,
        },
    );
    tables.peers.insert(v4.into(), PeerRow { class: 300, tenant: crate::lab::TENANT, ifindex, node: None });
    tables.served.insert((ifindex, 8080, Protocol::Tcp), id);
    tables.services.insert(Frontend::Address(address(96, n)), ServiceRow::equal(id, []));
    let row = ServiceRow::equal(id, [(v4.into(), 8080)]);
    tables.services.insert(Frontend::Virtual(address(96, n), 80, Protocol::Tcp), row);
}

/// An established connection to service `n`.
fn connect(bench: &Bench, n: u32) {
    let open = bench.sent(0, TCP, 6000, SocketAddr::new(address(96, n), 80));
    for frame in [open.clone(), Frame { detail: ACK, ..open }] {
        let (verdict, _) = bench.run(program::FROM_CONTAINER, &frame.bytes(), bench.ifindex(0));
        assert_eq!(verdict, REDIRECT, "service {n}");
    }
}

#[test]
fn a_full_map_is_told_and_leaves_nothing_half_written() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let (begin, start) = (bench.lab.tables.clone(), bench.entries());
        let capacity = |bench: &Bench, name: &str| {
            bench.lab.dataplane.info().maps.iter().find(|(of, ..)| of == name).expect("the map").1
        };
        // More backends than there are slots: the service stays as it was, and answers.
        let front = Frontend::Virtual(service(Family::V4, 1).ip(), 80, Protocol::Tcp);
        let many = capacity(&bench, map::SLOTS) as usize + 1;
        let backend = (bench.address(1, Family::V4), 9999);
        bench.lab.tables.services.insert(front, ServiceRow::equal(1, vec![backend; many]));
        let error = bench.lab.dataplane.sync(&bench.lab.tables).expect_err("full");
        assert!(matches!(error, DataplaneError::Full { map: map::SLOTS, refused: 1.., .. }), "{error}");
        assert_eq!(bench.entries(), start);
        let asks = bench.sent(0, TCP, 6200, service(Family::V4, 1));
        let (verdict, out) = bench.run(program::FROM_CONTAINER, &asks.bytes(), bench.ifindex(0));
        assert_eq!((verdict, &out[36..38]), (REDIRECT, &8080u16.to_be_bytes()[..]), "the old backend");
        // More endpoints than there is room for: as many as fit are there, the others are told.
        bench.lab.tables = begin.clone();
        let (own, room) = (start[map::ENDPOINTS], capacity(&bench, map::ENDPOINTS) as usize);
        for n in 0..u32::try_from(room).expect("a number") {
            come(&mut bench, n);
        }
        let error = bench.lab.dataplane.sync(&bench.lab.tables).expect_err("full");
        let DataplaneError::Full { map: map::ENDPOINTS, refused, .. } = error else { panic!("{error}") };
        assert_eq!(refused, own as u64);
        assert_eq!(bench.entries()[map::ENDPOINTS], room);
        // With room again the same call puts everything right.
        bench.lab.tables = begin;
        bench.lab.sync();
        bench.lab.dataplane.sweep().expect("to sweep");
        let mut after = bench.entries();
        // The one that was asked for above lives on.
        assert_eq!(after.remove(map::FLOWS), Some(1));
        assert_eq!(after.remove(map::TRANSLATIONS), Some(1));
        assert!(after.iter().all(|(name, count)| start[name] == *count), "{after:?}");
        bench.lab.dataplane.unload().expect("to unload");
    });
}
