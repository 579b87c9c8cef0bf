//! The table of flows: what was decided about one is in its row, and its packets pass by it.

use hivemind_ebpf::{
    abi::{Flow, IN, OUT, ServedKey, Translation},
    flow::{self, FINISHED, RESET},
    limit::{CONNECTION, HELD},
    packet::{FIN, RST, SYN, TCP},
    policy::LIMITED,
    reason::Reason,
};

use super::{
    begun, limit,
    maps::{ENDPOINTS, FLOWS, NEW, SERVED, TRANSLATIONS, forwarded, generation, now},
    policy, tell, words,
    work::{Way, Work, work},
};

/// Which end of a packet's way a program sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// The packet comes out of the device.
    From,
    /// It goes into it.
    To,
}

/// Whether the packet passes by the row of its flow: then `way` is set, and the packet is in the record.
#[inline(always)]
pub(super) fn passes(work: &mut Work, hook: Hook, device: u32, bytes: u64) -> bool {
    let Some(row) = FLOWS.get_ptr_mut(&work.key) else { return false };
    // SAFETY: a row of the table; what is copied is compared with the key afterwards.
    let row = unsafe { &mut *row };
    let (near, far) = (work.side as usize & 1, 1 - (work.side as usize & 1));
    let here = if matches!(hook, Hook::From) { near } else { far };
    if row.generation != generation() || row.devices[here] != device {
        return false;
    }
    if matches!(hook, Hook::From) && device != 0 && row.macs[near] != work.mac {
        return false;
    }
    let time = now();
    if time.saturating_sub(row.last_ns) > flow::QUIET_NS {
        return false;
    }
    let begins = u32::from(row.origin) == work.side;
    if !is_same(work, row, begins, hook) {
        return false;
    }
    let flags = work.packet.flags();
    let closed = work.key.protocol == TCP && flow::is_closed(row.seen);
    if work.packet.asks() && (!begins || closed) {
        return false;
    }
    if closed && flow::revives(row, near, flags) {
        return false;
    }
    set_way(&mut work.way, row, near, begins);
    if row.tag != work.key.tag() {
        return false;
    }
    row.last_ns = time;
    row.packets[near] += 1;
    row.bytes[near] += bytes;
    let mut seen = row.seen[near] | flow::seen(flags);
    if seen != row.seen[near] {
        seen = gain(work, row, near);
        if work.key.protocol == TCP && flow::is_closed(row.seen) {
            limit::ends(row, CONNECTION);
        }
    }
    // Nothing between two instances of one node is lost or late: what is over goes at once.
    let reset = seen & RESET != 0;
    let last = row.seen[0] & row.seen[1] & FINISHED != 0 && flags & (FIN | SYN) == 0;
    if work.key.protocol == TCP && (reset || last) && row.devices[0] != 0 && row.devices[1] != 0 && row.vip.is_none() {
        tell::ended(work, row);
        limit::ends(row, CONNECTION | HELD);
        let _ = FLOWS.remove(&work.key);
    }
    true
}

/// Adds to the row what the packet says of its connection: what this side has sent, with it. A call: the stack is small.
#[inline(never)]
fn gain(work: &Work, row: &mut Flow, side: usize) -> u8 {
    let side = side & 1;
    let gained = flow::gains(row, side, work.packet.flags(), work.packet.numbers);
    row.seen[side] |= gained;
    row.seen[side]
}

/// Whether who begins the flow asks for what its row says: a service, or the other side itself. What goes into an
/// instance was translated before.
#[inline(always)]
fn is_same(work: &Work, row: &Flow, begins: bool, hook: Hook) -> bool {
    if begins && matches!(hook, Hook::To) {
        return true;
    }
    if work.vip.is_none() {
        return !begins || row.vip.is_none();
    }
    begins && row.vip == work.vip && u32::from(row.vip_port_be) == work.vip_port_be
}

#[inline(always)]
fn set_way(way: &mut Way, row: &Flow, near: usize, begins: bool) {
    let far = 1 - near;
    way.far = row.devices[far];
    way.slots = [row.slots[near].into(), row.slots[far].into()];
    way.limited = row.limited.into();
    if row.limited != 0 {
        way.accounts = [row.accounts[near], row.accounts[far]];
        if near != 0 {
            way.limited = u32::from(row.limited >> 1 | (row.limited & 1) << 1);
        }
    }
    if begins || row.vip.is_none() {
        words::zero(&mut way.vip);
        way.back = 0;
    } else {
        words::copy(&row.vip, &mut way.vip);
        way.vip_port_be = row.vip_port_be.into();
        way.back = row.back;
    }
}

/// Counts a packet for who sends it and, if it goes straight into another instance, for that one.
#[inline(always)]
pub(super) fn count(way: &Way, bytes: u64) {
    forwarded(way.slots[0], OUT, bytes);
    if way.far != 0 {
        forwarded(way.slots[1], IN, bytes);
    }
}

/// Decides about a packet that no row lets pass: by the policies, as the beginning of a flow, as a part of one that was
/// decided at another generation of the tables, or as an answer. Then `way` is set, and there is a row.
///
/// One step after the other and not one in the other: the stack is small.
#[inline(always)]
pub(super) fn admit(hook: Hook, bytes: u64) -> Result<(), Reason> {
    // SAFETY: it says nothing but reasons.
    unsafe { Reason::check(hm_admit(matches!(hook, Hook::To).into(), bytes)) }
}

/// Like `hm_first_rule` it takes nothing but numbers, so that the verifier looks at it once and not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_admit(arrives: u32, bytes: u64) -> u32 {
    let Ok(work) = work() else { return Reason::Malformed as u32 };
    if let Err(reason) = decide(work, arrives != 0, bytes) {
        return reason as u32;
    }
    // An answer would show who began it as the one that was reached.
    if work.tried != 0 && work.answers == 0 {
        tell::tried(bytes as u32);
    }
    0
}

#[inline(always)]
fn decide(work: &mut Work, arrives: bool, bytes: u64) -> Result<(), Reason> {
    recall(work, arrives)?;
    if let Err(reason) = policy::judge(work, work.answers != 0) {
        // What is no answer any more may still be allowed for itself: but not a part of a connection that the other
        // side has begun, or what was revoked would go on as soon as that one speaks.
        if work.answers == 0 || !work.fresh.vip.is_none() || flow::is_begun(work.key.protocol, &work.fresh) {
            return Err(reason);
        }
        policy::judge(work, false)?;
        (work.known, work.answers) = (0, 0);
    }
    fill(work)?;
    store(work, bytes)
}

/// What the table says of the packet's flow.
#[inline(never)]
pub(super) fn recall(work: &mut Work, arrives: bool) -> Result<(), Reason> {
    work.generation = generation();
    work.now = now();
    (work.known, work.answers, work.there) = (0, 0, 0);
    let Some(row) = FLOWS.get_ptr_mut(&work.key) else { return Ok(()) };
    // SAFETY: a row of the table.
    let row = unsafe { &*row };
    work.there = 1;
    let begins = u32::from(row.origin) == work.side;
    let over = flow::is_over(&work.key, row, work.now);
    let closed = work.key.protocol == TCP && flow::is_closed(row.seen);
    let hook = if arrives { Hook::To } else { Hook::From };
    let same = is_same(work, row, begins, hook);
    // The client uses one port towards two addresses that lead to one backend: answers could not be told apart. (Where
    // it has sent nothing so far the row is of an answer to what it sent before the table was made.)
    let near = work.side as usize & 1;
    if !same && !over && !closed && row.seen[near] != 0 {
        return Err(Reason::TupleClash);
    }
    words::copy(row, &mut work.fresh);
    if same && !over && !(work.packet.asks() && (closed || !begins)) {
        work.known = 1;
        if work.service == 0 {
            work.service = row.service;
        }
        if !begins {
            work.answers = 1;
            work.back = row.back;
        }
    }
    Ok(())
}

/// Fills `fresh`, but for what changes with every packet. It holds the row that is there, if there is one.
#[inline(never)]
fn fill(work: &mut Work) -> Result<(), Reason> {
    let (known, answers) = (work.known != 0, work.answers != 0);
    let near = work.side as usize & 1;
    let fresh = &mut work.fresh;
    if !known {
        words::zero(fresh);
        fresh.origin = near as u8;
        fresh.forwarded = work.forwarded as u8;
        fresh.back = work.back;
        words::copy(&work.vip, &mut fresh.vip);
        fresh.vip_port_be = work.vip_port_be as u16;
        fresh.first_ns = work.now;
    }
    fresh.tag = work.key.tag();
    fresh.last_ns = work.now;
    fresh.generation = work.generation;
    if work.rule != 0 || !known {
        fresh.rule = work.rule;
    }
    fresh.limited = 0;
    let mine = fill_side(work, near, 0)?;
    let asked = fill_side(work, 1 - near, 1)?;
    with_node(work);
    // The service is that of the side which was asked.
    let service = match work.service {
        0 if answers => mine,
        0 => asked,
        named => named,
    };
    if service != 0 {
        work.fresh.service = service;
    }
    Ok(())
}

/// Sees whether one end is the node itself. Nothing that it begins is held up by rates.
#[inline(never)]
fn with_node(work: &mut Work) {
    work.with_node = 0;
    let fresh = &mut work.fresh;
    if fresh.devices[0] != 0 && fresh.devices[1] != 0 {
        return;
    }
    let other = usize::from(fresh.devices[0] != 0);
    if policy::is_node(&work.key.addrs[other]) {
        work.with_node = 1;
        if usize::from(fresh.origin) == other {
            fresh.limited = 0;
        }
    }
}

/// Fills what `fresh` has of one side, which is the sender (0) or the receiver (1). Returns the service that it is a
/// backend of; 0: none.
#[inline(never)]
fn fill_side(work: &mut Work, side: usize, end: usize) -> Result<u32, Reason> {
    let (side, end) = (side & 1, end & 1);
    let device = work.devices[end];
    let fresh = &mut work.fresh;
    fresh.devices[side] = device;
    (fresh.slots[side], fresh.accounts[side]) = (0, 0);
    if device == 0 {
        return Ok(0);
    }
    // SAFETY: a row goes only when its device does.
    let endpoint = unsafe { ENDPOINTS.get(&device) }.ok_or(Reason::PeerNotReady)?;
    (fresh.slots[side], fresh.accounts[side]) = (endpoint.slot as u16, endpoint.account as u16);
    if endpoint.flags & LIMITED != 0 {
        fresh.limited |= 1 << side;
    }
    let [a, b, c, d, e, f, ..] = endpoint.frame_to;
    fresh.macs[side] = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
    let key = ServedKey { ifindex: device, port_be: work.key.ports_be[side], protocol: work.key.protocol, pad: 0 };
    // SAFETY: copied at once.
    let Some(served) = (unsafe { SERVED.get(&key) }) else { return Ok(0) };
    fresh.slots[side] = served.slot as u16;
    Ok(served.service)
}

/// Writes `fresh` with this packet in it, and the translation that leads to it.
#[inline(never)]
fn store(work: &mut Work, bytes: u64) -> Result<(), Reason> {
    let near = work.side as usize & 1;
    let flags = work.packet.flags();
    let fresh = &mut work.fresh;
    fresh.packets[near] += 1;
    fresh.bytes[near] += bytes;
    let revived = work.known != 0 && flow::revives(fresh, near, flags);
    if revived {
        fresh.seen[1 - near] &= !RESET;
    }
    let gained = flow::gains(fresh, near, flags, work.packet.numbers);
    fresh.seen[near] |= gained;
    let begins = u32::from(fresh.origin) == work.side;
    set_way(&mut work.way, &work.fresh, near, begins);
    // The last words of a connection that is over already are no beginning.
    if work.there == 0 && work.key.protocol == TCP && flags & (RST | FIN) != 0 {
        return Ok(());
    }
    if work.known != 0 {
        if work.key.protocol == TCP && flow::is_closed(work.fresh.seen) {
            limit::ends(&mut work.fresh, CONNECTION);
        } else if revived {
            limit::hm_again();
        }
    } else {
        if let Some(row) = FLOWS.get_ptr_mut(&work.key) {
            // SAFETY: a row of the table.
            limit::ends(unsafe { &mut *row }, CONNECTION | HELD);
        }
        if !has_room(work)? {
            return Ok(());
        }
    }
    // Looked up anew: what made room may have been this very row, whose element is another flow's then.
    if let Some(row) = FLOWS.get_ptr_mut(&work.key) {
        // In its place: the map would put another element there, and use the old one for its next row at once.
        // SAFETY: a row of the table. Of two writers the last wins.
        words::copy(&work.fresh, unsafe { &mut *row });
    } else if FLOWS.insert(&work.key, &work.fresh, NEW).is_ok() || retry(work) {
        tell::begun(work);
    } else {
        limit::ends(&mut work.fresh, CONNECTION | HELD);
        return without(work, Reason::TableFull);
    }
    if !work.vip.is_none() {
        translate(work)?;
    }
    // Not before: what makes room must not take this one.
    if work.known == 0 {
        begun::hm_remember();
    }
    Ok(())
}

/// Counts a flow that begins for those whose it is. False: it passes without a row.
#[inline(always)]
fn has_room(work: &mut Work) -> Result<bool, Reason> {
    let holder = limit::hm_over_share();
    // Its own beginnings make room for it, and only they do. One for one: CPUs that counted at the same time may have let in
    // one more than the share, which is no reason to refuse the next.
    if holder != 0 && !begun::make_room(&work.fresh, holder, HELD.into()) {
        limit::unshared(holder);
        without(work, Reason::FlowShare)?;
        return Ok(false);
    }
    if limit::hm_begins() != 0 {
        // Beginnings from outside, whose sources anybody can forge, make room for one another.
        let mine = work.fresh.accounts[1 - (work.fresh.origin as usize & 1)];
        let from = work.fresh.accounts[work.fresh.origin as usize & 1];
        if from != 0 || !begun::make_room(&work.fresh, mine.into(), CONNECTION.into()) || limit::hm_begins() != 0 {
            limit::hm_refuses();
            return Err(Reason::ConnectionLimit);
        }
    }
    Ok(true)
}

/// There is no room for the row, for this reason: drops what depends on it.
#[inline(always)]
fn without(work: &mut Work, reason: Reason) -> Result<(), Reason> {
    if work.restricted != 0 || work.capped != 0 || !work.fresh.vip.is_none() {
        return Err(reason);
    }
    super::maps::count(work.devices[0], 0, OUT, Reason::Untracked as u8, 0);
    Ok(())
}

/// Writes what leads to the row.
#[inline(always)]
fn translate(work: &mut Work) -> Result<(), Reason> {
    let translation = Translation { addr: work.tuple.dst, port_be: work.tuple.dport_be, pad: 0 };
    if let Some(there) = TRANSLATIONS.get_ptr_mut(&work.packet.tuple) {
        // SAFETY: as above.
        unsafe { *there = translation };
    } else if TRANSLATIONS.insert(&work.packet.tuple, &translation, 0).is_err() {
        begun::make_room(&work.fresh, 0, begun::BALANCED);
        if TRANSLATIONS.insert(&work.packet.tuple, &translation, 0).is_err() {
            limit::ends(&mut work.fresh, CONNECTION | HELD);
            let _ = FLOWS.remove(&work.key);
            return Err(Reason::TableFull);
        }
    }
    Ok(())
}

#[inline(always)]
fn retry(work: &Work) -> bool {
    begun::make_room(&work.fresh, 0, 0);
    FLOWS.insert(&work.key, &work.fresh, 0).is_ok()
}
