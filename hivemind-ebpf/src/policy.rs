//! What the programs and the daemon agree on about policies (`docs/adr/0007-policies.md`).

use crate::{
    abi::{RuleKey, Tuple},
    packet::{ICMP, ICMPV6, TCP, UDP},
};

/// [`RuleKey::peer`]: everybody.
pub const ANYBODY: u32 = 0;
/// The class of an instance's own node.
pub const HOST: u32 = 1;
/// The class of whoever is neither an instance nor the node.
pub const WORLD: u32 = 2;
/// [`RuleKey::peer`]: every instance of another tenant. "Everybody" does not mean them, unless it denies.
pub const OTHERS: u32 = 3;
/// [`RuleKey::port`]: all ports.
pub const ALL_PORTS: u32 = u32::MAX;

/// Bit of [`crate::abi::Endpoint::flags`]: only what rules allow comes in.
pub const ISOLATED_IN: u32 = 1;
/// Only what rules allow goes out.
pub const ISOLATED_OUT: u32 = 2;
/// What rules do not allow in comes in all the same, and is counted.
pub const AUDIT_IN: u32 = 4;
/// The same, outwards.
pub const AUDIT_OUT: u32 = 8;
/// A rule of its sets names blocks of addresses.
pub const BLOCKS: u32 = 16;
/// Some set has rules for what comes in, or it is isolated inwards.
pub const RULED_IN: u32 = 32;
/// The same, outwards.
pub const RULED_OUT: u32 = 64;

/// Index of [`crate::abi::Endpoint::sets`]: the tier that decides before the policies of namespaces.
pub const ADMIN: usize = 0;
/// The policies of the instance's namespace.
pub const OWN: usize = 1;
/// The tier that decides where no policy of the namespace does.
pub const BASELINE: usize = 2;

/// Bit of [`crate::abi::Rule::number`]: the rule denies.
pub const DENIES: u32 = 1 << 31;
/// The rule leaves the decision to the next tier.
pub const PASSES: u32 = 1 << 30;
/// The highest number of a rule.
pub const LAST_RULE: u32 = PASSES - 1;

/// SCTP's protocol number.
pub const SCTP: u8 = 132;

/// Entries of the table of intervals: a row of 65,536 for each of four protocols.
pub const PORT_ENTRIES: u32 = 4 << 16;

/// Entries of the table of rules.
pub const RULE_ROWS: u32 = 262_144;
/// Entries of the table of blocks of addresses.
pub const BLOCK_ROWS: u32 = 65_536;

/// Ticks until the way back of a TCP connection without packets is closed: twelve hours.
const TCP_TICKS: u32 = 40_000;
/// The same for everything else.
const OTHER_TICKS: u32 = 120;
/// The same for the later fragments of a datagram: as long as systems wait for them at most.
const FRAGMENT_TICKS: u32 = 60;

/// The protocol as rules have it.
#[inline(always)]
pub const fn protocol(protocol: u8) -> u8 {
    if protocol == ICMPV6 { ICMP } else { protocol }
}

/// Where a port's interval is found; a protocol without ports has none.
#[inline(always)]
pub const fn port_index(protocol: u8, port: u16) -> Option<u32> {
    let row = match protocol {
        TCP => 0,
        UDP => 1,
        SCTP => 2,
        ICMP => 3,
        _ => return None,
    };
    Some(row << 16 | port as u32)
}

/// The keys that a rule for this peer may stand under, from the narrowest to the widest, for a port in the interval
/// of that number.
#[inline(always)]
pub const fn keys(set: u32, direction: u8, peer: u32, protocol: u8, interval: u32) -> [RuleKey; 3] {
    let any = RuleKey { set, peer, port: ALL_PORTS, protocol: 0, direction, pad: 0 };
    [RuleKey { port: interval, protocol, ..any }, RuleKey { protocol, ..any }, any]
}

/// The tuple of the answers.
#[inline(always)]
pub const fn reversed(tuple: &Tuple) -> Tuple {
    Tuple { src: tuple.dst, dst: tuple.src, sport_be: tuple.dport_be, dport_be: tuple.sport_be, ..*tuple }
}

/// The note of the fragments of a datagram: without ports, and told from that of a protocol that has none.
#[inline(always)]
pub const fn of_fragments(tuple: &Tuple) -> Tuple {
    Tuple { sport_be: 0, dport_be: 0, pad: [1, 0, 0], ..*tuple }
}

/// Whether a note of then still holds.
#[inline(always)]
pub const fn is_fresh(note: &Tuple, then: u32, now: u32) -> bool {
    let ticks = match note.protocol {
        _ if note.pad[0] != 0 => FRAGMENT_TICKS,
        TCP => TCP_TICKS,
        _ => OTHER_TICKS,
    };
    now.wrapping_sub(then) < ticks
}

/// Whether an ICMP message of this type tells of the fate of another packet: unreachable, too big, time exceeded, a bad
/// header. (A redirect is none: nobody may send one.)
#[inline(always)]
pub const fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        ICMP => kind == 3 || kind == 11 || kind == 12,
        ICMPV6 => kind >= 1 && kind <= 4,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Addr;

    #[test]
    fn a_note_ages_as_its_protocol_does() {
        let note =
            |protocol| Tuple { src: Addr::v4(1), dst: Addr::v4(2), sport_be: 3, dport_be: 4, protocol, pad: [0; 3] };
        for (note, ticks) in [(note(TCP), 40_000), (note(UDP), 120), (of_fragments(&note(TCP)), 60)] {
            // The clock may have gone round.
            assert!(is_fresh(&note, u32::MAX - 1, ticks - 3));
            assert!(!is_fresh(&note, u32::MAX - 1, ticks - 2));
        }
        assert_eq!(reversed(&reversed(&note(UDP))), note(UDP));
    }

    #[test]
    fn every_protocol_with_ports_has_a_row_of_its_own() {
        let first = [TCP, UDP, SCTP, ICMP].map(|protocol| port_index(protocol, 0).expect("a row"));
        assert_eq!(first, [0, 65_536, 131_072, 196_608]);
        assert_eq!(port_index(ICMP, u16::MAX), Some(PORT_ENTRIES - 1));
        assert_eq!(port_index(47, 0), None);
    }
}
