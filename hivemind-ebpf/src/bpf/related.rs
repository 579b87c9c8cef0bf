//! ICMP errors: they pass if the packet that they tell of is of a known flow, and that packet is shown to whoever has
//! sent it as what it was when it was sent (RFC 5508 4.2, RFC 4443 2.4).

use hivemind_ebpf::{
    abi::Addr,
    packet::{ICMP, ICMPV6, SCTP, TCP, UDP},
    policy::reversed,
    reason::Reason,
};

use super::{
    balance,
    maps::FLOWS,
    rewrite::{self, End},
    skb::Skb,
    work::Work,
};

/// Bytes of an ICMP header, before the packet that it tells of.
const ICMP_HEADER: u32 = 8;

/// Reads the packet that an error tells of into `work.tuple`, and where its headers begin.
#[inline(never)]
fn quoted(skb: Skb, work: &mut Work) -> Result<(), Reason> {
    let at = work.packet.l4 + ICMP_HEADER;
    let (tuple, h) = (&mut work.tuple, &mut work.bytes);
    let transport;
    if work.packet.v4 != 0 {
        if !skb.load_into(at, h, 20) {
            return Err(Reason::Unrelated);
        }
        let header = u32::from(h[0] & 0x0f) * 4;
        // Of a later fragment nothing is known.
        if h[0] >> 4 != 4 || header < 20 || u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0 {
            return Err(Reason::Unrelated);
        }
        tuple.src = Addr::v4(word(h, 12));
        tuple.dst = Addr::v4(word(h, 16));
        tuple.protocol = h[9];
        transport = at + header;
    } else {
        if !skb.load_into(at, h, 40) || h[0] >> 4 != 6 {
            return Err(Reason::Unrelated);
        }
        tuple.src = Addr::v6([word(h, 8), word(h, 12), word(h, 16), word(h, 20)]);
        tuple.dst = Addr::v6([word(h, 24), word(h, 28), word(h, 32), word(h, 36)]);
        tuple.protocol = h[6];
        transport = at + 40;
    }
    if !skb.load_into(transport, h, 8) {
        return Err(Reason::Unrelated);
    }
    let port = |at: usize| u16::from_ne_bytes([h[at], h[at + 1]]);
    (tuple.sport_be, tuple.dport_be) = match tuple.protocol {
        TCP | UDP | SCTP => (port(0), port(2)),
        ICMP | ICMPV6 => (port(4), port(4)),
        _ => (0, 0),
    };
    work.quoted.network = at;
    work.quoted.transport = transport;
    Ok(())
}

#[inline(always)]
const fn word(bytes: &[u8; 40], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The flow of `work.tuple`, the quoted packet, if it is known: where the error goes, and whether the client was shown
/// something else as the other end: then that is what it is shown again.
#[inline(never)]
fn find(work: &mut Work) -> Result<bool, Reason> {
    work.set_key();
    let side = work.side as usize & 1;
    // SAFETY: copied at once.
    let row = unsafe { FLOWS.get(&work.key) }.ok_or(Reason::Unrelated)?;
    work.way.far = row.devices[side];
    work.way.back = 0;
    work.way.vip.words_be = [0; 4];
    let shown = !row.vip.is_none() && u32::from(row.origin) == work.side;
    if shown {
        work.way.back = row.back;
        let quoted = &mut work.quoted;
        (quoted.from, quoted.from_port_be) = (work.tuple.dst, work.tuple.dport_be);
        (quoted.to, quoted.to_port_be) = (row.vip, row.vip_port_be);
    }
    Ok(shown)
}

/// An instance sends an error.
#[inline(never)]
pub(super) fn sent(skb: Skb, work: &mut Work) -> Result<(), Reason> {
    quoted(skb, work)?;
    // It is no router: it speaks of what was sent to it only, to who has sent that.
    if work.tuple.src != work.packet.tuple.dst || work.tuple.dst != work.packet.tuple.src {
        return Err(Reason::Unrelated);
    }
    if find(work)? {
        rewrite::replace_quoted(skb, &work.packet, End::Destination, &work.quoted, true)?;
    }
    Ok(())
}

/// An error comes to an instance by the stack.
#[inline(never)]
pub(super) fn received(skb: Skb, work: &mut Work) -> Result<(), Reason> {
    quoted(skb, work)?;
    if work.tuple.src != work.packet.tuple.dst {
        return Err(Reason::Unrelated);
    }
    if find(work)? {
        let outer = work.packet.tuple.src == work.tuple.dst;
        rewrite::replace_quoted(skb, &work.packet, End::Destination, &work.quoted, outer)?;
    }
    Ok(())
}

/// An error comes to the node about an answer of a published port: it is its backend's. False: it is not about one.
#[inline(never)]
pub(super) fn published(skb: Skb, work: &mut Work) -> Result<bool, Reason> {
    if quoted(skb, work).is_err() || work.tuple.src != work.packet.tuple.dst {
        return Ok(false);
    }
    work.judged.tuple = reversed(&work.tuple);
    let Some((addr, port_be)) = balance::backend_of(&work.judged.tuple) else { return Ok(false) };
    let (from, from_port_be) = (work.tuple.src, work.tuple.sport_be);
    (work.tuple.src, work.tuple.sport_be) = (addr, port_be);
    if find(work).is_err() || work.way.far == 0 {
        return Ok(false);
    }
    work.way.back = 0;
    let quoted = &mut work.quoted;
    (quoted.from, quoted.from_port_be, quoted.to, quoted.to_port_be) = (from, from_port_be, addr, port_be);
    rewrite::replace_quoted(skb, &work.packet, End::Source, &work.quoted, true)?;
    Ok(true)
}
