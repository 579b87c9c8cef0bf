//! Captures: the packets of an instance, as they pass or are dropped.

use core::mem::{align_of, offset_of, size_of};

use super::Addr;

/// How many captures there can be at once.
pub const CAPTURES: u32 = 8;
/// The most bytes that are kept of a packet.
pub const SNAPLEN: u32 = 65_536;
/// [`Capture::flags`]: only what is dropped.
pub const ONLY_DROPPED: u8 = 1;
/// [`Captured::flags`]: the packet is an answer that the programs have made of one that they dropped.
pub const ANSWER: u8 = 1;

/// Which packets one capture asks for. What is zero is not asked about.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capture {
    /// One end, as the packet says or as it is after it was balanced.
    pub host: Addr,
    /// Interface index of the instance's host device; 0: there is no such capture.
    pub device: u32,
    /// How many bytes of a packet are kept at most: 1 to [`SNAPLEN`].
    pub snaplen: u32,
    /// One of the ports of TCP, UDP or SCTP.
    pub port_be: u16,
    /// The protocol's number, ICMP of both families as 1.
    pub protocol: u8,
    /// [`ONLY_DROPPED`].
    pub flags: u8,
}

/// What stands before the bytes of a packet that was captured.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Captured {
    /// When, in nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// Bytes of the packet, with the Ethernet header. One that the kernel will still cut (GSO) is one.
    pub length: u32,
    /// How many of them follow.
    pub kept: u32,
    /// Interface index of the host device of the instance for which it was captured.
    pub device: u32,
    /// The number of the rule that dropped it; 0: none.
    pub rule: u32,
    /// A bit for each capture that asks for it.
    pub captures: u32,
    /// 0: it passes; else a [`crate::reason::Reason`].
    pub reason: u8,
    /// [`super::OUT`] of the instance or [`super::IN`].
    pub direction: u8,
    /// [`ANSWER`].
    pub flags: u8,
    /// Always 0.
    pub pad: u8,
}

layout!(Capture, 28, 4, host: 0, device: 16, snaplen: 20, port_be: 24, protocol: 26, flags: 27);
layout!(
    Captured, 32, 8, time_ns: 0, length: 8, kept: 12, device: 16, rule: 20, captures: 24, reason: 28, direction: 29,
    flags: 30, pad: 31
);
