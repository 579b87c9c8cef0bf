//! What the programs tell whoever watches: flows that begin and end, and drops. Nothing is told while nobody watches;
//! drops are kept all the same, the latest ones, one row for all packets of a kind.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap, RingBuf},
};
use hivemind_ebpf::{
    abi::{BEGUN, DROPPED, DropKey, Drops, ENDED, Event, Flow, FlowKey, IN, OUT},
    flow::is_answered,
    policy::HOST_ENDPOINT,
    reason::Reason,
};

use super::{
    maps::{hit, now},
    words,
    work::{TRIED_HOST_IN, TRIED_HOST_OUT, TRIED_IN, TRIED_OUT, Work, work},
};

/// Bytes of the ring: 4,096 events, with the eight bytes before each. At 16,000 connections a second that is 128 ms; it is
/// read every few, by who may have to wait for a processor.
const RING: u32 = 512 * 1024;
/// The flag `BPF_RB_NO_WAKEUP`. Who reads the ring comes by himself while somebody listens: to wake him up for each event
/// cost a fifth of the connections.
const QUIETLY: u64 = 1;

/// How long nothing of a kind was dropped for the next drop to be told again, in nanoseconds.
const QUIET_NS: u64 = 1_000_000_000;

#[map(name = "hm_drops")]
static DROPS: LruHashMap<DropKey, Drops> = LruHashMap::with_max_entries(4096, 0);
#[map(name = "hm_events")]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING, 0);
#[map(name = "hm_watch")]
static WATCH: Array<u32> = Array::with_max_entries(2, 0);

#[inline(always)]
fn is_watched() -> bool {
    WATCH.get(0).is_some_and(|watchers| *watchers != 0)
}

/// The row of `work.key` is new.
#[inline(always)]
pub(super) fn begun(work: &Work) {
    if is_watched() {
        flow(&work.key, &work.fresh, BEGUN);
    }
}

/// The row of `work.key` is removed.
#[inline(always)]
pub(super) fn ended(work: &Work, row: &Flow) {
    if is_watched() {
        flow(&work.key, row, ENDED);
    }
}

#[inline(never)]
fn flow(key: &FlowKey, row: &Flow, kind: u8) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else { return lost() };
    // SAFETY: numbers in the ring's memory; each is written before it is submitted.
    let event = unsafe { &mut *entry.as_mut_ptr() };
    words::copy(&key.addrs[0], &mut event.addrs[0]);
    words::copy(&key.addrs[1], &mut event.addrs[1]);
    (event.ports_be, event.protocol) = (key.ports_be, key.protocol);
    (event.kind, event.reason, event.direction) = (kind, 0, 0);
    (event.first_ns, event.last_ns) = (row.first_ns, row.last_ns);
    (event.packets, event.bytes) = (row.packets, row.bytes);
    words::copy(&row.vip, &mut event.vip);
    (event.service, event.rule, event.device) = (row.service, row.rule, 0);
    event.vip_port_be = row.vip_port_be;
    event.answered = is_answered(key.protocol, row.seen).into();
    event.side = row.origin;
    entry.submit(QUIETLY);
}

/// A packet is dropped. The first of its kind is told, and the first after a pause.
#[inline(never)]
pub(super) fn dropped(device: u32, direction: u8, reason: Reason, bytes: u32) {
    let Ok(work) = work() else { return };
    let rule = if reason.is_policy() { work.rule } else { 0 };
    let reason = reason as u8;
    if rule != 0 {
        hit(rule);
    }
    work.dropped = DropKey { tuple: work.packet.tuple, device, direction, reason, pad: 0 };
    let time = now();
    if let Some(drops) = DROPS.get_ptr_mut(&work.dropped) {
        // SAFETY: a row of the table. Of two CPUs at once one may be lost: the counters are exact, this is a record.
        let drops = unsafe { &mut *drops };
        let quiet = time.saturating_sub(drops.last_ns);
        drops.packets += 1;
        drops.bytes += u64::from(bytes);
        (drops.last_ns, drops.rule) = (time, rule);
        if quiet < QUIET_NS {
            return;
        }
    } else {
        let drops = Drops { packets: 1, bytes: bytes.into(), first_ns: time, last_ns: time, rule, pad: 0 };
        let _ = DROPS.insert(&work.dropped, &drops, 0);
    }
    if !is_watched() {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else { return lost() };
    // SAFETY: as above.
    let event = unsafe { &mut *entry.as_mut_ptr() };
    words::zero(event);
    let tuple = &work.packet.tuple;
    words::copy(&tuple.src, &mut event.addrs[0]);
    words::copy(&tuple.dst, &mut event.addrs[1]);
    (event.ports_be, event.protocol) = ([tuple.sport_be, tuple.dport_be], tuple.protocol);
    (event.kind, event.reason, event.direction) = (DROPPED, reason, direction);
    (event.bytes[0], event.device, event.rule) = (bytes.into(), device, rule);
    entry.submit(QUIETLY);
}

/// What policies on trial would have dropped is told like a drop, of the reason [`Reason::Audit`].
#[inline(never)]
pub(super) fn tried(bytes: u32) {
    let Ok(work) = work() else { return };
    let (tried, [from, to]) = (work.tried, work.devices);
    for (bit, device, direction) in [
        (TRIED_OUT, from, OUT),
        (TRIED_IN, to, IN),
        (TRIED_HOST_OUT, HOST_ENDPOINT, OUT),
        (TRIED_HOST_IN, HOST_ENDPOINT, IN),
    ] {
        if tried & bit != 0 {
            dropped(device, direction, Reason::Audit, bytes);
        }
    }
}

/// There was no room for it.
#[inline(always)]
fn lost() {
    if let Some(lost) = WATCH.get_ptr_mut(1) {
        // SAFETY: one aligned word, of which two CPUs at once may lose one.
        unsafe { *lost = (*lost).wrapping_add(1) };
    }
}
