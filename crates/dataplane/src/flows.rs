//! What the programs have seen: flows and drops, in words of this side.

use std::net::{IpAddr, SocketAddr};

use hivemind_ebpf::reason::Reason;

use hivemind_core::model::Timestamp;
use hivemind_policy::Direction;

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEnd {
    /// Its address.
    pub address: IpAddr,
    /// Its port; of an ICMP echo the identifier, of another ICMP message its type at whom it is for.
    pub port: u16,
    /// Packets that it has sent.
    pub packets: u64,
    /// Bytes of them, with the Ethernet header.
    pub bytes: u64,
}

/// A flow: both directions of a connection, or of what passes between two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Who began it.
    pub from: FlowEnd,
    /// Who was reached: of a service the instance.
    pub to: FlowEnd,
    /// The protocol's number.
    pub protocol: u8,
    /// What was asked for, if a backend was put in its place packet by packet.
    pub asked: Option<SocketAddr>,
    /// The service's number; 0: none.
    pub service: u32,
    /// The number of the rule that allowed it; 0: none was needed.
    pub rule: u32,
    /// When it began.
    pub first: Timestamp,
    /// When its last packet came.
    pub last: Timestamp,
    /// Whether both ends have spoken.
    pub answered: bool,
    /// Whether it is over: by both FINs or a RST, or because its row is gone.
    pub closed: bool,
}

/// Packets between the same ends that were dropped in one place for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRecord {
    /// Source and destination as they were sent; none if the headers could not be read.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The protocol's number; 0 if it could not be read.
    pub protocol: u8,
    /// The interface index of the instance's host device; 0: the node.
    pub device: u32,
    /// Out of the instance, or into it.
    pub direction: Direction,
    /// Why.
    pub reason: Reason,
    /// The number of the rule that denies it; 0: none.
    pub rule: u32,
    /// Packets.
    pub packets: u64,
    /// Bytes of them, with the Ethernet header.
    pub bytes: u64,
    /// When the first came.
    pub first: Timestamp,
    /// When the last came.
    pub last: Timestamp,
}

/// What is told while somebody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A flow has begun.
    Begun(FlowRecord),
    /// A flow is over.
    Ended(FlowRecord),
    /// A packet was dropped, the first of its kind.
    Dropped(DropRecord),
}
