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
    words,
    work::Work,
};

/// Bytes of an ICMP header, before the packet that it tells of.
const ICMP_HEADER: u32 = 8;

/// Reads the packet that an error tells of into `work.tuple`, and where its headers begin.
#[inline(never)]
fn quoted(skb: Skb, work: &mut Work) -> Result<(), Reason> {
    let at = work.packet.l4 + ICMP_HEADER;
    let (tuple, h) = (&mut work.tuple, &mut work.words);
    let transport;
    if work.packet.v4 != 0 {
        if !skb.load_into(at, h, 20) {
            return Err(Reason::Unrelated);
        }
        let first = u32::from_be(h[0]);
        let header = (first >> 24 & 0x0f) * 4;
        // Of a later fragment nothing is known.
        if first >> 28 != 4 || header < 20 || u32::from_be(h[1]) & 0x1fff != 0 {
            return Err(Reason::Unrelated);
        }
        (tuple.src, tuple.dst) = (Addr::v4(h[3]), Addr::v4(h[4]));
        tuple.protocol = (u32::from_be(h[2]) >> 16) as u8;
        transport = at + header;
    } else {
        if !skb.load_into(at, h, 40) || u32::from_be(h[0]) >> 28 != 6 {
            return Err(Reason::Unrelated);
        }
        tuple.src = Addr::v6([h[2], h[3], h[4], h[5]]);
        tuple.dst = Addr::v6([h[6], h[7], h[8], h[9]]);
        tuple.protocol = (u32::from_be(h[1]) >> 8) as u8;
        transport = at + 40;
    }
    if !skb.load_into(transport, h, 8) {
        return Err(Reason::Unrelated);
    }
    let (ports, id) = (u32::from_be(h[0]), (u32::from_be(h[1]) >> 16) as u16);
    (tuple.sport_be, tuple.dport_be) = match tuple.protocol {
        TCP | UDP | SCTP => (((ports >> 16) as u16).to_be(), (ports as u16).to_be()),
        ICMP | ICMPV6 => (id.to_be(), id.to_be()),
        _ => (0, 0),
    };
    work.quoted.network = at;
    work.quoted.transport = transport;
    Ok(())
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
    words::zero(&mut work.way.vip);
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

/// An error comes to the node about an answer of a published port: it is its backend's. False: it is not about one of an
/// instance of this node; what the client had sent is in `work.judged` then, or nothing.
#[inline(never)]
pub(super) fn published(skb: Skb, work: &mut Work) -> Result<bool, Reason> {
    words::zero(&mut work.judged.tuple);
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
