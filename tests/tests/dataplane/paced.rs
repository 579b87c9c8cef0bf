//! Rates where the uplink has the queue `fq`, with real sockets: what is over one waits, and is not lost.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hivemind::{dataplane::Dataplane, model::Protocol, net::Family, spec::v1::LimitSpec};

use super::{
    lab::{Lab, firewall, isolated, nft, outside, sh, uplink},
    limits::{RATE, Sender, is_near, limit, measure, ready, tcp, udp, use_up, used},
    traffic::PATIENCE,
};

/// The receiver's room, of which the kernel makes twice as much: that fits into the queue of the rate.
const WINDOW: usize = 32_768;

/// Gives the uplink the queue; false where the kernel has none, unless `HIVEMIND_NO_SKIP` says that it must. Whatever else
/// is in the way is a failure.
fn has_fq() -> bool {
    let tried = Command::new("tc").args(["qdisc", "replace", "dev", "uplink", "root", "fq"]).output().expect("tc");
    if tried.status.success() {
        return true;
    }
    let why = String::from_utf8_lossy(&tried.stderr);
    assert!(why.contains("qdisc kind is unknown"), "the uplink gets no queue: {why}");
    assert!(std::env::var_os("HIVEMIND_NO_SKIP").is_none(), "this kernel was to have it: {why}");
    // Past the test harness, which keeps what a passing test prints: `cargo xtask test` counts these lines.
    let _ = write!(std::io::stdout(), "\nSKIPPED for want of the queue fq: {}\n", why.trim().replace('\n', " "));
    false
}

/// What the queue of the uplink has dropped.
fn lost() -> u64 {
    let shown = Command::new("tc").args(["-s", "qdisc", "show", "dev", "uplink"]).output().expect("tc").stdout;
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.starts_with("qdisc fq "), "{shown}");
    let dropped = shown.split_once("dropped ").and_then(|(_, rest)| rest.split_once(',')).expect("a count").0;
    dropped.parse().expect("a number")
}

fn paced(lab: &mut Lab, paced: bool) {
    lab.tables.paced = paced;
    lab.sync();
}

fn dropped(lab: &mut Lab) -> u64 {
    used(lab, 0).dropped_packets[0]
}

#[test]
fn what_leaves_the_node_over_a_rate_waits_where_the_uplink_has_fq() {
    isolated(|cgroup| {
        let mut lab = ready(cgroup, 1);
        if !has_fq() {
            return lab.dataplane.unload().expect("unload");
        }
        limit(&mut lab, 0, LimitSpec { egress: Some(RATE), ..LimitSpec::default() });
        // As on a node: what leaves it has its address then.
        nft(
            "table ip test { chain out { type nat hook postrouting priority 100; oifname \"uplink\" masquerade\n }\n}\n",
        );
        let to = |port| SocketAddr::new(outside(Family::V4), port);
        let from = |lab: &Lab, to, window| {
            let sender = Sender { from: &lab.instances[0].ns, into: &lab.outside, to };
            tcp(sender, window)
        };
        // Held by its window it finds room in the queue always, and never in a bucket that drops.
        let before = (dropped(&mut lab), lost());
        paced(&mut lab, true);
        is_near("TCP with a window, waiting", from(&lab, to(7_000), Some(WINDOW)));
        let waiting = (dropped(&mut lab) - before.0, lost() - before.1);
        paced(&mut lab, false);
        // Dropping is hard on it: so few bytes under way say little of what is lost, and it waits for its timer.
        println!("TCP with a window, dropped: {:.2} Mbit/s", from(&lab, to(7_001), Some(WINDOW)) / 1e6);
        let without = dropped(&mut lab);
        println!("lost while it waits {waiting:?}, and else {without}");
        assert!(without > 0, "nothing is over the rate: this says nothing");
        // The clock of the programs ticks: where ticks are late, as on an emulated machine, what has left still counts.
        assert!(waiting.0 * 10 <= without && waiting.1 == 0, "{waiting:?} packets are lost that could wait");
        // Without one it is told by losses, as by any queue that is full, but of few.
        let before = dropped(&mut lab);
        is_near("TCP, dropped", from(&lab, to(7_002), None));
        let policed = dropped(&mut lab) - before;
        paced(&mut lab, true);
        let before = dropped(&mut lab);
        is_near("TCP, waiting", from(&lab, to(7_003), None));
        let shaped = dropped(&mut lab) - before;
        println!("TCP without a window: {policed} packets are dropped, and {shaped} where they wait");
        // What does not listen gets its rate as well: the queue never holds more than it may.
        let before = lost();
        let sender = Sender { from: &lab.instances[0].ns, into: &lab.outside, to: to(7_004) };
        is_near("UDP, waiting", udp(sender));
        assert_eq!(lost(), before, "the uplink's queue has dropped what has paid");
        lab.dataplane.unload().expect("unload");
    });
}

/// What a client outside gets of an instance that sends as much as it can, by a published port; and how many packets are
/// dropped over the rate, and by the uplink's queue, once the burst is used up.
fn download(lab: &mut Lab, family: Family) -> (f64, [u64; 2]) {
    let at = SocketAddr::new(lab.instances[0].address(family), 8080);
    let listener = lab.instances[0].ns.run(|| TcpListener::bind(at).expect("a listener"));
    let writer = lab.instances[0].ns.spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        while stream.write(&[0; 65_536]).is_ok() {}
    });
    let to = SocketAddr::new(uplink(family), 9000);
    let mut stream = lab.outside.run(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("a connection");
    let (bytes, counted) = (Arc::new(AtomicU64::new(0)), stream.try_clone().expect("a descriptor"));
    let reader = {
        let bytes = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                bytes.fetch_add(n as u64, Ordering::Relaxed);
            }
        })
    };
    use_up(&bytes);
    let before = [dropped(lab), lost()];
    let rate = measure(&bytes, 66.0);
    let losses = [dropped(lab) - before[0], lost() - before[1]];
    counted.shutdown(std::net::Shutdown::Both).expect("to end");
    reader.join().expect("the reader");
    writer.join().expect("the writer");
    (rate, losses)
}

#[test]
fn who_answers_at_a_published_port_is_held_back_before_anything_is_lost() {
    isolated(|cgroup| {
        let mut lab = ready(cgroup, 1);
        if !has_fq() {
            return lab.dataplane.unload().expect("unload");
        }
        lab.service(1, 80, 8080, Protocol::Tcp, &[0]);
        lab.publish(1, 9000, 8080, Protocol::Tcp, &[0]);
        firewall("9000", 9001);
        limit(&mut lab, 0, LimitSpec { egress: Some(RATE), ..LimitSpec::default() });
        // As on a way that is longer than this one, where TCP makes smaller ones by itself: it keeps two of them in a queue.
        lab.instances[0].ns.run(|| sh("ip link set eth0 gso_max_size 9000"));
        let (rate, policed) = download(&mut lab, Family::V4);
        println!("a download, dropped: {:.2} Mbit/s, {policed:?} are lost", rate / 1e6);
        assert!(policed[0] > 0, "nothing is over the rate: this says nothing");
        paced(&mut lab, true);
        for family in [Family::V4, Family::V6] {
            let (rate, waiting) = download(&mut lab, family);
            println!("{family:?}: {waiting:?} are lost");
            is_near("a download, waiting", rate);
            assert!(waiting[0] * 5 <= policed[0] && waiting[1] == 0, "{waiting:?} packets are lost that could wait");
        }
        lab.dataplane.unload().expect("unload");
    });
}
