//! Fragments that instances send up the stack: what stays open there is paid for.

use aya_ebpf::{macros::map, maps::LruHashMap};
use hivemind_ebpf::{
    abi::FragmentKey,
    pieces::{self, Open, Piece},
    reason::Reason,
};

use super::{
    atomic,
    maps::{FRAGMENTS, NEW, now},
    skb::Skb,
    work::work,
};

/// What is open of whom. What is evicted is not given back before the kernel has forgotten it.
#[map(name = "hm_open")]
static OPEN: LruHashMap<FragmentKey, Open> = LruHashMap::with_max_entries(4096, 0);
/// Interface index of an instance's device → when all of its room is free.
#[map(name = "hm_held")]
static HELD: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// How often a word is tried to be changed before another CPU's change is built upon.
const TRIES: u32 = 3;

/// Lets a fragment pass if the stack has room for it among what is the instance's. With one that has none, the rest of its
/// packet has none.
#[inline(never)]
pub(super) fn hold(skb: Skb, own: u32) -> Result<(), Reason> {
    let work = work()?;
    let mut piece = Piece::read(&skb, &work.packet).ok_or(Reason::Malformed)?;
    piece.sure &= skb.is_for_us();
    let (cost, now) = (pieces::cost(skb.len()), now());
    let Some(open) = OPEN.get_ptr_mut(&work.fragment) else {
        let mut open = Open::default();
        // The first of a packet of two bytes may be all of it: nothing is open then, and nothing to give back.
        if open.takes(&piece, cost, now) {
            return Ok(());
        }
        pay(own, now, cost)?;
        let _ = OPEN.insert(&work.fragment, &open, 0);
        return Ok(());
    };
    // SAFETY: a row of the map. Of two CPUs at once that have fragments of one packet, one may be overwritten: then it is
    // not given back.
    let open = unsafe { &mut *open };
    if open.takes(&piece, cost, now) {
        give_back(own, open.cost);
        let _ = OPEN.remove(&work.fragment);
        return Ok(());
    }
    pay(own, now, cost)
}

#[inline(always)]
fn pay(own: u32, now: u64, cost: u32) -> Result<(), Reason> {
    if HELD.get_ptr_mut(&own).is_none() {
        let _ = HELD.insert(&own, &0, NEW);
    }
    let word = HELD.get_ptr_mut(&own).ok_or(Reason::RateLimited)?;
    for _ in 0..TRIES {
        // SAFETY: an aligned word of the map.
        let free_at = unsafe { word.read_volatile() };
        let Some(after) = pieces::paid(free_at, now, cost) else {
            forget();
            return Err(Reason::RateLimited);
        };
        // SAFETY: as above.
        if unsafe { atomic::swap(word, free_at, after) } == free_at {
            return Ok(());
        }
    }
    // Others are changing it, so it was brought up to now just before.
    // SAFETY: as above.
    unsafe { atomic::add(word, pieces::earlier(cost)) };
    Ok(())
}

/// The rest of the packet is not let through either.
#[inline(always)]
fn forget() {
    if let Ok(work) = work() {
        let _ = OPEN.remove(&work.fragment);
        let _ = FRAGMENTS.remove(&work.fragment);
    }
}

#[inline(always)]
fn give_back(own: u32, cost: u32) {
    if let Some(word) = HELD.get_ptr_mut(&own) {
        // SAFETY: an aligned word of the map. It was raised by as much before.
        unsafe { atomic::add(word, pieces::earlier(cost).wrapping_neg()) };
    }
}
