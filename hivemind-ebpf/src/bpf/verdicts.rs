//! What this CPU has let pass last: who connects to the same port of the same instance again, at the same generation of
//! the tables, is judged by one look. Nothing here is older than the tables, for each write of them begins a generation;
//! what was refused, and what policies on trial have counted, is not kept.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use hivemind_ebpf::{
    abi::Addr,
    packet::{ICMP, ICMPV6},
};

use super::{maps::hit, policy::Judged, work::Work};

/// How many there are: one for each place that a question can have, the last asked wins.
const PLACES: u32 = 1024;
#[map(name = "hm_verdicts")]
static VERDICTS: PerCpuArray<Verdict> = PerCpuArray::with_max_entries(PLACES, 0);

/// Who asked for what. Of an instance of this node its device stands for its address.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Asks {
    /// The devices of who sends and who gets it, 0: no instance of this node.
    devices: [u32; 2],
    /// The address of the one that is none; if both are, none.
    other: Addr,
    /// Port or type, protocol, family.
    what: u32,
    /// [`Work::generation`]
    generation: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Verdict {
    asks: Asks,
    /// The rules by which it leaves and enters, 0: none.
    rules: [u32; 2],
    /// [`Work::rule`]
    rule: u32,
    /// [`Work::restricted`]
    restricted: u32,
}

impl Asks {
    /// Whether both are the same, without a branch for each word.
    #[inline(always)]
    const fn is(&self, other: &Self) -> bool {
        let devices = (self.devices[0] ^ other.devices[0]) | (self.devices[1] ^ other.devices[1]);
        let [a, b, c, d] = self.other.words_be;
        let [e, f, g, h] = other.other.words_be;
        let addr = (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h);
        devices | addr | (self.what ^ other.what) | (self.generation ^ other.generation) == 0
    }
}

/// Whether it was let pass before: then all is as if it had been judged, and its rules have counted it.
#[inline(never)]
pub(super) fn is_kept(work: &mut Work, from: u32, to: u32) -> bool {
    let place = ask(work, from, to);
    let Some(kept) = VERDICTS.get(place) else { return false };
    if !kept.asks.is(&work.asks) {
        return false;
    }
    (work.rule, work.restricted) = (kept.rule, kept.restricted);
    for rule in kept.rules {
        if rule != 0 {
            hit(rule);
        }
    }
    true
}

/// Keeps that what [`is_kept`] was asked about passes.
#[inline(never)]
pub(super) fn keep(work: &Work) {
    let Some(kept) = VERDICTS.get_ptr_mut(place(&work.asks)) else { return };
    // SAFETY: a row of this CPU, which nothing else writes.
    let kept = unsafe { &mut *kept };
    kept.asks = work.asks;
    (kept.rules, kept.rule, kept.restricted) = (work.hits, work.rule, work.restricted);
}

/// Makes `work.asks` of `work.judged`; its place.
#[inline(always)]
fn ask(work: &mut Work, from: u32, to: u32) -> u32 {
    let Judged { tuple, detail } = &work.judged;
    let asks = &mut work.asks;
    asks.devices = [from, to];
    asks.other = match (from, to) {
        (0, _) => tuple.src,
        (_, 0) => tuple.dst,
        _ => Addr { words_be: [0; 4] },
    };
    let protocol = tuple.protocol;
    let port = if protocol == ICMP || protocol == ICMPV6 { *detail & 0xffff } else { tuple.dport_be.into() };
    asks.what = port | u32::from(protocol) << 16 | u32::from(tuple.src.is_v4()) << 24;
    asks.generation = work.generation;
    place(asks)
}

/// Where a question has its place (Knuth, The Art of Computer Programming 3, 6.4: by multiplication).
#[inline(always)]
const fn place(asks: &Asks) -> u32 {
    let [from, to] = asks.devices;
    let mixed = from ^ to.rotate_left(11) ^ asks.what ^ asks.other.words_be[3].rotate_left(17);
    mixed.wrapping_mul(0x9e37_79b1) >> 22
}
