//! A daemon follows one of another ABI, whose pins it cannot use.

use std::net::SocketAddr;

use hivemind::{
    dataplane::{Dataplane, bpf::BpfDataplane},
    model::Protocol,
};

use crate::{
    lab::{self, Lab, isolated, vip},
    traffic::{Echo, tcp_ask},
};

#[test]
fn what_a_daemon_of_another_abi_attached_goes_as_this_one_attaches() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        for i in 0..2 {
            lab.ready(i);
        }
        lab.service(1, 80, 8080, Protocol::Tcp, &[1]);
        lab.sync();
        let own = std::path::Path::new(lab::BPF_ROOT).join(format!("v{}", hivemind_ebpf::ABI_VERSION));
        let other = own.with_file_name("v0");
        std::fs::rename(&own, &other).expect("the pins of another version");
        lab.dataplane = BpfDataplane::open(lab::config(cgroup)).expect("to open");
        for i in 0..2 {
            let (id, link) = (lab.instances[i].id.clone(), lab.instances[i].link.clone());
            lab.dataplane.attach(&id, &link).expect("to attach");
        }
        lab.dataplane.attach_uplinks(&["uplink".into()]).expect("uplinks");
        assert!(!other.exists() && own.exists(), "links of the other version are left");
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "i1");
        for family in lab::FAMILIES {
            let ask = || tcp_ask(SocketAddr::new(vip(family, 1), 80));
            lab.instances[0].ns.run(ask).expect("an answer, by the new tables");
        }
        lab.dataplane.unload().expect("to unload");
    });
}
