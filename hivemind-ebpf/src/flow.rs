//! The life of a flow in the table: what its sides have sent, and when it may be forgotten.

use crate::{
    abi::{Flow, FlowKey},
    packet::{ACK, FIN, RST, SCTP, SYN, TCP, UDP},
};

/// Bit of `seen`: the side has sent something.
pub const SENT: u8 = 1;
/// Bit of `seen`: it has sent a FIN.
pub const FINISHED: u8 = 2;
/// Bit of `seen`: it has sent a RST.
pub const RESET: u8 = 4;
/// Bit of `seen`: it has sent TCP data or acknowledgements, not only a SYN.
pub const ESTABLISHED: u8 = 8;

/// Bit of `seen`: it is known to have begun the TCP connection: by its SYN, or from what the host knew before there was a
/// table.
pub const OPENED: u8 = 16;

const SECOND: u64 = 1_000_000_000;

/// Nanoseconds until an established TCP connection is forgotten of which neither side says anything: twelve hours,
/// six times what systems wait before they send a keep-alive.
pub const TCP_NS: u64 = 12 * 3600 * SECOND;
/// The same before both sides have spoken.
pub const OPENING_NS: u64 = 30 * SECOND;
/// The same after both FINs or a RST.
pub const CLOSED_NS: u64 = 20 * SECOND;
/// The same for what has no connections, once it is a conversation.
pub const ANSWERED_NS: u64 = 120 * SECOND;
/// What has no connections is a conversation if it was answered and lasts for this long, in nanoseconds: a question and
/// its answer are not.
pub const CONVERSATION_NS: u64 = 2 * SECOND;
/// A conversation that says nothing for this long, in nanoseconds, makes room for others where there is none.
pub const PAUSE_NS: u64 = 5 * SECOND;

/// How far an acknowledgement may be ahead of the SYN that it acknowledges: what a server may send before it hears from
/// the client (RFC 7413) is less. Who does not know the number guesses it once in 65,536 times.
const AHEAD: u32 = 0xffff;

/// No flow is over after a silence this short: nothing more needs to be looked at.
pub const QUIET_NS: u64 = CLOSED_NS;

/// The bits that a packet with these TCP flags adds; of other protocols the flags are 0.
#[inline(always)]
pub const fn seen(tcp_flags: u8) -> u8 {
    let mut bits = SENT;
    if tcp_flags & FIN != 0 {
        bits |= FINISHED;
    }
    if tcp_flags & RST != 0 {
        bits |= RESET;
    }
    if tcp_flags & SYN == 0 {
        bits |= ESTABLISHED;
    } else if tcp_flags & ACK == 0 {
        bits |= OPENED;
    }
    bits
}

/// The bits that a packet of this side adds to a row. `numbers` are its sequence number and acknowledgement (RFC 9293 3.1).
///
/// Who has begun a connection has not established it before it acknowledges what the other side's SYN has said: anybody
/// can send a SYN with a forged source, and something behind it that the other side, seeing it does not fit, answers.
/// With the answer it would be a connection for twelve hours.
#[inline(always)]
pub const fn gains(row: &mut Flow, side: usize, tcp_flags: u8, numbers: [u32; 2]) -> u8 {
    let [sequence, acknowledged] = numbers;
    let bits = seen(tcp_flags);
    let origin = row.origin as usize & 1;
    if tcp_flags & (SYN | ACK) == SYN | ACK && side != origin {
        row.asked = sequence.wrapping_add(1);
    }
    let opening = row.seen[origin] & (OPENED | ESTABLISHED) == OPENED;
    if side == origin && opening && (row.seen[1 - origin] & SENT == 0 || acknowledged.wrapping_sub(row.asked) > AHEAD) {
        return bits & !ESTABLISHED;
    }
    bits
}

/// Whether a TCP packet with these flags shows that a connection lives which the other side seems to have reset: nobody
/// goes on after a reset that was one. (Receivers do not believe one whose number is not exactly the next, RFC 5961 3, and
/// say so.)
#[inline(always)]
pub const fn revives(row: &Flow, side: usize, tcp_flags: u8) -> bool {
    row.seen[1 - (side & 1)] & RESET != 0 && row.seen[side & 1] & RESET == 0 && tcp_flags & (RST | SYN) == 0
}

/// Whether a TCP connection is over: both sides have finished, or one has reset it.
#[inline(always)]
pub const fn is_closed(seen: [u8; 2]) -> bool {
    (seen[0] & seen[1] & FINISHED) | ((seen[0] | seen[1]) & RESET) != 0
}

/// Whether both sides have spoken.
#[inline(always)]
pub const fn is_answered(protocol: u8, seen: [u8; 2]) -> bool {
    let bit = if protocol == TCP { ESTABLISHED } else { SENT };
    seen[0] & seen[1] & bit != 0
}

/// Whether it is known who has begun it: then the other side's packets are answers, or nothing. Of TCP only who has seen
/// the SYN knows; of datagrams it is who has spoken first, until nobody has for the flow's lifetime.
#[inline(always)]
pub const fn is_begun(protocol: u8, flow: &Flow) -> bool {
    match protocol {
        TCP => flow.seen[(flow.origin & 1) as usize] & OPENED != 0,
        UDP | SCTP => true,
        _ => false,
    }
}

/// How many nanoseconds of silence end the flow.
#[inline(always)]
pub const fn lifetime(protocol: u8, flow: &Flow) -> u64 {
    if protocol == TCP && is_closed(flow.seen) {
        CLOSED_NS
    } else if !is_answered(protocol, flow.seen) {
        OPENING_NS
    } else if protocol == TCP {
        TCP_NS
    } else if is_conversation(flow) {
        ANSWERED_NS
    } else {
        OPENING_NS
    }
}

/// Whether what was answered, and has no connections, is more than a question and its answer.
#[inline(always)]
const fn is_conversation(flow: &Flow) -> bool {
    flow.last_ns.saturating_sub(flow.first_ns) >= CONVERSATION_NS
}

/// Whether nobody has shown yet that it is more than a beginning, whose source anybody can forge: it was not answered, or is
/// a question and its answer.
#[inline(always)]
pub const fn has_only_begun(protocol: u8, flow: &Flow) -> bool {
    !is_answered(protocol, flow.seen) || protocol != TCP && !is_conversation(flow)
}

/// Whether the flow has been silent for too long. A packet that came after `now` was read is not in the way.
#[inline(always)]
pub const fn is_over(key: &FlowKey, flow: &Flow, now: u64) -> bool {
    now.saturating_sub(flow.last_ns) > lifetime(key.protocol, flow)
}

/// Whether a flow may be removed to make room: it is over, or was never answered, or is closed; or it has no connections
/// and is no conversation, or one that pauses. (Its next packet makes a row again: of a published port the same backend
/// is chosen.)
#[inline(always)]
pub const fn is_spare(key: &FlowKey, flow: &Flow, now: u64) -> bool {
    if has_only_begun(key.protocol, flow) || is_over(key, flow, now) {
        return true;
    }
    if key.protocol == TCP {
        return is_closed(flow.seen);
    }
    now.saturating_sub(flow.last_ns) > PAUSE_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_lives_as_long_as_its_state_deserves() {
        let (syn, syn_ack, ack) = (seen(SYN), seen(SYN | ACK) | seen(ACK), seen(SYN) | seen(ACK));
        for (name, sides, ns, spare) in [
            ("only a SYN", [syn, 0], OPENING_NS, true),
            ("answered, not acknowledged", [syn, seen(SYN | ACK)], OPENING_NS, true),
            ("established", [ack, syn_ack], TCP_NS, false),
            ("half closed", [ack | seen(FIN | ACK), syn_ack], TCP_NS, false),
            ("closed", [ack | seen(FIN | ACK), syn_ack | seen(FIN | ACK)], CLOSED_NS, true),
            ("refused", [syn, seen(RST | ACK)], CLOSED_NS, true),
        ] {
            let (key, flow) =
                (FlowKey { protocol: TCP, ..FlowKey::default() }, Flow { seen: sides, ..Flow::default() });
            assert_eq!(lifetime(TCP, &flow), ns, "{name}");
            assert_eq!(is_spare(&key, &flow, 0), spare, "{name}");
        }
    }

    #[test]
    fn datagrams_are_a_conversation_when_they_go_on_for_two_seconds() {
        let key = FlowKey { protocol: UDP, ..FlowKey::default() };
        for (name, sides, lasted, pause, ns, spare) in [
            ("a question", [seen(0), 0], 0, 0, OPENING_NS, true),
            ("repeated", [seen(0), 0], 9 * SECOND, 0, OPENING_NS, true),
            ("answered", [seen(0), seen(0)], SECOND, 0, OPENING_NS, true),
            ("a conversation", [seen(0), seen(0)], CONVERSATION_NS, 0, ANSWERED_NS, false),
            ("that is just silent", [seen(0), seen(0)], CONVERSATION_NS, PAUSE_NS, ANSWERED_NS, false),
            ("that pauses", [seen(0), seen(0)], CONVERSATION_NS, PAUSE_NS + 1, ANSWERED_NS, true),
        ] {
            let flow = Flow { seen: sides, first_ns: SECOND, last_ns: SECOND + lasted, ..Flow::default() };
            assert_eq!(lifetime(UDP, &flow), ns, "{name}");
            assert_eq!(is_spare(&key, &flow, flow.last_ns + pause), spare, "{name}");
            assert!(!is_over(&key, &flow, flow.last_ns + ns) && is_over(&key, &flow, flow.last_ns + ns + 1), "{name}");
        }
    }

    /// The packets of a connection, each as (side, flags, sequence number, acknowledgement).
    fn said(packets: &[(usize, u8, u32, u32)]) -> Flow {
        let mut row = Flow::default();
        for &(side, flags, sequence, acknowledged) in packets {
            let bits = gains(&mut row, side, flags, [sequence, acknowledged]);
            row.seen[side] |= bits;
        }
        row
    }

    #[test]
    fn a_connection_is_established_by_who_knows_what_was_answered() {
        let (asks, answers) = ((0, SYN, 100, 0), (1, SYN | ACK, u32::MAX, 101));
        for (name, packets, established) in [
            ("as it is", vec![asks, answers, (0, ACK, 101, 0)], true),
            ("the first acknowledgement is lost", vec![asks, answers, (0, ACK, 150, 14_600)], true),
            ("a guess", vec![asks, answers, (0, ACK, 5, u32::MAX)], false),
            ("a guess far ahead", vec![asks, answers, (0, ACK, 5, AHEAD + 1)], false),
            ("before there is an answer", vec![asks, (0, ACK, 101, 0)], false),
            ("a guess, and then the truth", vec![asks, answers, (0, ACK, 5, 77_777), (0, ACK, 101, 0)], true),
            ("a reset is no acknowledgement", vec![asks, answers, (0, RST, 5, 77_777)], false),
            ("nobody has seen it begin", vec![(0, ACK, 5, 77_777)], true),
        ] {
            assert_eq!(said(&packets).seen[0] & ESTABLISHED != 0, established, "{name}");
            // What the other side says of it (a challenge) establishes nothing.
            let answered = [packets.as_slice(), &[(1, ACK, 0, 101)]].concat();
            assert_eq!(is_answered(TCP, said(&answered).seen), established, "{name}");
        }
    }

    #[test]
    fn a_reset_that_nobody_believes_is_none() {
        let reset = Flow { seen: [RESET, SENT], ..Flow::default() };
        let both = Flow { seen: [RESET, RESET], ..Flow::default() };
        for (name, row, side, flags, revived) in [
            ("the other side goes on", reset, 1, ACK, true),
            ("it finishes", reset, 1, ACK | FIN, true),
            ("it resets as well", reset, 1, RST, false),
            ("who has reset it says more", reset, 0, ACK, false),
            ("a new one begins", reset, 1, SYN, false),
            ("both have", both, 1, ACK, false),
            ("nobody has", Flow::default(), 1, ACK, false),
        ] {
            assert_eq!(revives(&row, side, flags), revived, "{name}");
        }
    }

    #[test]
    fn of_a_connection_only_a_syn_tells_who_has_begun_it() {
        for (protocol, sides, origin, begun) in [
            (TCP, [seen(SYN) | seen(ACK), seen(SYN | ACK)], 0, true),
            (TCP, [seen(SYN | ACK), seen(SYN)], 1, true),
            (TCP, [seen(ACK), seen(SYN | ACK)], 0, false),
            (UDP, [seen(0), seen(0)], 0, true),
        ] {
            let flow = Flow { seen: sides, origin, ..Flow::default() };
            assert_eq!(is_begun(protocol, &flow), begun, "{protocol} {sides:?} {origin}");
        }
    }

    #[test]
    fn silence_ends_a_flow_and_a_clock_that_is_behind_does_not() {
        let key = FlowKey { protocol: UDP, ..FlowKey::default() };
        let flow = Flow { last_ns: 100 * SECOND, seen: [seen(0), 0], ..Flow::default() };
        assert!(!is_over(&key, &flow, flow.last_ns + OPENING_NS));
        assert!(is_over(&key, &flow, flow.last_ns + OPENING_NS + 1));
        assert!(!is_over(&key, &flow, 0));
        assert!([TCP_NS, OPENING_NS, CLOSED_NS, ANSWERED_NS].iter().all(|ns| *ns >= QUIET_NS));
    }
}
