//! Tunnels between nodes: the header that goes before an IPv4 packet (RFC 2003) or an IPv6 packet (RFC 2473). Both are of
//! one family. Pure.

use crate::refusal::{HOPS, fold};

/// The protocol number of IPv4 in IPv4.
pub const IPV4: u8 = 4;
/// The protocol number of IPv6 in IPv6.
pub const IPV6: u8 = 41;
/// Bytes of the header of each family.
pub const V4_HEADER: u32 = 20;
/// See [`V4_HEADER`].
pub const V6_HEADER: u32 = 40;
/// What neither a header before IPv4 nor one before IPv6 takes over: the two bits by which routers tell of congestion.
/// Nobody hands them on at the other end, so a router on the way is to drop instead (RFC 6040 4.1, compatibility).
const V4_CONGESTION: u32 = 0x0003_0000;
const V6_CONGESTION: u32 = 0x0030_0000;

/// Bytes that a tunnel of this family takes.
#[inline(always)]
pub const fn overhead(v4: bool) -> u32 {
    if v4 { V4_HEADER } else { V6_HEADER }
}

/// The number by which a packet of this family says that another one is in it.
#[inline(always)]
pub const fn protocol(v4: bool) -> u8 {
    if v4 { IPV4 } else { IPV6 }
}

/// How long an IP packet is by its own header, of which these are the first two words as they lie there. 0: longer than
/// the field can say.
#[inline(always)]
pub const fn length(v4: bool, first: u32, second: u32) -> u32 {
    if v4 {
        return u32::from_be(first) & 0xffff;
    }
    let payload = u32::from_be(second) >> 16;
    if payload == 0 { 0 } else { payload + V6_HEADER }
}

/// The words of the header before an IPv4 packet of `length` bytes whose own header begins with the word `first`. It is
/// not to be cut on the way, and so needs no identification (RFC 6864 4.1).
#[inline(always)]
pub const fn v4(first: u32, length: u32, from: u32, to: u32) -> [u32; 5] {
    const UNCUT: u32 = 0x4000;
    let service = u32::from_be(first) & 0x00ff_0000 & !V4_CONGESTION;
    let mut words =
        [0x4500_0000 | service | (length + V4_HEADER) & 0xffff, UNCUT, HOPS << 24 | (IPV4 as u32) << 16, 0, 0];
    (words[3], words[4]) = (u32::from_be(from), u32::from_be(to));
    let (mut sum, mut n) = (0, 0);
    while n < words.len() {
        sum += (words[n] >> 16) + (words[n] & 0xffff);
        n += 1;
    }
    words[2] |= !fold(sum) as u32;
    [words[0].to_be(), words[1].to_be(), words[2].to_be(), from, to]
}

/// The same of IPv6. The label of the flow stays: by it routers spread what is in one tunnel (RFC 6438).
#[inline(always)]
pub const fn v6(first: u32, length: u32, from: [u32; 4], to: [u32; 4]) -> [u32; 10] {
    let one = (u32::from_be(first) & !V6_CONGESTION).to_be();
    let two = ((length & 0xffff) << 16 | (IPV6 as u32) << 8 | HOPS).to_be();
    [one, two, from[0], from[1], from[2], from[3], to[0], to[1], to[2], to[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_is_in_it_and_its_sum_is_right() {
        let first = 0x45b9_05dc_u32.to_be();
        let header = v4(first, 1500, 0xc000_0201_u32.to_be(), 0xc000_0203_u32.to_be()).map(u32::from_be);
        assert_eq!(header[0], 0x45b8_05f0, "the class of service stays, what is said of congestion does not");
        assert_eq!((header[1], header[2] >> 16), (0x4000, 0x4004));
        assert_eq!((header[3], header[4]), (0xc000_0201, 0xc000_0203));
        let sum = header.iter().map(|word| (word >> 16) + (word & 0xffff)).sum();
        assert_eq!(fold(sum), 0xffff);
    }

    #[test]
    fn the_header_before_ipv6_keeps_the_label() {
        let first = 0x6b91_2345_u32.to_be();
        let header = v6(first, 1240, [1, 2, 3, 4], [5, 6, 7, 8]);
        assert_eq!(u32::from_be(header[0]), 0x6b81_2345);
        assert_eq!(u32::from_be(header[1]), 1240 << 16 | 41 << 8 | 64);
        assert_eq!(header[2..], [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_packet_says_how_long_it_is() {
        assert_eq!(length(true, 0x4500_0054_u32.to_be(), 0), 84);
        assert_eq!(length(false, 0, 0x0014_0640_u32.to_be()), 60);
        assert_eq!(length(false, 0, 0x0000_0640_u32.to_be()), 0, "a jumbogram");
    }
}
