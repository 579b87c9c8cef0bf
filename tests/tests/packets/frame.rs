//! Frames, built from their fields with checksums computed from scratch: what the programs have changed step by step
//! must be the same bytes.

use std::net::IpAddr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// An Ethernet frame with an IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) to_mac: [u8; 6],
    pub(crate) from_mac: [u8; 6],
    pub(crate) src: (IpAddr, u16),
    pub(crate) dst: (IpAddr, u16),
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    /// TCP's flags, or ICMP's type.
    pub(crate) detail: u8,
    /// TCP's sequence number and acknowledgement: what is sent acknowledges what is sent the other way.
    pub(crate) numbers: [u32; 2],
    /// Identification of an echo.
    pub(crate) ident: u16,
    /// IPv4's options, or the IPv6 extension headers, each with its own number first.
    pub(crate) options: Vec<u8>,
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4's field of flags and offset.
    pub(crate) fragment: u16,
    pub(crate) payload: Vec<u8>,
    /// UDP over IPv4 without a checksum.
    pub(crate) unsummed: bool,
}

impl Frame {
    pub(crate) fn new(protocol: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        Self {
            to_mac: [0; 6],
            from_mac: [0; 6],
            src,
            dst,
            ttl: 64,
            protocol,
            detail: if protocol == TCP { SYN } else { 0 },
            numbers: [1, 2],
            ident: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0,
            payload: b"odd".to_vec(),
            unsummed: false,
        }
    }

    /// An ICMP error of this type about `frame`, from `src` to whoever has sent it: it quotes what a router quotes at least
    /// (RFC 792), headers and eight bytes.
    pub(crate) fn error(kind: u8, src: IpAddr, frame: &Self) -> Self {
        let protocol = if src.is_ipv4() { ICMP } else { ICMPV6 };
        let header = if src.is_ipv4() { 20 + frame.options.len() } else { 40 };
        let payload = frame.bytes()[14..14 + header + 8].to_vec();
        Self { detail: kind, payload, ..Self::new(protocol, (src, 0), (frame.src.0, 0)) }
    }

    /// The bytes, with correct lengths and checksums.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut frame = [self.to_mac, self.from_mac].concat();
        match (self.src.0, self.dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (src, dst) = (src.octets(), dst.octets());
                let l4 = self.transport(&src, &dst);
                let header = 20 + self.options.len();
                let mut ip = vec![0x40 | (header / 4) as u8, 0];
                ip.extend(((header + l4.len()) as u16).to_be_bytes());
                ip.extend([0x12, 0x34]);
                ip.extend(self.fragment.to_be_bytes());
                ip.extend([self.ttl, self.protocol, 0, 0]);
                ip.extend(src.into_iter().chain(dst));
                ip.extend(&self.options);
                let sum = checksum(&[&ip]);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend([0x08, 0x00]);
                frame.extend(ip);
                frame.extend(l4);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (src, dst) = (src.octets(), dst.octets());
                let l4 = self.transport(&src, &dst);
                let numbers = self.extensions.iter().map(|(number, _)| *number).chain([self.protocol]);
                let mut numbers = numbers.collect::<Vec<_>>().into_iter();
                let first = numbers.next().expect("a protocol");
                let mut chain = Vec::new();
                for ((_, body), next) in self.extensions.iter().zip(numbers) {
                    chain.push(next);
                    chain.extend(body);
                }
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(((chain.len() + l4.len()) as u16).to_be_bytes());
                frame.extend([first, self.ttl]);
                frame.extend(src.into_iter().chain(dst));
                frame.extend(chain);
                frame.extend(l4);
            }
            _ => panic!("two families in one packet"),
        }
        frame
    }

    fn transport(&self, src: &[u8], dst: &[u8]) -> Vec<u8> {
        let ports = [self.src.1.to_be_bytes(), self.dst.1.to_be_bytes()].concat();
        let (mut l4, at) = match self.protocol {
            TCP => {
                let numbers = self.numbers.map(u32::to_be_bytes).concat();
                ([&ports[..], &numbers, &[0x50, self.detail, 0xff, 0xff, 0, 0, 0, 0]].concat(), 16)
            }
            UDP => {
                let length = (8 + self.payload.len() as u16).to_be_bytes();
                ([&ports[..], &length, &[0, 0]].concat(), 6)
            }
            ICMP | ICMPV6 => {
                let [high, low] = self.ident.to_be_bytes();
                (vec![self.detail, 0, 0, 0, high, low, 0, 0], 2)
            }
            SCTP => ([&ports[..], &[0; 8]].concat(), 0),
            _ => (Vec::new(), 0),
        };
        l4.extend(&self.payload);
        if at == 0 || self.unsummed {
            return l4;
        }
        let length = (l4.len() as u32).to_be_bytes();
        let pseudo = [src, dst, &length, &[0, 0, 0, self.protocol]].concat();
        let sum = if self.protocol == ICMP { checksum(&[&l4]) } else { checksum(&[&pseudo, &l4]) };
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        l4
    }
}

/// An ARP request of `sender` for `target`.
pub(crate) fn arp(mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let head = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &mac, &head, &mac, &sender, &[0; 6], &target].concat()
}

/// The Internet checksum (RFC 1071) of pieces of even length but the last.
pub(crate) fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for pair in pieces.iter().flat_map(|piece| piece.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
