//! Connections to published ports whose backend is on another node.

use core::mem::{align_of, offset_of, size_of};

use super::{Addr, Tuple};

/// Where the packets of such a connection go; the key is the [`Tuple`] as the client sends it. The table makes room by
/// itself: a row that went is made again of the choice that every node makes alike.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Forward {
    /// When its last packet came, in nanoseconds of the monotonic clock, as coarse as the kernel's tick.
    pub last_ns: u64,
    /// What the key says, in short ([`Tuple::tag`]): a reader copies what it needs, then compares.
    pub tag: u64,
    /// The backend that was chosen.
    pub backend: Addr,
    /// The node that has it.
    pub node: Addr,
    /// The interface index of the uplink by which the client's packets come.
    pub device: u32,
    /// The generation of the tables at which it was decided.
    pub generation: u32,
    /// [`Node::mtu`] of the node.
    pub mtu: u32,
    /// Always 0.
    pub pad: u32,
}

/// How another node is reached; the key is an [`Addr`] of its.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// The interface index of the uplink that leads there; 0: none does, and nothing is sent to it.
    pub device: u32,
    /// The longest packet in bytes that the way there takes, without an Ethernet header.
    pub mtu: u32,
}

/// The next hop on the way to another node, as the kernel has last sent something there; the key is an [`Addr`] of the
/// node's.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hop {
    /// When, in nanoseconds of the monotonic clock, as coarse as the kernel's tick.
    pub since_ns: u64,
    /// What its Ethernet header begins with: destination and source.
    pub macs: [u32; 3],
    /// The interface index of the uplink.
    pub device: u32,
}

/// How many nanoseconds a driver sends to a next hop before the kernel does once: it follows its routes and asks its
/// neighbours, the driver does not.
pub const HOP_NS: u64 = 1_000_000_000;

/// The entry of the totals of what is sent to other nodes: by the uplink's driver.
pub const BY_DRIVER: u32 = 0;
/// The same: by the host's stack.
pub const BY_STACK: u32 = 1;

impl Tuple {
    /// What it says, in short.
    #[inline(always)]
    pub const fn tag(&self) -> u64 {
        let ports = (self.sport_be as u64) << 16 | self.dport_be as u64;
        let hosts = (self.src.words_be[3] as u64) << 32 | self.dst.words_be[3] as u64;
        hosts ^ ports << 16 ^ (self.protocol as u64) << 56
    }
}

layout!(Node, 8, 4, device: 0, mtu: 4);
layout!(Hop, 24, 8, since_ns: 0, macs: 8, device: 20);
layout!(Forward, 64, 8, last_ns: 0, tag: 8, backend: 16, node: 32, device: 48, generation: 52, mtu: 56, pad: 60);
