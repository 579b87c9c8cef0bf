//! Policies, packet by packet: what may leave one instance and enter another.

use std::collections::{BTreeMap, BTreeSet};

use hivemind::{
    dataplane::{Dataplane, bpf::BpfDataplane},
    net::Family,
    policy::{ALL_PORTS, ANYBODY, BLOCK, Direction, EndpointPolicy, RuleKey, RuleRow, interval},
    spec::v1::{Action, PolicyProtocol},
};
use hivemind_ebpf::{abi::Count, map, policy::NEAR_HITS, program, reason::Reason};

use crate::{
    bench::{Bench, Expect, REDIRECT, Row, one_cpu},
    frame::{ACK, Frame, ICMP, ICMPV6, TCP, UDP},
    lab::{self, FAMILIES, GATEWAY, isolated},
};

/// The set of policies that is about instance 1.
pub(crate) const SET: u32 = 77;
pub(crate) const IN: EndpointPolicy =
    EndpointPolicy { sets: [0, 0, SET, 0, 0], isolated_in: true, ruled_in: true, ..EndpointPolicy::NONE };
const BOTH: EndpointPolicy = EndpointPolicy { isolated_out: true, ruled_out: true, ..IN };
/// The sets of the tiers.
pub(crate) const FIRST: u32 = 78;
pub(crate) const LAST: u32 = 79;

/// A frame from instance 0 to a port of instance 1.
pub(crate) fn asks(bench: &Bench, family: Family, protocol: u8, port: u16) -> Frame {
    bench.sent(0, protocol, 6000, (bench.address(1, family), port).into())
}

/// What instance 1 answers to it.
pub(crate) fn answers(bench: &Bench, family: Family, asked: &Frame) -> Frame {
    let mut frame = bench.sent(1, asked.protocol, asked.dst.1, (bench.address(0, family), asked.src.1).into());
    frame.detail = ACK;
    frame
}

pub(crate) fn passes(frame: &Frame) -> Expect {
    Expect::RedirectAs(frame.bytes())
}

impl Bench {
    pub(crate) fn about(&mut self, instance: usize, policy: EndpointPolicy) {
        let ifindex = self.ifindex(instance);
        let row = self.lab.tables.endpoints.get_mut(&ifindex).expect("a row");
        row.policy = policy;
        row.blocks = true;
    }

    /// Only these rules, each with a number of its own; ports are those where intervals begin.
    pub(crate) fn rules(&mut self, rules: &[(Direction, u32, Option<PolicyProtocol>, u32)]) {
        let key = |(direction, peer, protocol, port)| RuleKey { set: SET, direction, peer, protocol, port };
        let row = |number| RuleRow { number, ..RuleRow::default() };
        self.lab.tables.rules = rules.iter().map(|rule| key(*rule)).zip((1..).map(row)).collect();
        self.lab.sync();
    }

    /// Only these rules of sets, about what comes in, in the order in which they decide.
    pub(crate) fn tiers(&mut self, rules: &[(u32, Action, u32, Option<PolicyProtocol>)]) {
        let rules = (1..).zip(rules).map(|(number, (set, action, peer, protocol))| {
            let (direction, port) = (Direction::In, ALL_PORTS);
            let key = RuleKey { set: *set, direction, peer: *peer, protocol: *protocol, port };
            (key, RuleRow { number, action: *action, order: number })
        });
        self.lab.tables.rules = rules.collect();
        self.lab.sync();
    }

    pub(crate) fn answer(&mut self, name: &str, frame: &Frame, expect: Expect) {
        let row = self.sends(name, frame, expect);
        let ifindex = self.ifindex(1);
        self.check(&crate::bench::Row { ifindex, ..row });
    }

    pub(crate) fn ask(&mut self, name: &str, frame: &Frame, expect: Expect) {
        let row = self.sends(name, frame, expect);
        self.check(&row);
    }
}

/// TCP's ports from 8000 to 8100 are an interval.
fn intervals() -> BTreeMap<PolicyProtocol, BTreeSet<u16>> {
    BTreeMap::from([(PolicyProtocol::Tcp, BTreeSet::from([0, 8000, 8101]))])
}

#[test]
fn only_what_a_rule_allows_comes_in_and_a_revoked_rule_cuts() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.about(1, IN);
        bench.lab.tables.intervals = intervals();
        let range = interval(intervals().get(&PolicyProtocol::Tcp), 8050);
        bench.rules(&[(Direction::In, lab::class(0), Some(PolicyProtocol::Tcp), range)]);
        for family in FAMILIES {
            let open = asks(&bench, family, TCP, 8100);
            bench.ask("allowed", &open, passes(&open));
            let answer = answers(&bench, family, &open);
            bench.answer("its answer", &answer, passes(&answer));
            for (name, protocol, port) in [("another port", TCP, 8101), ("another protocol", UDP, 8100)] {
                let frame = asks(&bench, family, protocol, port);
                bench.ask(name, &frame, Expect::Drop(Reason::PolicyIn));
            }
            // What the instance itself begins is answered, though nobody may begin towards it.
            let begun = bench.sent(1, UDP, 5353, (bench.address(0, family), 53).into());
            bench.answer("begins", &begun, passes(&begun));
            let mut back = bench.sent(0, UDP, 53, (bench.address(1, family), 5353).into());
            bench.ask("is answered", &back, passes(&back));
            back.src.1 = 54;
            bench.ask("from another port it is no answer", &back, Expect::Drop(Reason::PolicyIn));
        }
        bench.rules(&[]);
        for family in FAMILIES {
            let more = Frame { detail: ACK, ..asks(&bench, family, TCP, 8100) };
            bench.ask("revoked", &more, Expect::Drop(Reason::PolicyIn));
        }
        bench.rules(&[(Direction::In, ANYBODY, None, ALL_PORTS)]);
        for family in FAMILIES {
            for (protocol, port) in [(TCP, 8100), (UDP, 1), (if family == Family::V4 { ICMP } else { ICMPV6 }, 0)] {
                let frame = asks(&bench, family, protocol, port);
                bench.ask("everything", &frame, passes(&frame));
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn who_asks_for_the_same_again_is_not_judged_again_until_the_tables_change() {
    isolated(|cgroup| {
        // What was decided is kept by CPU.
        one_cpu();
        let mut bench = Bench::new(cgroup);
        bench.about(1, IN);
        bench.rules(&[(Direction::In, lab::class(0), None, ALL_PORTS)]);
        let from = |bench: &Bench, family, port| Frame {
            src: (bench.address(0, family), port),
            ..asks(bench, family, TCP, 8080)
        };
        for family in FAMILIES {
            let first = from(&bench, family, 6000);
            bench.ask("judged by its rule", &first, passes(&first));
        }
        // Behind the programs' back: what is judged now finds no rule.
        let mut rules = lab::map::<hivemind_ebpf::abi::RuleKey, hivemind_ebpf::abi::Rule>(map::RULES);
        let keys: Vec<_> = rules.keys().map(|key| key.expect("a key")).collect();
        assert_eq!(keys.len(), 1);
        rules.remove(&keys[0]).expect("removed");
        for family in FAMILIES {
            let again = from(&bench, family, 6001);
            bench.ask("the same again", &again, passes(&again));
            let other = Frame { dst: (again.dst.0, 8081), ..again };
            bench.ask("something else", &other, Expect::Drop(Reason::PolicyIn));
        }
        // Whatever changes in the tables, nothing older is believed.
        bench.lab.tables.node_addresses.insert("192.0.2.77".parse().expect("an address"));
        bench.lab.sync();
        for family in FAMILIES {
            let again = from(&bench, family, 6002);
            bench.ask("by other tables", &again, Expect::Drop(Reason::PolicyIn));
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn both_directions_are_judged_and_answers_pass() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.about(1, BOTH);
        bench.rules(&[
            (Direction::In, lab::class(0), Some(PolicyProtocol::Udp), ALL_PORTS),
            (Direction::Out, lab::class(2), None, ALL_PORTS),
        ]);
        for family in FAMILIES {
            let asked = asks(&bench, family, UDP, 53);
            let answer = answers(&bench, family, &asked);
            bench.answer("before it was asked", &answer, Expect::Drop(Reason::PolicyOut));
            bench.ask("asked", &asked, passes(&asked));
            bench.answer("answered", &answer, passes(&answer));
            let begun = Frame { src: (answer.src.0, 7777), ..answer.clone() };
            bench.answer("begun", &begun, Expect::Drop(Reason::PolicyOut));
            let gateway = if family == Family::V4 { GATEWAY.0.into() } else { std::net::IpAddr::from(GATEWAY.1) };
            let to_node = bench.sent(1, UDP, 5000, (gateway, 53).into());
            bench.answer("to its own node", &to_node, Expect::Pass);
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn audit_lets_pass_and_counts() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.about(1, EndpointPolicy { audit_in: true, ..IN });
        bench.rules(&[]);
        let frame = asks(&bench, Family::V4, TCP, 8080);
        let (verdict, _) = bench.run(program::FROM_CONTAINER, &frame.bytes(), bench.ifindex(0));
        assert_eq!(verdict, crate::bench::REDIRECT);
        let ifindex = bench.ifindex(1);
        let counters = bench.lab.dataplane.counters().expect("counters");
        let audited = counters.iter().find(|c| c.endpoint == ifindex && c.reason == Some(Reason::Audit));
        assert_eq!(audited.expect("counted").packets, 1);
        let told = bench.lab.dataplane.drops().expect("drops");
        let told = told.iter().find(|drops| drops.reason == Reason::Audit).expect("it is told who it was");
        assert_eq!((told.device, told.direction, told.packets), (ifindex, Direction::In, 1));
        let (from, to) = told.ends.expect("ends");
        assert!(from.ip() == bench.address(0, Family::V4) && to.port() == 8080, "{told:?}");
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn fragments_follow_their_first_and_errors_pass() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.about(1, IN);
        bench.rules(&[(Direction::In, lab::class(0), Some(PolicyProtocol::Udp), ALL_PORTS)]);
        let whole = asks(&bench, Family::V4, UDP, 53);
        let later = Frame { fragment: 185, ..whole.clone() };
        bench.ask("a later fragment alone", &later, Expect::Drop(Reason::Fragment));
        let first = Frame { fragment: 0x2000, ..whole };
        // Another instance says that it is this one's, and where it goes.
        let other = &bench.lab.instances[1].link;
        let (from_mac, to_mac, ifindex) = (other.instance_mac.0, other.host_mac.0, other.ifindex);
        let packet = Frame { from_mac, to_mac, ..first.clone() }.bytes();
        let (name, program, expect) = ("forged".into(), program::FROM_CONTAINER, Expect::Drop(Reason::SpoofedAddress));
        bench.check(&Row { name, program, ifindex, packet, expect });
        bench.ask("a later fragment after a forged first", &later, Expect::Drop(Reason::Fragment));
        bench.ask("the first", &first, passes(&first));
        bench.ask("a later one after it", &later, passes(&later));
        for (family, protocol, kind) in [(Family::V4, ICMP, 3), (Family::V6, ICMPV6, 2)] {
            // What instance 1 has sent to instance 0, which may not begin towards it, comes back as an error.
            let begun = bench.sent(1, UDP, 5353, (bench.address(0, family), 53).into());
            let told = |bench: &Bench, frame: &Frame| {
                let link = &bench.lab.instances[0].link;
                let error = Frame::error(kind, bench.address(0, family), frame);
                Frame { from_mac: link.instance_mac.0, to_mac: link.host_mac.0, ..error }
            };
            let error = told(&bench, &begun);
            bench.ask("an error about nothing", &error, Expect::Drop(Reason::Unrelated));
            bench.answer("begins", &begun, passes(&begun));
            bench.ask("an error about it", &error, passes(&error));
            let other = told(&bench, &Frame { src: (begun.src.0, 5354), ..begun });
            bench.ask("an error about another", &other, Expect::Drop(Reason::Unrelated));
            let echo =
                Frame { detail: if family == Family::V4 { 8 } else { 128 }, ..asks(&bench, family, protocol, 0) };
            bench.ask("a ping", &echo, Expect::Drop(Reason::PolicyIn));
            // That it pings is answered, and by that nobody may ping it.
            let asks = echo.detail;
            let mut ping = bench.sent(1, protocol, 0, (bench.address(0, family), 0).into());
            (ping.detail, ping.ident) = (asks, 77);
            bench.answer("pings", &ping, passes(&ping));
            let back = Frame { ident: 77, ..echo };
            bench.ask("a ping back with its identification", &back, Expect::Drop(Reason::PolicyIn));
            let reply = Frame { detail: if family == Family::V4 { 0 } else { 129 }, ..back };
            bench.ask("the answer", &reply, passes(&reply));
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_block_is_who_is_in_it() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.about(1, IN);
        let class = BLOCK | 9;
        for (family, block, hole) in
            [(Family::V4, "10.88.0.0/24", "10.88.0.9/32"), (Family::V6, "fd68:6d00:0:1::/112", "fd68:6d00:0:1::9/128")]
        {
            let net = |text: &str| text.parse::<ipnet::IpNet>().expect("a block");
            bench.lab.tables.blocks.extend([(net(block), class), (net(hole), 0)]);
            bench.rules(&[(Direction::In, class, Some(PolicyProtocol::Tcp), ALL_PORTS)]);
            let frame = asks(&bench, family, TCP, 8080);
            bench.ask("in the block", &frame, passes(&frame));
            let host = if family == Family::V4 { 32 } else { 128 };
            let own = ipnet::IpNet::new(bench.address(0, family), host).expect("a block");
            bench.lab.tables.blocks.insert(own, 0);
            bench.lab.sync();
            let frame = asks(&bench, family, TCP, 8081);
            bench.ask("in a hole of it", &frame, Expect::Drop(Reason::PolicyIn));
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn tiers_decide_before_and_after_the_namespace() {
    use Action::{Accept, Deny, Pass};
    let udp = Some(PolicyProtocol::Udp);
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let open = EndpointPolicy { sets: [FIRST, 0, 0, 0, LAST], isolated_in: false, ..IN };
        let closed = EndpointPolicy { sets: [FIRST, 0, SET, 0, LAST], ..IN };
        let trial = EndpointPolicy { audit_in: true, ..closed };
        let class = lab::class(0);
        for (name, about, rules, passed) in [
            ("nobody decides", open, &[][..], true),
            ("the first tier denies", open, &[(FIRST, Deny, ANYBODY, udp)], false),
            ("another protocol", open, &[(FIRST, Deny, ANYBODY, Some(PolicyProtocol::Tcp))], true),
            ("a broad rule in front", open, &[(FIRST, Deny, ANYBODY, None), (FIRST, Accept, class, udp)], false),
            ("a narrow rule in front", open, &[(FIRST, Accept, class, udp), (FIRST, Deny, ANYBODY, None)], true),
            ("accepted before the namespace", closed, &[(FIRST, Accept, ANYBODY, None)], true),
            (
                "passed on to the namespace",
                closed,
                &[(FIRST, Pass, ANYBODY, None), (FIRST, Accept, class, None)],
                false,
            ),
            (
                "which allows",
                closed,
                &[(FIRST, Pass, ANYBODY, None), (FIRST, Deny, class, udp), (SET, Accept, class, udp)],
                true,
            ),
            ("which is not overruled", closed, &[(LAST, Accept, ANYBODY, None)], false),
            ("the last tier denies", open, &[(LAST, Deny, class, None)], false),
            ("the last tier passes it on", open, &[(LAST, Pass, class, None), (LAST, Deny, ANYBODY, None)], true),
            ("a trial hides no last tier", trial, &[(SET, Accept, class, None), (LAST, Deny, class, None)], false),
            ("and allows nothing more", trial, &[(SET, Accept, class, None), (LAST, Accept, class, None)], true),
        ] {
            bench.about(1, about);
            bench.tiers(rules);
            for family in FAMILIES {
                let frame = asks(&bench, family, UDP, 53);
                bench.ask(name, &frame, if passed { passes(&frame) } else { Expect::Drop(Reason::PolicyIn) });
            }
        }
        // What a rule denies is counted for it, once for each packet.
        bench.about(1, open);
        bench.tiers(&[(FIRST, Accept, ANYBODY, Some(PolicyProtocol::Tcp)), (FIRST, Deny, ANYBODY, udp)]);
        let hits = |bench: &mut Bench| bench.lab.dataplane.rule_hits().expect("hits").get(&2).copied().unwrap_or(0);
        let before = hits(&mut bench);
        for _ in 0..3 {
            let frame = asks(&bench, Family::V4, UDP, 53);
            let packet = frame.bytes();
            assert_eq!(bench.run(program::FROM_CONTAINER, &packet, bench.ifindex(0)).0, crate::bench::DROP);
        }
        assert_eq!(hits(&mut bench) - before, 3);
        // An instance that only a tier is about is answered, though its tier denies that one begins towards it.
        bench.about(1, open);
        bench.tiers(&[(FIRST, Deny, ANYBODY, None)]);
        let begun = bench.sent(1, UDP, 5353, (bench.address(0, Family::V4), 53).into());
        bench.answer("begins", &begun, passes(&begun));
        let back = bench.sent(0, UDP, 53, (bench.address(1, Family::V4), 5353).into());
        bench.ask("is answered", &back, passes(&back));
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn what_rules_decide_is_counted_exactly_wherever_it_is_counted() {
    isolated(|cgroup| {
        one_cpu();
        let mut bench = Bench::new(cgroup);
        bench.about(1, IN);
        // Three rules for one place, each for a protocol.
        let [first, second, third] = [3, 3 + NEAR_HITS, 3 + 2 * NEAR_HITS];
        let row = |protocol, number| {
            let key = RuleKey { set: SET, direction: Direction::In, peer: ANYBODY, protocol, port: ALL_PORTS };
            (key, RuleRow { number, ..RuleRow::default() })
        };
        let rules = [(PolicyProtocol::Tcp, first), (PolicyProtocol::Udp, second), (PolicyProtocol::Icmp, third)];
        bench.lab.tables.rules = rules.into_iter().map(|(protocol, number)| row(Some(protocol), number)).collect();
        bench.lab.sync();
        // Each is the beginning of a flow, judged the first time and known the next times.
        let mut port = 6000;
        let mut begins = |bench: &Bench, protocol, times| {
            for _ in 0..times {
                port += 1;
                let mut frame =
                    Frame { src: (bench.address(0, Family::V4), port), ..asks(bench, Family::V4, protocol, 53) };
                if protocol == ICMP {
                    (frame.detail, frame.ident) = (8, port);
                }
                let verdict = bench.run(program::FROM_CONTAINER, &frame.bytes(), bench.ifindex(0)).0;
                assert_eq!(verdict, REDIRECT, "{protocol}");
            }
        };
        let hits = |bench: &mut Bench| {
            let hits = bench.lab.dataplane.rule_hits().expect("hits");
            [first, second, third].map(|rule| hits.get(&rule).copied().unwrap_or(0))
        };
        for (protocol, times, counted) in
            [(TCP, 5, [5, 0, 0]), (UDP, 3, [5, 3, 0]), (TCP, 1, [6, 3, 0]), (ICMP, 2, [6, 3, 2])]
        {
            begins(&bench, protocol, times);
            assert_eq!(hits(&mut bench), counted);
        }
        // At another generation the place is whose who counts first, and nothing that was counted is lost.
        bench.lab.tables.node_addresses.insert("192.0.2.77".parse().expect("an address"));
        bench.lab.sync();
        for (protocol, times, counted) in
            [(UDP, 4, [6, 7, 2]), (TCP, 2, [8, 7, 2]), (ICMP, 1, [8, 7, 3]), (UDP, 1, [8, 8, 3])]
        {
            begins(&bench, protocol, times);
            assert_eq!(hits(&mut bench), counted);
        }
        // A daemon that follows reads the same.
        bench.lab.dataplane = BpfDataplane::open(lab::config(cgroup)).expect("to take over");
        assert_eq!(hits(&mut bench), [8, 8, 3]);
        // While it is on its way from near to far it is in neither: who reads then is told what there was.
        let mut far = aya::maps::PerCpuHashMap::<_, u32, Count>::try_from(lab::any_map(map::HITS)).expect("its types");
        let rules: Vec<u32> = far.keys().map(|rule| rule.expect("a key")).collect();
        assert!(!rules.is_empty(), "something was counted far");
        let nothing = || aya::maps::PerCpuValues::try_from(vec![Count::default(); aya::util::nr_cpus().expect("CPUs")]);
        rules.iter().for_each(|rule| far.insert(rule, nothing().expect("one for each"), 0).expect("written"));
        assert_eq!(hits(&mut bench), [8, 8, 3], "it never falls");
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_hundred_thousand_rules_are_held_and_looked_up() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.about(1, IN);
        let (set, direction, protocol, port) = (SET, Direction::In, Some(PolicyProtocol::Udp), ALL_PORTS);
        let key = |peer| RuleKey { set, direction, peer, protocol, port };
        let row = |number| RuleRow { number, ..RuleRow::default() };
        let filler = (1..100_000).map(|n| (key(1_000_000 + n), row(n)));
        bench.lab.tables.rules = filler.chain([(key(lab::class(0)), row(100_000))]).collect();
        bench.lab.sync();
        for family in FAMILIES {
            let frame = asks(&bench, family, UDP, 53);
            bench.ask("allowed by the last", &frame, passes(&frame));
            let other = asks(&bench, family, TCP, 53);
            bench.ask("allowed by none", &other, Expect::Drop(Reason::PolicyIn));
        }
        bench.lab.tables.rules.clear();
        bench.lab.sync();
        bench.ask("after all are gone", &asks(&bench, Family::V4, UDP, 53), Expect::Drop(Reason::PolicyIn));
        bench.lab.dataplane.unload().expect("to unload");
    });
}
