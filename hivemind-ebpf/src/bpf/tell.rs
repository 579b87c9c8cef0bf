//! What the programs tell whoever watches: flows that begin and end, and drops. Nothing is told while nobody watches;
//! drops are kept all the same, the latest ones, one row for all packets of a kind.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap, RingBuf},
};
use hivemind_ebpf::{
    abi::{BEGUN, DROPPED, DropKey, Drops, ENDED, Event, Flow},
    reason::Reason,
};

use super::{
    maps::{hit, now},
    words,
    work::{Work, work},
};

/// Bytes of the ring: 1,400 events.
const RING: u32 = 256 * 1024;

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
pub(super) fn begun(work: &mut Work) {
    if is_watched() {
        words::copy(&work.fresh, &mut work.event.flow);
        flow(work, BEGUN);
    }
}

/// The row of `work.key` is removed.
#[inline(always)]
pub(super) fn ended(work: &mut Work, row: &Flow) {
    if is_watched() {
        words::copy(row, &mut work.event.flow);
        flow(work, ENDED);
    }
}

#[inline(never)]
fn flow(work: &mut Work, kind: u8) {
    let event = &mut work.event;
    words::copy(&work.key, &mut event.key);
    (event.kind, event.side) = (kind, event.flow.origin);
    (event.bytes, event.device, event.rule, event.reason, event.direction) = (0, 0, 0, 0, 0);
    send(event);
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
    let event = &mut work.event;
    words::zero(&mut event.flow);
    event.side = event.key.set(&work.packet.tuple) as u8;
    (event.bytes, event.device, event.rule) = (bytes, device, rule);
    (event.kind, event.reason, event.direction) = (DROPPED, reason, direction);
    send(event);
}

#[inline(always)]
fn send(event: &Event) {
    if EVENTS.output::<Event>(event, 0).is_ok() {
        return;
    }
    if let Some(lost) = WATCH.get_ptr_mut(1) {
        // SAFETY: one aligned word, of which two CPUs at once may lose one.
        unsafe { *lost = (*lost).wrapping_add(1) };
    }
}
