//! Round-trip times that TCP has measured, by who asks whom.

use std::net::SocketAddr;

use hivemind::{dataplane::Dataplane, model::Protocol};

use super::{
    in_both_ways,
    lab::{FAMILIES, Lab, class, past_the_sockets, vip},
    traffic::{Echo, tcp_ask},
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
            let (count, sum) = (row.histogram.count(), row.histogram.sum_us);
            assert!((2..100).contains(&count) && sum > 0, "{row:?}");
            let most = row.histogram.quantile_us(1_000).expect("some");
            assert!(most < 1 << 20 && sum <= count * most, "no second on one machine: {row:?}");
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
