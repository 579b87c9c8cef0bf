//! Flows: who talks with whom, and what was decided about it.

use core::mem::{align_of, offset_of, size_of};

use super::{Addr, Tuple};

/// The two sides of a flow, the same for both directions: side 0 is the one with the lower address, or port.
/// Services do not occur in it: a client and its backend are the sides.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// Addresses.
    pub addrs: [Addr; 2],
    /// Ports, or the identifier of an ICMP echo on both sides, or 0.
    pub ports_be: [u16; 2],
    /// The protocol's number.
    pub protocol: u8,
    /// Always 0.
    pub pad: [u8; 3],
}

/// What is known of a flow. The daemon reads it as the flow's record and removes it when it is over.
///
/// A packet passes by it without being judged again if it comes from a device, with an Ethernet address, in a
/// direction and at a generation of the tables for which that was decided.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// When it began, in nanoseconds of the monotonic clock, as coarse as the kernel's tick.
    pub first_ns: u64,
    /// When its last packet came.
    pub last_ns: u64,
    /// Packets that each side has sent. Two CPUs at once may lose one: the totals are exact, this is a record.
    pub packets: [u64; 2],
    /// Bytes of them.
    pub bytes: [u64; 2],
    /// What the client asked for, if a backend was put in its place packet by packet.
    pub vip: Addr,
    /// The host device of each side that is an instance of this node, else 0.
    pub devices: [u32; 2],
    /// Where the packets that each side sends or gets are counted ([`super::total`]); 0: nowhere.
    pub slots: [u16; 2],
    /// The account of each side that is an instance of this node, else 0.
    pub accounts: [u16; 2],
    /// The device by which answers of a published port go out, else 0.
    pub back: u32,
    /// The generation of the tables at which it was decided.
    pub generation: u32,
    /// The service's number; 0: none.
    pub service: u32,
    /// The number of the rule that allowed it; 0: none was needed.
    pub rule: u32,
    /// What the key says, in short. The kernel reuses a removed element at once, under the eyes of a packet that has
    /// just found it: a reader copies what it needs, then compares.
    pub tag: u32,
    /// Of a TCP connection: what an acknowledgement of the SYN that answered the first has at least, in host order
    /// ([`crate::flow::gains`]).
    pub asked: u32,
    /// The Ethernet address of each side that is an instance of this node: six bytes as they lie in a frame, and two
    /// zeroes.
    pub macs: [u64; 2],
    /// Port of [`Flow::vip`].
    pub vip_port_be: u16,
    /// What each side has sent: bits of [`crate::flow`].
    pub seen: [u8; 2],
    /// The side that began it: 0 or 1.
    pub origin: u8,
    /// 1: it goes through the node with an address of the node's, and no policy of the host is about it.
    pub forwarded: u8,
    /// The sides whose rates, or whose tenants', count: 1 << side.
    pub limited: u8,
    /// What was counted of it for its accounts: bits of [`crate::limit`].
    pub counted: u8,
}

/// The backend of a packet that is sent to a service or a published port; the key is the [`Tuple`] as it is sent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The backend.
    pub addr: Addr,
    /// Its port.
    pub port_be: u16,
    /// Always 0.
    pub pad: u16,
}

/// The fragments of one packet (RFC 791 3.2, RFC 8200 4.5), by where they are seen: with a forged source one could say
/// what somebody else's fragments are, otherwise. The value has the ports of the first, in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// The identification as it lies in the packet.
    pub ident: u32,
    /// The protocol's number.
    pub protocol: u32,
    /// The interface index of the device whose program sees them.
    pub device: u32,
}

/// [`Event::kind`]: a flow has begun.
pub const BEGUN: u8 = 1;
/// [`Event::kind`]: a flow is over, and its row is gone.
pub const ENDED: u8 = 2;
/// [`Event::kind`]: a packet was dropped, the first of its kind for a while.
pub const DROPPED: u8 = 3;

/// What the programs tell whoever watches: no more than is shown of it, for the ring is short.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// Addresses, as [`FlowKey::addrs`]. Of a drop: source and destination as they were sent, zeroes where the headers could
    /// not be read.
    pub addrs: [Addr; 2],
    /// Their ports.
    pub ports_be: [u16; 2],
    /// The protocol's number.
    pub protocol: u8,
    /// [`BEGUN`], [`ENDED`] or [`DROPPED`].
    pub kind: u8,
    /// Why it was dropped: a [`crate::reason::Reason`]; of a flow 0.
    pub reason: u8,
    /// [`super::OUT`] or [`super::IN`], of the dropped packet; of a flow 0.
    pub direction: u8,
    /// [`Flow::first_ns`]
    pub first_ns: u64,
    /// [`Flow::last_ns`]
    pub last_ns: u64,
    /// [`Flow::packets`]
    pub packets: [u64; 2],
    /// [`Flow::bytes`]; of a drop those of the packet with the Ethernet header, and 0.
    pub bytes: [u64; 2],
    /// [`Flow::vip`]
    pub vip: Addr,
    /// [`Flow::service`]
    pub service: u32,
    /// [`Flow::rule`], or the number of the rule that dropped it; 0: none.
    pub rule: u32,
    /// Of a drop: the interface index of the device where it was dropped; 0: the node.
    pub device: u32,
    /// [`Flow::vip_port_be`]
    pub vip_port_be: u16,
    /// 1: both sides of the flow have spoken.
    pub answered: u8,
    /// [`Flow::origin`]
    pub side: u8,
}

/// Packets that were dropped for one reason.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DropKey {
    /// As it was sent; zeroes where its headers could not be read.
    pub tuple: Tuple,
    /// The interface index of the device where it was dropped; 0: the node.
    pub device: u32,
    /// [`super::OUT`] or [`super::IN`].
    pub direction: u8,
    /// A [`crate::reason::Reason`].
    pub reason: u8,
    /// Always 0.
    pub pad: u16,
}

/// How many they were.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drops {
    /// Packets.
    pub packets: u64,
    /// Bytes, with the Ethernet header.
    pub bytes: u64,
    /// When the first came, in nanoseconds of the monotonic clock.
    pub first_ns: u64,
    /// When the last came.
    pub last_ns: u64,
    /// The number of the rule that drops them; 0: none.
    pub rule: u32,
    /// Always 0.
    pub pad: u32,
}

impl FlowKey {
    /// Becomes the key of the flow that a packet of this tuple belongs to. Returns which side has sent it.
    #[inline(always)]
    pub fn set(&mut self, tuple: &Tuple) -> usize {
        let Tuple { src, dst, sport_be, dport_be, protocol, .. } = *tuple;
        self.protocol = protocol;
        if is_before(tuple) {
            self.addrs = [src, dst];
            self.ports_be = [sport_be, dport_be];
            return 0;
        }
        self.addrs = [dst, src];
        self.ports_be = [dport_be, sport_be];
        1
    }

    /// The tuple of a packet that this side sends.
    pub const fn sent_by(&self, side: usize) -> Tuple {
        let (from, to) = (side & 1, 1 - (side & 1));
        let (sport_be, dport_be) = (self.ports_be[from], self.ports_be[to]);
        Tuple { src: self.addrs[from], dst: self.addrs[to], sport_be, dport_be, protocol: self.protocol, pad: [0; 3] }
    }

    /// What [`FlowKey::set`] makes of a packet, as the words of the key in memory, and the same side: for who has all of
    /// it in registers. Addresses in halves; the ports in one word, as they lie in the packet.
    #[inline(always)]
    pub const fn words(src: [u64; 2], dst: [u64; 2], ports: u32, protocol: u8) -> ([u64; 5], usize) {
        let ports = ports as u64;
        let swapped = ports >> 16 | (ports & 0xffff) << 16;
        let protocol = (protocol as u64) << 32;
        let [a, b] = [src[1] >> 32, dst[1] >> 32];
        let before = if a != b {
            a < b
        } else if src[1] != dst[1] {
            src[1] < dst[1]
        } else if src[0] >> 32 != dst[0] >> 32 {
            src[0] >> 32 < dst[0] >> 32
        } else if src[0] != dst[0] {
            src[0] < dst[0]
        } else {
            ports & 0xffff <= ports >> 16
        };
        if before {
            ([src[0], src[1], dst[0], dst[1], ports | protocol], 0)
        } else {
            ([dst[0], dst[1], src[0], src[1], swapped | protocol], 1)
        }
    }

    /// [`FlowKey::tag`] of these words.
    #[inline(always)]
    pub const fn tag_of(words: &[u64; 5]) -> u32 {
        let hosts = words[1] >> 32 << 32 | words[3] >> 32;
        let ports = (words[4] & 0xffff) << 32 | (words[4] & 0xffff_0000);
        folded(hosts ^ ports ^ words[4] >> 32 << 56)
    }

    /// [`Flow::tag`]
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let ports = (self.ports_be[0] as u64) << 16 | self.ports_be[1] as u64;
        let hosts = (self.addrs[0].words_be[3] as u64) << 32 | self.addrs[1].words_be[3] as u64;
        folded(hosts ^ ports << 16 ^ (self.protocol as u64) << 56)
    }
}

/// 64 bits in 32, by a multiplication (Knuth, The Art of Computer Programming 3, 6.4).
#[inline(always)]
const fn folded(bits: u64) -> u32 {
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Whether the source is side 0. Any order would do that does not depend on the direction.
#[inline(always)]
const fn is_before(tuple: &Tuple) -> bool {
    let (src, dst) = (&tuple.src.words_be, &tuple.dst.words_be);
    // The words that differ most come last in most addresses.
    if src[3] != dst[3] {
        return src[3] < dst[3];
    }
    if src[2] != dst[2] {
        return src[2] < dst[2];
    }
    if src[1] != dst[1] {
        return src[1] < dst[1];
    }
    if src[0] != dst[0] {
        return src[0] < dst[0];
    }
    tuple.sport_be <= tuple.dport_be
}

layout!(FlowKey, 40, 8, addrs: 0, ports_be: 32, protocol: 36, pad: 37);
layout!(
    Flow, 128, 8, first_ns: 0, last_ns: 8, packets: 16, bytes: 32, vip: 48, devices: 64, slots: 72, accounts: 76,
    back: 80, generation: 84, service: 88, rule: 92, tag: 96, asked: 100, macs: 104, vip_port_be: 120, seen: 122, origin: 124,
    forwarded: 125, limited: 126, counted: 127
);
layout!(
    Event, 120, 8, addrs: 0, ports_be: 32, protocol: 36, kind: 37, reason: 38, direction: 39, first_ns: 40, last_ns: 48,
    packets: 56, bytes: 72, vip: 88, service: 104, rule: 108, device: 112, vip_port_be: 116, answered: 118, side: 119
);
layout!(DropKey, 48, 8, tuple: 0, device: 40, direction: 44, reason: 45, pad: 46);
layout!(Drops, 40, 8, packets: 0, bytes: 8, first_ns: 16, last_ns: 24, rule: 32, pad: 36);
layout!(Translation, 20, 4, addr: 0, port_be: 16, pad: 18);
layout!(FragmentKey, 44, 4, src: 0, dst: 16, ident: 32, protocol: 36, device: 40);

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(src: [u32; 4], dst: [u32; 4], sport_be: u16, dport_be: u16) -> Tuple {
        let (src, dst) = (Addr { words_be: src }, Addr { words_be: dst });
        Tuple { src, dst, sport_be, dport_be, protocol: 6, pad: [0; 3] }
    }

    #[test]
    fn both_directions_have_one_key_and_each_its_side() {
        for tuple in [
            tuple([0, 0, 1, 2], [0, 0, 1, 3], 9, 8),
            tuple([0, 0, 2, 2], [0, 0, 1, 2], 9, 8),
            tuple([0, 3, 2, 2], [0, 2, 2, 2], 9, 8),
            tuple([1, 3, 2, 2], [2, 3, 2, 2], 9, 8),
            tuple([1, 3, 2, 2], [1, 3, 2, 2], 9, 8),
            tuple([1, 3, 2, 2], [1, 3, 2, 2], 8, 9),
        ] {
            let back = crate::policy::reversed(&tuple);
            let (mut key, mut other) = (FlowKey::default(), FlowKey::default());
            let (side, other_side) = (key.set(&tuple), other.set(&back));
            assert_eq!((key, side), (other, 1 - other_side));
            assert_eq!((key.sent_by(side), key.sent_by(other_side)), (tuple, back));
            assert_eq!(key.tag(), other.tag());
        }
    }

    /// As the key lies in memory, on a little-endian machine.
    fn bytes(key: &FlowKey) -> Vec<u8> {
        let FlowKey { addrs, ports_be, protocol, pad } = key;
        let addrs = addrs.iter().flat_map(|addr| addr.words_be).flat_map(u32::to_le_bytes);
        let ports = ports_be.iter().copied().flat_map(u16::to_le_bytes);
        addrs.chain(ports).chain([*protocol]).chain(*pad).collect()
    }

    #[test]
    fn the_words_of_a_key_are_its_bytes_whatever_differs() {
        let half = |addr: &Addr, n: usize| u64::from(addr.words_be[2 * n]) | u64::from(addr.words_be[2 * n + 1]) << 32;
        let base = tuple([5, 6, 7, 8], [5, 6, 7, 8], 0x1234, 0x1234);
        for change in 0..10 {
            let mut tuple = base;
            match change {
                0..4 => tuple.src.words_be[change] += 1,
                4..8 => tuple.dst.words_be[change - 4] += 1,
                8 => tuple.sport_be = 0x0135,
                _ => tuple.dport_be = 0x0135,
            }
            let mut key = FlowKey::default();
            let side = key.set(&tuple);
            let ports = u32::from(tuple.sport_be) | u32::from(tuple.dport_be) << 16;
            let [src, dst] = [tuple.src, tuple.dst].map(|addr| [half(&addr, 0), half(&addr, 1)]);
            let (words, sender) = FlowKey::words(src, dst, ports, tuple.protocol);
            assert_eq!(words.iter().copied().flat_map(u64::to_le_bytes).collect::<Vec<_>>(), bytes(&key), "{change}");
            assert_eq!((sender, FlowKey::tag_of(&words)), (side, key.tag()), "{change}");
        }
    }
}
