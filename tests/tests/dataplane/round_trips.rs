//! Round-trip times that TCP has measured, by who asks whom.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
};

use hivemind::{dataplane::Dataplane, model::Protocol};
use hivemind_ebpf::abi::RttKey;
use hivemind_tests::netlab::until;
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

use super::{
    in_both_ways,
    lab::{FAMILIES, Lab, class, isolated, map, past_the_sockets, vip},
    traffic::{Echo, tcp_ask, tcp_ask_on},
};

#[test]
fn round_trips_are_counted_for_who_has_connected_with_which_service() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 2, open);
        (0..2).for_each(|index| lab.ready(index));
        lab.service(1, 80, 8080, Protocol::Tcp, &[1]);
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "server");
        assert_eq!(lab.dataplane.round_trips().expect("a table"), []);
        for family in FAMILIES {
            let server = SocketAddr::new(lab.instances[1].address(family), 8080);
            lab.instances[0].ns.run(|| {
                tcp_ask(SocketAddr::new(vip(family, 1), 80)).expect("an answer");
                tcp_ask(server).expect("an answer");
            });
            tcp_ask(server).expect("the host is answered");
            // What no socket program has seen is not looked at.
            past_the_sockets(cgroup, || lab.instances[0].ns.run(|| tcp_ask(server)).expect("an answer"));
        }
        let mut found = lab.dataplane.round_trips().expect("a table");
        found.sort_by_key(|row| (row.from, row.service));
        let pairs: Vec<_> = found.iter().map(|row| (row.from, row.to, row.service)).collect();
        let (client, server) = (class(0), class(1));
        assert_eq!(pairs, [(hivemind::policy::HOST, server, 0), (client, server, 0), (client, server, 1)]);
        for row in &found {
            // Two connections of each; the answer to each SYN is not measured as one, the request is.
            assert!((2..100).contains(&row.histogram.count()), "{row:?}");
        }
        // The class of an instance that is gone is nobody's.
        lab.gone(1);
        lab.sync();
        for _ in 0..12 {
            lab.dataplane.sweep().expect("to sweep");
        }
        assert_eq!(lab.dataplane.round_trips().expect("a table"), []);
        lab.dataplane.unload().expect("unload");
    });
}

/// The smoothed round-trip time of the only connection to `to`, in microseconds, as the kernel shows it.
fn shown_us(to: SocketAddr) -> f64 {
    let shown = Command::new("ss").args(["-Htin", "dst", &to.to_string()]).output().expect("ss");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let rtt = text.split_whitespace().find_map(|word| word.strip_prefix("rtt:")?.split('/').next());
    rtt.and_then(|ms| ms.parse::<f64>().ok()).unwrap_or_else(|| panic!("no round trip: {text}")) * 1_000.0
}

#[test]
fn what_is_counted_is_what_the_kernel_has_measured() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        (0..2).for_each(|index| lab.ready(index));
        lab.sync();
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "server");
        let server = SocketAddr::new(lab.instances[1].v4.into(), 8080);
        // Each answer measures one: none that is counted is far from those that are seen.
        let seen: Vec<f64> = lab.instances[0].ns.run(|| {
            let stream = TcpStream::connect(server).expect("a connection");
            let one = |_| {
                tcp_ask_on(&stream).expect("an answer");
                shown_us(server)
            };
            (0..20).map(one).collect()
        });
        let (least, most) = (seen.iter().copied().fold(f64::MAX, f64::min), seen.iter().copied().fold(0.0, f64::max));
        let found = lab.dataplane.round_trips().expect("a table");
        let [row] = &found[..] else { panic!("one pair: {found:?}") };
        let (count, sum) = (row.histogram.count(), row.histogram.sum_us);
        assert!(count >= 20, "{row:?}");
        let mean = sum as f64 / count as f64;
        assert!(least / 2.0 <= mean && mean <= most * 2.0, "{mean} us in the mean, where the kernel shows {seen:?}");
        let middle = row.histogram.quantile_us(500).expect("a bucket") as f64;
        assert!(least / 4.0 <= middle && middle <= most * 4.0, "half within {middle} us, the kernel shows {seen:?}");
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn so_many_connections_are_looked_at_in_a_moment() {
    const CONNECTIONS: usize = 200;
    isolated(|cgroup| {
        // A CPU takes so many for itself.
        let mut own = CpuSet::new();
        own.set(sched_getcpu().expect("a CPU")).expect("one of those");
        sched_setaffinity(Pid::from_raw(0), &own).expect("to stay");
        let mut lab = Lab::new(cgroup, 2);
        (0..2).for_each(|index| lab.ready(index));
        lab.sync();
        let listener = lab.instances[1].ns.run(|| TcpListener::bind("[::]:8080").expect("a listener"));
        let server = SocketAddr::new(lab.instances[1].v4.into(), 8080);
        let taken = || map::<u64, RttKey>(hivemind_ebpf::map::RTT_OF).keys().count();
        // On a machine that is busy they may take so long that all could be looked at: then again.
        let (found, most) = until("so many connections in a moment", || {
            let before = taken();
            let start = tokio::time::Instant::now();
            // Open until they are counted: what is closed is forgotten.
            let open: Vec<_> = lab.instances[0].ns.run(|| {
                let one = |_| {
                    let client = TcpStream::connect(server).expect("a connection");
                    (client, listener.accept().expect("its other end"))
                };
                (0..CONNECTIONS).map(one).collect()
            });
            let moments = usize::try_from(start.elapsed().as_millis()).expect("short") / 100 + 2;
            let found = taken() - before;
            drop(open);
            (moments * 32 < CONNECTIONS).then_some((found, moments * 32))
        });
        assert!((32..=most).contains(&found), "{found} of {CONNECTIONS}, at most {most}");
        lab.dataplane.unload().expect("unload");
    });
}
