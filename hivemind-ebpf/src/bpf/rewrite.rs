//! Changes to packets, with their checksums.
//!
//! The transport checksum may be complete, absent (UDP over IPv4: 0), or left to the device (the field then holds
//! the pseudo header's sum only). The kernel's helpers know which, if they are told what changed.

use hivemind_ebpf::{
    abi::Addr,
    packet::{ETH, LATER, Packet, TCP, UDP},
    reason::Reason,
};

use super::skb::{Skb, difference};

/// The checksum helper's flags: the field is part of the pseudo header; leave UDP's "none" alone.
const PSEUDO: u64 = 1 << 4;
const KEEP_NONE: u64 = 1 << 5;
/// The store helper's flag: keep the device's sum over the packet right.
const RECOMPUTE: u64 = 1;

/// Which end of a packet is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// Replaces address and port of one end in the packet. A later fragment has no ports and no checksum over addresses:
/// both are in the first.
#[inline(never)]
pub(super) fn replace(skb: Skb, packet: &Packet, end: End, addr: &Addr, port_be: u16) -> Result<(), Reason> {
    let source = matches!(end, End::Source);
    let tuple = &packet.tuple;
    let (old, old_port) = if source { (tuple.src, tuple.sport_be) } else { (tuple.dst, tuple.dport_be) };
    let whole = packet.fragment < LATER;
    let (checksum, flags) = match tuple.protocol {
        TCP => (packet.l4 + 16, 0),
        UDP => (packet.l4 + 6, KEEP_NONE),
        _ => return Err(Reason::Rewrite),
    };
    if packet.v4 != 0 {
        let (from, to) = (old.v4_be(), addr.v4_be());
        let at = if source { ETH + 12 } else { ETH + 16 };
        if whole {
            skb.fix_transport(checksum, from.into(), to.into(), PSEUDO | flags | 4)?;
        }
        skb.fix_header(ETH + 10, from, to)?;
        skb.store(at, &to.to_ne_bytes(), 0)?;
    } else {
        let at = if source { ETH + 8 } else { ETH + 24 };
        let (mut from, mut to) = (old.words_be, addr.words_be);
        if whole {
            skb.fix_transport(checksum, 0, difference(&mut from, &mut to), PSEUDO | flags)?;
        }
        // IPv6 has no header checksum that would make up for the change in a sum over the whole packet.
        skb.store(at, &bytes(&to), RECOMPUTE)?;
    }
    if !whole {
        return Ok(());
    }
    let at = if source { packet.l4 } else { packet.l4 + 2 };
    skb.fix_transport(checksum, old_port.into(), port_be.into(), flags | 2)?;
    skb.store(at, &port_be.to_ne_bytes(), 0)
}

/// The packet that an ICMP error tells of: where its headers begin, and what of it is replaced.
#[repr(C)]
pub(super) struct Quoted {
    /// Where its network header begins.
    pub(super) network: u32,
    /// Where its transport header begins.
    pub(super) transport: u32,
    /// The address of the end that is replaced, as it is, and as it becomes.
    pub(super) from: Addr,
    pub(super) to: Addr,
    /// Its port, in network order.
    pub(super) from_port_be: u16,
    pub(super) to_port_be: u16,
}

/// Replaces one end of the packet that an ICMP error tells of, and, with `outer`, the other end of the error itself:
/// the error goes to who has sent that packet.
#[inline(never)]
pub(super) fn replace_quoted(skb: Skb, packet: &Packet, end: End, quoted: &Quoted, outer: bool) -> Result<(), Reason> {
    let source = matches!(end, End::Source);
    let checksum = packet.l4 + 2;
    let Quoted { network, transport, .. } = *quoted;
    if packet.v4 != 0 {
        let (from, to) = (quoted.from.v4_be(), quoted.to.v4_be());
        // The quoted header's checksum makes up for its address in the error's.
        skb.fix_header(network + 10, from, to)?;
        skb.store(if source { network + 12 } else { network + 16 }, &to.to_ne_bytes(), 0)?;
        if outer {
            let at = if source { ETH + 16 } else { ETH + 12 };
            let old = if source { packet.tuple.dst.v4_be() } else { packet.tuple.src.v4_be() };
            skb.fix_header(ETH + 10, old, to)?;
            skb.store(at, &to.to_ne_bytes(), 0)?;
        }
    } else {
        let (mut from, mut to) = (quoted.from.words_be, quoted.to.words_be);
        skb.fix_transport(checksum, 0, difference(&mut from, &mut to), 0)?;
        skb.store(if source { network + 8 } else { network + 24 }, &bytes(&to), 0)?;
        if outer {
            let at = if source { ETH + 24 } else { ETH + 8 };
            let mut old = if source { packet.tuple.dst.words_be } else { packet.tuple.src.words_be };
            skb.fix_transport(checksum, 0, difference(&mut old, &mut to), PSEUDO)?;
            skb.store(at, &bytes(&to), RECOMPUTE)?;
        }
    }
    skb.fix_transport(checksum, quoted.from_port_be.into(), quoted.to_port_be.into(), 2)?;
    skb.store(if source { transport } else { transport + 2 }, &quoted.to_port_be.to_ne_bytes(), 0)
}

#[inline(always)]
fn bytes(words: &[u32; 4]) -> [u8; 16] {
    // SAFETY: the same size, and bytes have no alignment and no invalid values.
    unsafe { core::mem::transmute(*words) }
}
