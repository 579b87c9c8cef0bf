//! Changes to packets, with their checksums.
//!
//! The transport checksum may be complete, absent (UDP over IPv4: 0), or left to the device (the field then holds
//! the pseudo header's sum only). The kernel's helpers know which, if they are told what changed.

use hivemind_ebpf::{
    abi::Addr,
    packet::{ETH, Packet, TCP, UDP},
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

/// Replaces address and port of one end, in the packet and in `packet`.
#[inline(never)]
pub(super) fn replace(skb: Skb, packet: &mut Packet, end: End, addr: &Addr, port_be: u16) -> Result<(), Reason> {
    let source = matches!(end, End::Source);
    let tuple = &mut packet.tuple;
    let (old, old_port) = if source { (tuple.src, tuple.sport_be) } else { (tuple.dst, tuple.dport_be) };
    let (checksum, flags) = match tuple.protocol {
        TCP => (packet.l4 + 16, 0),
        UDP => (packet.l4 + 6, KEEP_NONE),
        _ => return Err(Reason::Rewrite),
    };
    if packet.v4 != 0 {
        let (from, to) = (old.v4_be(), addr.v4_be());
        let at = if source { ETH + 12 } else { ETH + 16 };
        skb.fix_transport(checksum, from.into(), to.into(), PSEUDO | flags | 4)?;
        skb.fix_header(ETH + 10, from, to)?;
        skb.store(at, &to.to_ne_bytes(), 0)?;
    } else {
        let at = if source { ETH + 8 } else { ETH + 24 };
        let (mut from, mut to) = (old.words_be, addr.words_be);
        skb.fix_transport(checksum, 0, difference(&mut from, &mut to), PSEUDO | flags)?;
        // IPv6 has no header checksum that would make up for the change in a sum over the whole packet.
        skb.store(at, &bytes(&to), RECOMPUTE)?;
    }
    let at = if source { packet.l4 } else { packet.l4 + 2 };
    skb.fix_transport(checksum, old_port.into(), port_be.into(), flags | 2)?;
    skb.store(at, &port_be.to_ne_bytes(), 0)?;
    if source {
        (tuple.src, tuple.sport_be) = (*addr, port_be);
    } else {
        (tuple.dst, tuple.dport_be) = (*addr, port_be);
    }
    Ok(())
}

#[inline(always)]
fn bytes(words: &[u32; 4]) -> [u8; 16] {
    // SAFETY: the same size, and bytes have no alignment and no invalid values.
    unsafe { core::mem::transmute(*words) }
}
