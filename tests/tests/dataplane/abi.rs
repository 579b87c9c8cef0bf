//! A daemon follows one whose pins it cannot use: of another ABI, or with a map that is not as ours are.

use std::{
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
};

use hivemind::{
    dataplane::{Dataplane, DataplaneError, bpf::BpfDataplane},
    model::{ErrorCode, Protocol},
    net::Family,
};
use hivemind_ebpf::map;

use crate::{
    lab::{self, Lab, firewall, isolated, vip},
    traffic::{Echo, tcp_ask, tcp_ask_on, udp_stream},
};

#[test]
fn nothing_is_lost_when_a_daemon_follows_one_of_another_abi() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        firewall("9000", 9001);
        for i in 0..2 {
            lab.ready(i);
        }
        lab.service(1, 80, 8080, Protocol::Tcp, &[1]);
        lab.service(1, 80, 8080, Protocol::Udp, &[1]);
        lab.publish(1, 9000, 8080, Protocol::Udp, &[1]);
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "i1");
        let connect = || TcpStream::connect((vip(Family::V4, 1), 80));
        let kept = lab.instances[0].ns.run(connect).expect("a long connection");
        let inside = lab.instances[0].ns.spawn(|| udp_stream((vip(Family::V6, 1), 80).into(), 4_000));
        let published = SocketAddr::new(lab::UPLINK[0].0.into(), 9000);
        let from_outside = lab.outside.spawn(move || udp_stream(published, 4_000));
        let own = std::path::Path::new(lab::BPF_ROOT).join(format!("v{}", hivemind_ebpf::ABI_VERSION));
        let other = own.with_file_name("v0");
        std::fs::rename(&own, &other).expect("the pins of another version");
        lab.dataplane = BpfDataplane::open(lab::config(cgroup)).expect("to open");
        for i in 0..2 {
            let (id, link) = (lab.instances[i].id.clone(), lab.instances[i].link.clone());
            lab.dataplane.attach(&id, &link).expect("to attach");
        }
        lab.dataplane.attach_uplinks(&["uplink".into()]).expect("uplinks");
        assert!(other.exists(), "the other version serves until the tables are written");
        lab.sync();
        assert!(!other.exists() && own.exists(), "links of the other version are left");
        assert!(!inside.is_finished() && !from_outside.is_finished(), "the streams ran all the time");
        for family in lab::FAMILIES {
            let ask = || tcp_ask(SocketAddr::new(vip(family, 1), 80));
            lab.instances[0].ns.run(ask).expect("an answer, by the new tables");
        }
        tcp_ask_on(&kept).expect("the long connection lives");
        assert_eq!(inside.join().expect("a result").expect("a stream"), crate::NONE, "lost between instances");
        assert_eq!(from_outside.join().expect("a result").expect("a stream"), crate::NONE, "lost from outside");
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_map_that_differs_is_refused_while_it_is_used_and_made_anew_when_nothing_is_attached() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 1);
        let own = std::path::Path::new(lab::BPF_ROOT).join(format!("v{}", hivemind_ebpf::ABI_VERSION));
        let (pin, aside) = (own.join("maps").join(map::FRONTENDS), own.join("aside"));
        let map_at = |path: &std::path::Path| aya::maps::MapInfo::from_pin(path).expect("a pinned map").id();
        let frontends = map_at(&pin);
        // Another map in its place, with other keys.
        std::fs::rename(&pin, &aside).expect("aside");
        std::fs::hard_link(own.join("maps").join(map::PEERS), &pin).expect("another map in its place");
        let (strange, inode) = (map_at(&pin), std::fs::metadata(&pin).expect("a pin").ino());
        assert_ne!(strange, frontends);
        for open in crate::WAYS {
            // Not `expect_err`: shown whole, a data plane is megabytes.
            let Err(refused) = open(lab::config(cgroup)) else { panic!("a map that is no table of services is taken") };
            assert_eq!(refused.code(), ErrorCode::Dataplane);
            let DataplaneError::Incompatible { path, field, found, wanted } = refused else { panic!("{refused}") };
            assert_eq!((path.as_path(), field), (pin.as_path(), "key size"));
            assert_ne!(found, wanted);
            let now = (map_at(&pin), std::fs::metadata(&pin).expect("a pin").ino());
            assert_eq!(now, (strange, inode), "it is not touched: what is attached may use it");
        }
        // As it was, it is taken over.
        std::fs::remove_file(&pin).expect("removed");
        std::fs::rename(&aside, &pin).expect("back");
        lab.dataplane = BpfDataplane::open(lab::config(cgroup)).expect("to open");
        assert_eq!(map_at(&pin), frontends);

        // Nothing is attached: the map is nobody's.
        std::fs::remove_file(&pin).expect("removed");
        std::fs::hard_link(own.join("maps").join(map::PEERS), &pin).expect("another map in its place");
        for link in std::fs::read_dir(own.join("links")).expect("links").flatten() {
            std::fs::remove_file(link.path()).expect("detached");
        }
        lab.dataplane = BpfDataplane::open(lab::config(cgroup)).expect("to open");
        assert!(![strange, frontends].contains(&map_at(&pin)), "it is made anew");
        lab.dataplane.unload().expect("to unload");
    });
}
