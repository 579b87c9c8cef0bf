//! The table: which packet, to which program, and what becomes of it. Rows are in order: some need the connection that
//! an earlier one has begun.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hivemind::net::Family;
use hivemind_ebpf::{program, reason::Reason};

use crate::{
    bench::{Bench, Expect, Row, service},
    frame::{ACK, Frame, ICMP, ICMPV6, RST, SCTP, TCP, UDP, arp},
    lab::{FAMILIES, GATEWAY, UPLINK, vip},
};

/// Programs in short.
const FROM: &str = program::FROM_CONTAINER;
const TO: &str = program::TO_CONTAINER;
const UP: &str = program::FROM_UPLINK;
const PUB: &str = program::PUB_SELECT;

/// All rows.
pub(crate) fn rows(bench: &Bench) -> Vec<Row> {
    let mut table = Table { bench, rows: Vec::new() };
    for family in FAMILIES {
        table.sources(family);
        table.destinations(family);
        for protocol in [TCP, UDP] {
            table.services(family, protocol);
            table.published(family, protocol);
        }
        table.arrivals(family);
    }
    table.neighbours();
    table.shapes();
    table.rows
}

struct Table<'a> {
    bench: &'a Bench,
    rows: Vec<Row>,
}

impl Table<'_> {
    fn row(&mut self, name: &str, program: &'static str, ifindex: u32, packet: Vec<u8>, expect: Expect) {
        let family = match packet.get(12..14) {
            Some([0x08, 0x00]) => "v4: ",
            Some([0x86, 0xdd]) => "v6: ",
            _ => "",
        };
        self.rows.push(Row { name: format!("{family}{name}"), program, ifindex, packet, expect });
    }

    /// Instance 0 sends.
    fn sends(&mut self, name: &str, frame: &Frame, expect: Expect) {
        self.row(name, FROM, self.bench.ifindex(0), frame.bytes(), expect);
    }

    fn sources(&mut self, family: Family) {
        let plain = self.bench.sent(0, UDP, 5000, SocketAddr::new(outside(family), 53));
        self.sends("to the outside", &plain, Expect::Pass);
        let other = self.bench.address(1, family);
        let link_local: IpAddr = if other.is_ipv4() { [169, 254, 0, 1].into() } else { LINK_LOCAL.into() };
        for (name, src) in [("another instance's", other), ("a link-local", link_local)] {
            let spoofed = Frame { src: (src, 5000), ..plain.clone() };
            self.sends(&format!("from {name} address"), &spoofed, Expect::Drop(Reason::SpoofedAddress));
        }
        let spoofed = Frame { from_mac: [2, 9, 9, 9, 9, 9], ..plain.clone() };
        self.sends("from another Ethernet address", &spoofed, Expect::Drop(Reason::SpoofedMac));
        let unready = self.bench.sent(2, UDP, 5000, SocketAddr::new(outside(family), 53));
        self.row("not ready", FROM, self.bench.ifindex(2), unready.bytes(), Expect::Drop(Reason::NotReady));
    }

    fn destinations(&mut self, family: Family) {
        let v4 = family == Family::V4;
        let pick =
            |four: [u8; 4], six: &str| -> IpAddr { if v4 { four.into() } else { six.parse().expect("an address") } };
        for (name, dst, reason) in [
            ("multicast", pick([224, 0, 0, 251], "ff02::fb"), Reason::Multicast),
            ("metadata or link-local", pick([169, 254, 169, 254], "fe80::1"), Reason::Unroutable),
            ("metadata of a cloud", pick([169, 254, 169, 254], "fd00:ec2::254"), Reason::Unroutable),
            ("metadata of Azure", pick([168, 63, 129, 16], "fd20:ce::254"), Reason::Unroutable),
            ("metadata of Alibaba", pick([100, 100, 100, 200], "fd20:ce::254"), Reason::Unroutable),
            ("metadata of Oracle", pick([192, 0, 0, 192], "fd20:ce::254"), Reason::Unroutable),
            ("loopback", pick([127, 0, 0, 1], "::1"), Reason::Unroutable),
            ("nobody's", pick([10, 88, 9, 9], "fd68:6d00:0:1::999"), Reason::NoSuchInstance),
            ("an instance that is not ready", self.bench.address(2, family), Reason::PeerNotReady),
        ] {
            let frame = self.bench.sent(0, UDP, 5001, SocketAddr::new(dst, 53));
            self.sends(&format!("to {name}"), &frame, Expect::Drop(reason));
        }
        let own = if v4 { GATEWAY.0.into() } else { GATEWAY.1.into() };
        let frame = self.bench.sent(0, UDP, 5001, SocketAddr::new(own, 53));
        self.sends("to the node", &frame, Expect::Pass);
        let peer = SocketAddr::new(self.bench.address(1, family), 7);
        for protocol in [TCP, UDP, if v4 { ICMP } else { ICMPV6 }, SCTP] {
            let mut frame = self.bench.sent(0, protocol, 5001, peer);
            if matches!(protocol, ICMP | ICMPV6) {
                frame.detail = if v4 { 8 } else { 128 };
            }
            let there = frame.bytes();
            self.sends(&format!("to an instance, protocol {protocol}"), &frame, Expect::RedirectAs(there));
        }
        let last_hop = Frame { ttl: 1, ..self.bench.sent(0, UDP, 5001, peer) };
        let there = last_hop.bytes();
        self.sends("hop limit 1: a node's instances are on one wire", &last_hop, Expect::RedirectAs(there));
    }

    fn services(&mut self, family: Family, protocol: u8) {
        let bench = self.bench;
        let backend = bench.address(1, family);
        let ask = Frame { unsummed: false, ..bench.sent(0, protocol, 6000, service(family, 1)) };
        let there = Frame { dst: (backend, 8080), ..ask.clone() }.bytes();
        self.sends("a service is balanced", &ask, Expect::RedirectAs(there));
        let client = SocketAddr::new(bench.address(0, family), 6000);
        let mut answer = bench.sent(1, protocol, 8080, client);
        answer.detail |= ACK;
        let back = Frame { src: (vip(family, 1), 80), ..answer.clone() }.bytes();
        self.row("its answer comes from it", FROM, bench.ifindex(1), answer.bytes(), Expect::RedirectAs(back));
        let more = Frame { detail: ACK, ..ask.clone() };
        let there = Frame { dst: (backend, 8080), ..more.clone() }.bytes();
        self.sends("its next packet", &more, Expect::RedirectAs(there));
        // The backend refuses: the client is told of what it has asked for. A flow that nobody knows it does not tell of.
        let refused = if family == Family::V4 { 3 } else { 1 };
        let asked = Frame { dst: (backend, 8080), ..ask.clone() };
        let error = self.as_sent_by(1, Frame::error(refused, backend, &asked));
        let shown = Frame { src: (vip(family, 1), 0), ..Frame::error(refused, vip(family, 1), &ask) };
        let shown = as_quoted(Frame { from_mac: error.from_mac, to_mac: error.to_mac, ..shown }, &error);
        self.row("an error from it", FROM, bench.ifindex(1), error.bytes(), Expect::RedirectAs(shown.bytes()));
        let unknown = Frame { src: (asked.src.0, 6999), ..asked };
        let error = self.as_sent_by(1, Frame::error(refused, backend, &unknown));
        let unrelated = Expect::Drop(Reason::Unrelated);
        self.row("an error about nothing", FROM, bench.ifindex(1), error.bytes(), unrelated);
        let clash = bench.sent(0, protocol, 6000, service(family, 2));
        self.sends("the same port by another service", &clash, Expect::Drop(Reason::TupleClash));
        if protocol == TCP {
            self.after_a_reset(family);
            let late = Frame { detail: ACK, ..bench.sent(0, TCP, 6001, service(family, 1)) };
            self.sends("no connection", &late, Expect::Drop(Reason::NoConnection));
        }
        for (name, n, port, reason) in [
            ("a service without instances", 3, 80, Reason::NoBackend),
            ("a service without instances here", 4, 80, Reason::NoLocalBackend),
            ("another port", 1, 81, Reason::NoSuchPort),
            ("no service", 9, 80, Reason::NoSuchService),
        ] {
            let frame = bench.sent(0, protocol, 6002, SocketAddr::new(vip(family, n), port));
            self.sends(name, &frame, Expect::Drop(reason));
        }
        let (own, hairpin) = (bench.address(1, family), Expect::Drop(Reason::Hairpin));
        for (name, to) in [("its own service", service(family, 1)), ("itself", SocketAddr::new(own, 8080))] {
            self.row(name, FROM, bench.ifindex(1), bench.sent(1, protocol, 6004, to).bytes(), hairpin.clone());
        }
        if protocol == UDP {
            let frame = Frame { unsummed: true, ..bench.sent(0, UDP, 6003, service(family, 1)) };
            if family == Family::V4 {
                let there = Frame { dst: (backend, 8080), ..frame.clone() }.bytes();
                self.sends("no checksum stays none", &frame, Expect::RedirectAs(there));
            }
            let echo = if family == Family::V4 { (ICMP, 8) } else { (ICMPV6, 128) };
            let ping = Frame { detail: echo.1, ..bench.sent(0, echo.0, 0, service(family, 1)) };
            self.sends("a ping to a service", &ping, Expect::Drop(Reason::NoSuchPort));
        }
    }

    fn as_sent_by(&self, instance: usize, frame: Frame) -> Frame {
        let link = &self.bench.lab.instances[instance].link;
        Frame { from_mac: link.instance_mac.0, to_mac: link.host_mac.0, ..frame }
    }

    /// A connection that is over is in nobody's way: another service gets its port.
    fn after_a_reset(&mut self, family: Family) {
        let bench = self.bench;
        let open = bench.sent(0, TCP, 6300, service(family, 1));
        let reset = Frame { detail: RST, ..open.clone() };
        let next = bench.sent(0, TCP, 6300, service(family, 2));
        for (name, frame) in [("opens", open), ("resets", reset), ("the same port after a reset", next)] {
            let there = Frame { dst: (bench.address(1, family), 8080), ..frame.clone() }.bytes();
            self.sends(name, &frame, Expect::RedirectAs(there));
        }
    }

    fn published(&mut self, family: Family, protocol: u8) {
        let bench = self.bench;
        let (node, client) = uplink(family);
        let asks = Frame::new(protocol, (client, 7000), (node, 9000));
        let (backend, publish) = (bench.address(1, family), device("hm-pub"));
        self.row("not begun: the stack's", UP, device("uplink"), asks.bytes(), Expect::Pass);
        let there = bench.by_device(1, Frame { dst: (backend, 8080), ..asks.clone() });
        self.row("accepted", PUB, publish, asks.bytes(), Expect::RedirectAs(there.bytes()));
        let more = Frame { detail: ACK, ..asks.clone() };
        let there = Frame { dst: (backend, 8080), ..more.clone() };
        let own = Frame { src: (backend, 7001), ..asks.clone() };
        self.row("its own published port", PUB, publish, own.bytes(), Expect::Drop(Reason::Hairpin));
        let mut forged = vec![node];
        if family == Family::V6 {
            forged.push(Ipv6Addr::UNSPECIFIED.into());
        }
        for src in forged {
            let frame = Frame { src: (src, 7001), ..asks.clone() };
            self.row("as the node itself or nobody", PUB, publish, frame.bytes(), Expect::Drop(Reason::SpoofedAddress));
        }
        self.row("begun: the short way", UP, device("uplink"), more.bytes(), Expect::RedirectAs(there.bytes()));
        self.parts(family, &more, &bench.by_device(1, there));
        let mut answer = bench.sent(1, protocol, 8080, SocketAddr::new(client, 7000));
        answer.detail |= ACK;
        // A router on the way says that the answer was too big: the instance is told so of what it has sent.
        let kind = if family == Family::V4 { 3 } else { 2 };
        let shown = Frame { src: (node, 9000), ..answer.clone() };
        let router =
            if family == Family::V4 { [198, 51, 100, 1].into() } else { "2001:db8:9::1".parse().expect("an address") };
        let error = Frame::error(kind, router, &shown);
        let told = Frame::error(kind, router, &answer);
        let told = as_quoted(Frame { from_mac: error.from_mac, to_mac: error.to_mac, ..told }, &error);
        self.row("an error about its answer", UP, device("uplink"), error.bytes(), Expect::RedirectAs(told.bytes()));
        // A test run has no device it came by, so the answer goes by the stack here.
        let back = Frame { src: (node, 9000), ..answer.clone() }.bytes();
        self.row("its answer", FROM, bench.ifindex(1), answer.bytes(), Expect::PassAs(back));
        // Of a connection between instances, or of one that the outside has begun: it has none of these addresses.
        for inside in [bench.address(0, family), service(family, 1).ip()] {
            let forged = Frame { src: (inside, 7000), ..asks.clone() };
            let spoofed = Expect::Drop(Reason::SpoofedAddress);
            self.row("from the outside as one inside", UP, device("uplink"), forged.bytes(), spoofed);
        }
        let v4 = family == Family::V4;
        for (source, expect) in [
            (if v4 { "198.51.100.1" } else { "2001:db8:7::1" }, Some(())),
            (if v4 { "203.0.113.7" } else { "2001:db8:7:ffff::" }, Some(())),
            (if v4 { "203.0.113.8" } else { "2001:db8:8::1" }, None),
            (if v4 { "192.0.2.2" } else { "2001:db9::1" }, None),
        ] {
            let asks = Frame::new(protocol, (source.parse().expect("an address"), 7002), (node, 9002));
            let there = bench.by_device(1, Frame { dst: (backend, 8080), ..asks.clone() });
            let goes = Expect::RedirectAs(there.bytes());
            let expect = expect.map_or(Expect::Drop(Reason::SourceRange), |()| goes);
            self.row(&format!("source range: {source}"), PUB, publish, asks.bytes(), expect);
        }
        // An instance of this node is no friend either.
        let inside = Frame::new(protocol, (bench.address(0, family), 7003), (node, 9002));
        let no = Expect::Drop(Reason::SourceRange);
        self.row("source range: an instance", PUB, publish, inside.bytes(), no);
        let other = Frame::new(protocol, (client, 7001), (node, 9001));
        self.row("not published", PUB, publish, other.bytes(), Expect::Drop(Reason::NoSuchPort));
    }

    /// The fragments of a packet to a published port. Where they come in they are the stack's, since their order may be any;
    /// behind it the later ones follow the first.
    fn parts(&mut self, family: Family, asks: &Frame, there: &Frame) {
        let (uplink, publish) = (device("uplink"), device("hm-pub"));
        let part = |frame: &Frame, ident: u8, first: bool| match family {
            Family::V4 => Frame { fragment: if first { 0x2000 } else { 3 }, ttl: 64, ..frame.clone() },
            Family::V6 => {
                let offset = if first { [0, 1] } else { [0, 24] };
                let header = vec![0, offset[0], offset[1], 0, 0, 0, ident];
                Frame { extensions: vec![(44, header)], ..frame.clone() }
            }
        };
        let ident = asks.protocol;
        if family == Family::V6 {
            let alone = part(asks, ident + 100, false);
            let no = Expect::Drop(Reason::NoSuchPort);
            self.row("begun, a later fragment alone", PUB, publish, alone.bytes(), no);
        }
        let (first, first_there) = (part(asks, ident, true), part(there, ident, true));
        self.row("begun, a first fragment: the stack's", UP, uplink, first.bytes(), Expect::Pass);
        self.row("begun, a first fragment", PUB, publish, first.bytes(), Expect::RedirectAs(first_there.bytes()));
        let later = part(asks, ident, false).bytes();
        self.row("begun, a later fragment: the stack's", UP, uplink, later.clone(), Expect::Pass);
        // What lies where the ports would be is data: only the addresses change.
        let mut later_there = later.clone();
        let address = part(there, ident, false).bytes();
        let header = if family == Family::V4 { 24..34 } else { 38..54 };
        for changed in [0..12, header] {
            later_there[changed.clone()].copy_from_slice(&address[changed]);
        }
        self.row("begun, a later fragment", PUB, publish, later, Expect::RedirectAs(later_there));
    }

    fn arrivals(&mut self, family: Family) {
        let bench = self.bench;
        let own = if family == Family::V4 { GATEWAY.0.into() } else { IpAddr::from(GATEWAY.1) };
        let frame = |to| Frame::new(UDP, (own, 53), (to, 5000));
        let (here, other) = (bench.address(1, family), bench.address(0, family));
        let group = if here.is_ipv4() { [224, 0, 0, 1].into() } else { IpAddr::from(ALL_NODES) };
        for (name, instance, dst, expect) in [
            ("into an instance", 1, here, Expect::Pass),
            ("into the wrong instance", 1, other, Expect::Drop(Reason::NotForInstance)),
            ("a group, into an instance", 1, group, Expect::Drop(Reason::Multicast)),
            ("into one that is not ready", 2, bench.address(2, family), Expect::Drop(Reason::NotReady)),
        ] {
            self.row(name, TO, bench.ifindex(instance), frame(dst).bytes(), expect);
        }
    }

    fn neighbours(&mut self) {
        let bench = self.bench;
        let (mac, own) = (bench.lab.instances[0].link.instance_mac.0, bench.lab.instances[0].v4.octets());
        let gateway = GATEWAY.0.octets();
        let index = bench.ifindex(0);
        self.row("ARP", FROM, index, arp(mac, own, gateway), Expect::Pass);
        let spoofed = Expect::Drop(Reason::SpoofedAddress);
        self.row("ARP for another", FROM, index, arp(mac, [10, 88, 0, 99], gateway), spoofed.clone());
        // The frame's own Ethernet address is right: it is what the neighbour would learn that is not.
        let mut other_mac = arp(mac, own, gateway);
        other_mac[22..28].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
        self.row("ARP with another Ethernet address in it", FROM, index, other_mac, spoofed);
        self.row("ARP, in", TO, index, arp([2; 6], gateway, own), Expect::Pass);
        let base = bench.sent(0, ICMPV6, 0, SocketAddr::new(GATEWAY.1.into(), 0));
        let message = |detail, ttl, src: IpAddr, dst: IpAddr| Frame {
            detail,
            ttl,
            src: (src, 0),
            dst: (dst, 0),
            payload: vec![0; 16],
            ..base.clone()
        };
        let (node, link_local, own6) = (GATEWAY.1.into(), LINK_LOCAL.into(), bench.lab.instances[0].v6.into());
        let no = Expect::Drop(Reason::Neighbour);
        for (name, frame, expect) in [
            ("solicitation", message(135, 255, own6, node), Expect::Pass),
            ("solicitation from link-local", message(135, 255, link_local, ALL_NODES.into()), Expect::Pass),
            ("duplicate detection", message(135, 255, Ipv6Addr::UNSPECIFIED.into(), ALL_NODES.into()), Expect::Pass),
            ("solicitation from afar", message(135, 64, own6, node), no.clone()),
            ("solicitation to another", message(135, 255, own6, bench.lab.instances[1].v6.into()), no.clone()),
            ("router advertisement", message(134, 255, link_local, ALL_NODES.into()), no.clone()),
            ("redirect", message(137, 255, own6, node), no.clone()),
        ] {
            self.sends(name, &frame, expect);
        }
        let four = bench.sent(0, ICMP, 0, SocketAddr::new(GATEWAY.0.into(), 0));
        self.sends("redirect of IPv4", &Frame { detail: 5, ..four }, no.clone());
        self.row("advertised router, in", TO, index, message(134, 255, node, own6).bytes(), no);
        self.row("solicitation, in", TO, index, message(135, 255, node, own6).bytes(), Expect::Pass);
    }

    fn shapes(&mut self) {
        let bench = self.bench;
        let index = bench.ifindex(0);
        let malformed = Expect::Drop(Reason::Malformed);
        let plain = bench.sent(0, UDP, 5002, SocketAddr::new(outside(Family::V4), 53));
        let plain6 = bench.sent(0, UDP, 5002, SocketAddr::new(outside(Family::V6), 53));
        let mut tagged = plain.bytes();
        tagged.splice(12..12, [0x81, 0x00, 0, 5]);
        self.row("VLAN", FROM, index, tagged.clone(), Expect::Drop(Reason::EtherType));
        self.row("VLAN, in", TO, index, tagged.clone(), Expect::Drop(Reason::EtherType));
        self.row("VLAN on an uplink is not ours", UP, device("uplink"), tagged, Expect::Pass);
        let options = Frame { options: vec![1; 8], ..plain.clone() };
        self.sends("options", &options, Expect::Pass);
        let mut padded = plain.bytes();
        padded.extend([0; 20]);
        self.row("padding", FROM, index, padded, Expect::Pass);
        for (name, at, value) in [
            ("header too short", 14, 0x44),
            ("version", 14, 0x65),
            ("longer than it is", 17, 200),
            ("too short", 17, 21),
        ] {
            let mut bytes = plain.bytes();
            bytes[at] = value;
            self.row(name, FROM, index, bytes, malformed.clone());
        }
        let later = Frame { fragment: 0x0010, ..plain.clone() };
        self.sends("later fragment alone", &later, Expect::Drop(Reason::Fragment));
        self.sends("first fragment", &Frame { fragment: 0x2000, ..plain.clone() }, Expect::Pass);
        self.sends("later fragment", &later, Expect::Pass);
        let asks = bench.sent(0, UDP, 5003, service(Family::V4, 1));
        let later = Frame { fragment: 0x0010, ..asks.clone() };
        self.sends("later fragment to a service alone", &later, Expect::Drop(Reason::Fragment));
        let first = Frame { fragment: 0x2000, ..asks };
        let there = Frame { dst: (bench.address(1, Family::V4), 8080), ..first.clone() };
        self.sends("first fragment to a service", &first, Expect::RedirectAs(there.bytes()));
        let options = |number| (number, vec![0, 1, 4, 0, 0, 0, 0]);
        let frame = Frame { extensions: vec![options(0), options(60)], ..plain6.clone() };
        self.sends("extension headers", &frame, Expect::Pass);
        let asks = bench.sent(0, UDP, 5004, service(Family::V6, 1));
        let asks = Frame { extensions: vec![options(0), options(60)], ..asks };
        let there = Frame { dst: (bench.address(1, Family::V6), 8080), ..asks.clone() }.bytes();
        self.sends("extension headers to a service", &asks, Expect::RedirectAs(there));
        for (name, extensions) in [("routing header", vec![options(43)]), ("too many", vec![options(60); 5])] {
            let frame = Frame { extensions, ..plain6.clone() };
            self.sends(name, &frame, Expect::Drop(Reason::ExtensionHeader));
        }
        let header = (44, vec![0, 0, 8, 0, 0, 0, 1]);
        let frame = Frame { extensions: vec![header], ..bench.sent(0, UDP, 5003, service(Family::V6, 1)) };
        self.sends("later fragment to a service alone", &frame, Expect::Drop(Reason::Fragment));
    }
}

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The quoted UDP checksum stays as it is: nobody looks at it.
fn as_quoted(mut shown: Frame, error: &Frame) -> Frame {
    let at = shown.payload.len() - 2;
    shown.payload[at..].copy_from_slice(&error.payload[at..]);
    shown
}

fn device(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("a device")
}

/// Addresses of node and client on the uplink.
fn uplink(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (UPLINK[0].0.into(), UPLINK[1].0.into()),
        Family::V6 => (UPLINK[0].1.into(), UPLINK[1].1.into()),
    }
}

fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 2).into(),
        Family::V6 => UPLINK[1].1.into(),
    }
}
