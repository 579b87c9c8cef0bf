//! What goes back for a packet that is dropped: every field of it, from the packet alone.

use hivemind_ebpf::{
    packet::{ACK, FIN, ICMP, ICMPV6, SYN, TCP},
    program,
    reason::Reason,
    refusal::{self, Answer},
};

use crate::bench::{DROP, REDIRECT};

/// Checks the verdict on a packet that is dropped for `reason`, and what the packet became.
#[track_caller]
pub(crate) fn check(name: &str, program: &str, reason: Reason, packet: &[u8], verdict: i32, out: &[u8]) {
    let answer = expected(program, reason, packet);
    if answer == Answer::Nothing {
        assert_eq!((verdict, out), (DROP, packet), "{name}: no answer");
        return;
    }
    assert_eq!(verdict, REDIRECT, "{name}: {answer:?}");
    assert_eq!(out[..14], packet[..14], "{name}: Ethernet");
    let v4 = packet[12..14] == [0x08, 0x00];
    let (l4, addresses) = if v4 { (34, 26..34) } else { (54, 22..54) };
    let half = addresses.len() / 2;
    let (was, now) = (&packet[addresses.clone()], &out[addresses.clone()]);
    assert_eq!((&now[..half], &now[half..]), (&was[half..], &was[..half]), "{name}: the addresses change sides");
    let length = if v4 { be16(out, 16) } else { be16(out, 18) + 40 };
    assert_eq!(length + 14, out.len(), "{name}: length");
    if v4 {
        assert_eq!((out[14], sum(&out[14..34], 0)), (0x45, 0xffff), "{name}: IPv4's header");
    }
    let (protocol, part) = (out[if v4 { 23 } else { 20 }], &out[l4..]);
    let pseudo = |part: &[u8]| sum(now, u32::from(protocol) + u32::try_from(part.len()).expect("short"));
    if answer == Answer::Reset {
        assert_eq!(protocol, TCP, "{name}");
        assert_eq!((be16(part, 0), be16(part, 2)), (be16(packet, l4 + 2), be16(packet, l4)), "{name}: ports");
        let flags = packet[l4 + 13];
        let (says, header) = if v4 { (be16(packet, 16), 14) } else { (be16(packet, 18), 54) };
        // What says no length of its own, because it has more than 64 KiB, is no beginning: its data does not matter.
        let ends = if says == 0 { 0 } else { says + header };
        let data = ends.saturating_sub(l4 + usize::from(packet[l4 + 12] >> 4) * 4);
        let length = u32::try_from(data).expect("short") + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let (sequence, acknowledged, sent) = if flags & ACK != 0 {
            (be32(packet, l4 + 8), 0, 0x04)
        } else {
            (0, be32(packet, l4 + 4).wrapping_add(length), 0x14)
        };
        assert_eq!((be32(part, 4), be32(part, 8), part[13]), (sequence, acknowledged, sent), "{name}: the reset");
        assert_eq!(sum(part, pseudo(part).into()), 0xffff, "{name}: TCP's checksum");
        return;
    }
    let (kind, wanted, seed) = match (v4, answer) {
        (true, Answer::TooLong) => ([3, 4], ICMP, 0),
        (false, Answer::TooLong) => ([2, 0], ICMPV6, pseudo(part).into()),
        (true, Answer::Prohibited) => ([3, 13], ICMP, 0),
        (false, Answer::Prohibited) => ([1, 1], ICMPV6, pseudo(part).into()),
        (true, Answer::Port) => ([3, 3], ICMP, 0),
        (true, _) => ([3, 1], ICMP, 0),
        (false, Answer::Port) => ([1, 4], ICMPV6, pseudo(part).into()),
        (false, _) => ([1, 3], ICMPV6, pseudo(part).into()),
    };
    assert_eq!((protocol, &part[..2]), (wanted, &kind[..]), "{name}");
    assert_eq!(sum(part, seed), 0xffff, "{name}: ICMP's checksum");
    if answer == Answer::TooLong {
        assert_eq!(be32(part, 4), if v4 { 1480 } else { 1460 }, "{name}: what would fit");
    }
    assert_eq!(part[8..], packet[14..l4 + 8], "{name}: the packet that it tells of");
}

fn expected(program: &str, reason: Reason, packet: &[u8]) -> Answer {
    let plain = match packet.get(12..15) {
        Some([0x08, 0x00, 0x45]) => be16(packet, 20) & 0x3fff == 0,
        Some([0x86, 0xdd, _]) => ![0, 43, 44, 51, 60].contains(&packet[20]),
        _ => false,
    };
    // A test run has no device that the packet came by.
    if !plain || ![program::FROM_CONTAINER, program::FROM_UPLINK, program::TO_UPLINK].contains(&program) {
        return Answer::Nothing;
    }
    let (protocol, l4) = if packet[12] == 0x08 { (packet[23], 34) } else { (packet[20], 54) };
    let detail = match protocol {
        TCP => packet[l4 + 13],
        ICMP | ICMPV6 => packet[l4],
        _ => 0,
    };
    refusal::answer(reason, protocol, detail)
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The ones' complement sum: 0xffff over anything with a right checksum in it.
fn sum(bytes: &[u8], seed: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    refusal::fold(words.fold(seed, |sum, word| sum + word))
}
