use core::net::IpAddr;

use super::*;

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn parse(bytes: &[u8], ether_type: u16) -> Result<Packet, Reason> {
    let mut packet = Packet::BLANK;
    super::parse(bytes, ether_type, &mut packet).map(|()| packet)
}

fn v4(protocol: u8, fragment: u16, l4: &[u8]) -> Vec<u8> {
    let mut p = vec![0u8; 12];
    p.extend([0x08, 0x00, 0x45, 0]);
    p.extend((20 + l4.len() as u16).to_be_bytes());
    p.extend([0, 1]);
    p.extend(fragment.to_be_bytes());
    p.extend([64, protocol, 0xab, 0xcd, 10, 88, 0, 5, 10, 96, 0, 1]);
    p.extend(l4);
    p
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0u8; 12];
    p.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    p.extend((payload.len() as u16).to_be_bytes());
    p.extend([next, 255]);
    p.extend("fd68::5".parse::<core::net::Ipv6Addr>().unwrap().octets());
    p.extend("fd68::1".parse::<core::net::Ipv6Addr>().unwrap().octets());
    p.extend(payload);
    p
}

const TCP_SYN: [u8; 20] = [0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0];
const UDP_53: [u8; 8] = [0x9c, 0x40, 0, 53, 0, 8, 0, 0];

#[test]
fn reads_ports_and_flags() {
    let p = parse(v4(TCP, 0x4000, &TCP_SYN).as_slice(), IPV4).unwrap();
    assert_eq!((p.tuple.src, p.tuple.dst), (addr("10.88.0.5"), addr("10.96.0.1")));
    assert_eq!((p.tuple.sport_be, p.tuple.dport_be), (40000u16.to_be(), 80u16.to_be()));
    assert!(p.opens() && p.is_balanced() && p.is_v4());
    assert_eq!((p.l4, p.ttl), (34, 64));

    let p = parse(v6(UDP, &UDP_53).as_slice(), IPV6).unwrap();
    assert_eq!((p.tuple.dst, p.tuple.dport_be, p.l4), (addr("fd68::1"), 53u16.to_be(), 54));
    assert!(!p.is_v4());
}

#[test]
fn walks_extension_headers_to_the_ports() {
    let options = [60, 0, 1, 4, 0, 0, 0, 0];
    let more = [UDP, 0, 1, 4, 0, 0, 0, 0];
    let p = parse(v6(0, &[&options[..], &more, &UDP_53].concat()).as_slice(), IPV6).unwrap();
    assert_eq!((p.tuple.protocol, p.tuple.dport_be, p.l4), (UDP, 53u16.to_be(), 70));

    let routing = [UDP, 0, 0, 1, 0, 0, 0, 0];
    assert_eq!(parse(v6(43, &[&routing[..], &UDP_53].concat()).as_slice(), IPV6), Err(Reason::ExtensionHeader));
    let endless: Vec<u8> = [60u8, 0, 1, 4, 0, 0, 0, 0].repeat(9);
    assert_eq!(parse(v6(60, &endless).as_slice(), IPV6), Err(Reason::ExtensionHeader));
}

#[test]
fn later_fragments_have_no_ports() {
    for (field, fragment) in [(0x2000, FIRST), (0x2001, LATER), (0x0001, LATER), (0x4000, WHOLE)] {
        let p = parse(v4(UDP, field, &UDP_53).as_slice(), IPV4).unwrap();
        assert_eq!((p.fragment, p.is_balanced()), (fragment, fragment != LATER), "{field:#x}");
    }
    for (field, fragment) in [([0, 1], FIRST), ([0, 9], LATER), ([0, 8], LATER), ([0, 0], WHOLE)] {
        let header = [UDP, 0, field[0], field[1], 0, 0, 0, 1];
        let p = parse(v6(44, &[&header[..], &UDP_53].concat()).as_slice(), IPV6).unwrap();
        assert_eq!((p.fragment, p.is_balanced()), (fragment, fragment != LATER), "{field:?}");
    }
}

#[test]
fn cut_at_any_length_it_is_malformed() {
    let options = [UDP, 0, 1, 4, 0, 0, 0, 0];
    for (packet, ether_type) in [
        (v4(TCP, 0, &TCP_SYN), IPV4),
        (v4(UDP, 0, &UDP_53), IPV4),
        (v4(ICMP, 0, &[8, 0, 0, 0, 0, 7, 0, 1]), IPV4),
        (v4(SCTP, 0, &[0; 12]), IPV4),
        (v6(TCP, &TCP_SYN), IPV6),
        (v6(0, &[&options[..], &UDP_53].concat()), IPV6),
    ] {
        assert!(parse(packet.as_slice(), ether_type).is_ok());
        for length in 0..packet.len() {
            assert_eq!(parse(&packet[..length], ether_type), Err(Reason::Malformed), "{length} of {packet:?}");
        }
    }
}

#[test]
fn contradictions_are_malformed() {
    let mut header_too_short = v4(UDP, 0, &UDP_53);
    header_too_short[14] = 0x44;
    let mut wrong_version = v4(UDP, 0, &UDP_53);
    wrong_version[14] = 0x65;
    let mut ports_in_the_padding = v4(UDP, 0, &UDP_53);
    ports_in_the_padding[17] = 20;
    let mut options_past_the_end = v4(UDP, 0, &UDP_53);
    options_past_the_end[14] = 0x4f;
    for p in [header_too_short, wrong_version, ports_in_the_padding, options_past_the_end] {
        assert_eq!(parse(p.as_slice(), IPV4), Err(Reason::Malformed), "{p:?}");
    }
    let mut mapped = v6(UDP, &UDP_53);
    mapped[22..38].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 88, 0, 9]);
    assert_eq!(parse(mapped.as_slice(), IPV6), Err(Reason::Malformed));
}

#[test]
fn random_bytes_do_no_harm() {
    // xorshift: the same bytes on every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..20_000 {
        let bytes: Vec<u8> = (0..round % 120)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        for ether_type in [IPV4, IPV6] {
            if let Ok(packet) = parse(bytes.as_slice(), ether_type) {
                assert!(packet.l4 as usize <= bytes.len());
            }
        }
    }
}

#[test]
fn classes_of_addresses() {
    for (text, group, unroutable) in [
        ("10.88.0.1", false, false),
        ("224.0.0.251", true, false),
        ("239.255.255.250", true, false),
        ("255.255.255.255", true, true),
        ("169.254.169.254", false, true),
        ("127.0.0.1", false, true),
        ("0.0.0.0", false, true),
        ("ff02::1", true, false),
        ("fe80::1", false, true),
        ("::1", false, true),
        ("::", false, true),
        ("fd68::1", false, false),
        ("fd00:ec2::254", false, true),
        ("fd20:ce::254", false, true),
        ("fd00:ec2::253", false, false),
        ("fd00:ec2:0:1::254", false, false),
        ("2001:db8::1", false, false),
    ] {
        assert_eq!((is_group(&addr(text)), is_unroutable(&addr(text))), (group, unroutable), "{text}");
    }
    for (text, cloud) in [
        ("168.63.129.16", true),
        ("100.100.100.200", true),
        ("192.0.0.192", true),
        ("100.100.100.201", false),
        ("192.0.2.192", false),
        ("::a83f:8110", false),
    ] {
        assert_eq!(is_cloud(&addr(text)), cloud, "{text}");
    }
}

#[test]
fn an_echo_is_known_by_its_identifier_and_a_fragment_by_its_own() {
    for (kind, ports) in [(8, 7), (0, 7)] {
        let p = parse(v4(ICMP, 0, &[kind, 0, 0, 0, 0, 7, 0, 1]).as_slice(), IPV4).unwrap();
        assert_eq!((p.tuple.sport_be, p.tuple.dport_be), (u16::to_be(ports), u16::to_be(ports)));
    }
    let asks = parse(v4(ICMP, 0, &[13, 0, 0, 0, 0, 7, 0, 1]).as_slice(), IPV4).unwrap();
    assert_eq!((asks.tuple.sport_be, asks.tuple.dport_be), (0, 13));
    assert!(!asks.is_error() && parse(v4(ICMP, 0, &[3, 4, 0, 0, 0, 0, 5, 0]).as_slice(), IPV4).unwrap().is_error());
    assert_eq!(parse(v4(UDP, 1, &UDP_53).as_slice(), IPV4).unwrap().ident, 1);
    let header = [UDP, 0, 0, 9, 1, 2, 3, 4];
    let p = parse(v6(44, &[&header[..], &UDP_53].concat()).as_slice(), IPV6).unwrap();
    assert_eq!(p.ident.to_ne_bytes(), [1, 2, 3, 4]);
}
