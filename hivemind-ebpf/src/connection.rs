//! The life of a connection in the table: what its directions have sent, and when it may be forgotten.

use crate::packet::{FIN, RST, SYN};

/// The unit of time in the table: 2^30 ns of the monotonic clock, a little more than a second.
pub const TICK_NS: u64 = 1 << 30;

/// Bit of `seen`: the direction has sent something.
pub const SENT: u8 = 1;
/// Bit of `seen`: it has sent a FIN.
pub const FINISHED: u8 = 2;
/// Bit of `seen`: it has sent a RST.
pub const RESET: u8 = 4;
/// Bit of `seen`: it has sent TCP data or acknowledgements, not only a SYN.
pub const ESTABLISHED: u8 = 8;

/// Ticks until a TCP connection is forgotten that neither side has answered or closed: longer than the two hours
/// after which systems send keep-alives.
pub const TCP_TICKS: u32 = 7000;
/// The same before both sides have spoken.
pub const TCP_OPENING_TICKS: u32 = 30;
/// The same after both FINs or a RST.
pub const TCP_CLOSED_TICKS: u32 = 20;
/// The same for UDP.
pub const UDP_TICKS: u32 = 60;

/// The bits that a packet with these TCP flags adds.
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
    }
    bits
}

/// Whether a TCP connection is over: both sides have finished, or one has reset it.
#[inline(always)]
pub const fn is_closed(forward: u8, reverse: u8) -> bool {
    (forward & reverse & FINISHED) | ((forward | reverse) & RESET) != 0
}

/// How many ticks of silence in both directions end the connection.
pub const fn lifetime(protocol: u8, forward: u8, reverse: u8) -> u32 {
    if protocol != crate::packet::TCP {
        UDP_TICKS
    } else if is_closed(forward, reverse) {
        TCP_CLOSED_TICKS
    } else if forward & reverse & ESTABLISHED != 0 {
        TCP_TICKS
    } else {
        TCP_OPENING_TICKS
    }
}

/// Whether both directions have been silent for more than `ticks`.
pub const fn is_over(now: u32, forward_last: u32, reverse_last: u32, ticks: u32) -> bool {
    idle_ticks(now, forward_last) > ticks && idle_ticks(now, reverse_last) > ticks
}

/// Ticks from `last` to `now`; 0 if it lies ahead, because a packet came after the clock was read. The clock may wrap.
const fn idle_ticks(now: u32, last: u32) -> u32 {
    let idle = now.wrapping_sub(last);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{ACK, TCP, UDP};

    #[test]
    fn a_connection_lives_as_long_as_its_state_deserves() {
        let (syn, syn_ack, ack) = (seen(SYN), seen(SYN | ACK) | seen(ACK), seen(SYN) | seen(ACK));
        for (name, forward, reverse, ticks) in [
            ("only a SYN", syn, 0, TCP_OPENING_TICKS),
            ("answered, not acknowledged", syn, seen(SYN | ACK), TCP_OPENING_TICKS),
            ("established", ack, syn_ack, TCP_TICKS),
            ("half closed", ack | seen(FIN | ACK), syn_ack, TCP_TICKS),
            ("closed", ack | seen(FIN | ACK), syn_ack | seen(FIN | ACK), TCP_CLOSED_TICKS),
            ("refused", syn, seen(RST | ACK), TCP_CLOSED_TICKS),
        ] {
            assert_eq!(lifetime(TCP, forward, reverse), ticks, "{name}");
        }
        assert_eq!(lifetime(UDP, SENT, 0), UDP_TICKS);
    }

    #[test]
    fn one_busy_direction_keeps_both() {
        assert!(!is_over(100, 39, 90, 60));
        assert!(!is_over(100, 40, 40, 60));
        assert!(is_over(101, 40, 40, 60));
        assert!(!is_over(100, 101, 20, 60), "a packet newer than the clock that was read");
        assert!(is_over(10, u32::MAX - 60, u32::MAX - 60, 60), "the clock has wrapped");
    }
}
