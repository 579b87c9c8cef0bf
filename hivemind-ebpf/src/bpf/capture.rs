//! Captures: whoever asks for the packets of an instance gets them, also those that are dropped. While nobody asks, a
//! packet costs one look at a word.
//!
//! The maps of captures are not pinned: the programs of the next daemon begin with none.

use core::ptr;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes},
    macros::map,
    maps::{Array, PerCpuArray, RingBuf},
};
use hivemind_ebpf::{
    abi::{self, ANSWER, Addr, Capture, Captured, IN, ONLY_DROPPED, SNAPLEN, Tuple},
    packet::{SCTP, TCP, UDP},
    policy::protocol,
    reason::Reason,
};

use super::{
    maps::PEERS,
    skb::Skb,
    words,
    work::{Work, work},
};

/// Bytes of the ring: 13,000 short packets, 500 whole ones of Ethernet.
const RING: u32 = 1024 * 1024;

/// Not 0 while anything is captured.
#[unsafe(no_mangle)]
static mut HM_CAPTURING: u32 = 0;
#[map(name = "hm_captures")]
static CAPTURES: Array<Capture> = Array::with_max_entries(abi::CAPTURES, 0);
#[map(name = "hm_packets")]
static PACKETS: RingBuf = RingBuf::with_byte_size(RING, 0);
#[map(name = "hm_uncaptured")]
static UNCAPTURED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Whether anything is captured.
#[inline(always)]
pub(super) fn is_on() -> bool {
    // SAFETY: one aligned word, which the daemon writes.
    (unsafe { ptr::read_volatile(&raw const HM_CAPTURING) }) != 0
}

/// A packet passes at the instance behind this device; 0: at none.
#[inline(always)]
pub(super) fn passes(skb: Skb, device: u32, direction: u8) {
    hm_capture(skb.raw(), device, u32::from(direction) << 8);
}

/// A packet was made of one that the instance has sent and that was dropped.
#[inline(always)]
pub(super) fn answer(skb: Skb, device: u32) {
    hm_capture(skb.raw(), device, u32::from(IN) << 8 | u32::from(ANSWER) << 16);
}

/// A packet is dropped at the device, or (0) at the node. The instance that it does not reach is told as well.
#[inline(never)]
pub(super) fn dropped(skb: Skb, device: u32, direction: u8, reason: u8) {
    let what = u32::from(direction) << 8 | u32::from(reason);
    hm_capture(skb.raw(), device, what);
    if direction == IN && device != 0 {
        return;
    }
    let Ok(work) = work() else { return };
    let asked = &work.packet.tuple.dst;
    let dst = if work.vip.is_none() || work.vip != *asked { asked } else { &work.tuple.dst };
    // SAFETY: one aligned word.
    let Some(far) = (unsafe { PEERS.get(dst) }).map(|peer| peer.ifindex) else { return };
    hm_capture(skb.raw(), far, u32::from(IN) << 8 | u32::from(reason));
}

/// Hands a packet to the captures that ask for it. `what` is a reason or 0, a direction, and flags, a byte each.
///
/// It has a name of its own, so that the verifier looks at it once and not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_capture(skb: *mut __sk_buff, device: u32, what: u32) -> u32 {
    if device == 0 || skb.is_null() {
        return 0;
    }
    let Ok(work) = work() else { return 0 };
    (work.captured.captures, work.captured.kept) = (0, 0);
    for number in 0..abi::CAPTURES {
        hm_asked(number, device, what & 0xff);
    }
    let (captures, most) = (work.captured.captures, work.captured.kept);
    if captures == 0 {
        return 0;
    }
    // SAFETY: the context is valid for the run of the program.
    let length = unsafe { (*skb).len };
    // SAFETY: it is told nothing but reasons, or 0.
    let is_policy = unsafe { Reason::check(what & 0xff) }.is_err_and(Reason::is_policy);
    work.captured = Captured {
        // SAFETY: a helper without arguments.
        time_ns: unsafe { bpf_ktime_get_ns() },
        length,
        kept: length.min(most),
        device,
        rule: if is_policy { work.rule } else { 0 },
        captures,
        reason: what as u8,
        direction: (what >> 8) as u8,
        flags: (what >> 16) as u8,
        pad: 0,
    };
    let kept = work.captured.kept;
    // The ring gives room of sizes that the verifier knows.
    let done = if kept <= 128 {
        keep::<128>(skb, &work.captured)
    } else if kept <= 512 {
        keep::<512>(skb, &work.captured)
    } else if kept <= 2048 {
        keep::<2048>(skb, &work.captured)
    } else if kept <= 9216 {
        keep::<9216>(skb, &work.captured)
    } else {
        keep::<{ SNAPLEN as usize }>(skb, &work.captured)
    };
    if !done && let Some(lost) = UNCAPTURED.get_ptr_mut(0) {
        // SAFETY: the word of this CPU; a program on this hook is not interrupted by another one on the same CPU.
        unsafe { *lost += 1 };
    }
    0
}

/// Notes whether a capture asks for the packet of `work`, and for how many bytes at most. With a name of its own as well,
/// and notes instead of an answer: eight times all its ways would be too many for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_asked(number: u32, device: u32, reason: u32) -> u32 {
    let (Ok(work), Some(capture)) = (work(), CAPTURES.get(number)) else { return 0 };
    if capture.device == device && asks(capture, work, reason as u8) {
        work.captured.captures |= 1 << number;
        work.captured.kept = capture.snaplen.max(work.captured.kept);
    }
    0
}

#[inline(always)]
fn asks(capture: &Capture, work: &Work, reason: u8) -> bool {
    let sent = &work.packet.tuple;
    let wanted = capture.flags & ONLY_DROPPED == 0 || reason != 0;
    let of_protocol = capture.protocol == 0 || capture.protocol == protocol(sent.protocol);
    let has_ports = sent.protocol == TCP || sent.protocol == UDP || sent.protocol == SCTP;
    wanted
        && of_protocol
        && (capture.port_be == 0
            || has_ports && (is_port(sent, capture.port_be) || is_port(&work.tuple, capture.port_be)))
        && (capture.host.is_none() || is_end(sent, &capture.host) || is_end(&work.tuple, &capture.host))
}

#[inline(always)]
fn is_port(tuple: &Tuple, port_be: u16) -> bool {
    tuple.sport_be == port_be || tuple.dport_be == port_be
}

#[inline(always)]
fn is_end(tuple: &Tuple, host: &Addr) -> bool {
    tuple.src == *host || tuple.dst == *host
}

/// A captured packet in the ring.
#[repr(C, align(8))]
struct Record<const N: usize> {
    head: Captured,
    bytes: [u8; N],
}

/// Puts a packet into the ring. False: there is no room.
#[inline(always)]
fn keep<const N: usize>(skb: *mut __sk_buff, head: &Captured) -> bool {
    let mut but_one = (head.kept as usize).wrapping_sub(1);
    // The compiler knows that the number is small enough; the verifier, which reads it from memory, must see it as well.
    // One less, because that of 6.1 learns nothing from "is not 0".
    // SAFETY: the instruction changes nothing.
    unsafe { core::arch::asm!("{0} += 0", inout(reg) but_one) };
    if but_one >= N {
        return true;
    }
    let kept = but_one + 1;
    let Some(mut entry) = PACKETS.reserve::<Record<N>>(0) else { return false };
    let record = entry.as_mut_ptr();
    // SAFETY: there is room for the record; what is not written is not read.
    let (to, bytes) = unsafe { (&mut (*record).head, (&raw mut (*record).bytes).cast()) };
    words::copy(head, to);
    // SAFETY: no more than there is room for; the helper checks the packet's bounds.
    if unsafe { bpf_skb_load_bytes(skb.cast(), 0, bytes, kept as u32) } == 0 {
        entry.submit(0);
    } else {
        entry.discard(0);
    }
    true
}
