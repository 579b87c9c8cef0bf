//! What is told to whoever sent a packet that is dropped: a reset (RFC 9293 3.10.7), or that it cannot be delivered
//! (RFC 792, RFC 4443 3.1). The packet itself becomes the answer and goes back by the device it came from.
//!
//! Silent on purpose: what is judged as forged, fragments, packets with IP options or extension headers, and ICMP but
//! echo requests. A reset is never answered. One step after the other and not one in the other: the stack is small.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT, bpf_redir_neigh},
    helpers::generated::{
        bpf_csum_diff, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    macros::map,
    maps::LruHashMap,
};
use hivemind_ebpf::{
    packet::{Bytes, ETH, ICMP, ICMPV6, TCP, WHOLE},
    reason::Reason,
    refusal::{self, Answer},
};

use super::{
    maps::now,
    skb::Skb,
    work::{Work, work},
};

/// ICMP messages that were made for one device.
#[repr(C)]
#[derive(Clone, Copy)]
struct Told {
    /// When the second began that is counted, in nanoseconds of the monotonic clock.
    since_ns: u64,
    /// Messages in that second.
    count: u64,
}

#[map(name = "hm_told")]
static TOLD: LruHashMap<u32, Told> = LruHashMap::with_max_entries(4096, 0);

/// The mark of an answer on its way to the host's own stack: nothing that comes from outside has one.
pub(super) const ANSWER_MARK: u32 = 0x686d_0001;

/// Bytes of the headers of TCP and ICMP, of IPv4 and IPv6.
const TCP_HEADER: u32 = 20;
const ICMP_HEADER: u32 = 8;
const V4_HEADER: u32 = 20;
const V6_HEADER: u32 = 40;
/// Bytes of what was sent behind its network header that are quoted: the ports.
const QUOTED: u32 = 8;

/// How an answer gets back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Back {
    /// To the instance behind the device.
    Instance,
    /// Out of the device, by the kernel's choice of next hop.
    Outside,
    /// To the host's own stack, as if it had come in by the device.
    Host,
}

/// Answers a packet that was dropped for `reason`: what the hook returns then. Only while nothing of it is changed.
#[inline(always)]
pub(super) fn answer(skb: Skb, reason: Reason, device: u32, back: Back) -> i32 {
    let made = match kind(reason, device) {
        Answer::Reset => reset(skb),
        Answer::Nothing => false,
        told => unreachable(skb, told),
    };
    if !made {
        return TC_ACT_SHOT;
    }
    if back == Back::Instance {
        // SAFETY: no pointers.
        return unsafe { bpf_redirect_peer(device, 0) } as i32;
    }
    if back == Back::Host {
        return to_host(skb, device);
    }
    let none: *mut bpf_redir_neigh = core::ptr::null_mut();
    // SAFETY: no parameters are passed.
    (unsafe { bpf_redirect_neigh(device, none, 0, 0) }) as i32
}

/// The stack takes frames for its own Ethernet address only; and what it gets so is not judged a second time.
#[inline(always)]
fn to_host(skb: Skb, device: u32) -> i32 {
    let Some(own) = skb.load::<6>(ETH - 8) else { return TC_ACT_SHOT };
    if skb.store(0, &own, 0).is_err() {
        return TC_ACT_SHOT;
    }
    skb.set_mark(ANSWER_MARK);
    // SAFETY: no pointers.
    (unsafe { bpf_redirect(device, BPF_F_INGRESS.into()) }) as i32
}

#[inline(never)]
fn kind(reason: Reason, device: u32) -> Answer {
    let Ok(work) = work() else { return Answer::Nothing };
    let packet = &work.packet;
    let plain = if packet.is_v4() { V4_HEADER } else { V6_HEADER };
    if device == 0 || packet.fragment != WHOLE || packet.l4 != ETH + plain {
        return Answer::Nothing;
    }
    let answer = refusal::answer(reason, packet.tuple.protocol, packet.detail);
    if answer != Answer::Reset && answer != Answer::Nothing && !may_tell(device) {
        return Answer::Nothing;
    }
    answer
}

/// Whether another ICMP message may be made for the device. Two CPUs at once may count one for two.
#[inline(always)]
fn may_tell(device: u32) -> bool {
    let time = now();
    let Some(told) = TOLD.get_ptr_mut(&device) else {
        let _ = TOLD.insert(&device, &Told { since_ns: time, count: 1 }, 0);
        return true;
    };
    // SAFETY: a row of the table.
    let told = unsafe { &mut *told };
    if time.saturating_sub(told.since_ns) >= refusal::WINDOW_NS {
        (told.since_ns, told.count) = (time, 0);
    }
    told.count += 1;
    told.count <= refusal::MESSAGES
}

/// Makes a reset of the TCP packet.
#[inline(never)]
fn reset(skb: Skb) -> bool {
    let Ok(work) = work() else { return false };
    let v4 = work.packet.is_v4();
    let l4 = work.packet.l4;
    if !load(skb, ETH, &mut work.reply, V4_HEADER) || !skb.load_into(l4, &mut work.words, TCP_HEADER) {
        return false;
    }
    let [_, sequence, acknowledged, fourth, ..] = work.words.map(u32::from_be);
    let flags = (fourth >> 16) as u8;
    // Its own length: a short frame is padded.
    let end = if v4 { u32::from_be(work.reply[0]) & 0xffff } else { (u32::from_be(work.reply[1]) >> 16) + V6_HEADER };
    let headers = l4 - ETH + (fourth >> 28) * 4;
    let data = end.saturating_sub(headers);
    let tcp = refusal::reset(flags, sequence, acknowledged, data);
    let ports = u32::from(work.packet.tuple.dport_be) | u32::from(work.packet.tuple.sport_be) << 16;
    let at = network(work, TCP_HEADER, TCP);
    let reply = &mut work.reply;
    let part = [ports, tcp[0].to_be(), tcp[1].to_be(), tcp[2].to_be(), 0];
    if at == 5 {
        reply[5..10].copy_from_slice(&part);
    } else {
        reply[10..15].copy_from_slice(&part);
    }
    // SAFETY: no pointers but the packet's.
    if unsafe { bpf_skb_change_tail(skb.raw(), l4 + TCP_HEADER, 0) } != 0 {
        return false;
    }
    // The sender may have left the checksum to the device: then only the sum of the pseudo header belongs there, and
    // the kernel leaves a correction by difference undone.
    let (pseudo, whole) = if v4 {
        (sum(reply, 3, 8, TCP_HEADER, TCP), sum(reply, 3, 28, TCP_HEADER, TCP))
    } else {
        (sum(reply, 2, 32, TCP_HEADER, TCP), sum(reply, 2, 52, TCP_HEADER, TCP))
    };
    let field = refusal::fold(pseudo);
    if at == 5 {
        reply[9] = u32::from(field);
    } else {
        reply[14] = u32::from(field);
    }
    let stored = if v4 { save(skb, reply, V4_HEADER + TCP_HEADER) } else { save(skb, reply, V6_HEADER + TCP_HEADER) };
    // The difference is added to what the field would be the inverse of: the field takes itself away.
    let difference = u64::from(field) + u64::from(refusal::fold(whole));
    stored && skb.fix_transport(l4 + 16, 0, difference, 0).is_ok()
}

/// Makes an ICMP message of the packet that it could not be delivered.
#[inline(never)]
fn unreachable(skb: Skb, answer: Answer) -> bool {
    let Ok(work) = work() else { return false };
    // Type and code, of either family.
    let (v4, v6) = match answer {
        Answer::Port => (0x0303_0000_u32, 0x0104_0000_u32),
        Answer::Prohibited => (0x030d_0000, 0x0101_0000),
        Answer::TooLong => (0x0304_0000, 0x0200_0000),
        _ => (0x0301_0000, 0x0103_0000),
    };
    let fits = if answer == Answer::TooLong { work.fits.to_be() } else { 0 };
    if work.packet.is_v4() {
        let length = ICMP_HEADER + V4_HEADER + QUOTED;
        if !load(skb, ETH, &mut work.reply[7..], V4_HEADER + QUOTED) {
            return false;
        }
        network(work, length, ICMP);
        let reply = &mut work.reply;
        reply[5] = v4.to_be();
        reply[6] = fits;
        let total = raw_sum(&mut reply[5..], length, 0);
        reply[5] |= u32::from(!refusal::fold(total)) << 16;
        // SAFETY: no pointers but the packet's.
        return unsafe { bpf_skb_change_tail(skb.raw(), ETH + V4_HEADER + length, 0) } == 0
            && save(skb, reply, V4_HEADER + ICMP_HEADER + V4_HEADER + QUOTED);
    }
    let length = ICMP_HEADER + V6_HEADER + QUOTED;
    if !load(skb, ETH, &mut work.reply[12..], V6_HEADER + QUOTED) {
        return false;
    }
    network(work, length, ICMPV6);
    let reply = &mut work.reply;
    reply[10] = v6.to_be();
    reply[11] = fits;
    let total = sum(reply, 2, 32 + ICMP_HEADER + V6_HEADER + QUOTED, length, ICMPV6);
    reply[10] |= u32::from(!refusal::fold(total)) << 16;
    // SAFETY: no pointers but the packet's.
    (unsafe { bpf_skb_change_tail(skb.raw(), ETH + V6_HEADER + length, 0) }) == 0
        && save(skb, reply, V6_HEADER + ICMP_HEADER + V6_HEADER + QUOTED)
}

/// Writes the network header of an answer with `length` bytes behind it. Returns the word that they begin at.
#[inline(always)]
fn network(work: &mut Work, length: u32, protocol: u8) -> usize {
    let (from, to) = (work.packet.tuple.dst.words_be, work.packet.tuple.src.words_be);
    let reply = &mut work.reply;
    if work.packet.v4 == 0 {
        reply[0] = 0x6000_0000_u32.to_be();
        reply[1] = (length << 16 | u32::from(protocol) << 8 | refusal::HOPS).to_be();
        reply[2..6].copy_from_slice(&from);
        reply[6..10].copy_from_slice(&to);
        return 10;
    }
    reply[0] = (0x4500_0000 | (V4_HEADER + length)).to_be();
    // Not to be cut.
    reply[1] = 0x4000_u32.to_be();
    reply[2] = (refusal::HOPS << 24 | u32::from(protocol) << 16).to_be();
    reply[3] = from[3];
    reply[4] = to[3];
    let total = raw_sum(reply, V4_HEADER, 0);
    // The second half of the word, as it lies in memory.
    reply[2] |= u32::from(!refusal::fold(total)) << 16;
    5
}

/// The sum over `bytes` bytes from the word `at` on, which begin with the addresses, and the rest of the pseudo header.
#[inline(always)]
fn sum(reply: &mut [u32; 26], at: usize, bytes: u32, length: u32, protocol: u8) -> u32 {
    raw_sum(&mut reply[at..], bytes, (length + u32::from(protocol)).to_be())
}

#[inline(always)]
fn raw_sum(words: &mut [u32], bytes: u32, seed: u32) -> u32 {
    // SAFETY: no caller asks for more than there is, which the verifier checks; the helper only reads.
    (unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, words.as_mut_ptr(), bytes, seed) }) as u32
}

#[inline(always)]
fn load(skb: Skb, offset: u32, words: &mut [u32], bytes: u32) -> bool {
    // SAFETY: as above; the helper checks the packet's bounds.
    (unsafe { bpf_skb_load_bytes(skb.raw().cast(), offset, words.as_mut_ptr().cast(), bytes) }) == 0
}

/// Writes the answer over the packet, behind its Ethernet header.
#[inline(always)]
fn save(skb: Skb, words: &[u32], bytes: u32) -> bool {
    // SAFETY: as above.
    (unsafe { bpf_skb_store_bytes(skb.raw(), ETH, words.as_ptr().cast(), bytes, 0) }) == 0
}
