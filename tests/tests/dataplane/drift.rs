//! What someone else changes or removes is put right.

use std::net::SocketAddr;

use hivemind::{
    dataplane::{Dataplane, bpf::BpfDataplane},
    model::Protocol,
    net::Family,
};

use super::{
    lab::{BPF_ROOT, Lab, config, isolated, vip},
    traffic::{Echo, tcp_ask},
};

#[test]
fn drift_is_repaired_and_unloading_leaves_nothing() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 1);
        lab.ready(0);
        lab.service(1, 80, 8080, Protocol::Tcp, &[0]);
        lab.sync();
        // A second daemon, which must not be, changes the tables.
        let mut other = BpfDataplane::open(config(cgroup)).expect("to open");
        let removed = other.sync(&hivemind::dataplane::tables::Tables::default()).expect("to remove all").removed;
        assert!(removed > 0);
        drop(other);
        let repaired: u64 = (0..20).map(|_| lab.dataplane.sweep().expect("to sweep").repaired).sum();
        assert!(repaired >= removed, "{repaired} of {removed}");
        let _echo = Echo::start(&lab.instances[0].ns, 8080, "i0");
        tcp_ask(SocketAddr::new(vip(Family::V4, 1), 80)).expect("it works again");

        assert!(std::fs::read_dir(BPF_ROOT).is_ok());
        lab.dataplane.unload().expect("to unload");
        assert!(std::fs::read_dir(BPF_ROOT).is_err(), "no pin is left");
        lab.dataplane.unload().expect("twice is the same as once");
    });
}
