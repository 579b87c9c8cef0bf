//! Limits of instances and tenants: rates, connections, and the share of the table of flows.
//!
//! Buckets and counts are single words, shared by all CPUs and changed in one step: a limit of each CPU would not be
//! one, and a lock would be waited for by all of them. All buckets of a packet are asked before one is paid: what is
//! dropped costs nothing. So two CPUs at once may both pass where one should: what that is too much is paid later by a
//! bucket; of connections it is one for each CPU at most.
//!
//! Functions with names of their own take numbers only: the verifier looks at them once, not at every call.

use aya_ebpf::{macros::map, maps::Array};
use hivemind_ebpf::{
    abi::{ACCOUNTS, Flow, IN, Limit, OUT, Rate, Use},
    limit::{self, CONNECTION, FRAME, HELD, MOST_BYTES, MOST_PACKETS},
    packet::{ICMP, ICMPV6, TCP, UDP},
    reason::Reason,
};

use super::{
    atomic,
    maps::{MAPPED, config, is_paced, now},
    skb::Skb,
    work::{Work, work},
};

#[map(name = "hm_limits")]
static LIMITS: Array<Limit> = Array::with_max_entries(ACCOUNTS, 0);
#[map(name = "hm_uses")]
static USES: Array<Use> = Array::with_max_entries(ACCOUNTS, MAPPED);

/// How often a word is tried to be changed before another CPU's change is built upon.
const TRIES: u32 = 3;

/// Bit of [`super::work::Way::limited`]: the sender's rate counts.
pub(super) const SENDER: u32 = 1;
/// The receiver's does.
pub(super) const RECEIVER: u32 = 2;

/// Lets the packet pass if all buckets of its sender and its receiver do, among these [`SENDER`] and [`RECEIVER`].
#[inline(always)]
pub(super) fn rates(skb: Skb, work: &mut Work, among: u32) -> Result<(), Reason> {
    let limited = work.way.limited & among;
    if limited == 0 {
        return Ok(());
    }
    (work.length, work.segments) = (skb.len(), skb.segments());
    if hm_rates(limited) != 0 {
        return Err(Reason::RateLimited);
    }
    // Going into an instance nothing waits: no queue is there.
    if among & SENDER != 0 && work.wait != 0 {
        skb.depart(limit::nanoseconds(work.time.wrapping_add(work.wait)));
    }
    Ok(())
}

/// 0: the packet passes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_rates(limited: u32) -> u32 {
    let Ok(work) = work() else { return 0 };
    // What the kernel cuts later has its headers in each piece; TCP's options are left out.
    let header = match work.packet.tuple.protocol {
        TCP => 20,
        UDP => 8,
        _ => 0,
    };
    let segments = work.segments.clamp(1, MOST_PACKETS);
    let bytes = (work.length + (segments - 1) * (work.packet.l4 + header)).min(MOST_BYTES);
    work.costs = [bytes, segments];
    work.time = limit::time(now());
    work.wait = 0;
    // What leaves the node, as far as is known here. What the node itself takes is not kept, whatever its time says.
    work.may_wait = u32::from(limited & SENDER != 0 && work.way.far == 0 && is_paced());
    let [from, to] = work.way.accounts;
    if limited & SENDER != 0 && !both(from, OUT, |account, end| hm_lets_pass(account, end))
        || limited & RECEIVER != 0 && !both(to, IN, |account, end| hm_lets_pass(account, end))
    {
        return 1;
    }
    if limited & SENDER != 0 {
        both(from, OUT, |account, end| hm_pays(account, end));
    }
    if limited & RECEIVER != 0 {
        both(to, IN, |account, end| hm_pays(account, end));
    }
    0
}

/// Does it with the account, and with that of its tenant if that has limits; false: one of them said 0.
#[inline(always)]
fn both(account: u16, end: u8, each: impl Fn(u32, u32) -> u32) -> bool {
    let (account, end) = (u32::from(account), u32::from(end));
    if account == 0 || each(account, end) == 0 {
        return account == 0;
    }
    let tenant = LIMITS.get(account).map_or(0, |limit| limit.tenant);
    tenant == 0 || each(tenant, end) != 0
}

/// What an account may use, and what it uses.
#[inline(always)]
fn of(account: u32) -> Option<(&'static Limit, *mut Use)> {
    Some((LIMITS.get(account)?, USES.get_ptr_mut(account)?))
}

/// Not 0: the account's buckets let the packet pass.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_lets_pass(account: u32, end: u32) -> u32 {
    let end = end as usize & 1;
    let (Ok(work), Some((limit, uses))) = (work(), of(account)) else { return 1 };
    // SAFETY: words of the map.
    unsafe {
        if !limit.bytes[end].is_overdrawn(read(&raw const (*uses).bytes[end]), work.time)
            && !limit.packets[end].is_overdrawn(read(&raw const (*uses).packets[end]), work.time)
        {
            return 1;
        }
        atomic::add(&raw mut (*uses).dropped_packets[end], 1);
        atomic::add(&raw mut (*uses).dropped_bytes[end], work.length.into());
    }
    0
}

/// Takes what the packet costs out of them, and says how long it waits for that, if it may.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_pays(account: u32, end: u32) -> u32 {
    let end = end as usize & 1;
    let (Ok(work), Some((limit, uses))) = (work(), of(account)) else { return 1 };
    let (bytes, packets) = (&limit.bytes[end], &limit.packets[end]);
    // SAFETY: words of the map.
    unsafe {
        if work.may_wait != 0 {
            let tcp = work.packet.tuple.protocol == TCP;
            let waits = bytes.wait(read(&raw const (*uses).bytes[end]), work.time, bytes.queue(tcp, FRAME));
            work.wait = work.wait.max(waits);
            let waits = packets.wait(read(&raw const (*uses).packets[end]), work.time, packets.queue(tcp, 1));
            work.wait = work.wait.max(waits);
        }
        spend(&raw mut (*uses).bytes[end], bytes, work.time, work.costs[0]);
        spend(&raw mut (*uses).packets[end], packets, work.time, work.costs[1]);
    }
    1
}

/// Not 0: it may have another connection.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_may_begin(account: u32, end: u32) -> u32 {
    let end = end as usize & 1;
    let (Ok(work), Some((limit, uses))) = (work(), of(account)) else { return 1 };
    let most = limit.connections[end];
    if most != 0 || limit.begins[end].price != 0 {
        work.capped = 1;
    }
    if work.opens == 0 {
        return 1;
    }
    // SAFETY: words of the map.
    unsafe {
        let now = read(&raw const (*uses).connections[end]).cast_signed();
        if (most == 0 || now < i64::from(most))
            && !limit.begins[end].is_overdrawn(read(&raw const (*uses).begins[end]), work.time)
        {
            return 1;
        }
    }
    work.refuses = [account, end as u32];
    0
}

/// Counts that who was asked last may have no other connection.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn hm_refuses() -> u32 {
    let Ok(work) = work() else { return 0 };
    let [account, end] = work.refuses;
    if let Some(uses) = USES.get_ptr_mut(account) {
        // SAFETY: a word of the map.
        unsafe { atomic::add(&raw mut (*uses).refused[end as usize & 1], 1) };
    }
    0
}

/// Counts another connection of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_has_begun(account: u32, end: u32) -> u32 {
    let end = end as usize & 1;
    let (Ok(work), Some((limit, uses))) = (work(), of(account)) else { return 1 };
    // SAFETY: words of the map.
    unsafe {
        atomic::add(&raw mut (*uses).connections[end], 1);
        if work.opens != 0 {
            spend(&raw mut (*uses).begins[end], &limit.begins[end], work.time, 1);
        }
    }
    1
}

/// Takes so much from a bucket.
///
/// # Safety
/// `word` is a valid and aligned word of a map.
#[inline(always)]
unsafe fn spend(word: *mut u64, rate: &Rate, now: u64, amount: u32) {
    if rate.price == 0 {
        return;
    }
    let cost = rate.cost(amount.into());
    for _ in 0..TRIES {
        // SAFETY: of the caller.
        unsafe {
            let full_at = read(word);
            if atomic::swap(word, full_at, rate.after(full_at, now, cost)) == full_at {
                return;
            }
        }
    }
    // Others are changing it, so it was brought up to now just before.
    // SAFETY: of the caller.
    unsafe { atomic::add(word, cost) };
}

/// # Safety
/// `word` is a valid and aligned word of a map.
#[inline(always)]
unsafe fn read(word: *const u64) -> u64 {
    // SAFETY: of the caller.
    unsafe { word.read_volatile() }
}

/// The holder of `work.fresh`, a row that is to be new, if that has its share of the table; else 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn hm_over_share() -> u32 {
    let Ok(work) = work() else { return 0 };
    let holder = u32::from(limit::holder_of(&work.fresh));
    let share = config().share;
    let Some(uses) = USES.get(holder) else { return 0 };
    if share == 0 || uses.flows.cast_signed() < i64::from(share) { 0 } else { holder }
}

/// Counts that it got no row for want of room in its share.
#[inline(always)]
pub(super) fn unshared(holder: u32) {
    if let Some(uses) = USES.get_ptr_mut(holder) {
        // SAFETY: a word of the map.
        unsafe { atomic::add(&raw mut (*uses).unshared, 1) };
    }
}

/// Counts `work.fresh`, a new row, for its holder, and as a connection of its ends if these may have one more: else it is
/// not 0, and `work.refuses` says which may not. Then `work.capped` says whether its end must be seen.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn hm_begins() -> u32 {
    let Ok(work) = work() else { return 0 };
    let (from, to) = ends_of(&work.fresh);
    work.capped = 0;
    work.fresh.counted = HELD;
    // What the node itself begins, or is asked for by its instances, is no connection of theirs: health, names. Nor are
    // pings.
    let protocol = work.key.protocol;
    if work.with_node == 0 && protocol != ICMP && protocol != ICMPV6 {
        // One that is there already is counted, but not refused: the table may be new.
        work.opens = u32::from(protocol != TCP || work.packet.opens());
        work.time = limit::time(work.now);
        if !both(from, OUT, |account, end| hm_may_begin(account, end))
            || !both(to, IN, |account, end| hm_may_begin(account, end))
        {
            return 1;
        }
        both(from, OUT, |account, end| hm_has_begun(account, end));
        both(to, IN, |account, end| hm_has_begun(account, end));
        work.fresh.counted = HELD | CONNECTION;
    }
    if let Some(uses) = USES.get_ptr_mut(limit::holder_of(&work.fresh).into()) {
        // SAFETY: a word of the map.
        unsafe { atomic::add(&raw mut (*uses).flows, 1) };
    }
    0
}

/// Counts `work.fresh`, whose end was none, as a connection again: it is not refused, for it is there.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn hm_again() -> u32 {
    let Ok(work) = work() else { return 0 };
    if work.with_node != 0 || work.fresh.counted & CONNECTION != 0 {
        return 0;
    }
    work.opens = 0;
    let (from, to) = ends_of(&work.fresh);
    both(from, OUT, |account, end| hm_has_begun(account, end));
    both(to, IN, |account, end| hm_has_begun(account, end));
    work.fresh.counted |= CONNECTION;
    0
}

/// The accounts of who has begun a flow, and of the other.
#[inline(always)]
const fn ends_of(row: &Flow) -> (u16, u16) {
    let [first, second] = row.accounts;
    if row.origin & 1 == 0 { (first, second) } else { (second, first) }
}

/// What of this ([`CONNECTION`], [`HELD`]) was counted for a flow's row is counted no more. The daemon's sweep puts right
/// what two CPUs at once do twice.
#[inline(always)]
pub(super) fn ends(row: &mut Flow, what: u8) {
    let counted = row.counted & what;
    if counted != 0 {
        row.counted &= !counted;
        let [first, second] = row.accounts;
        hm_ends(u32::from(first), u32::from(second), row.origin.into(), counted.into());
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_ends(first: u32, second: u32, origin: u32, counted: u32) -> u32 {
    let (first, second) = (first as u16, second as u16);
    let (from, to) = if origin & 1 == 0 { (first, second) } else { (second, first) };
    if counted & u32::from(CONNECTION) != 0 {
        both(from, OUT, less);
        both(to, IN, less);
    }
    let holder = limit::holder([first, second], origin as u8);
    if counted & u32::from(HELD) != 0
        && let Some(uses) = USES.get_ptr_mut(holder.into())
    {
        // SAFETY: a word of the map.
        unsafe { atomic::add(&raw mut (*uses).flows, u64::MAX) };
    }
    0
}

/// Counts a connection less.
#[inline(always)]
fn less(account: u32, end: u32) -> u32 {
    if let Some(uses) = USES.get_ptr_mut(account) {
        // SAFETY: a word of the map.
        unsafe { atomic::add(&raw mut (*uses).connections[end as usize & 1], u64::MAX) };
    }
    1
}
