//! What the programs and the daemon agree on about policies (`docs/adr/0007-policies.md`).

use crate::{
    abi::{RuleKey, Tuple},
    packet::{ICMP, ICMPV6, SCTP, TCP, UDP},
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
/// What is isolated inwards, and no rule allows, is answered.
pub const REJECT_IN: u32 = 128;
/// The same, outwards.
pub const REJECT_OUT: u32 = 256;
/// Of the host only: some rule is about published ports, or they are isolated.
pub const RULED_PUBLISHED: u32 = 512;
/// Only what rules allow reaches published ports.
pub const ISOLATED_PUBLISHED: u32 = 1024;
/// What no rule allows to published ports is answered.
pub const REJECT_PUBLISHED: u32 = 2048;

/// With the policies on trial, only what rules allow would reach published ports. Of the host the bits [`AUDIT_IN`] and
/// [`AUDIT_OUT`] say the same of its other ways: [`TRIAL_RULES`] and [`PUBLISHED_TRIAL`] are asked of what passes.
pub const AUDIT_PUBLISHED: u32 = 8192;

/// It has rates, or its tenant has.
pub const LIMITED: u32 = 4096;

/// The key of the host in the table of endpoints: no device has this index.
pub const HOST_ENDPOINT: u32 = 0;
/// How many sets an endpoint has.
pub const SETS: usize = 5;
/// Index of [`crate::abi::Endpoint::sets`]: the operator's tier that decides before all others.
pub const ADMIN: usize = 0;
/// The tenant's, before the policies of namespaces.
pub const TENANT_ADMIN: usize = 1;
/// The policies of the instance's namespace.
pub const OWN: usize = 2;
/// The tenant's tier that decides where no policy of the namespace does.
pub const TENANT_BASELINE: usize = 3;
/// The operator's, where nobody else does.
pub const BASELINE: usize = 4;
/// Of the host: what always passes.
pub const FAILSAFE: usize = 0;
/// Of the host: its rules.
pub const HOST_RULES: usize = 1;
/// Of the host: the rules of published ports.
pub const PUBLISHED_RULES: usize = 2;
/// Of the host: its rules with those on trial among them; 0: none is on trial.
pub const TRIAL_RULES: usize = 3;
/// The same of published ports.
pub const PUBLISHED_TRIAL: usize = 4;

/// Bit of [`crate::abi::Rule::number`]: the rule denies.
pub const DENIES: u32 = 1 << 31;
/// The rule leaves the decision to the next tier.
pub const PASSES: u32 = 1 << 30;
/// Beside [`DENIES`]: what it denies is answered.
pub const REJECTS: u32 = 1 << 29;
/// The highest number of a rule.
pub const LAST_RULE: u32 = REJECTS - 1;

/// Entries of the table of intervals: a row of 65,536 for each of four protocols.
pub const PORT_ENTRIES: u32 = 4 << 16;
/// How many of them are in one row of the map: the kernel rounds a row up to eight bytes.
pub const PORTS_PER_ROW: u32 = 2;

/// Places of [`crate::abi::Hits`].
pub const NEAR_HITS: u32 = 1024;

/// The place of a rule: numbers of rules are hashes.
#[inline(always)]
pub const fn near(rule: u32) -> u32 {
    rule % NEAR_HITS
}

/// Entries of the table of rules.
pub const RULE_ROWS: u32 = 262_144;
/// Entries of the table of blocks of addresses.
pub const BLOCK_ROWS: u32 = 65_536;

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

/// The ICMP type of the message that one of this type answers.
#[inline(always)]
pub const fn asks(protocol: u8, kind: u8) -> u8 {
    match (protocol, kind) {
        (ICMP, 0) => 8,
        (ICMPV6, 129) => 128,
        _ => kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_with_ports_has_a_row_of_its_own() {
        let first = [TCP, UDP, SCTP, ICMP].map(|protocol| port_index(protocol, 0).expect("a row"));
        assert_eq!(first, [0, 65_536, 131_072, 196_608]);
        assert_eq!(port_index(ICMP, u16::MAX), Some(PORT_ENTRIES - 1));
        assert_eq!(port_index(47, 0), None);
    }
}
