//! What silence does to a flow whose row is still there: the sweep comes now and then only, a packet at any time.

use hivemind::{dataplane::Dataplane, policy::EndpointPolicy};
use hivemind_ebpf::{
    abi::{Addr, Flow, FlowKey, Forward, Hop, Tuple},
    map,
    reason::Reason,
};

use crate::{
    bench::{Bench, Expect},
    frame::{Frame, TCP, UDP},
    lab::{self, FAMILIES, isolated},
};

/// Changes every row of a table, behind the programs' back.
pub(crate) fn each<K: aya::Pod, V: aya::Pod>(name: &str, change: impl Fn(&mut V)) {
    let mut rows = lab::map::<K, V>(name);
    let all: Vec<_> = rows.iter().map(|row| row.expect("a row")).collect();
    assert!(!all.is_empty(), "{name} has rows");
    for (key, mut value) in all {
        change(&mut value);
        rows.insert(key, value, 0).expect("changed");
    }
}

/// So long ago that no flow outlives it but an established connection of TCP: when the machine was started.
const LONG_AGO: u64 = 1;

#[test]
fn an_answer_after_too_long_a_silence_is_none() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let closed =
            EndpointPolicy { sets: [0, 0, 77, 0, 0], isolated_in: true, ruled_in: true, ..EndpointPolicy::NONE };
        let ifindex = bench.ifindex(1);
        bench.lab.tables.endpoints.get_mut(&ifindex).expect("a row").policy = closed;
        bench.lab.sync();
        for family in FAMILIES {
            // Long enough for the quick way.
            let long = |frame| Frame { payload: vec![7; 64], ..frame };
            let asks = long(bench.sent(1, UDP, 5353, (bench.address(0, family), 53).into()));
            let answer = long(bench.sent(0, UDP, 53, (bench.address(1, family), 5353).into()));
            let there = Expect::RedirectAs(asks.bytes());
            bench.check(&bench.sends_from(1, "asks", &asks, there));
            let back = Expect::RedirectAs(answer.bytes());
            bench.check(&bench.sends("is answered", &answer, back));
            each::<FlowKey, Flow>(map::FLOWS, |row| row.last_ns = LONG_AGO);
            bench.check(&bench.sends("much too late", &answer, Expect::Drop(Reason::PolicyIn)));
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn what_goes_on_after_too_long_a_silence_is_another_flow() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        for family in FAMILIES {
            // By a virtual address: the quick way is not for it.
            let asks = bench.sent(0, UDP, 5000, crate::bench::service(family, 1));
            let there = Frame { dst: (bench.address(1, family), 8080), ..asks.clone() }.bytes();
            for _ in 0..3 {
                bench.check(&bench.sends("asks", &asks, Expect::RedirectAs(there.clone())));
            }
            let sent = || {
                let rows = lab::map::<FlowKey, Flow>(map::FLOWS);
                let sent: Vec<u64> = rows.iter().map(|row| row.expect("a row").1.packets.iter().sum()).collect();
                sent
            };
            assert_eq!(sent(), [3]);
            each::<FlowKey, Flow>(map::FLOWS, |row| row.last_ns = LONG_AGO);
            bench.check(&bench.sends("asks again", &asks, Expect::RedirectAs(there)));
            assert_eq!(sent(), [1], "a record of its own");
            let mut rows = lab::map::<FlowKey, Flow>(map::FLOWS);
            let key = rows.keys().next().expect("a row").expect("a key");
            rows.remove(&key).expect("removed");
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_driver_sends_to_a_next_hop_for_a_second_and_a_flow_while_it_speaks() {
    isolated(|cgroup| {
        let mut bench = crate::tunnel::bench(cgroup);
        for family in FAMILIES {
            for protocol in [TCP, UDP] {
                let (more, there) = crate::tunnel::begun(&mut bench, family, protocol);
                bench.sent_on("the next hop is known", &more, there);
                each::<Addr, Hop>(map::HOPS, |hop| hop.since_ns = hop.since_ns.saturating_sub(2_000_000_000));
                bench.left("its neighbours are asked again", &more);
                bench.sent_on("and it goes on", &more, there);
                each::<Tuple, Forward>(map::FORWARDS, |row| row.last_ns = LONG_AGO);
                bench.learns(&more, there);
                bench.left("silent for long", &more);
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}
