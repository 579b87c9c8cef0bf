//! Published ports whose backend is on another node: what goes into a tunnel, what comes out of one, and what an uplink's
//! driver does by itself.

use std::net::IpAddr;

use hivemind::{
    dataplane::{
        Dataplane,
        tables::{Frontend, NodeRow, PeerRow, ServiceRow},
    },
    model::Protocol,
    net::Family,
};
use hivemind_ebpf::{program, reason::Reason};

use crate::{
    bench::{Bench, Expect, PASS, REDIRECT, Row},
    frame::{ACK, Frame, ICMP, ICMPV6, RST, SYN, TCP, UDP, checksum},
    lab::{self, FAMILIES, isolated, outside as client, sh, uplink as node},
};

/// What a driver's program says: to the stack, or out again.
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;
/// Where a port leads: to an instance of this node, or only to one of another.
const HERE: u16 = 9000;
const THERE: u16 = 9500;
/// The MTU of the way to the other node.
const MTU: usize = 1500;

fn device(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("a device")
}

/// The other node.
fn other(family: Family) -> IpAddr {
    let text = if family == Family::V4 { "192.0.2.3" } else { "2001:db8::3" };
    text.parse().expect("an address")
}

/// Its instance.
fn far(family: Family) -> IpAddr {
    let text = if family == Family::V4 { "10.88.7.9" } else { "fd68:6d00:0:1::709" };
    text.parse().expect("an address")
}

/// A node with another one, which alone has what port [`THERE`] leads to.
pub(crate) fn bench(cgroup: &std::path::Path) -> Bench {
    let mut bench = Bench::new(cgroup);
    for family in FAMILIES {
        let peer = PeerRow { class: 300, tenant: lab::TENANT, ifindex: 0, node: Some(other(family)) };
        bench.lab.tables.peers.insert(far(family), peer);
        let way = NodeRow { device: device("uplink"), mtu: u32::try_from(MTU).expect("small") };
        bench.lab.tables.nodes.insert(other(family), way);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut row = ServiceRow::equal(9, [(far(family), 8080)]);
            row.choice.alike = true;
            bench.lab.tables.services.insert(Frontend::Published(family, THERE, protocol), row);
        }
    }
    bench.lab.sync();
    bench
}

/// What the client sends to a port of `to`.
fn comes(to: IpAddr, protocol: u8, from: u16, port: u16, detail: u8) -> Frame {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    Frame { detail, ..Frame::new(protocol, (client(family), from), (to, port)) }
}

/// A packet in a tunnel from one node to another.
fn tunnelled(packet: &[u8], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let protocol = if from.is_ipv4() { 4 } else { 41 };
    let outer = Frame { fragment: 0x4000, payload: packet[14..].to_vec(), ..Frame::new(protocol, (from, 0), (to, 0)) };
    let mut bytes = outer.bytes();
    bytes[..12].copy_from_slice(&packet[..12]);
    if from.is_ipv4() {
        // Without an identification.
        (bytes[18], bytes[19], bytes[24], bytes[25]) = (0, 0, 0, 0);
        let sum = checksum(&[&bytes[14..34]]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// A connection to the other node is there: what goes on in it, and that node.
pub(crate) fn begun(bench: &mut Bench, family: Family, protocol: u8) -> (Vec<u8>, IpAddr) {
    let (own, there) = (node(family), other(family));
    let begins = comes(own, protocol, 7000, THERE, if protocol == TCP { SYN } else { 0 }).bytes();
    bench.accepted(begins.clone(), Expect::RedirectAs(tunnelled(&begins, own, there)));
    let more = comes(own, protocol, 7000, THERE, ACK).bytes();
    // By this it is known by which uplink the client comes.
    bench.uplink("goes on", more.clone(), Expect::RedirectAs(tunnelled(&more, own, there)));
    (more, there)
}

impl Bench {
    fn uplink(&mut self, name: &str, packet: Vec<u8>, expect: Expect) {
        let (program, ifindex) = (program::FROM_UPLINK, device("uplink"));
        self.check(&Row { name: name.into(), program, ifindex, packet, expect });
    }

    /// The firewall has accepted it.
    fn accepted(&mut self, packet: Vec<u8>, expect: Expect) {
        let (program, ifindex) = (program::PUB_SELECT, device("hm-pub"));
        self.check(&Row { name: "accepted".into(), program, ifindex, packet, expect });
    }

    /// The driver leaves the frame to the stack, as it is.
    #[track_caller]
    pub(crate) fn left(&self, name: &str, packet: &[u8]) {
        let (verdict, out) = self.run(program::UPLINK_DRIVER, packet, device("uplink"));
        assert_eq!((verdict, &out[..]), (XDP_PASS, packet), "{name}");
    }

    /// The kernel sends a packet to the other node: the next hop is known for a second.
    pub(crate) fn learns(&self, packet: &[u8], to: IpAddr) -> [u8; 12] {
        let macs = [2, 0, 0, 0, 3, 9, 2, 0, 0, 0, 3, 1];
        let from = node(if to.is_ipv4() { Family::V4 } else { Family::V6 });
        let mut sent = tunnelled(packet, from, to);
        sent[..12].copy_from_slice(&macs);
        assert_eq!(self.run(program::TO_UPLINK, &sent, device("uplink")), (PASS, sent));
        macs
    }

    /// The driver sends the frame to the other node.
    #[track_caller]
    pub(crate) fn sent_on(&self, name: &str, packet: &[u8], to: IpAddr) {
        let macs = self.learns(packet, to);
        let (verdict, out) = self.run(program::UPLINK_DRIVER, packet, device("uplink"));
        let from = node(if to.is_ipv4() { Family::V4 } else { Family::V6 });
        let mut wanted = tunnelled(packet, from, to);
        wanted[..12].copy_from_slice(&macs);
        assert_eq!((verdict, out), (XDP_TX, wanted), "{name}");
    }
}

#[test]
fn what_the_firewall_accepts_for_another_node_goes_there_in_a_tunnel() {
    isolated(|cgroup| {
        let mut bench = bench(cgroup);
        for family in FAMILIES {
            let (own, there) = (node(family), other(family));
            for protocol in [TCP, UDP] {
                let detail = if protocol == TCP { SYN } else { 0 };
                let begins = comes(own, protocol, 7000, THERE, detail).bytes();
                bench.left("the firewall sees what begins", &begins);
                bench.uplink("the stack does", begins.clone(), Expect::Pass);
                bench.accepted(begins.clone(), Expect::RedirectAs(tunnelled(&begins, own, there)));
                let more = comes(own, protocol, 7000, THERE, ACK).bytes();
                let wrapped = tunnelled(&more, own, there);
                bench.left("nobody knows the next hop", &more);
                bench.uplink("the kernel finds it", more.clone(), Expect::RedirectAs(wrapped.clone()));
                bench.sent_on("the driver goes on", &more, there);
                let elsewhere = bench.run(program::UPLINK_DRIVER, &more, device("hm-node"));
                assert_eq!(elsewhere, (XDP_PASS, more.clone()), "by another device");
                // Nothing that has changed passes by what was decided before.
                bench.lab.tables.node_addresses.insert("192.0.2.77".parse().expect("an address"));
                bench.lab.sync();
                bench.left("decided by other tables", &more);
                bench.uplink("decided again", more.clone(), Expect::RedirectAs(wrapped));
                bench.sent_on("and once more", &more, there);
                bench.lab.tables.node_addresses.remove(&"192.0.2.77".parse().expect("an address"));
                bench.lab.sync();
                let unknown = comes(own, protocol, 7001, THERE, ACK).bytes();
                bench.left("nobody knows it", &unknown);
                bench.uplink("up to the firewall", unknown.clone(), Expect::Pass);
                // All nodes choose the same backend: whoever has it knows the connection.
                bench.accepted(unknown.clone(), Expect::RedirectAs(tunnelled(&unknown, own, there)));
                let here = comes(own, protocol, 7000, HERE, detail);
                let inside = bench.by_device(1, Frame { dst: (bench.address(1, family), 8080), ..here.clone() });
                bench.accepted(here.bytes(), Expect::RedirectAs(inside.bytes()));
                bench.left("of an instance of this node", &comes(own, protocol, 7000, HERE, ACK).bytes());
            }
        }
        assert!(bench.lab.dataplane.info().sent_on.iter().all(|count| count.packets > 0));
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_driver_leaves_to_the_stack_what_is_not_plain() {
    isolated(|cgroup| {
        let mut bench = bench(cgroup);
        for family in FAMILIES {
            let (own, there) = (node(family), other(family));
            let overhead = if family == Family::V4 { 20 } else { 40 };
            for protocol in [TCP, UDP] {
                let begins = comes(own, protocol, 7000, THERE, if protocol == TCP { SYN } else { 0 }).bytes();
                bench.accepted(begins.clone(), Expect::RedirectAs(tunnelled(&begins, own, there)));
                let plain = comes(own, protocol, 7000, THERE, ACK);
                let more = plain.bytes();
                bench.uplink("more", more.clone(), Expect::RedirectAs(tunnelled(&more, own, there)));
                bench.sent_on("plain", &more, there);
                for length in 15..more.len() {
                    bench.learns(&more, there);
                    bench.left("cut", &more[..length]);
                }
                let padded = [&more[..], &[0; 8]].concat();
                let (verdict, out) = bench.run(program::UPLINK_DRIVER, &padded, device("uplink"));
                assert_eq!(
                    (verdict, out.len()),
                    (XDP_TX, padded.len() + overhead),
                    "what is behind a packet stays there"
                );
                if protocol == TCP {
                    bench.left("begins anew", &begins);
                }
                let mut tagged = more.clone();
                tagged.splice(12..12, [0x81, 0x00, 0, 7]);
                bench.left("a VLAN tag", &tagged);
                let fits = MTU - overhead - (more.len() - 14) + plain.payload.len();
                let longest = Frame { payload: vec![7; fits], ..plain.clone() }.bytes();
                bench.sent_on("as long as fits", &longest, there);
                let longer = Frame { payload: vec![7; fits + 1], ..plain.clone() }.bytes();
                bench.left("longer", &longer);
                bench.uplink("who sent it is told", longer, Expect::Drop(Reason::TooLong));
                if family == Family::V4 {
                    let part = Frame { fragment: 0x2000, ..plain.clone() }.bytes();
                    bench.left("a part of a packet", &part);
                    bench.uplink("goes all the same", part.clone(), Expect::RedirectAs(tunnelled(&part, own, there)));
                    bench.sent_on("options", &Frame { options: vec![1; 4], ..plain.clone() }.bytes(), there);
                }
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_connection_whose_node_or_backend_is_gone_is_not_sent_on() {
    isolated(|cgroup| {
        let mut bench = bench(cgroup);
        for family in FAMILIES {
            let (own, there) = (node(family), other(family));
            for protocol in [TCP, UDP] {
                let begins = comes(own, protocol, 7000, THERE, if protocol == TCP { SYN } else { 0 }).bytes();
                let wrapped = tunnelled(&begins, own, there);
                bench.accepted(begins, Expect::RedirectAs(wrapped));
            }
            let row = bench.lab.tables.peers.remove(&far(family)).expect("a row");
            bench.lab.sync();
            let more = |protocol| comes(own, protocol, 7000, THERE, ACK).bytes();
            bench.uplink("the backend is gone", more(TCP), Expect::Drop(Reason::BackendGone));
            bench.uplink("another one may do", more(UDP), Expect::Pass);
            // A node that nobody knows a way to.
            bench.lab.tables.peers.insert(far(family), row);
            bench.lab.tables.nodes.insert(there, NodeRow::default());
            bench.lab.sync();
            bench.accepted(more(UDP), Expect::Drop(Reason::PeerNotReady));
            // A peer whose node is not known.
            bench.lab.tables.peers.insert(far(family), PeerRow { node: None, ..row });
            bench.lab.sync();
            bench.accepted(more(UDP), Expect::Drop(Reason::PeerNotReady));
        }
        let nodes = std::mem::take(&mut bench.lab.tables.nodes);
        assert_eq!(nodes.len(), 2);
        bench.lab.sync();
        bench.uplink("alone", comes(node(Family::V4), UDP, 7000, THERE, 0).bytes(), Expect::Pass);
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_port_that_a_client_uses_again_leads_where_the_new_connection_does() {
    isolated(|cgroup| {
        let mut bench = bench(cgroup);
        for family in FAMILIES {
            let (own, there) = (node(family), other(family));
            let sends = |detail| comes(own, TCP, 7200, THERE, detail);
            let (begins, more) = (sends(SYN).bytes(), sends(ACK).bytes());
            let away = |packet: &[u8]| Expect::RedirectAs(tunnelled(packet, own, there));
            let key = Frontend::Published(family, THERE, Protocol::Tcp);
            let elsewhere = bench.lab.tables.services[&key].clone();
            let mut here = ServiceRow::equal(9, [(bench.address(1, family), 8080)]);
            here.choice.alike = true;
            let goes = Frame { dst: (bench.address(1, family), 8080), ..sends(ACK) };
            bench.accepted(begins.clone(), away(&begins));
            bench.uplink("goes on", more.clone(), away(&more));
            bench.lab.tables.services.insert(key, here);
            bench.lab.sync();
            bench.uplink("stays with its backend", more.clone(), away(&more));
            bench.sent_on("also by the driver", &more, there);
            let inside = bench.by_device(1, Frame { detail: SYN, ..goes.clone() });
            bench.accepted(begins.clone(), Expect::RedirectAs(inside.bytes()));
            bench.learns(&more, there);
            bench.left("the new one is here", &more);
            bench.uplink("the new one is here", more.clone(), Expect::RedirectAs(goes.bytes()));
            let over = Frame { detail: RST, ..goes };
            bench.uplink("over", sends(RST).bytes(), Expect::RedirectAs(over.bytes()));
            bench.lab.tables.services.insert(key, elsewhere);
            bench.lab.sync();
            bench.accepted(begins.clone(), away(&begins));
            bench.uplink("the third one is there again", more.clone(), away(&more));
            bench.sent_on("and by the driver", &more, there);
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn what_comes_out_of_a_tunnel_goes_to_its_instance_or_nowhere() {
    isolated(|cgroup| {
        let mut bench = bench(cgroup);
        for family in FAMILIES {
            let (own, there) = (node(family), other(family));
            for protocol in [TCP, UDP] {
                let detail = if protocol == TCP { SYN } else { 0 };
                let asks = comes(there, protocol, 7000, HERE, detail);
                let inside = Frame { dst: (bench.address(1, family), 8080), ..asks.clone() };
                let wrapped = tunnelled(&asks.bytes(), there, own);
                bench.left("out of a tunnel", &wrapped);
                bench.uplink("begins", wrapped, Expect::RedirectAs(inside.bytes()));
                let more = comes(there, protocol, 7000, HERE, ACK).bytes();
                let goes = Frame { detail: ACK, ..inside.clone() }.bytes();
                bench.uplink("goes on", tunnelled(&more, there, own), Expect::RedirectAs(goes));
                // The client is answered as by the node that it has asked.
                let answer = Frame { detail: ACK, ..bench.sent(1, protocol, 8080, asks.src.into()) };
                let shown = Frame { src: (there, HERE), ..answer.clone() };
                let answered = bench.sends_from(1, "the answer", &answer, Expect::RedirectAs(shown.bytes()));
                bench.check(&answered);
                let error = Frame::error(if family == Family::V4 { 3 } else { 2 }, client(family), &shown);
                let (verdict, _) =
                    bench.run(program::FROM_UPLINK, &tunnelled(&error.bytes(), there, own), device("uplink"));
                assert_eq!(verdict, REDIRECT, "an error about the answer reaches who has sent that");
                let strange = tunnelled(&comes(there, protocol, 7009, HERE, detail).bytes(), client(family), own);
                bench.uplink("from a stranger", strange, Expect::Drop(Reason::Stranger));
                let lost = tunnelled(&comes(there, protocol, 7009, THERE, detail).bytes(), there, own);
                // What refuses is the packet without its tunnel.
                let (verdict, out) = bench.run(program::FROM_UPLINK, &lost, device("uplink"));
                let to = match client(family) {
                    IpAddr::V4(to) => out[30..34] == to.octets(),
                    IpAddr::V6(to) => out[38..54] == to.octets(),
                };
                assert_eq!((verdict, to), (REDIRECT, true), "no second tunnel, but an answer to the client");
                let forged = Frame { src: (bench.address(0, family), 1), ..asks.clone() }.bytes();
                let (verdict, _) = bench.run(program::FROM_UPLINK, &tunnelled(&forged, there, own), device("uplink"));
                assert_eq!(verdict, crate::bench::DROP, "forged");
                // A tunnel of the host's own, to an address that is no other node's.
                let private = tunnelled(&comes(own, protocol, 1, HERE, detail).bytes(), client(family), own);
                bench.uplink("the host's own tunnels", private.clone(), Expect::PassAs(private));
                // With the node's address it would seem to come from this node.
                let kind = if family == Family::V4 { 4 } else { 41 };
                let made = Frame {
                    payload: comes(own, protocol, 1, HERE, detail).bytes()[14..].to_vec(),
                    ..bench.sent(0, kind, 0, (there, 0).into())
                };
                bench.check(&bench.sends("made by an instance", &made, Expect::Drop(Reason::Stranger)));
            }
            let ghost = comes(there, TCP, 7010, HERE, ACK).bytes();
            let (verdict, out) = bench.run(program::FROM_UPLINK, &tunnelled(&ghost, there, own), device("uplink"));
            let flags = out[if family == Family::V4 { 14 + 20 + 13 } else { 14 + 40 + 13 }];
            assert_eq!((verdict, flags), (REDIRECT, 4), "a connection that nobody knows is reset");
        }
        for (reason, packets) in [(Reason::NoLocalBackend, 4), (Reason::NoConnection, 2)] {
            assert_eq!(bench.lab.packets(0, 1, reason as u8), packets, "{reason:?}");
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn an_error_about_an_answer_follows_the_connection_to_its_node() {
    isolated(|cgroup| {
        let mut bench = bench(cgroup);
        for family in FAMILIES {
            let (own, there) = (node(family), other(family));
            let begins = comes(own, TCP, 7000, THERE, SYN).bytes();
            bench.accepted(begins.clone(), Expect::RedirectAs(tunnelled(&begins, own, there)));
            // The other node has answered with our address, and the client's network says that it was too long.
            let answer = Frame::new(TCP, (own, THERE), (client(family), 7000));
            let error = Frame::error(if family == Family::V4 { 3 } else { 2 }, client(family), &answer);
            let protocol = if family == Family::V4 { ICMP } else { ICMPV6 };
            assert_eq!(error.protocol, protocol);
            let wrapped = tunnelled(&error.bytes(), own, there);
            bench.left("an error", &error.bytes());
            bench.uplink("goes there", error.bytes(), Expect::RedirectAs(wrapped));
            let other_port = Frame { src: (own, THERE + 1), ..answer };
            let error = Frame::error(if family == Family::V4 { 3 } else { 2 }, client(family), &other_port).bytes();
            bench.uplink("about nothing known", error, Expect::Pass);
        }
        sh("ip link set uplink down");
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn what_is_sent_on_is_asked_of_the_rules_and_ranges_of_this_node() {
    isolated(|cgroup| {
        let mut bench = bench(cgroup);
        let only = |port| format!("policy: p\nhost: {{}}\npublished: [{{from: [world], ports: [{port}]}}]\n");
        for family in FAMILIES {
            for protocol in [TCP, UDP] {
                bench.lab.host("");
                bench.lab.sync();
                let (more, there) = begun(&mut bench, family, protocol);
                let wrapped = tunnelled(&more, node(family), there);
                bench.uplink("no policy", more.clone(), Expect::RedirectAs(wrapped.clone()));
                bench.lab.host(&only(HERE));
                bench.lab.sync();
                bench.uplink("revoked", more.clone(), Expect::Drop(Reason::Published));
                bench
                    .accepted(comes(node(family), protocol, 7001, THERE, SYN).bytes(), Expect::Drop(Reason::Published));
                bench.lab.host(&only(THERE).replace("9500", "9500, 9500/udp"));
                bench.lab.sync();
                bench.uplink("allowed", more.clone(), Expect::RedirectAs(wrapped.clone()));
                // The same by its source ranges: the client's own, and then none of its own.
                let kind = if protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
                let key = Frontend::Published(family, THERE, kind);
                let row = bench.lab.tables.services.get_mut(&key).expect("a row");
                row.choice.sources = true;
                let own = ipnet::IpNet::from(client(family));
                bench.lab.tables.sources.insert((9, own));
                bench.lab.sync();
                bench.uplink("in its ranges", more.clone(), Expect::RedirectAs(wrapped));
                bench.lab.tables.sources.remove(&(9, own));
                bench.lab.sync();
                bench.uplink("in none any more", more, Expect::Drop(Reason::SourceRange));
                bench.lab.tables.services.get_mut(&key).expect("a row").choice.sources = false;
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn what_another_node_sends_finds_the_one_backend_that_is_here() {
    isolated(|cgroup| {
        let mut bench = bench(cgroup);
        for family in FAMILIES {
            // Eight of which this node has one. The choice by chance and weight would hit that one time in eight.
            let elsewhere = (1..8u8).map(|n| match far(family) {
                IpAddr::V4(far) => IpAddr::from((u32::from(far) + u32::from(n)).to_be_bytes()),
                IpAddr::V6(far) => IpAddr::from((u128::from(far) + u128::from(n)).to_be_bytes()),
            });
            let here = bench.address(1, family);
            let backends = elsewhere.chain([here]).map(|address| (address, 8080));
            let mut row = ServiceRow::equal(9, backends.collect::<Vec<_>>());
            row.choice.alike = true;
            bench.lab.tables.services.insert(Frontend::Published(family, THERE, Protocol::Udp), row);
            bench.lab.sync();
            let (own, there) = (node(family), other(family));
            for port in 7000..7032 {
                let asks = comes(there, UDP, port, THERE, 0);
                let inside = Frame { dst: (here, 8080), ..asks.clone() };
                let wrapped = tunnelled(&asks.bytes(), there, own);
                bench.uplink("to the one that is here", wrapped, Expect::RedirectAs(inside.bytes()));
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}
