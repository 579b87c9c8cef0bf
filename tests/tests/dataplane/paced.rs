//! Rates where the uplink has the queue `fq`, with real sockets: what is over one waits, and is not lost.

use std::{io::Write, net::SocketAddr, process::Command};

use hivemind::{dataplane::Dataplane, net::Family, spec::v1::LimitSpec};

use super::{
    lab::{Lab, isolated, outside, sh},
    limits::{RATE, Sender, is_near, limit, ready, tcp, udp, used},
};

/// The receiver's room, of which the kernel makes twice as much: that fits into the queue of the rate.
const WINDOW: usize = 32_768;

/// Gives the uplink the queue; false where the kernel has none.
fn has_fq() -> bool {
    let tried = Command::new("tc").args(["qdisc", "replace", "dev", "uplink", "root", "fq"]).output().expect("tc");
    if !tried.status.success() {
        // Past the test harness, which keeps what a passing test prints: `cargo xtask test` counts these lines.
        let why = String::from_utf8_lossy(&tried.stderr);
        let _ = write!(std::io::stdout(), "\nSKIPPED for want of the queue fq: {}\n", why.trim().replace('\n', " "));
    }
    tried.status.success()
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
        sh("ip link set uplink gso_max_size 65536");
        limit(&mut lab, 0, LimitSpec { egress: Some(RATE), ..LimitSpec::default() });
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
        is_near("TCP with a window, dropped", from(&lab, to(7_001), Some(WINDOW)));
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
