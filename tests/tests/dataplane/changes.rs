//! What one change of a large service writes, and that nobody who connects meanwhile is refused.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use hivemind::{
    dataplane::{
        Dataplane,
        bpf::BpfDataplane,
        tables::{BackendRow, Choice, Frontend, Part, ServiceRow, Tables},
    },
    model::Protocol,
    net::Family,
};
use hivemind_tests::netlab::until;

use super::lab::{Lab, config, isolated, vip};

/// How many backends; the table of so many has 131,071 entries, in 512 rows.
const MANY: u32 = 1_200;

fn frontend() -> Frontend {
    Frontend::Virtual(vip(Family::V4, 1), 80, Protocol::Udp)
}

/// A service of these backends, which are on other nodes.
fn tables(of: &Tables, choice: Choice, backends: impl Iterator<Item = u32>) -> Tables {
    let address = |n: u32| IpAddr::from(Ipv4Addr::from_bits(Ipv4Addr::new(10, 88, 16, 0).to_bits() + n));
    let row = |n| BackendRow { address: address(n), port: 8080, weight: 100 };
    let mut tables = of.clone();
    tables.services.insert(Frontend::Address(vip(Family::V4, 1)), ServiceRow { id: 1, ..ServiceRow::default() });
    tables.services.insert(frontend(), ServiceRow { id: 1, backends: backends.map(row).collect(), choice });
    tables
}

/// Has the clients end, also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn one_backend_of_many_is_written_alone_and_nobody_is_refused() {
    let plain = Choice::default();
    for (choice, less, more, table) in [
        // The hole, and how many there are; what is behind them goes.
        (plain, (2, 1), (2, 0), 0),
        // And for clients that stay: where the last one is now, and who is gone.
        (Choice { affinity: 60, ..plain }, (3, 2), (3, 0), 0),
        // And what has moved in the table of 512 rows.
        (Choice { alike: true, ..plain }, (2, 1), (2, 0), 512),
    ] {
        isolated(|cgroup| {
            let mut lab = Lab::new(cgroup, 1);
            lab.ready(0);
            lab.sync();
            let all = tables(&lab.tables, choice, 0..MANY);
            let fewer = |gone: u32| tables(&lab.tables, choice, (0..MANY).filter(move |n| *n != gone));
            let [fewer, others] = [fewer(700), fewer(20)];
            let Lab { dataplane, instances, .. } = &mut lab;
            let mut sync = |tables: &Tables| {
                let report = dataplane.sync(tables).expect("to write");
                assert_eq!(dataplane.check().expect("to look"), [], "what is there is what was written");
                (report.written, report.removed)
            };
            sync(&all);
            let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|scope| {
                let clients = scope.spawn(|| {
                    instances[0].ns.run(|| {
                        while !over.load(Ordering::Relaxed) {
                            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                            socket.connect(SocketAddr::new(vip(Family::V4, 1), 80)).expect("a backend");
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                });
                let is = |(written, removed): (u64, u64), wanted: (u64, u64)| {
                    // The last one leaves no hole.
                    assert!(
                        (1..=wanted.0 + table).contains(&written) && removed == wanted.1,
                        "{written}, {removed} of {wanted:?}"
                    );
                };
                let ends = Ends(&over);
                for _ in 0..3 {
                    is(sync(&fewer), less);
                    is(sync(&all), more);
                }
                // One for another: its slot, and who stays with it.
                is(sync(&fewer), less);
                is(sync(&others), (more.0 - 1, less.1 - 1));
                until("somebody has asked", || (asked.load(Ordering::Relaxed) > 100).then_some(()));
                drop(ends);
                clients.join().expect("nobody is refused");
            });
            let held = dataplane.held(Part::ALL).expect("to read");
            let alone = dataplane.held(&[Part::Services]).expect("to read");
            assert_eq!(alone, Tables { services: held.services.clone(), ..Tables::default() });
            let named = |tables: &Tables| {
                let mut backends = tables.services[&frontend()].backends.clone();
                backends.sort_by_key(|backend| backend.address);
                backends
            };
            assert_eq!(named(&held), named(&others));
            // The next daemon finds it as it should be, whatever the order.
            let mut next = BpfDataplane::open(config(cgroup)).expect("to open");
            let report = next.sync(&others).expect("to write");
            assert_eq!((report.written, report.removed), (0, 0), "found as it should be");
            let report = next.sync(&all).expect("to write");
            assert!(report.written <= more.0 + table && report.removed == 0, "{report:?}");
            next.unload().expect("to unload");
        });
    }
}
