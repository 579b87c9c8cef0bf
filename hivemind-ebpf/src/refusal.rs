//! What is answered to a packet that is dropped. Pure: the program makes the answer.

use crate::{
    packet::{ACK, FIN, ICMP, ICMPV6, RST, SYN, TCP, UDP},
    reason::Reason,
};

/// Nanoseconds in which at most [`MESSAGES`] ICMP messages are made for one device.
pub const WINDOW_NS: u64 = 1_000_000_000;
/// See [`WINDOW_NS`]. A program that asks in vain is told; one that floods is not.
pub const MESSAGES: u64 = 100;
/// The hop limit of answers, RFC 1700's default.
pub const HOPS: u32 = 64;

/// An answer.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// None.
    Nothing = 0,
    /// A TCP reset.
    Reset = 1,
    /// ICMP: port unreachable.
    Port = 2,
    /// ICMP: host (IPv6: address) unreachable.
    Host = 3,
    /// ICMP: administratively prohibited.
    Prohibited = 4,
    /// ICMP: fragmentation needed (IPv6: packet too big), and what would fit.
    TooLong = 5,
}

/// The answer to a packet of this protocol that was dropped for `reason`; `detail` is TCP's flags or ICMP's type.
/// Sockets hear of each at once as "connection refused"; only a ping is told that it is the host that is not there.
#[inline(always)]
pub const fn answer(reason: Reason, protocol: u8, detail: u8) -> Answer {
    // Only what would begin: of a connection that goes on the next packet may pass.
    let beginning = matches!(reason, Reason::ConnectionLimit | Reason::FlowShare);
    if beginning && protocol == TCP {
        return if detail & (SYN | ACK | RST) == SYN { Answer::Reset } else { Answer::Nothing };
    }
    if matches!(reason, Reason::TooLong) {
        return if protocol == TCP || protocol == UDP { Answer::TooLong } else { Answer::Nothing };
    }
    let host = matches!(reason, Reason::NoSuchService | Reason::NoSuchInstance | Reason::Hairpin);
    let port = matches!(
        reason,
        Reason::NoSuchPort | Reason::NoBackend | Reason::NoLocalBackend | Reason::NoConnection | Reason::BackendGone
    );
    let rejected = matches!(reason, Reason::Rejected);
    if !host && !port && !rejected && !beginning {
        return Answer::Nothing;
    }
    match protocol {
        TCP if detail & RST != 0 => Answer::Nothing,
        // A connection listens to a reset only; and of an unreachable host Linux tells a socket that is just sending
        // its SYN only after the next SYN, a second later.
        TCP => Answer::Reset,
        ICMP if detail != 8 => Answer::Nothing,
        ICMPV6 if detail != 128 => Answer::Nothing,
        _ if rejected => Answer::Prohibited,
        // Of an unreachable host Linux tells no UDP socket that has not asked for it.
        UDP => Answer::Port,
        _ if host => Answer::Host,
        _ => Answer::Port,
    }
}

/// Sequence number, acknowledgement, and the word of offset, flags and window of the reset that answers a segment with
/// these flags, sequence number, acknowledgement and bytes of data (RFC 9293 3.10.7.1).
#[inline(always)]
pub const fn reset(flags: u8, sequence: u32, acknowledged: u32, data: u32) -> [u32; 3] {
    /// Five words of header.
    const OFFSET: u32 = 5 << 28;
    if flags & ACK != 0 {
        return [acknowledged, 0, OFFSET | (RST as u32) << 16];
    }
    let length = data + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
    [0, sequence.wrapping_add(length), OFFSET | ((RST | ACK) as u32) << 16]
}

/// The 16 bits of a ones' complement sum, not inverted.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_answered_is() {
        use Answer::{Host, Nothing, Port, Prohibited, Reset, TooLong};
        for (reason, protocol, detail, expected) in [
            (Reason::NoBackend, TCP, SYN, Reset),
            (Reason::NoConnection, TCP, ACK, Reset),
            (Reason::BackendGone, TCP, FIN | ACK, Reset),
            (Reason::NoBackend, TCP, RST, Nothing),
            (Reason::NoConnection, TCP, RST | ACK, Nothing),
            (Reason::NoSuchService, TCP, SYN, Reset),
            (Reason::NoSuchInstance, TCP, SYN, Reset),
            (Reason::NoSuchInstance, TCP, ACK, Reset),
            (Reason::Hairpin, TCP, SYN, Reset),
            (Reason::Hairpin, crate::packet::SCTP, 0, Host),
            (Reason::NoSuchPort, UDP, 0, Port),
            (Reason::NoSuchInstance, UDP, 0, Port),
            (Reason::NoSuchPort, ICMP, 8, Port),
            (Reason::NoSuchPort, ICMP, 3, Nothing),
            (Reason::NoSuchPort, ICMP, 0, Nothing),
            (Reason::NoSuchInstance, ICMPV6, 128, Host),
            (Reason::NoSuchInstance, ICMPV6, 1, Nothing),
            (Reason::SpoofedAddress, TCP, SYN, Nothing),
            (Reason::PolicyOut, UDP, 0, Nothing),
            (Reason::HostIn, TCP, SYN, Nothing),
            (Reason::TooLong, TCP, ACK, TooLong),
            (Reason::TooLong, UDP, 0, TooLong),
            (Reason::TooLong, ICMP, 3, Nothing),
            (Reason::Stranger, TCP, SYN, Nothing),
            (Reason::Rejected, TCP, SYN, Reset),
            (Reason::Rejected, TCP, RST, Nothing),
            (Reason::Rejected, UDP, 0, Prohibited),
            (Reason::Rejected, ICMP, 8, Prohibited),
            (Reason::Rejected, ICMP, 0, Nothing),
            (Reason::Rejected, ICMPV6, 128, Prohibited),
            (Reason::Rejected, crate::packet::SCTP, 0, Prohibited),
            (Reason::ConnectionLimit, TCP, SYN, Reset),
            (Reason::FlowShare, TCP, SYN, Reset),
            (Reason::FlowShare, TCP, SYN | ACK, Nothing),
            (Reason::FlowShare, TCP, ACK, Nothing),
            (Reason::FlowShare, UDP, 0, Port),
            (Reason::RateLimited, TCP, SYN, Nothing),
            (Reason::RateLimited, UDP, 0, Nothing),
        ] {
            assert_eq!(answer(reason, protocol, detail), expected, "{reason:?} {protocol} {detail}");
        }
    }

    #[test]
    fn a_reset_is_one_that_its_receiver_believes() {
        assert_eq!(reset(SYN, u32::MAX, 7, 0), [0, 0, 0x5014_0000]);
        assert_eq!(reset(SYN, 9, 0, 3), [0, 13, 0x5014_0000]);
        assert_eq!(reset(FIN, 9, 0, 3), [0, 13, 0x5014_0000]);
        assert_eq!(reset(ACK | FIN, 9, 77, 3), [77, 0, 0x5004_0000]);
    }

    #[test]
    fn a_sum_is_folded_with_its_carries() {
        assert_eq!((fold(0), fold(0xffff_ffff), fold(0x0001_ffff), fold(0x1234_0001)), (0, 0xffff, 1, 0x1235));
    }
}
