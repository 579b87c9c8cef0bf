//! Frames to try: conversations of every kind, whole or in fragments, of which some are then broken; and plain noise.

use std::{collections::VecDeque, net::IpAddr};

use hivemind_ebpf::program;

use super::{parse::End, world::World};
use crate::{
    Random,
    frame::{ACK, Frame, ICMP, ICMPV6, RST, SCTP, SYN, TCP, UDP, arp},
    lab::{FAMILIES, vip},
};

/// A frame for a program, on the device of instance `host` if it is one of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) program: &'static str,
    pub(crate) host: usize,
    pub(crate) bytes: Vec<u8>,
}

/// Makes frames, the same of the same seed.
pub(crate) struct Frames {
    random: Random,
    ready: VecDeque<Try>,
    /// The last port that began something.
    port: u16,
}

const PROTOCOLS: [u8; 8] = [TCP, UDP, TCP, UDP, ICMP, ICMPV6, SCTP, 47];
const PORTS: [u16; 16] = [22, 24, 53, 80, 81, 443, 444, 445, 1023, 1024, 8000, 8050, 8080, 8100, 8101, 9000];

impl Frames {
    pub(crate) fn new(seed: u64) -> Self {
        // Of 0 nothing would come, and small seeds are alike at first.
        let mut random = Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..8 {
            random.below(2);
        }
        Self { random, ready: VecDeque::new(), port: 10_000 }
    }

    /// The next frame.
    pub(crate) fn next(&mut self, world: &World) -> Try {
        loop {
            if let Some(next) = self.ready.pop_front() {
                if !is_impossible(world, &next) {
                    return next;
                }
                continue;
            }
            match self.random.below(16) {
                0 => self.noise(world),
                1 => self.neighbours(world),
                2..6 => self.single(world),
                6..9 => self.fragments(world),
                _ => self.conversation(world),
            }
        }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len())]
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.random.below(one_in) == 0
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.random.below(256)).expect("a byte")
    }

    /// A port that nothing began with, or now and then one that something did.
    fn fresh(&mut self) -> u16 {
        if self.chance(16) {
            return self.port - u16::try_from(self.random.below(8)).expect("few");
        }
        self.port = if self.port == u16::MAX { 10_000 } else { self.port + 1 };
        self.port
    }

    /// Any instance, the first two more often.
    fn host(&mut self, world: &World) -> usize {
        if self.chance(2) { self.random.below(2) } else { self.random.below(world.hosts.len()) }
    }

    /// Any address of a family (0: IPv4), of every class.
    fn address(&mut self, world: &World, side: usize) -> IpAddr {
        let other = self.random.below(world.hosts.len());
        let service = u8::try_from(1 + self.random.below(7)).expect("few");
        let four = [
            "127.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "169.254.169.254",
            "10.88.9.9",
            "10.88.255.255",
            "240.0.0.1",
            "192.0.2.2",
            "192.0.2.130",
            "198.51.100.1",
            "203.0.113.7",
            "10.96.9.9",
        ];
        let six = [
            "::1",
            "::",
            "ff02::1",
            "fe80::1",
            "fd68:6d00:0:1::999",
            "fd68:6d00:0:2::99",
            "::ffff:10.88.0.3",
            "::10.88.0.3",
            "2001:db8::2",
            "2001:db8:7::1",
            "2001:db9::1",
            "64:ff9b::a58:3",
            "ff0e::1",
        ];
        match self.random.below(8) {
            0..3 => world.hosts[other].addresses[side],
            3 => vip(FAMILIES[side], service),
            4 => world.remotes[self.random.below(2) * 2 + side],
            5 => world.node[self.random.below(2) * 2 + side],
            _ => self.pick(if side == 0 { &four } else { &six }).parse().expect("an address"),
        }
    }

    /// Somebody of the outside.
    fn outsider(&mut self, side: usize) -> IpAddr {
        let all = [
            ["192.0.2.2", "2001:db8::2"],
            ["192.0.2.130", "2001:db8:7::1"],
            ["198.51.100.1", "2001:db9::1"],
            ["203.0.113.7", "2001:db8:7:ffff::"],
        ];
        self.pick(&all)[side].parse().expect("an address")
    }

    fn protocol(&mut self, side: usize) -> u8 {
        match self.pick(&PROTOCOLS) {
            // The other family's, now and then.
            ICMP | ICMPV6 if !self.chance(8) => [ICMP, ICMPV6][side],
            protocol => protocol,
        }
    }

    fn detail(&mut self, protocol: u8) -> u8 {
        match protocol {
            TCP => self.pick(&[SYN, SYN, SYN, SYN | ACK, ACK, ACK, RST, ACK | 1, RST | ACK, 0, 0xff]),
            ICMP => self.pick(&[8, 8, 8, 0, 13, 14, 5, 3, 11]),
            ICMPV6 => self.pick(&[128, 128, 128, 129, 133, 134, 136, 137, 1, 2, 143]),
            _ => 0,
        }
    }

    /// A frame of `host` to `to`.
    fn sent(&mut self, world: &World, host: usize, protocol: u8, port: u16, to: End) -> Frame {
        let own = &world.hosts[host];
        let from = own.addresses[usize::from(to.0.is_ipv6())];
        let mut frame = Frame::new(protocol, (from, port), to);
        (frame.from_mac, frame.to_mac) = (own.mac, own.host_mac);
        let length = self.pick(&[0, 1, 3, 8, 64, 65]);
        frame.payload = vec![0x5a; length];
        frame
    }

    /// Options, extension headers.
    fn dress(&mut self, frame: &mut Frame) {
        if frame.src.0.is_ipv4() {
            if self.chance(6) {
                frame.options = vec![1; 4 * (1 + self.random.below(10))];
            }
            frame.unsummed = frame.protocol == UDP && self.chance(6);
        } else if self.chance(4) {
            for _ in 0..=self.random.below(4) {
                let number = self.pick(&[0, 60, 60, 51, 43, 44, 135]);
                let mut body = vec![0, 1, 4, 0, 0, 0, 0];
                match number {
                    0 | 60 if self.chance(2) => {
                        body = vec![1, 1, 12];
                        body.extend([0; 12]);
                    }
                    51 => body = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                    44 => {
                        let (offset, ident) = (self.pick(&[0, 1, 8, 9]), self.byte());
                        body = vec![0, 0, offset, 0, 0, 0, ident];
                    }
                    _ => body[0] = 0,
                }
                frame.extensions.push((number, body));
            }
        }
    }

    fn push(&mut self, program: &'static str, host: usize, frame: &Frame) {
        let bytes = frame.bytes();
        self.push_bytes(program, host, bytes);
    }

    /// Puts a frame into the row, broken now and then.
    fn push_bytes(&mut self, program: &'static str, host: usize, mut bytes: Vec<u8>) {
        if self.chance(5) {
            self.mutate(&mut bytes);
        }
        self.ready.push_back(Try { program, host, bytes });
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.random.below(3) {
            let at = self.random.below(bytes.len());
            // Headers more often than data.
            let at = if self.chance(2) { at.min(self.random.below(60)) } else { at };
            match self.random.below(8) {
                0 | 1 => bytes[at] = self.byte(),
                2 => bytes[at] ^= 1 << self.random.below(8),
                3 => {
                    let length = 15 + self.random.below(bytes.len().max(16) - 15);
                    bytes.truncate(length);
                }
                4 => {
                    let padding = self.random.below(30);
                    bytes.extend(std::iter::repeat_n(0, padding));
                }
                // IPv4's length of header, its or IPv6's length.
                5 => bytes[14] = self.pick(&[0x44, 0x45, 0x46, 0x4f, 0x60, 0x65, 0x40]),
                6 => {
                    let at = self.pick(&[16, 17, 18, 19]).min(bytes.len() - 1);
                    bytes[at] = self.pick(&[0, 1, 19, 20, 28, 40, 255]);
                }
                _ => {
                    let kind = self.pick(&[0x8100_u16, 0x88a8, 0x0806, 0x0800, 0x86dd, 0x8847, 0x0005, 0x9100]);
                    bytes[12..14].copy_from_slice(&kind.to_be_bytes());
                }
            }
        }
        if self.chance(12) {
            let tag = [0x81, 0x00, 0, self.byte()];
            bytes.splice(12..12, tag);
        }
    }

    fn noise(&mut self, world: &World) {
        let length = 15 + self.random.below(120);
        let mut bytes: Vec<u8> = (0..length).map(|_| self.byte()).collect();
        let host = self.host(world);
        if !self.chance(4) {
            let kind = self.pick(&[0x0800_u16, 0x86dd, 0x0806]);
            bytes[12..14].copy_from_slice(&kind.to_be_bytes());
            bytes[6..12].copy_from_slice(&world.hosts[host].mac);
            bytes[14] = self.pick(&[0x45, 0x60, 0x46]);
        }
        let program = self.program();
        self.ready.push_back(Try { program, host, bytes });
    }

    fn program(&mut self) -> &'static str {
        self.pick(&[
            program::FROM_CONTAINER,
            program::FROM_CONTAINER,
            program::FROM_CONTAINER,
            program::TO_CONTAINER,
            program::FROM_UPLINK,
            program::PUB_SELECT,
        ])
    }

    fn neighbours(&mut self, world: &World) {
        let (host, other) = (self.host(world), self.host(world));
        let whose = |n: usize| match world.hosts[n].addresses[0] {
            IpAddr::V4(four) => four.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        let program = self.program();
        if self.chance(2) {
            let (first, second) = (self.pick(&[host, host, other]), self.pick(&[host, host, other]));
            let bytes = arp(world.hosts[first].mac, whose(second), [10, 88, 0, 1]);
            return self.push_bytes(program, host, bytes);
        }
        let to = self.address(world, 1);
        let mut frame = self.sent(world, host, ICMPV6, 0, (to, 0));
        let texts = ["fe80::1", "::", "fe80::2:3"];
        let quiet = self.pick(&texts).parse().expect("an address");
        frame.src.0 = self.pick(&[frame.src.0, quiet]);
        let near = ["fe80::5", "ff02::1", "fd68:6d00:0:1::1"];
        if self.chance(2) {
            frame.dst.0 = self.pick(&near).parse().expect("an address");
        }
        frame.detail = self.pick(&[133, 134, 135, 135, 136, 137]);
        frame.ttl = self.pick(&[255, 255, 255, 254, 1]);
        frame.payload = vec![0; 16];
        self.push(program, host, &frame);
    }

    /// One frame of anybody to anybody.
    fn single(&mut self, world: &World) {
        let side = self.random.below(2);
        let (program, host, protocol) = (self.program(), self.host(world), self.protocol(side));
        let to = (self.address(world, side), self.pick(&PORTS));
        let port = if self.chance(3) { self.pick(&PORTS) } else { self.fresh() };
        let mut frame = self.sent(world, host, protocol, port, to);
        frame.detail = self.detail(protocol);
        if program != program::FROM_CONTAINER {
            frame.src.0 = if self.chance(3) { self.address(world, side) } else { self.outsider(side) };
            if program == program::TO_CONTAINER && !self.chance(4) {
                frame.dst.0 = world.hosts[host].addresses[side];
            }
        } else if self.chance(8) {
            frame.src.0 = self.address(world, side);
        }
        if program == program::PUB_SELECT && !self.chance(4) {
            frame.dst = (world.node[side], self.pick(&[9000, 9001, 9002, 9003]));
        }
        if self.chance(16) {
            frame.from_mac = self.pick(&[[2, 0, 0, 0, 2, 3], [2, 9, 9, 9, 9, 9]]);
        }
        if self.chance(8) {
            frame.fragment = self.pick(&[0x2000, 0x4000, 0x0001, 0x2003, 0x8000, 0x1fff]);
        }
        self.dress(&mut frame);
        self.push(program, host, &frame);
    }

    /// A packet in parts: in order or not, overlapping, repeated, of another protocol.
    fn fragments(&mut self, world: &World) {
        let side = self.random.below(2);
        let (host, protocol) = (self.host(world), self.protocol(side));
        let port = self.fresh();
        let dst = if self.chance(2) { vip(FAMILIES[side], 1) } else { self.address(world, side) };
        let to = (dst, self.pick(&[80, 53, 443, 8080]));
        let mut whole = self.sent(world, host, protocol, port, to);
        whole.payload = vec![0x21; 64];
        whole.detail = question(protocol);
        let (program, dst) = match self.random.below(4) {
            0 => (program::TO_CONTAINER, world.hosts[host].addresses[side]),
            1 => (program::FROM_UPLINK, world.node[side]),
            _ => (program::FROM_CONTAINER, dst),
        };
        if program != program::FROM_CONTAINER {
            whole.src.0 = self.outsider(side);
            whole.dst = (dst, if program == program::FROM_UPLINK { 9000 } else { to.1 });
        }
        if program == program::FROM_UPLINK {
            self.push(program::PUB_SELECT, host, &whole);
            whole.detail |= if protocol == TCP { ACK } else { 0 };
        }
        let ident = [self.byte(), self.byte()];
        for _ in 0..2 + self.random.below(4) {
            let mut part = whole.clone();
            let offset = self.pick(&[0_u16, 0, 1, 1, 2, 3, 185, 0x1fff]);
            let more = u16::from(offset == 0 || self.chance(2));
            if self.chance(10) {
                part.dst.1 = self.pick(&PORTS);
            }
            if self.chance(12) {
                part.src.0 = self.address(world, side);
            }
            if side == 0 {
                part.fragment = offset | more << 13;
                let mut bytes = part.bytes();
                bytes[18..20].copy_from_slice(&ident);
                self.push_bytes(program, host, bytes);
            } else {
                let [high, low] = (offset << 3 | more).to_be_bytes();
                part.extensions.push((44, vec![0, high, low, 0, 0, ident[0], ident[1]]));
                self.push(program, host, &part);
            }
        }
    }

    /// Something is begun, answered, gone on with, told of, ended.
    fn conversation(&mut self, world: &World) {
        let side = self.random.below(2);
        let (client, protocol, port) = (self.host(world), self.protocol(side), self.fresh());
        let outsider = (self.outsider(side), port);
        // Who asks by which program, what for, and who answers as what.
        let kind = self.random.below(8);
        let server = self.host(world);
        let asked: End = match kind {
            0..3 => (world.hosts[server].addresses[side], self.pick(&PORTS)),
            3 | 4 => (vip(FAMILIES[side], self.pick(&[1, 1, 2, 5, 6])), 80),
            5 => (self.outsider(side), self.pick(&PORTS)),
            _ => (world.node[side], self.pick(&[9000, 9000, 9002, 9003])),
        };
        let mut ask = self.sent(world, client, protocol, port, asked);
        ask.detail = question(protocol);
        let (mut first, mut rest) = (program::FROM_CONTAINER, program::FROM_CONTAINER);
        if kind >= 6 {
            ask.src = outsider;
            (first, rest) = (program::PUB_SELECT, program::FROM_UPLINK);
        }
        let behind = |end: End| world.frontends.get(&(end.0, end.1, protocol));
        let backend: End = match behind(asked) {
            Some(super::world::Behind::Backend(end)) => *end,
            _ => world
                .published
                .get(&(side == 0, asked.1, protocol))
                .filter(|_| kind >= 6)
                .map_or(asked, |(end, _)| *end),
        };
        let (answers, answerer) = match world.host_of(backend.0) {
            Some(host) => (program::FROM_CONTAINER, host),
            None => (program::TO_CONTAINER, client),
        };
        let mut answer = self.sent(world, answerer, protocol, backend.1, ask.src);
        answer.src = backend;
        answer.detail = match protocol {
            TCP => SYN | ACK,
            ICMPV6 => 129,
            _ => 0,
        };
        (ask.ident, answer.ident) = (port, port);
        self.dress(&mut ask);
        if !self.chance(8) {
            self.push(first, client, &ask);
        }
        for _ in 0..1 + self.random.below(6) {
            let (mut program, mut host) = (rest, client);
            let mut frame = ask.clone();
            if self.chance(2) {
                (program, host, frame) = (answers, answerer, answer.clone());
                if kind >= 6 && program == program::TO_CONTAINER {
                    continue;
                }
            }
            if protocol == TCP && !self.chance(6) {
                frame.detail = self.pick(&[ACK, ACK, ACK, SYN | ACK, RST, RST | ACK, ACK | 1, SYN, 0]);
            }
            if (protocol == ICMP || protocol == ICMPV6) && self.chance(6) {
                frame.detail = self.detail(protocol);
            }
            if self.chance(7) {
                // An error about it comes from the other side, or from a router on the way.
                let kind = self.pick(if side == 0 { &[3, 11, 12] } else { &[1, 2, 3] });
                let mut about = frame.clone();
                about.extensions.clear();
                if program == rest && rest == program::FROM_CONTAINER && self.chance(2) {
                    about.dst = backend;
                }
                if about.bytes().len() < 14 + 60 + 8 {
                    about.payload = vec![0; 64];
                }
                let (mac, to_mac, from);
                if program == answers && first == program::PUB_SELECT {
                    (program, from, mac, to_mac) = (program::FROM_UPLINK, self.outsider(side), [0; 6], [0; 6]);
                    about.src = asked;
                } else if program == answers || world.host_of(backend.0).is_none() {
                    (program, host) = (if program == answers { rest } else { answers }, client);
                    from = if self.chance(3) { self.address(world, side) } else { about.dst.0 };
                    (mac, to_mac) = (world.hosts[host].mac, world.hosts[host].host_mac);
                } else {
                    (program, host, from) = (answers, answerer, backend.0);
                    (mac, to_mac) = (world.hosts[host].mac, world.hosts[host].host_mac);
                }
                frame = Frame::error(kind, from, &about);
                (frame.from_mac, frame.to_mac) = (mac, to_mac);
            }
            self.push(program, host, &frame);
        }
    }
}

/// TCP's flags, or ICMP's type, of what begins something.
const fn question(protocol: u8) -> u8 {
    match protocol {
        TCP => SYN,
        ICMP => 8,
        ICMPV6 => 128,
        _ => 0,
    }
}

/// Whether it could never come by the stack, which drops what nobody can have sent: no uplink lets in what says that it is from a service or an instance, and
/// what instances of this node send to each other goes past the stack.
fn is_impossible(world: &World, tried: &Try) -> bool {
    let Ok(packet) = super::parse::read(&tried.bytes) else { return false };
    let src = packet.from.0;
    let there = world.remotes.contains(&src) || world.node.contains(&src);
    let nobody = super::parse::is_group(src) || super::parse::is_unroutable(src);
    tried.program == program::TO_CONTAINER && (nobody || world.is_service(src) || world.is_instance(src) && !there)
}
