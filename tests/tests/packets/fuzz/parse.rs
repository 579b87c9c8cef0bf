//! A reader of frames of its own, by the RFCs: nothing of it is shared with the programs that it is a judge of.

use std::net::IpAddr;

use hivemind_ebpf::reason::Reason;

use crate::frame::{ICMP, ICMPV6, SCTP, TCP, UDP};

/// An address and a port (0 where there is none).
pub(crate) type End = (IpAddr, u16);

/// Which part of a packet a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First,
    Later,
}

/// What a frame says, as far as it can be believed.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) protocol: u8,
    /// Where the transport header begins.
    pub(crate) l4: usize,
    pub(crate) hops: u8,
    pub(crate) part: Part,
    /// Identification of a fragment.
    pub(crate) ident: u32,
    /// TCP's flags, or ICMP's type; 0 of a later fragment.
    pub(crate) detail: u8,
}

impl Packet {
    /// Whether it begins a TCP connection.
    pub(crate) fn opens(&self) -> bool {
        self.protocol == TCP && self.part != Part::Later && self.detail & 0x17 == 2
    }

    pub(crate) fn is_icmp(&self) -> bool {
        matches!(self.protocol, ICMP | ICMPV6)
    }

    /// An ICMP message about another packet: unreachable, too big, time exceeded, bad parameter.
    pub(crate) fn is_error(&self) -> bool {
        let kinds: &[u8] = match self.protocol {
            ICMP => &[3, 11, 12],
            ICMPV6 => &[1, 2, 3, 4],
            _ => &[],
        };
        self.part != Part::Later && kinds.contains(&self.detail)
    }

    /// A message of neighbour discovery (RFC 4861), or the redirect of IPv4.
    pub(crate) fn is_neighbour(&self) -> bool {
        let said = match self.protocol {
            ICMP => self.detail == 5,
            ICMPV6 => (133..=137).contains(&self.detail),
            _ => false,
        };
        said && self.part != Part::Later
    }

    /// A solicitation or an advertisement of a neighbour on this very link.
    pub(crate) fn is_resolution(&self) -> bool {
        self.protocol == ICMPV6 && self.part == Part::Whole && self.hops == 255 && matches!(self.detail, 135 | 136)
    }
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}

/// An address of `length` (4 or 16) bytes.
fn address(bytes: &[u8], at: usize, length: usize) -> Option<IpAddr> {
    let bytes = bytes.get(at..at + length)?;
    Some(match length {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        _ => <[u8; 16]>::try_from(bytes).ok()?.into(),
    })
}

/// Reads an IP packet behind an Ethernet header.
pub(crate) fn read(frame: &[u8]) -> Result<Packet, Reason> {
    let packet = match be16(frame, 12).ok_or(Reason::Malformed)? {
        0x0800 => four(frame),
        0x86dd => six(frame),
        _ => return Err(Reason::EtherType),
    };
    let (mut packet, end) = packet?;
    // What is behind the end that the packet itself says is padding.
    let transport = frame.get(packet.l4..end).ok_or(Reason::Malformed)?;
    if packet.part == Part::Later {
        return Ok(packet);
    }
    let shortest = match packet.protocol {
        TCP => 20,
        SCTP => 12,
        UDP | ICMP | ICMPV6 => 8,
        _ => return Ok(packet),
    };
    let header =
        if packet.protocol == TCP { transport.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4) } else { shortest };
    if header < shortest || header > transport.len() {
        return Err(Reason::Malformed);
    }
    let word = |at| be16(transport, at).ok_or(Reason::Malformed);
    if packet.is_icmp() {
        packet.detail = transport[0];
        let echo: &[u8] = if packet.protocol == ICMP { &[0, 8] } else { &[128, 129] };
        let (from, to) = if echo.contains(&packet.detail) { (word(4)?, word(4)?) } else { (0, packet.detail.into()) };
        (packet.from.1, packet.to.1) = (from, to);
    } else {
        (packet.from.1, packet.to.1) = (word(0)?, word(2)?);
        packet.detail = if packet.protocol == TCP { transport[13] } else { 0 };
    }
    Ok(packet)
}

/// Who says to have sent a packet, also one whose other headers cannot be read.
pub(crate) fn source(frame: &[u8]) -> Option<IpAddr> {
    match be16(frame, 12)? {
        0x0800 => four(frame).ok().map(|(packet, _)| packet.from.0),
        0x86dd => {
            // As if nothing came behind the first header.
            let mut bare = frame.to_vec();
            *bare.get_mut(20)? = 59;
            six(&bare).ok().map(|(packet, _)| packet.from.0)
        }
        _ => None,
    }
}

fn four(frame: &[u8]) -> Result<(Packet, usize), Reason> {
    let ip = frame.get(14..).filter(|ip| ip.len() >= 20).ok_or(Reason::Malformed)?;
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(be16(ip, 2).ok_or(Reason::Malformed)?);
    if ip[0] >> 4 != 4 || header < 20 || total > ip.len() {
        return Err(Reason::Malformed);
    }
    let fragment = be16(ip, 6).ok_or(Reason::Malformed)?;
    let part = match (fragment & 0x1fff, fragment & 0x2000) {
        (0, 0) => Part::Whole,
        (0, _) => Part::First,
        _ => Part::Later,
    };
    let at = |at| address(ip, at, 4).ok_or(Reason::Malformed);
    let packet = Packet {
        from: (at(12)?, 0),
        to: (at(16)?, 0),
        protocol: ip[9],
        l4: 14 + header,
        hops: ip[8],
        part,
        ident: be16(ip, 4).ok_or(Reason::Malformed)?.into(),
        detail: 0,
    };
    // No length is one of more than 65,535 bytes, which the kernel has yet to cut.
    Ok((packet, if total == 0 { frame.len() } else { 14 + total }))
}

fn six(frame: &[u8]) -> Result<(Packet, usize), Reason> {
    let ip = frame.get(14..).filter(|ip| ip.len() >= 40 && ip[0] >> 4 == 6).ok_or(Reason::Malformed)?;
    let payload = usize::from(be16(ip, 4).ok_or(Reason::Malformed)?);
    let at = |at| address(ip, at, 16).ok_or(Reason::Malformed);
    let (src, dst) = (at(8)?, at(24)?);
    let mapped = |address: IpAddr| matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
    if payload + 40 > ip.len() || mapped(src) || mapped(dst) {
        return Err(Reason::Malformed);
    }
    let (mut next, mut l4, mut part, mut ident) = (ip[6], 54, Part::Whole, 0);
    // Three headers are looked at.
    let mut seen = 0;
    loop {
        let length = match next {
            0 | 60 => |length: u8| (usize::from(length) + 1) * 8,
            51 => |length: u8| (usize::from(length) + 2) * 4,
            44 => |_| 8,
            43 => return Err(Reason::ExtensionHeader),
            _ => break,
        };
        let needs = if next == 44 { 8 } else { 2 };
        let header = frame.get(l4..l4 + needs).ok_or(Reason::Malformed)?;
        if next == 44 {
            let field = be16(header, 2).ok_or(Reason::Malformed)?;
            ident = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            if field >> 3 != 0 {
                part = Part::Later;
            } else if field & 1 != 0 {
                part = Part::First;
            }
        }
        next = header[0];
        l4 += length(header[1]);
        if part == Part::Later {
            break;
        }
        seen += 1;
        if seen > 3 {
            return Err(Reason::ExtensionHeader);
        }
    }
    let packet = Packet { from: (src, 0), to: (dst, 0), protocol: next, l4, hops: ip[7], part, ident, detail: 0 };
    Ok((packet, if payload == 0 { frame.len() } else { 54 + payload }))
}

/// Who has sent which packet to whom that an error tells of: its first headers, and eight bytes of what is behind them.
pub(crate) fn quoted(frame: &[u8], error: &Packet) -> Option<(u8, End, End)> {
    let inner = frame.get(error.l4 + 8..)?;
    let (protocol, src, dst, rest) = if error.from.0.is_ipv4() {
        let header = usize::from(inner.first()? & 15) * 4;
        if inner[0] >> 4 != 4 || header < 20 || be16(inner, 6)? & 0x1fff != 0 {
            return None;
        }
        (*inner.get(9)?, address(inner, 12, 4)?, address(inner, 16, 4)?, inner.get(header..)?)
    } else {
        if inner.first()? >> 4 != 6 {
            return None;
        }
        (*inner.get(6)?, address(inner, 8, 16)?, address(inner, 24, 16)?, inner.get(40..)?)
    };
    rest.get(..8)?;
    let ports = match protocol {
        TCP | UDP | SCTP => (be16(rest, 0)?, be16(rest, 2)?),
        ICMP | ICMPV6 => (be16(rest, 4)?, be16(rest, 4)?),
        _ => (0, 0),
    };
    Some((protocol, (src, ports.0), (dst, ports.1)))
}

/// Whether the address is a group's.
pub(crate) fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::from([255; 4])
}

/// Whether no router may pass it on.
pub(crate) fn is_unroutable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let (first, clouds) = (four.octets()[0], [[168, 63, 129, 16], [100, 100, 100, 200], [192, 0, 0, 192]]);
            first == 0 || first == 127 || first >= 240 || four.is_link_local() || clouds.contains(&four.octets())
        }
        IpAddr::V6(six) => {
            let clouds: [IpAddr; 2] = ["fd00:ec2::254", "fd20:ce::254"].map(|text| text.parse().expect("an address"));
            six.is_loopback() || six.is_unspecified() || six.is_unicast_link_local() || clouds.contains(&address)
        }
    }
}

/// The ICMP type that a reply answers.
pub(crate) fn question(packet: &Packet) -> u8 {
    match (packet.is_icmp(), packet.detail) {
        (true, 0) => 8,
        (true, 129) => 128,
        (_, detail) => detail,
    }
}

/// Whether a packet of ICMP may be an answer at all: an echo request is none.
pub(crate) fn is_reply(packet: &Packet) -> bool {
    !packet.is_icmp() || !matches!(packet.detail, 8 | 128) || packet.part == Part::Later
}
