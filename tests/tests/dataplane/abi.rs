//! A daemon follows one whose pins it cannot use: of another ABI, or with a map that is not as ours are.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hivemind::{
    dataplane::{Dataplane, DataplaneError, bpf::BpfDataplane, tables::LimitOwner},
    model::{ErrorCode, Protocol},
    net::Family,
};
use hivemind_ebpf::map;

use crate::{
    Open, in_both_ways,
    lab::{self, FAMILIES, Lab, firewall, isolated, past_the_sockets, uplink, vip},
    traffic::{Echo, PATIENCE, tcp_ask, tcp_ask_on, udp_stream_while},
};

/// Datagrams of a stream that nobody ends: five minutes.
const LONGEST: u32 = 300_000;

/// The folder of this version, and one for another.
fn versions() -> (PathBuf, PathBuf) {
    let own = Path::new(lab::BPF_ROOT).join(format!("v{}", hivemind_ebpf::ABI_VERSION));
    let other = own.with_file_name("v0");
    (own, other)
}

/// A daemon begins where one of another ABI has ended. It has not written its tables.
fn follow(lab: &mut Lab, cgroup: &Path, open: Open) {
    let (own, other) = versions();
    std::fs::rename(&own, &other).expect("the pins of another version");
    lab.dataplane = open(lab::config(cgroup)).unwrap_or_else(|error| panic!("{error}"));
    // By this the agent knows whose rows the tables need at once.
    let attached: BTreeSet<_> = lab.dataplane.attached().expect("attached").into_iter().collect();
    let ids: BTreeSet<_> = lab.instances.iter().map(|instance| instance.id.clone()).collect();
    assert_eq!(attached, ids, "what another version has attached is attached");
}

/// A connection and its other end.
struct Held {
    what: &'static str,
    client: TcpStream,
    server: TcpStream,
}

impl Held {
    /// Both say something, the server first: nothing of the client's has told the new programs of the connection.
    fn speaks(&self) {
        for (mut from, mut to) in [(&self.server, &self.client), (&self.client, &self.server)] {
            from.write_all(b"word").unwrap_or_else(|error| panic!("{}: {error}", self.what));
            to.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut word = [0; 4];
            to.read_exact(&mut word).unwrap_or_else(|error| panic!("{}: {error}", self.what));
            assert_eq!(&word, b"word");
        }
    }
}

#[test]
fn connections_go_on_over_a_change_of_the_abi_whoever_speaks_first() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 3, open);
        firewall("9000", 9001);
        for i in 0..3 {
            lab.ready(i);
        }
        lab.service(1, 80, 8080, Protocol::Tcp, &[1]);
        lab.publish(1, 9000, 8080, Protocol::Tcp, &[1]);
        lab.service(2, 90, 9090, Protocol::Udp, &[1]);
        lab.service(3, 80, 8080, Protocol::Tcp, &[2]);
        lab.sync();
        let listen = |i: usize| lab.instances[i].ns.run(|| TcpListener::bind("[::]:8080").expect("a listener"));
        let (servers, mut held) = ([listen(1), listen(2)], Vec::new());
        let connect = |to: SocketAddr| TcpStream::connect_timeout(&to, PATIENCE).expect("a connection");
        let accept = |what, client, i: usize| Held { what, client, server: servers[i].accept().expect("its end").0 };
        let client = &lab.instances[0].ns;
        for family in FAMILIES {
            let service = SocketAddr::new(vip(family, 1), 80);
            held.push(accept("by the socket", client.run(|| connect(service)), 0));
            let past = past_the_sockets(cgroup, || client.run(|| connect(service)));
            held.push(accept("packet by packet", past, 0));
            let published = SocketAddr::new(uplink(family), 9000);
            held.push(accept("from outside", lab.outside.run(|| connect(published)), 0));
        }
        let to_gone = SocketAddr::new(vip(Family::V4, 3), 80);
        let cut = accept("to who is gone", past_the_sockets(cgroup, || client.run(|| connect(to_gone))), 1);
        cut.speaks();
        let _echo = Echo::start(&lab.instances[1].ns, 9090, "i1");
        let asked = SocketAddr::new(vip(Family::V4, 2), 90);
        let sockets = client.run(|| {
            [true, false].map(|connected| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                if connected {
                    socket.connect(asked).and_then(|()| socket.send(b"who\n")).expect("sent");
                } else {
                    socket.send_to(b"who\n", asked).expect("sent");
                }
                socket
            })
        });
        let device = lab.instances[0].link.ifindex;
        let owner = LimitOwner::Instance(device);
        let used = |lab: &mut Lab| lab.dataplane.uses().expect("uses")[&owner];
        let before = used(&mut lab);
        assert!(before.connections[0] >= 5 && before.flows >= 5, "{before:?}");

        follow(&mut lab, cgroup, open);
        lab.dataplane.sweep().expect("before the tables are written");
        // Gone while no daemon was there.
        lab.gone(2);
        lab.sync();
        let (own, other) = versions();
        if lab.dataplane.info().attach == "tcx" {
            assert!(!other.exists() && own.exists(), "something of the other version is left");
        }
        // As soon as the agent knows of them; they are replaced already.
        for instance in &lab.instances {
            lab.dataplane.attach(&instance.id, &instance.link).expect("to attach");
        }
        lab.dataplane.attach_uplinks(&["uplink".into()]).expect("uplinks");
        assert!(!other.exists() && own.exists(), "something of the other version is left");
        // What the tables do not have any more is no flow's of theirs.
        (&cut.client).write_all(b"word").expect("into the buffer");
        let over = (&cut.client).read(&mut [0; 4]).expect_err("it is over");
        assert_eq!(over.kind(), std::io::ErrorKind::ConnectionReset, "{over}");
        for held in &held {
            held.speaks();
        }
        for socket in &sockets {
            let (_, from) = socket.recv_from(&mut [0; 64]).expect("its answer");
            assert_eq!(from, asked, "who was asked, not who answers");
        }
        let after = used(&mut lab);
        assert!((before.connections[0] - 1..=before.connections[0]).contains(&after.connections[0]), "{after:?}");
        assert!((before.flows - 1..=before.flows).contains(&after.flows), "{before:?} {after:?}");
        assert!(lab.dataplane.check().expect("checked").is_empty(), "all is as it was written and attached");
        lab.dataplane.unload().expect("to unload");
    });
}

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
        let service = SocketAddr::new(vip(Family::V6, 1), 80);
        let published = SocketAddr::new(lab::UPLINK[0].0.into(), 9000);
        // Until the next one has taken over, however long that takes here.
        let over = Arc::new(AtomicBool::new(false));
        let stream = |to| {
            let over = Arc::clone(&over);
            move || udp_stream_while(to, |n| n < LONGEST && !over.load(Ordering::Relaxed))
        };
        let inside = lab.instances[0].ns.spawn(stream(service));
        let from_outside = lab.outside.spawn(stream(published));
        let (own, other) = versions();
        follow(&mut lab, cgroup, BpfDataplane::open);
        assert!(other.exists(), "the other version serves until the tables are written");
        lab.sync();
        assert!(!other.exists() && own.exists(), "links of the other version are left");
        assert!(!inside.is_finished() && !from_outside.is_finished(), "the streams ran all the time");
        for family in lab::FAMILIES {
            let ask = || tcp_ask(SocketAddr::new(vip(family, 1), 80));
            lab.instances[0].ns.run(ask).expect("an answer, by the new tables");
        }
        tcp_ask_on(&kept).expect("the long connection lives");
        over.store(true, Ordering::Relaxed);
        let streams = [inside, from_outside].map(|stream| stream.join().expect("a result").expect("a stream"));
        let drops = lab.dataplane.drops().expect("drops");
        assert_eq!(streams, [crate::NONE; 2], "lost between instances, and from outside; dropped: {drops:#?}");
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_map_that_differs_is_refused_while_it_is_used_and_made_anew_when_nothing_is_attached() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 1);
        let (own, _) = versions();
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
        if lab.dataplane.info().attach == "tc" {
            // Filters have no pins: whether there are some is not known, so it stays refused.
            let refused = BpfDataplane::open(lab::config(cgroup)).map(drop);
            assert!(matches!(refused, Err(DataplaneError::Incompatible { .. })), "{refused:?}");
            lab.dataplane.unload().expect("to unload");
        }
        lab.dataplane = BpfDataplane::open(lab::config(cgroup)).expect("to open");
        assert!(![strange, frontends].contains(&map_at(&pin)), "it is made anew");
        lab.dataplane.unload().expect("to unload");
    });
}
