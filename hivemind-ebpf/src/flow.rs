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
/// The same for what has no connections, once it was answered.
pub const ANSWERED_NS: u64 = 120 * SECOND;

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
pub const fn lifetime(protocol: u8, seen: [u8; 2]) -> u64 {
    if protocol == TCP && is_closed(seen) {
        CLOSED_NS
    } else if !is_answered(protocol, seen) {
        OPENING_NS
    } else if protocol == TCP {
        TCP_NS
    } else {
        ANSWERED_NS
    }
}

/// Whether the flow has been silent for too long. A packet that came after `now` was read is not in the way.
#[inline(always)]
pub const fn is_over(key: &FlowKey, flow: &Flow, now: u64) -> bool {
    now.saturating_sub(flow.last_ns) > lifetime(key.protocol, flow.seen)
}

/// Whether a flow may be removed to make room: it is over, or was never answered, or is closed.
#[inline(always)]
pub const fn is_spare(key: &FlowKey, flow: &Flow, now: u64) -> bool {
    !is_answered(key.protocol, flow.seen) || key.protocol == TCP && is_closed(flow.seen) || is_over(key, flow, now)
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
            assert_eq!(lifetime(TCP, sides), ns, "{name}");
            let (key, flow) =
                (FlowKey { protocol: TCP, ..FlowKey::default() }, Flow { seen: sides, ..Flow::default() });
            assert_eq!(is_spare(&key, &flow, 0), spare, "{name}");
        }
        assert_eq!(lifetime(UDP, [seen(0), 0]), OPENING_NS);
        assert_eq!(lifetime(UDP, [seen(0), seen(0)]), ANSWERED_NS);
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
