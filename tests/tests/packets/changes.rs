//! What a change of the tables does to connections that are there, and to those that come.

use hivemind::{dataplane::Dataplane, model::Protocol, net::Family};
use hivemind_ebpf::{program, reason::Reason};

use crate::{
    bench::{Bench, Expect, REDIRECT, service},
    frame::{ACK, Frame, RST, TCP, UDP},
    lab::{FAMILIES, isolated},
};

/// The backend of a connection goes, and comes back.
pub(crate) fn backend_gone(bench: &mut Bench, family: Family) {
    let open = bench.sent(0, TCP, 6100, service(family, 1));
    let more = Frame { detail: ACK, ..open.clone() };
    let opens = to(bench, 1, &open);
    bench.check(&bench.sends("opens", &open, opens));
    let tables = bench.lab.tables.clone();
    bench.lab.gone(1);
    bench.lab.sync();
    bench.check(&bench.sends("backend gone", &more, Expect::Drop(Reason::BackendGone)));
    bench.lab.tables = tables;
    bench.lab.sync();
}

/// That a frame goes to instance `n`, port 8080.
fn to(bench: &Bench, n: usize, frame: &Frame) -> Expect {
    let family = if frame.src.0.is_ipv4() { Family::V4 } else { Family::V6 };
    Expect::RedirectAs(Frame { dst: (bench.address(n, family), 8080), ..frame.clone() }.bytes())
}

#[test]
fn a_port_used_again_after_a_reset_goes_to_a_backend_of_now() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let open = FAMILIES.map(|family| bench.sent(0, TCP, 6301, service(family, 1)));
        for open in &open {
            for frame in [open.clone(), Frame { detail: RST, ..open.clone() }] {
                let goes = to(&bench, 1, &frame);
                bench.check(&bench.sends("opens and resets", &frame, goes));
            }
        }
        // The old backend is still there, but behind the service no more.
        bench.lab.ready(2);
        bench.lab.service(1, 80, 8080, Protocol::Tcp, &[2]);
        bench.lab.sync();
        for open in &open {
            let goes = to(&bench, 2, open);
            bench.check(&bench.sends("opens again", open, goes));
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_connection_does_not_follow_its_address_to_another_instance() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.lab.ready(2);
        bench.lab.sync();
        for family in FAMILIES {
            let open = bench.sent(0, TCP, 6302, service(family, 1));
            let opens = to(&bench, 1, &open);
            bench.check(&bench.sends("opens", &open, opens));
            let (address, ifindex) = (bench.address(1, family), bench.ifindex(2));
            bench.lab.tables.peers.get_mut(&address).expect("a peer").ifindex = ifindex;
            bench.lab.sync();
            let more = Frame { detail: ACK, ..open };
            bench.check(&bench.sends("the address is another's", &more, Expect::Drop(Reason::BackendGone)));
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn an_instance_that_asks_its_own_service_is_not_sent_to_itself() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.lab.service(1, 80, 8080, Protocol::Udp, &[0, 1]);
        bench.lab.sync();
        for (family, own) in FAMILIES.into_iter().flat_map(|family| [(family, 0), (family, 1)]) {
            // Enough that the choice would fall on itself now and then, which is the first of them, or the last.
            for port in 6400..6464 {
                let asks = bench.sent(own, UDP, port, service(family, 1));
                let (verdict, out) = bench.run(program::FROM_CONTAINER, &asks.bytes(), bench.ifindex(own));
                let other = Frame { dst: (bench.address(1 - own, family), 8080), ..asks };
                assert_eq!((verdict, out), (REDIRECT, other.bytes()), "instance {own}, port {port}");
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}
