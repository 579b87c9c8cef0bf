//! What instances and tenants may use, and what they use.
//!
//! Both have an account, a number. What an account may is written by the daemon only, what it uses by the programs; the
//! daemon puts counts right in which they have drifted.

use core::mem::{align_of, offset_of, size_of};

/// Accounts of instances: from 1 to this. 0 is nobody's.
pub const INSTANCE_ACCOUNTS: u32 = 4096;
/// How many accounts there are: those of instances, 1,024 of tenants, and nobody's.
pub const ACCOUNTS: u32 = 1 + INSTANCE_ACCOUNTS + 1024;

/// Entries of the table of flows.
pub const FLOWS: u32 = 65_536;
/// Entries of the table of translations.
pub const TRANSLATIONS: u32 = 32_768;
/// How many flows one instance may hold, unless the daemon says something else.
pub const FLOW_SHARE: u32 = FLOWS / 4;

/// The rate of a token bucket, as [`crate::limit`] has it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// The time that one byte, packet or connection takes, in 2^-20 ns; 0: no limit.
    pub price: u64,
    /// The time that a full bucket lasts, in 2^-4 ns.
    pub depth: u64,
}

/// What an account may. Pairs are [`super::OUT`] and [`super::IN`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limit {
    /// Bytes with the Ethernet header.
    pub bytes: [Rate; 2],
    /// Packets as they are on the wire.
    pub packets: [Rate; 2],
    /// New connections: those that it begins, and those that are begun to it.
    pub begins: [Rate; 2],
    /// The most connections at a time; 0: no limit.
    pub connections: [u32; 2],
    /// The account of its tenant; 0: that has no limits.
    pub tenant: u32,
    /// A tenant's: its number. An instance's: 0.
    pub owner: u32,
}

/// What an account uses. Only ever changed in one step, a word at a time.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Use {
    /// When the buckets will be full again, see [`crate::limit`].
    pub bytes: [u64; 2],
    /// The same.
    pub packets: [u64; 2],
    /// The same.
    pub begins: [u64; 2],
    /// Connections that are not closed. Less than 0 (drift) is none.
    pub connections: [u64; 2],
    /// Rows of the table of flows that it holds: those that it began, and those that somebody began to it who is no
    /// instance of this node.
    pub flows: u64,
    /// Flows that were refused because it holds its share of the table.
    pub unshared: u64,
    /// Packets over a rate.
    pub dropped_packets: [u64; 2],
    /// Bytes of them.
    pub dropped_bytes: [u64; 2],
    /// Connections that were refused.
    pub refused: [u64; 2],
}

layout!(Rate, 16, 8, price: 0, depth: 8);
layout!(Limit, 112, 8, bytes: 0, packets: 32, begins: 64, connections: 96, tenant: 104, owner: 108);
layout!(
    Use, 128, 8, bytes: 0, packets: 16, begins: 32, connections: 48, flows: 64, unshared: 72, dropped_packets: 80,
    dropped_bytes: 96, refused: 112
);
