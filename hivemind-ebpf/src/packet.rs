//! What the programs read of a packet. Pure: the bytes come through [`Bytes`], from the kernel or from a slice.
//!
//! Absent on purpose: VLAN tags and tunnels (an instance's veth carries neither), and anything behind the ports but
//! TCP's flags and ICMP's type.

use crate::{
    abi::{Addr, Tuple},
    reason::Reason,
};

/// Bytes of an Ethernet header; where the network header begins.
pub const ETH: u32 = 14;
/// Ethernet protocol numbers, in host order.
pub const IPV4: u16 = 0x0800;
/// See [`IPV4`].
pub const IPV6: u16 = 0x86dd;
/// See [`IPV4`].
pub const ARP: u16 = 0x0806;

/// Protocol numbers of IANA.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;
/// See [`ICMP`].
pub const SCTP: u8 = 132;

/// Bits of TCP's flags.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// ICMP's type by which a router says that there is a better one (RFC 792).
const REDIRECT: u8 = 5;
/// ICMPv6 types of neighbour discovery (RFC 4861), first and last.
const ND_FIRST: u8 = 133;
const ND_LAST: u8 = 137;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// How many extension headers of IPv6 are looked at; real packets have at most two.
const EXTENSIONS: usize = 4;

/// A packet's bytes, from the Ethernet header on.
pub trait Bytes {
    /// `N` bytes at `offset`, if the packet has them.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// `N` words of four bytes each at `offset`, as they lie there, if the packet has them. What is read so is not read
    /// byte by byte.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// Bytes of the packet.
    fn len(&self) -> u32;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk().copied()
    }

    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let bytes = self.get(offset as usize..)?.get(..N * 4)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Some(words)
    }

    fn len(&self) -> u32 {
        self.len() as u32
    }
}

/// Not a fragment.
pub const WHOLE: u8 = 0;
/// The first fragment: it has the ports, but not all of the data.
pub const FIRST: u8 = 1;
/// A later fragment: the ports are unknown.
pub const LATER: u8 = 2;
/// A later fragment whose first was seen: the ports are that one's, and not in this packet.
pub const FOLLOWS: u8 = 3;

/// The headers of an IPv4 or IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Addresses, ports (0 where there are none or they are unknown) and protocol.
    pub tuple: Tuple,
    /// Where the transport header begins.
    pub l4: u32,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// TCP's flags, or ICMP's type.
    pub detail: u8,
    /// [`WHOLE`], [`FIRST`], [`LATER`] or [`FOLLOWS`].
    pub fragment: u8,
    /// 1 for IPv4, 0 for IPv6.
    pub v4: u8,
    /// The identification of a fragment, as it lies in the packet.
    pub ident: u32,
    /// TCP's sequence number and acknowledgement, in host order; of others zeroes.
    pub numbers: [u32; 2],
}

impl Packet {
    /// Whether it is IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.v4 != 0
    }

    /// Whether it is of a protocol that services balance, with known ports.
    #[inline(always)]
    pub const fn is_balanced(&self) -> bool {
        (self.tuple.protocol == TCP || self.tuple.protocol == UDP) && self.fragment != LATER
    }

    /// TCP's flags; of other protocols, and of what is only a part of a packet, none.
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        if self.tuple.protocol == TCP && self.fragment < LATER { self.detail } else { 0 }
    }

    /// Whether it begins a TCP connection.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags() & (SYN | ACK | RST | FIN) == SYN
    }

    /// Whether it asks for something, so that it answers nothing: the first packet of a TCP connection, or a ping. Both
    /// ends of a ping have one identification, which a ping the other way may have too.
    #[inline(always)]
    pub const fn asks(&self) -> bool {
        let ping = match self.tuple.protocol {
            ICMP => self.detail == 8,
            ICMPV6 => self.detail == 128,
            _ => false,
        };
        self.opens() || ping
    }

    /// Whether it is an ICMP message about the fate of another packet, or the beginning of one in fragments.
    #[inline(always)]
    pub const fn is_error(&self) -> bool {
        self.fragment < LATER && is_error(self.tuple.protocol, self.detail)
    }

    /// Whether it is a message of IPv6 neighbour discovery, or what a router of IPv4 says that IPv6's say with one.
    #[inline(always)]
    pub const fn is_neighbour(&self) -> bool {
        let said = match self.tuple.protocol {
            ICMP => self.detail == REDIRECT,
            ICMPV6 => self.detail >= ND_FIRST && self.detail <= ND_LAST,
            _ => false,
        };
        said && self.fragment != LATER
    }

    /// Whether it asks for or tells an Ethernet address, on this very link (a router lowers the hop limit).
    #[inline(always)]
    pub const fn is_resolution(&self) -> bool {
        self.tuple.protocol == ICMPV6
            && self.is_neighbour()
            && (self.detail == NEIGHBOUR_SOLICITATION || self.detail == NEIGHBOUR_ADVERTISEMENT)
            && self.ttl == 255
            && self.fragment == WHOLE
    }
}

#[inline(always)]
const fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// The byte of that number in a word as it lies in memory.
#[inline(always)]
const fn byte(word: u32, number: u32) -> u8 {
    (u32::from_be(word) >> (24 - 8 * number)) as u8
}

/// Its first or second half, in host order.
#[inline(always)]
const fn half(word: u32, number: u32) -> u16 {
    (u32::from_be(word) >> (16 - 16 * number)) as u16
}

impl Packet {
    /// A packet of which nothing is known yet.
    pub const BLANK: Self = Self {
        tuple: Tuple {
            src: Addr { words_be: [0; 4] },
            dst: Addr { words_be: [0; 4] },
            sport_be: 0,
            dport_be: 0,
            protocol: 0,
            pad: [0; 3],
        },
        l4: 0,
        ttl: 0,
        detail: 0,
        fragment: WHOLE,
        v4: 0,
        ident: 0,
        numbers: [0; 2],
    };
}

/// Reads the headers of an IP packet into `packet`, which must be [`Packet::BLANK`]. After an error it holds what was
/// read so far.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(bytes: &B, ether_type: u16, packet: &mut Packet) -> Result<(), Reason> {
    let end = match ether_type {
        IPV4 => parse_v4(bytes, packet)?,
        IPV6 => parse_v6(bytes, packet)?,
        _ => return Err(Reason::EtherType),
    };
    transport(bytes, packet, end)
}

#[inline(always)]
fn parse_v4<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Result<u32, Reason> {
    let [first, second, third, src, dst] = bytes.words::<5>(ETH).ok_or(Reason::Malformed)?;
    let header = u32::from(byte(first, 0) & 0x0f) * 4;
    let total = u32::from(half(first, 1));
    if byte(first, 0) >> 4 != 4 || header < 20 {
        return Err(Reason::Malformed);
    }
    let end = end(bytes, total)?;
    let offset = half(second, 1);
    let fragment = match (offset & 0x1fff, offset & 0x2000) {
        (0, 0) => WHOLE,
        (0, _) => FIRST,
        _ => LATER,
    };
    packet.tuple.src = Addr::v4(src);
    packet.tuple.dst = Addr::v4(dst);
    packet.tuple.protocol = byte(third, 1);
    packet.l4 = ETH + header;
    packet.ttl = byte(third, 0);
    packet.fragment = fragment;
    packet.ident = u32::from(half(second, 0));
    packet.v4 = 1;
    Ok(end)
}

#[inline(always)]
fn parse_v6<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Result<u32, Reason> {
    let words = bytes.words::<10>(ETH).ok_or(Reason::Malformed)?;
    if byte(words[0], 0) >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let payload = u32::from(half(words[1], 0));
    let end = end(bytes, if payload == 0 { 0 } else { payload + 40 })?;
    let src = Addr::v6([words[2], words[3], words[4], words[5]]);
    let dst = Addr::v6([words[6], words[7], words[8], words[9]]);
    // Such an address is never seen on a wire; it would be taken for IPv4.
    if src.is_v4() || dst.is_v4() {
        return Err(Reason::Malformed);
    }
    // Known also of a packet whose other headers cannot be read.
    packet.tuple.src = src;
    packet.tuple.dst = dst;
    let mut l4 = ETH + 40;
    let mut protocol = byte(words[1], 2);
    let mut fragment = WHOLE;
    let mut left = EXTENSIONS;
    loop {
        let length = match protocol {
            // Hop-by-hop options, destination options.
            0 | 60 => {
                let e: [u8; 2] = bytes.load(l4).ok_or(Reason::Malformed)?;
                protocol = e[0];
                (u32::from(e[1]) + 1) * 8
            }
            // Authentication.
            51 => {
                let e: [u8; 2] = bytes.load(l4).ok_or(Reason::Malformed)?;
                protocol = e[0];
                (u32::from(e[1]) + 2) * 4
            }
            // Fragment.
            44 => {
                let e: [u8; 8] = bytes.load(l4).ok_or(Reason::Malformed)?;
                protocol = e[0];
                packet.ident = u32::from_ne_bytes([e[4], e[5], e[6], e[7]]);
                fragment = match (be16(e[2], e[3]) & 0xfff8, e[3] & 1) {
                    (0, 0) => fragment,
                    (0, _) => FIRST,
                    _ => LATER,
                };
                8
            }
            // Routing: the address that counts would be another one.
            43 => return Err(Reason::ExtensionHeader),
            _ => break,
        };
        l4 += length;
        if fragment == LATER {
            break;
        }
        left -= 1;
        if left == 0 {
            return Err(Reason::ExtensionHeader);
        }
    }
    packet.tuple.protocol = protocol;
    packet.l4 = l4;
    packet.ttl = byte(words[1], 3);
    packet.fragment = fragment;
    Ok(end)
}

/// Where the packet ends by its own length field, without the padding of short frames. 0 is the kernel's way of saying
/// "more than 65,535" of a packet that it will still cut.
#[inline(always)]
fn end<B: Bytes + ?Sized>(bytes: &B, length: u32) -> Result<u32, Reason> {
    let there = bytes.len();
    match length {
        0 => Ok(there),
        _ if ETH + length > there => Err(Reason::Malformed),
        _ => Ok(ETH + length),
    }
}

#[inline(always)]
const fn ports(packet: &mut Packet, word: u32) {
    packet.tuple.sport_be = half(word, 0).to_be();
    packet.tuple.dport_be = half(word, 1).to_be();
}

/// Reads ports and flags.
#[inline(always)]
fn transport<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet, end: u32) -> Result<(), Reason> {
    if packet.l4 > end {
        return Err(Reason::Malformed);
    }
    if packet.fragment == LATER {
        return Ok(());
    }
    let room = end - packet.l4;
    match packet.tuple.protocol {
        TCP => {
            let words = bytes.words::<5>(packet.l4).ok_or(Reason::Malformed)?;
            let header = u32::from(byte(words[3], 0) >> 4) * 4;
            if header < 20 || header > room {
                return Err(Reason::Malformed);
            }
            ports(packet, words[0]);
            packet.detail = byte(words[3], 1);
            packet.numbers = [u32::from_be(words[1]), u32::from_be(words[2])];
        }
        UDP => {
            let words = bytes.words::<2>(packet.l4).ok_or(Reason::Malformed)?;
            if room < 8 {
                return Err(Reason::Malformed);
            }
            ports(packet, words[0]);
        }
        SCTP => {
            let words = bytes.words::<3>(packet.l4).ok_or(Reason::Malformed)?;
            if room < 12 {
                return Err(Reason::Malformed);
            }
            ports(packet, words[0]);
        }
        ICMP | ICMPV6 => {
            let words = bytes.words::<2>(packet.l4).ok_or(Reason::Malformed)?;
            if room < 8 {
                return Err(Reason::Malformed);
            }
            packet.detail = byte(words[0], 0);
            if is_echo(packet.tuple.protocol, packet.detail) {
                packet.tuple.sport_be = half(words[1], 0).to_be();
                packet.tuple.dport_be = packet.tuple.sport_be;
            } else {
                // Answers to other questions are of another type.
                packet.tuple.dport_be = u16::from(packet.detail);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether an ICMP message of this type tells of the fate of another packet: unreachable, too big, time exceeded, a bad
/// header. (A redirect is none: nobody may send one.)
#[inline(always)]
pub const fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        ICMP => kind == 3 || kind == 11 || kind == 12,
        ICMPV6 => kind >= 1 && kind <= 4,
        _ => false,
    }
}

/// Whether it is an echo or its reply.
#[inline(always)]
const fn is_echo(protocol: u8, kind: u8) -> bool {
    if protocol == ICMP { kind == 0 || kind == 8 } else { kind == 128 || kind == 129 }
}

/// Whether the address is a group's: multicast, or the broadcast of every network.
#[inline(always)]
pub const fn is_group(addr: &Addr) -> bool {
    if addr.is_v4() {
        let host = u32::from_be(addr.v4_be());
        return host >> 28 == 0xe || host == u32::MAX;
    }
    u32::from_be(addr.words_be[0]) >> 24 == 0xff
}

/// Where clouds tell machines who they are, with the keys to it, over IPv6: fd00:ec2::254 (AWS) and fd20:ce::254 (Google).
/// (Over IPv4 it is link-local, and over IPv6 such an address would have been right as well.)
const METADATA: [u32; 2] = [0xfd00_0ec2, 0xfd20_00ce];
/// The same over IPv4, where it is not link-local: 168.63.129.16 (Azure), 100.100.100.200 (Alibaba) and 192.0.0.192 (Oracle).
const METADATA_V4: [u32; 3] = [0xa83f_8110, 0x6464_64c8, 0xc000_00c0];

#[inline(always)]
const fn is_metadata(words_be: [u32; 4]) -> bool {
    let [first, second, third, last] = words_be;
    let net = u32::from_be(first);
    (net == METADATA[0] || net == METADATA[1]) && second | third == 0 && u32::from_be(last) == 0x254
}

/// Whether a cloud answers machines at this address of IPv4, which a router would pass on. An instance may have it where a
/// range of instances has it.
#[inline(always)]
pub const fn is_cloud(addr: &Addr) -> bool {
    let word = u32::from_be(addr.v4_be());
    addr.is_v4() && (word == METADATA_V4[0] || word == METADATA_V4[1] || word == METADATA_V4[2])
}

/// Whether the address has no meaning beyond one link or one machine: no router may pass it on
/// (RFC 1122 3.2.1.3, RFC 3927 7, RFC 4291 2.5).
#[inline(always)]
pub const fn is_unroutable(addr: &Addr) -> bool {
    if addr.is_v4() {
        let host = u32::from_be(addr.v4_be());
        return host >> 24 == 127 || host >> 24 == 0 || host >> 16 == 0xa9fe || host >> 28 == 0xf;
    }
    addr.is_own_machine() || is_link_local(addr) || is_metadata(addr.words_be)
}

/// Whether it is an IPv6 link-local address.
#[inline(always)]
pub const fn is_link_local(addr: &Addr) -> bool {
    u32::from_be(addr.words_be[0]) >> 22 == 0xfe80 >> 6
}

#[cfg(test)]
mod tests;
