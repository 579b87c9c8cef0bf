//! Policies of the host and of published ports, from the document to the packet.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use hivemind::{
    dataplane::{Dataplane, flows::DropRecord, tables::PeerRow},
    net::Family,
};
use hivemind_ebpf::{
    policy::HOST,
    program,
    reason::Reason::{self, HostIn, HostOut, Published, Rejected, SourceRange},
    refusal,
};

use crate::{
    bench::{Bench, DROP, Expect, PASS, REDIRECT, Row},
    frame::{ACK, Frame, ICMP, ICMPV6, RST, SYN, TCP, UDP},
    lab::{FAMILIES, GATEWAY, isolated, outside as client, uplink as node},
};

const IN: &str = program::FROM_UPLINK;
const OUT: &str = program::TO_UPLINK;

/// The interface index of the uplink.
fn uplink() -> u32 {
    nix::net::if_::if_nametoindex("uplink").expect("a device")
}

/// What the client sends to a port of the node.
fn comes(family: Family, protocol: u8, from: u16, to: u16) -> Frame {
    Frame::new(protocol, (client(family), from), (node(family), to))
}

/// The same ends, the other way.
fn back(frame: &Frame) -> Frame {
    Frame { src: frame.dst, dst: frame.src, detail: if frame.protocol == TCP { ACK } else { 0 }, ..frame.clone() }
}

impl Bench {
    /// Only these policies of the host.
    fn host(&mut self, text: &str) {
        self.lab.host(text);
        self.lab.sync();
    }

    fn at(&mut self, name: &str, program: &'static str, frame: &Frame, expect: Expect) {
        let family = if frame.src.0.is_ipv4() { "v4" } else { "v6" };
        let row = Row { name: format!("{family}: {name}"), program, ifindex: uplink(), packet: frame.bytes(), expect };
        self.check(&row);
    }

    fn says(&mut self, name: &str, frame: &Frame, expect: Expect) {
        let row = self.sends(name, frame, expect);
        self.check(&row);
    }
}

#[test]
fn nothing_comes_into_a_closed_host_but_what_it_lives_by_and_answers() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.host("policy: p\nhost: {}\ningress: [{ports: [80]}]\n");
        for family in FAMILIES {
            for protocol in [TCP, UDP] {
                let frame = comes(family, protocol, 5000, 81);
                bench.at("closed", IN, &frame, Expect::Drop(HostIn));
                let own = Frame { src: (node(family), 5000), ..frame.clone() };
                bench.at("as the host itself", IN, &own, Expect::Drop(Reason::SpoofedAddress));
                // What is only passed on is no concern of the host's.
                let elsewhere = if family == Family::V4 { "203.0.113.9" } else { "2001:db8:9::9" };
                let through = Frame { dst: (elsewhere.parse().expect("an address"), 81), ..frame };
                bench.at("to somebody else", IN, &through, Expect::Pass);
                // What the host begins is answered, by that port only.
                let begun = back(&comes(family, protocol, 53, 6000));
                let begun = Frame { detail: if protocol == TCP { SYN } else { 0 }, ..begun };
                bench.at("begins", OUT, &begun, Expect::Pass);
                bench.at("is answered", IN, &back(&begun), Expect::Pass);
                bench.at("another port is no answer", IN, &comes(family, protocol, 54, 6000), Expect::Drop(HostIn));
            }
            bench.at("allowed", IN, &comes(family, TCP, 5001, 80), Expect::Pass);
            bench.at("a fail-safe port", IN, &comes(family, TCP, 5001, 22), Expect::Pass);
            let v4 = family == Family::V4;
            let ping = if v4 { (ICMP, 8) } else { (ICMPV6, 128) };
            let message = |protocol, detail| Frame { detail, ..comes(family, protocol, 0, 0) };
            bench.at("a ping", IN, &message(ping.0, ping.1), Expect::Drop(HostIn));
            if !v4 {
                for detail in [130, 133, 134, 135, 136, 143] {
                    bench.at("what IPv6 lives by", IN, &message(ICMPV6, detail), Expect::Pass);
                }
            }
            let error = Frame::error(if v4 { 3 } else { 2 }, client(family), &back(&comes(family, UDP, 9, 9)));
            bench.at("an error", IN, &error, Expect::Pass);
            let group: IpAddr = if v4 { [224, 0, 0, 251].into() } else { "ff02::fb".parse().expect("an address") };
            let cast = Frame { dst: (group, 5353), ..comes(family, UDP, 5353, 5353) };
            bench.at("to a group", IN, &cast, Expect::Drop(HostIn));
            // To whom the link gives it to everybody, or to a group, nobody's address says that it is not the host.
            let elsewhere = if v4 { "203.0.113.255" } else { "2001:db8:9::9" };
            let elsewhere: IpAddr = elsewhere.parse().expect("an address");
            for to_mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
                let cast = Frame { to_mac, dst: (elsewhere, 81), ..comes(family, UDP, 5354, 81) };
                bench.at("by the link to all", IN, &cast, Expect::Drop(HostIn));
            }
            // The stack takes up to two tags off: what is behind them is not read, and not let in either.
            for tags in [&[0x81, 0x00, 0, 5][..], &[0x88, 0xa8, 0, 5], &[0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6]] {
                let mut packet = comes(family, TCP, 5001, 80).bytes();
                packet.splice(12..12, tags.iter().copied());
                let row = |expect| Row { name: format!("{tags:x?}"), program: IN, ifindex: uplink(), packet, expect };
                bench.check(&row(Expect::Drop(Reason::EtherType)));
            }
        }
        let igmp = Frame::new(2, (client(Family::V4), 0), (IpAddr::from([224, 0, 0, 1]), 0));
        bench.at("IGMP", IN, &igmp, Expect::Pass);
        // A rule that goes cuts what it had allowed.
        bench.host("policy: p\nhost: {}\ningress: []\n");
        for family in FAMILIES {
            let more = Frame { detail: ACK, ..comes(family, TCP, 5001, 80) };
            bench.at("revoked", IN, &more, Expect::Drop(HostIn));
            let more = Frame { detail: ACK, ..comes(family, TCP, 5001, 22) };
            bench.at("the fail-safe port stays", IN, &more, Expect::Pass);
        }
        bench.host("");
        bench.at("no policy", IN, &comes(Family::V4, UDP, 5000, 81), Expect::Pass);
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn nothing_goes_out_of_a_closed_host_but_answers() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.host("policy: p\nhost: {}\negress: [{to: [{block: 192.0.2.2/32}, {block: \"2001:db8::2/128\"}], ports: [443]}]\n");
        for family in FAMILIES {
            let goes = |protocol, port| Frame {
                detail: if protocol == TCP { SYN } else { 0 },
                ..back(&comes(family, protocol, port, 40_000))
            };
            bench.at("allowed", OUT, &goes(TCP, 443), Expect::Pass);
            bench.at("its answer, and what comes in is open", IN, &back(&goes(TCP, 443)), Expect::Pass);
            bench.at("closed", OUT, &goes(TCP, 80), Expect::Drop(HostOut));
            bench.at("another protocol", OUT, &goes(UDP, 443), Expect::Drop(HostOut));
            bench.at("a fail-safe port", OUT, &goes(UDP, 123), Expect::Pass);
            let asks = comes(family, TCP, 7000, 8000);
            bench.at("asked", IN, &asks, Expect::Pass);
            bench.at("answers", OUT, &back(&asks), Expect::Pass);
            // A table without a row of theirs must not lock out those who come by a fail-safe port.
            bench.at("an answer of SSH that nobody knows", OUT, &back(&comes(family, TCP, 7001, 22)), Expect::Pass);
            let begun = Frame { detail: SYN, ..back(&comes(family, TCP, 7002, 22)) };
            bench.at("which begins nothing", OUT, &begun, Expect::Drop(HostOut));
            let strange = Frame {
                src: (IpAddr::from([198, 51, 100, 9]), 1),
                dst: (IpAddr::from([192, 0, 2, 2]), 1),
                ..goes(UDP, 80)
            };
            bench.at("of somebody else", OUT, &strange, Expect::Pass);
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn instances_reach_the_host_by_its_rules_and_its_names_always() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        // What reaches the node by its networks.
        for address in ["192.0.2.255", "2001:db8::"] {
            let row = PeerRow { class: HOST, tenant: 0, ifindex: 0, node: None };
            bench.lab.tables.peers.insert(address.parse().expect("an address"), row);
        }
        bench.host("policy: p\nhost: {}\ningress: [{from: [{block: 10.88.0.2/32}, {block: \"fd68:6d00:0:1::2/128\"}], ports: [9100]}]\n");
        for family in FAMILIES {
            let gateway = if family == Family::V4 { GATEWAY.0.into() } else { IpAddr::from(GATEWAY.1) };
            for address in [gateway, node(family)] {
                let to = |port| SocketAddr::new(address, port);
                bench.says("closed", &bench.sent(0, TCP, 5000, to(22)), Expect::Drop(HostIn));
                bench.says("allowed", &bench.sent(0, TCP, 5000, to(9100)), Expect::Pass);
                let names = if address == gateway { Expect::Pass } else { Expect::Drop(HostIn) };
                bench.says("names", &bench.sent(0, UDP, 5000, to(53)), names.clone());
                bench.says("long answers about names", &bench.sent(0, TCP, 5000, to(53)), names);
            }
            // What its networks and their routers are reached by is the host's as well.
            let networks = if family == Family::V4 { "192.0.2.255" } else { "2001:db8::" };
            let network = SocketAddr::new(networks.parse().expect("an address"), 22);
            bench.says("its network's", &bench.sent(0, UDP, 5000, network), Expect::Drop(HostIn));
            let outside = SocketAddr::new(client(family), 80);
            bench.says("the outside is not the host", &bench.sent(0, TCP, 5000, outside), Expect::Pass);
            // A health check: the host begins, and the instance answers.
            let own = (bench.address(0, family), 8080);
            let check = bench.by_device(0, Frame::new(TCP, (gateway, 40_000), own));
            let (program, ifindex) = (program::TO_CONTAINER, bench.ifindex(0));
            bench.check(&Row { name: "a check".into(), program, ifindex, packet: check.bytes(), expect: Expect::Pass });
            let answer = Frame { detail: ACK | SYN, ..bench.sent(0, TCP, 8080, (gateway, 40_000).into()) };
            bench.says("its answer", &answer, Expect::Pass);
        }
        bench.host("policy: p\nhost: {}\ningress: []\n");
        for family in FAMILIES {
            let more = Frame { detail: ACK, ..bench.sent(0, TCP, 5000, (node(family), 9100).into()) };
            bench.says("revoked", &more, Expect::Drop(HostIn));
            let gateway = if family == Family::V4 { GATEWAY.0.into() } else { IpAddr::from(GATEWAY.1) };
            let answer = Frame { detail: ACK, ..bench.sent(0, TCP, 8080, (gateway, 40_000).into()) };
            bench.says("the check is still answered", &answer, Expect::Pass);
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn published_ports_are_judged_by_the_ports_of_the_node() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.host("policy: p\nhost: {}\ningress: []\npublished: [{from: [world], ports: [9000]}]\n");
        let publish = nix::net::if_::if_nametoindex("hm-pub").expect("a device");
        for family in FAMILIES {
            let asks = comes(family, TCP, 7000, 9000);
            bench.at("a closed host leaves published ports to their rules", IN, &asks, Expect::Pass);
            let there = bench.by_device(1, Frame { dst: (bench.address(1, family), 8080), ..asks.clone() });
            let row = |frame: &Frame, expect| Row {
                name: "accepted".into(),
                program: program::PUB_SELECT,
                ifindex: publish,
                packet: frame.bytes(),
                expect,
            };
            bench.check(&row(&asks, Expect::RedirectAs(there.bytes())));
            // An instance is not of the world, and 9002 is in no rule.
            let inside = Frame { src: (bench.address(0, family), 7000), ..asks };
            bench.check(&row(&inside, Expect::Drop(Published)));
            let friend = if family == Family::V4 { "198.51.100.1" } else { "2001:db8:7::1" };
            let friend = Frame { src: (friend.parse().expect("an address"), 7000), ..comes(family, TCP, 7000, 9002) };
            bench.check(&row(&friend, Expect::Drop(Published)));
        }
        bench.host("policy: p\nhost: {}\notherwise: reject\npublished: [{from: [world], ports: [9002]}]\n");
        for family in FAMILIES {
            let more = Frame { detail: ACK, ..comes(family, TCP, 7000, 9000) };
            bench.at("revoked", IN, &more, Expect::Drop(Rejected));
            let answer = Frame { detail: ACK, ..bench.sent(1, TCP, 8080, (client(family), 7000).into()) };
            let row = bench.sends("and its answer", &answer, Expect::Drop(Rejected));
            bench.check(&Row { ifindex: bench.ifindex(1), ..row });
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn who_is_in_no_source_range_any_more_is_cut() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let friends = [(Family::V4, "198.51.100.1"), (Family::V6, "2001:db8:7::1")];
        let asks = |(family, friend): (Family, &str)| Frame {
            src: (friend.parse().expect("an address"), 7100),
            ..comes(family, TCP, 7100, 9002)
        };
        let publish = nix::net::if_::if_nametoindex("hm-pub").expect("a device");
        for friend in friends {
            let there = bench.by_device(1, Frame { dst: (bench.address(1, friend.0), 8080), ..asks(friend) });
            let (name, program, expect) = ("begun".into(), program::PUB_SELECT, Expect::RedirectAs(there.bytes()));
            bench.check(&Row { name, program, ifindex: publish, packet: asks(friend).bytes(), expect });
        }
        let sources = std::mem::take(&mut bench.lab.tables.sources).into_iter();
        bench.lab.tables.sources = sources.filter(|(_, range)| range.prefix_len() == 32).collect();
        bench.lab.sync();
        for friend in friends {
            let more = Frame { detail: ACK, ..asks(friend) };
            bench.at("no friend any more", IN, &more, Expect::Drop(SourceRange));
            let answer = Frame { detail: ACK, ..bench.sent(1, TCP, 8080, more.src.into()) };
            let row = bench.sends("nor is the answer sent", &answer, Expect::Drop(SourceRange));
            bench.check(&Row { ifindex: bench.ifindex(1), ..row });
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn what_is_rejected_is_answered_and_icmp_at_most_so_often() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        bench.host("policy: p\nhost: {}\notherwise: reject\ningress: [{action: deny, ports: [113]}]\negress: []\n");
        for family in FAMILIES {
            let ping = if family == Family::V4 { (ICMP, 8, 0) } else { (ICMPV6, 128, 129) };
            for protocol in [TCP, UDP] {
                bench.at("in", IN, &comes(family, protocol, 5000, 81), Expect::Drop(Rejected));
                let goes = back(&comes(family, protocol, 81, 5000));
                let goes = Frame { detail: if protocol == TCP { SYN } else { 0 }, ..goes };
                bench.at("out", OUT, &goes, Expect::Drop(Rejected));
            }
            bench.at(
                "a reset is never answered",
                IN,
                &Frame { detail: RST, ..comes(family, TCP, 1, 2) },
                Expect::Drop(Rejected),
            );
            bench.at("a ping", IN, &Frame { detail: ping.1, ..comes(family, ping.0, 0, 0) }, Expect::Drop(Rejected));
            bench.at(
                "its answer",
                IN,
                &Frame { detail: ping.2, ..comes(family, ping.0, 0, 0) },
                Expect::Drop(Rejected),
            );
            bench.at("silence is asked for", IN, &comes(family, TCP, 5000, 113), Expect::Drop(HostIn));
        }
        // Which second it is that the programs count in is theirs to say: two of them may lie in so many packets.
        let most = usize::try_from(refusal::MESSAGES).expect("few");
        let mut answered = BTreeMap::new();
        for n in 0..4 * most {
            for protocol in [TCP, UDP] {
                let port = 10_000 + u16::try_from(n).expect("few");
                let (verdict, _) = bench.run(IN, &comes(Family::V4, protocol, port, 81).bytes(), uplink());
                assert!(verdict == REDIRECT || verdict == DROP && protocol == UDP);
                *answered.entry(protocol).or_insert(0) += usize::from(verdict == REDIRECT);
            }
        }
        assert_eq!(answered[&TCP], 4 * most, "a reset is no more than what came");
        assert!((most - 20..=2 * most).contains(&answered[&UDP]), "{answered:?}");
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        while bench.run(IN, &comes(Family::V4, UDP, 9, 81).bytes(), uplink()).0 != REDIRECT {
            assert!(tokio::time::Instant::now() < deadline, "the next second has its own");
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn what_a_policy_on_trial_would_deny_passes_and_is_counted() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let publish = nix::net::if_::if_nametoindex("hm-pub").expect("a device");
        let trial = "policy: t\nhost: {}\naudit: true\negress: []\npublished: [{ports: [9002]}]\n";
        bench.host(&format!("{trial}ingress: [{{ports: [80]}}]\n"));
        // What passes, and by how many the count of the direction rises.
        let passes = |bench: &mut Bench, name: &str, program: &str, frame: &Frame, device, counted: u64| {
            let direction = u8::from(program != OUT);
            let before = bench.lab.packets(0, direction, Reason::Audit as u8);
            let (verdict, _) = bench.run(program, &frame.bytes(), device);
            assert_ne!(verdict, DROP, "{name}");
            assert_eq!(bench.lab.packets(0, direction, Reason::Audit as u8) - before, counted, "{name}");
        };
        for family in FAMILIES {
            let denied = comes(family, TCP, 5000, 81);
            passes(&mut bench, "no rule", IN, &denied, uplink(), 1);
            let told = bench.lab.dataplane.drops().expect("drops");
            let about = |to: &SocketAddr| to.port() == 81 && to.is_ipv4() == (family == Family::V4);
            let who = |drops: &&DropRecord| drops.ends.is_some_and(|(_, to)| about(&to));
            let told: Vec<_> = told.iter().filter(who).map(|drops| (drops.device, drops.reason)).collect();
            assert_eq!(told, [(0, Reason::Audit)], "whom it would deny is told");
            passes(&mut bench, "the same flow", IN, &Frame { detail: ACK, ..denied.clone() }, uplink(), 0);
            passes(&mut bench, "its answer", OUT, &back(&denied), uplink(), 0);
            passes(&mut bench, "a rule", IN, &comes(family, TCP, 5000, 80), uplink(), 0);
            passes(&mut bench, "a fail-safe port", IN, &comes(family, TCP, 5000, 22), uplink(), 0);
            let begun = Frame { detail: SYN, ..back(&comes(family, TCP, 443, 40_000)) };
            passes(&mut bench, "goes out", OUT, &begun, uplink(), 1);
            passes(&mut bench, "published", program::PUB_SELECT, &comes(family, TCP, 5000, 9000), publish, 1);
            let inside = bench.sent(0, TCP, 5000, (node(family), 82).into());
            let device = bench.ifindex(0);
            passes(&mut bench, "an instance", program::FROM_CONTAINER, &inside, device, 1);
        }
        // Beside policies that hold it takes its place, and opens nothing.
        let holds = "policy: p\nhost: {}\npriority: 600\ningress: [{ports: [80, 82]}]\n";
        bench.host(&format!("{trial}ingress: [{{action: deny, ports: [80]}}, {{ports: [81]}}]\n---\n{holds}"));
        for family in FAMILIES {
            passes(&mut bench, "would be denied", IN, &comes(family, TCP, 5001, 80), uplink(), 1);
            passes(&mut bench, "allowed", IN, &comes(family, TCP, 5001, 82), uplink(), 0);
            bench.at("closed all the same", IN, &comes(family, TCP, 5001, 81), Expect::Drop(HostIn));
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

/// With a full table of flows nobody is locked out.
pub(crate) fn table_full(bench: &mut Bench) {
    bench.host("policy: p\nhost: {}\ningress: []\negress: []\n");
    for family in FAMILIES {
        // Connections that are answered make no room for others; services have filled the other half.
        for port in 1..=18_000 {
            let opens = comes(family, TCP, port, 22);
            assert_eq!(bench.run(IN, &opens.bytes(), uplink()).0, PASS, "{family:?} {port}");
            assert_eq!(bench.run(OUT, &back(&opens).bytes(), uplink()).0, PASS, "{family:?} {port}");
            let more = Frame { detail: ACK, ..opens };
            assert_eq!(bench.run(IN, &more.bytes(), uplink()).0, PASS, "{family:?} {port}");
        }
        assert_eq!(bench.run(IN, &comes(family, TCP, 7000, 23).bytes(), uplink()).0, DROP);
    }
    assert!(bench.lab.packets(0, 0, Reason::Untracked as u8) > 0, "the table was full");
}
