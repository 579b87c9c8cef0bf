//! What the programs tell of flows and drops, and what of it is lost.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use hivemind::{
    dataplane::{
        Dataplane, Listener,
        bpf::{self, BpfDataplane, Ring},
        flows::Told,
    },
    policy::Direction,
};
use hivemind_ebpf::reason::Reason;
use tokio::time::timeout;

use super::{
    lab::{FAMILIES, Lab, isolated},
    traffic::{Echo, tcp_ask},
};

/// How long something may take that should be told.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two instances that may speak with each other, and a server on the second.
fn lab(cgroup: &std::path::Path) -> (Lab, Echo) {
    let mut lab = Lab::new(cgroup, 2);
    (0..2).for_each(|index| lab.ready(index));
    lab.sync();
    let echo = Echo::start(&lab.instances[1].ns, 8080, "server");
    (lab, echo)
}

/// What is told while `ring` is read, until `wanted` says so of something.
fn until(ring: &mut Option<Ring>, listener: &mut Listener, wanted: impl Fn(&Told) -> bool) -> Told {
    let ring = ring.take().expect("the ring is read once");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let told = async {
            loop {
                let told = listener.next().await.expect("somebody tells").expect("nothing is missed");
                if wanted(&told) {
                    return told;
                }
            }
        };
        tokio::select! {
            told = timeout(PATIENCE, told) => told.expect("it is told in time"),
            never = ring.run() => match never {},
        }
    })
}

/// Sends a datagram from each of `ports` ports to a port of the second instance.
fn datagrams(lab: &Lab, ports: std::ops::Range<u16>, to: u16) {
    let to = SocketAddr::new(lab.instances[1].v4.into(), to);
    lab.instances[0].ns.run(|| {
        for port in ports {
            let socket = UdpSocket::bind(("0.0.0.0", port)).expect("a free port");
            socket.send_to(b"x", to).expect("sent");
        }
    });
}

#[test]
fn flows_and_drops_are_shown_and_told() {
    isolated(|cgroup| {
        let (mut lab, _echo) = lab(cgroup);
        let server = |lab: &Lab, family| SocketAddr::new(lab.instances[1].address(family), 8080);
        let mut ring = lab.dataplane.ring();
        assert!(lab.dataplane.ring().is_none(), "two would take each other's events");
        let mut listener = lab.dataplane.watch().listen().expect("listens");
        for family in FAMILIES {
            let to = server(&lab, family);
            lab.instances[0].ns.run(|| tcp_ask(to)).expect("an answer");
        }
        let is = |flow: &hivemind::dataplane::flows::FlowRecord, lab: &Lab, family| {
            flow.from.address == lab.instances[0].address(family)
                && SocketAddr::new(flow.to.address, flow.to.port) == server(lab, family)
        };
        let Told::Begun(begun) = until(&mut ring, &mut listener, |told| matches!(told, Told::Begun(_))) else {
            panic!("it has begun");
        };
        assert!(FAMILIES.iter().any(|family| is(&begun, &lab, *family)) && begun.protocol == 6, "{begun:?}");

        // Both ends of these connections are here: the last packet ends them.
        let mut ended = Vec::new();
        while let Some(told) = listener.try_next() {
            if let Ok(Told::Ended(flow)) = told {
                ended.push(flow);
            }
        }
        let live = lab.dataplane.flows().expect("flows");
        for family in FAMILIES {
            let mut all = live.iter().chain(&ended);
            let flow = all.find(|flow| is(flow, &lab, family)).unwrap_or_else(|| panic!("{live:?} {ended:?}"));
            assert!(flow.answered && flow.from.packets >= 4 && flow.to.bytes > 200, "{flow:?}");
            let age = hivemind::lifecycle::clock::now().as_millis() - flow.first.as_millis();
            assert!((0..60_000).contains(&age), "by the wall clock: {flow:?}");
        }
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn what_is_unloaded_leaves_nothing() {
    super::in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 2, open);
        // Neither is in the tables: everything is denied.
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "server");
        let to = SocketAddr::new(lab.instances[1].v4.into(), 8080);
        let client = &lab.instances[0].ns;
        let connects = |within| client.run(|| super::traffic::tcp_connects_within(to, within));
        assert!(!connects(Duration::from_millis(300)), "denied");
        let root = std::path::Path::new(super::lab::BPF_ROOT);
        assert_eq!(bpf::attached(root).expect("pins"), 2);
        assert!(bpf::unload(root).expect("unloaded") >= 26, "each map has a pin");
        assert!(!root.exists(), "pins are left");
        assert!(connects(PATIENCE), "no program looks at packets any more");
        assert_eq!((bpf::attached(root).expect("pins"), bpf::unload(root).expect("again")), (0, 0));
    });
}

#[test]
fn what_ends_and_what_is_dropped_is_told() {
    isolated(|cgroup| {
        let (mut lab, _echo) = lab(cgroup);
        let mut listener = lab.dataplane.watch().listen().expect("listens");
        datagrams(&lab, 20_000..20_001, 9);
        // The second instance is gone: the sweep ends its flows, and nothing reaches it any more.
        lab.gone(1);
        lab.sync();
        lab.dataplane.sweep().expect("swept");
        let Some(Ok(Told::Ended(ended))) = listener.try_next() else { panic!("the sweep tells what it ends") };
        assert_eq!((ended.from.port, ended.to.port, ended.closed, ended.answered), (20_000, 9, true, false));
        datagrams(&lab, 20_001..20_002, 9);
        let mut ring = lab.dataplane.ring();
        let ends =
            (SocketAddr::new(lab.instances[0].v4.into(), 20_001), SocketAddr::new(lab.instances[1].v4.into(), 9));
        // An instance's kernel says things of its own, which are dropped as well.
        let is_it = |told: &Told| matches!(told, Told::Dropped(dropped) if dropped.ends == Some(ends));
        let Told::Dropped(dropped) = until(&mut ring, &mut listener, is_it) else {
            panic!("it is dropped");
        };
        assert_eq!(dropped.reason, Reason::NoSuchInstance);
        assert_eq!((dropped.device, dropped.direction), (lab.instances[0].link.ifindex, Direction::Out));
        datagrams(&lab, 20_001..20_002, 9);
        let kept = lab.dataplane.drops().expect("drops");
        let kept: Vec<_> = kept.iter().filter(|record| record.ends == Some(ends)).collect();
        assert!(kept.len() == 1 && kept[0].packets == 2 && kept[0].last >= kept[0].first, "{kept:?}");
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn a_drop_that_comes_again_after_a_pause_is_told_again() {
    isolated(|cgroup| {
        let (mut lab, _echo) = lab(cgroup);
        lab.gone(1);
        lab.sync();
        let mut listener = lab.dataplane.watch().listen().expect("listens");
        datagrams(&lab, 20_000..20_001, 9);
        datagrams(&lab, 20_000..20_001, 9);
        lab.instances[0].ns.run(|| {
            let socket = UdpSocket::bind(("0.0.0.0", 20_001)).expect("a free port");
            socket.set_read_timeout(Some(Duration::from_millis(1_100))).expect("a timeout");
            assert!(socket.recv(&mut [0; 64]).is_err(), "nobody says anything for longer than a second");
        });
        datagrams(&lab, 20_000..20_001, 9);
        datagrams(&lab, 20_002..20_003, 9);
        let (mut ring, times) = (lab.dataplane.ring(), std::cell::Cell::new(0));
        until(&mut ring, &mut listener, |told| {
            let Told::Dropped(dropped) = told else { return false };
            let from = dropped.ends.map_or(0, |(from, _)| from.port());
            times.set(times.get() + u32::from(from == 20_000));
            from == 20_002
        });
        assert_eq!(times.get(), 2, "the first, and the one after the pause");
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn nothing_is_told_to_nobody_and_what_finds_no_room_is_counted() {
    isolated(|cgroup| {
        let (mut lab, _echo) = lab(cgroup);
        let watch = lab.dataplane.watch();
        // More than the ring holds.
        datagrams(&lab, 20_000..25_000, 9);
        assert_eq!(watch.lost().expect("a count"), 0, "nobody listens, so nothing is told");
        let listener = watch.listen().expect("listens");
        datagrams(&lab, 25_000..30_000, 9);
        let lost = watch.lost().expect("a count");
        assert!((500..5_000).contains(&lost), "the ring is not read and holds some 4,000: {lost}");
        drop(listener);
        datagrams(&lab, 30_000..31_000, 9);
        assert_eq!(watch.lost().expect("a count"), lost, "nobody listens any more");

        // A daemon that is killed while somebody listens leaves the switch on; the next one turns it off.
        let _listener = watch.listen().expect("listens");
        let again = BpfDataplane::open(super::lab::config(cgroup)).unwrap_or_else(|error| panic!("{error}"));
        // What was dropped by the way while it opened was still told.
        let lost = again.watch().lost().expect("a count");
        datagrams(&lab, 31_000..32_000, 9);
        assert_eq!(again.watch().lost().expect("a count"), lost, "the next daemon has no listener yet");
        lab.dataplane.unload().expect("unload");
    });
}
