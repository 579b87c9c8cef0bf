//! Which flows have begun last, on whichever CPU: what makes room for others is among them
//! ([`hivemind_ebpf::begun`] says in which list).
//!
//! The lists are read and written by all CPUs without a lock. A key that two of them write at once is nobody's, and then one
//! flow is not remembered; what a key leads to is looked at before it is removed.

use aya_ebpf::{macros::map, maps::Array};
use hivemind_ebpf::{
    abi::{Flow, FlowKey, OUT},
    begun::{self, Fate, INNER, LISTS, OPEN, PLACES},
    flow,
    limit::{CONNECTION, HELD, holder_of},
    reason::Reason,
};

use super::{
    atomic, limit,
    maps::{FLOWS, TRANSLATIONS, count, now},
    words,
    work::work,
};

#[map(name = "hm_recent")]
static RECENT: Array<FlowKey> = Array::with_max_entries(PLACES, 0);
/// How many flows each list was given so far: the next place of it is the one with the oldest.
#[map(name = "hm_recent_next")]
static NEXT: Array<u64> = Array::with_max_entries(LISTS, 0);

/// How many flows are looked at for one that makes room.
const TRIES: u32 = 16;
/// How many conversations are left in their places for one beginning.
const PASSED_OVER: u32 = 4;
/// What makes room must be a flow that has a translation, see [`hm_make_room`]. Beside [`CONNECTION`] and [`HELD`].
pub(super) const BALANCED: u32 = 4;

/// Puts the flow of `work.fresh` into the list of its holder, and moves on what was in its place.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn hm_remember() -> u32 {
    let Ok(work) = work() else { return 0 };
    let Some(place) = next_of(begun::own_list(&work.fresh)) else { return 0 };
    // SAFETY: a place of the map.
    let place = unsafe { &mut *place };
    if place.protocol != 0
        && let Some(row) = FLOWS.get_ptr_mut(&*place)
    {
        // SAFETY: a row of the table.
        let list = begun::shared_list(unsafe { &*row });
        for _ in 0..PASSED_OVER {
            let Some(shared) = next_of(list) else { return 0 };
            // SAFETY: as above.
            let shared = unsafe { &mut *shared };
            if list == INNER || !stays(shared) {
                words::copy(place, shared);
                break;
            }
        }
    }
    words::copy(&work.key, place);
    0
}

/// The place of the oldest flow in a list, which is the newest's from now on.
#[inline(always)]
fn next_of(list: u32) -> Option<*mut FlowKey> {
    let (first, places) = begun::places(list);
    // SAFETY: a word of the map.
    let at = unsafe { atomic::fetch_add(NEXT.get_ptr_mut(list)?, 1) } as u32;
    RECENT.get_ptr_mut(first + (at & (places - 1)))
}

/// Whether the flow in this place of [`OPEN`] stays there. Removes it if it has only begun.
#[inline(always)]
fn stays(place: &FlowKey) -> bool {
    let Some(row) = FLOWS.get_ptr_mut(place) else { return false };
    // SAFETY: a row of the table.
    let row = unsafe { &mut *row };
    match begun::fate(place.protocol, row) {
        Fate::Goes => evict(place, row),
        Fate::Proven => {}
        Fate::Stays => return true,
    }
    false
}

/// Room for `work.fresh`, a new flow, is made among those that have begun last: of this holder; 0: of any. Of those that are
/// counted as this (bits of [`hivemind_ebpf::limit`], and [`BALANCED`]); 0: whichever. False: there is none.
#[inline(always)]
pub(super) fn make_room(fresh: &Flow, holder: u32, wanted: u32) -> bool {
    // What anybody can begin never fills the table of flows: it is the others of whom there are too many.
    holder == 0 && wanted == 0 && hm_make_room(INNER, holder, wanted) != 0
        || hm_make_room(if holder == 0 { OPEN } else { begun::shared_list(fresh) }, holder, wanted) != 0
        || hm_make_room(begun::own_list(fresh), holder, wanted) != 0
}

/// Removes one of the flows in a list, the oldest that was never answered or is over. `holder` and `wanted` as of
/// [`make_room`]. Not 0: it has.
///
/// It has a name of its own and takes nothing but numbers, so that the verifier looks at it once and not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_make_room(list: u32, holder: u32, wanted: u32) -> u32 {
    let Some(next) = NEXT.get_ptr_mut(list) else { return 0 };
    let (first, places) = begun::places(list);
    let time = now();
    for _ in 0..TRIES {
        // What is looked at in vain is not looked at again soon.
        // SAFETY: a word of the map.
        let at = unsafe { atomic::fetch_add(next, 1) };
        let index = at as u32 & (places - 1);
        let Some(key) = RECENT.get_ptr_mut(first + index) else { return 0 };
        // SAFETY: a place of the map.
        let key = unsafe { &*key };
        if key.protocol == 0 {
            // Behind the last that there ever was is the first.
            // SAFETY: a word of the map.
            unsafe { atomic::swap(next, at + 1, at + u64::from(places - index)) };
            continue;
        }
        let Some(row) = FLOWS.get_ptr_mut(key) else { continue };
        // SAFETY: a row of the table.
        let row = unsafe { &mut *row };
        let counted = u32::from(row.counted) | if row.vip.is_none() { 0 } else { BALANCED };
        let fits = wanted == 0 || counted & wanted != 0;
        if fits && flow::is_spare(key, row, time) && (holder == 0 || u32::from(holder_of(row)) == holder) {
            evict(key, row);
            // The next one takes its place, unless another CPU was quicker.
            // SAFETY: a word of the map.
            unsafe { atomic::swap(next, at + 1, at) };
            return 1;
        }
    }
    0
}

/// Removes a row and what leads to it.
#[inline(always)]
fn evict(key: &FlowKey, row: &mut Flow) {
    limit::ends(row, CONNECTION | HELD);
    if !row.vip.is_none()
        && let Ok(work) = work()
    {
        work.leads = key.sent_by(usize::from(row.origin));
        (work.leads.dst, work.leads.dport_be) = (row.vip, row.vip_port_be);
        let _ = TRANSLATIONS.remove(&work.leads);
    }
    let _ = FLOWS.remove(key);
    count(0, 0, OUT, Reason::Evicted as u8, 0);
}
