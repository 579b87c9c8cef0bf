//! The way that most packets take: those of a TCP connection or a UDP flow from one instance of this node to another,
//! after the first and before the last, where the row of the flow says all. What is unusual in any way takes the other
//! way ([`super::container`]), where the same would come of it.
//!
//! It makes no call that it can do without: with the mitigations of some processors (SRSO) a return takes 15 ns, a sixth
//! of what a packet took before.
//!
//! Everything is read as wide as it was written, or less: a processor forwards a store to a load that lies within it,
//! and waits for the memory otherwise.

use aya_ebpf::helpers::generated::bpf_redirect_peer;
use hivemind_ebpf::{
    abi::{Addr, Flow, FlowKey, IN, OUT},
    flow,
    packet::{ACK, ETH, FIN, RST, SYN, TCP, UDP},
};

use super::{
    capture,
    maps::{FLOWS, forwarded, generation, now},
    skb::Skb,
    work::work,
};

/// The packet takes the other way.
pub(super) const NO: i32 = i32::MIN;

/// The frame's type, as its two bytes are read.
const IPV4: u64 = 0x0008;
const IPV6: u64 = 0xdd86;
/// Where a transport header lies behind an IPv4 header without options.
const L4_V4: u32 = ETH + 20;
/// Where it lies behind an IPv6 header without extensions.
const L4_V6: u32 = ETH + 40;
/// Bytes of a frame with a whole TCP header. What is shorter is not the usual.
const V4: usize = L4_V4 as usize + 20;
const V6: usize = L4_V6 as usize + 20;
/// The third word of an IPv4 address as the tables have it.
const MAPPED: u64 = Addr::v4(0).words_be[2] as u64;

/// What a packet says of its flow: addresses in halves, and both ports as they lie in the packet.
struct Said {
    src: [u64; 2],
    dst: [u64; 2],
    ports: u32,
    protocol: u8,
    /// TCP's.
    flags: u8,
}

/// Sends the packet on its way, counted; or does nothing, and says [`NO`].
#[inline(always)]
pub(super) fn pass(skb: Skb, own: u32) -> i32 {
    if capture::is_on() || skb.has_tag() {
        return NO;
    }
    let length = skb.len();
    let Some(frame) = skb.near::<V4>() else { return NO };
    let head = frame.double::<6>();
    let (mac, ether_type) = (head & 0xffff_ffff_ffff, head >> 48);
    let mut said = Said { src: [0; 2], dst: [0; 2], ports: 0, protocol: 0, flags: 0 };
    if ether_type == IPV4 {
        let (first, second, third) = (frame.word::<14>(), frame.word::<18>(), frame.word::<22>());
        // Without options, and no fragment.
        if first & 0xff != 0x45 || second & 0xff3f_0000 != 0 {
            return NO;
        }
        said.protocol = (third >> 8) as u8;
        let total = u32::from(u16::from_be((first >> 16) as u16));
        let Some(flags) = flags(said.protocol, frame.word::<46>(), total, L4_V4 - ETH, length) else { return NO };
        said.flags = flags;
        said.src = [0, MAPPED | u64::from(frame.word::<26>()) << 32];
        said.dst = [0, MAPPED | u64::from(frame.word::<30>()) << 32];
        said.ports = frame.word::<34>();
    } else if ether_type == IPV6 {
        let Some(frame) = skb.near::<V6>() else { return NO };
        let (first, second) = (frame.word::<14>(), frame.word::<18>());
        if first & 0xf0 != 0x60 {
            return NO;
        }
        said.protocol = (second >> 16) as u8;
        let payload = u32::from(u16::from_be(second as u16));
        let total = if payload == 0 { 0 } else { payload + L4_V6 - ETH };
        let Some(flags) = flags(said.protocol, frame.word::<66>(), total, L4_V6 - ETH, length) else { return NO };
        said.flags = flags;
        said.src = [frame.double::<22>(), frame.double::<30>()];
        said.dst = [frame.double::<38>(), frame.double::<46>()];
        said.ports = frame.word::<54>();
        if is_mapped(&said.src) || is_mapped(&said.dst) {
            return NO;
        }
    } else {
        return NO;
    }
    known(skb, &said, mac, own, length)
}

/// The flags of TCP (of UDP none), if the transport header is whole and neither begins nor resets a connection. `word`
/// is the one with the flags, `total` the packet's length by its own word (0: the frame's), `header` that of its IP
/// header, `length` the frame's.
#[inline(always)]
fn flags(protocol: u8, word: u32, total: u32, header: u32, length: u32) -> Option<u8> {
    let total = if total == 0 { length - ETH } else { total };
    if total > length - ETH || total < header {
        return None;
    }
    let room = total - header;
    if protocol != TCP {
        return if protocol == UDP && room >= 8 { Some(0) } else { None };
    }
    let (own, flags) = ((word & 0xf0) >> 2, (word >> 8) as u8);
    let usual = flags & RST == 0 && (flags & SYN == 0 || flags & (ACK | FIN) == ACK);
    if own >= 20 && own <= room && usual { Some(flags) } else { None }
}

/// Adds to the row what a packet, whose header was seen to be whole, says of its connection. A call, and what it reads is
/// read again: only the first packets of a connection are asked, and the stack is small.
#[inline(never)]
fn gain(skb: Skb, row: &mut Flow, side: usize, flags: u8) {
    let side = side & 1;
    let v4 = skb.near::<V4>();
    let v4 = v4.filter(|frame| frame.word::<12>() & 0xffff == IPV4 as u32);
    let numbers = if let Some(frame) = v4 {
        [frame.word::<38>(), frame.word::<42>()]
    } else if let Some(frame) = skb.near::<V6>() {
        [frame.word::<58>(), frame.word::<62>()]
    } else {
        return;
    };
    row.seen[side] |= flow::gains(row, side, flags, numbers.map(u32::from_be));
}

/// Whether it is an address of the other family as the tables have it, which is never seen on a wire.
#[inline(always)]
const fn is_mapped(addr: &[u64; 2]) -> bool {
    addr[0] == 0 && addr[1] & 0xffff_ffff == MAPPED
}

/// Looks the flow up, and lets the packet pass by its row.
#[inline(always)]
fn known(skb: Skb, said: &Said, mac: u64, own: u32, length: u32) -> i32 {
    let (key, near) = FlowKey::words(said.src, said.dst, said.ports, said.protocol);
    // Not on the stack, which is small.
    let Ok(work) = work() else { return NO };
    let place: *mut FlowKey = &mut work.key;
    for (n, word) in key.into_iter().enumerate() {
        // SAFETY: as long as a key and as much aligned; every value of its bytes is one.
        unsafe { place.cast::<u64>().add(n).write_volatile(word) };
    }
    let Some(row) = FLOWS.get_ptr_mut(&work.key) else { return NO };
    // SAFETY: a row of the table; what is read is compared with the key afterwards.
    let row: &mut Flow = unsafe { &mut *row };
    let (near, far) = (near & 1, 1 - (near & 1));
    let device = row.devices[far];
    if row.generation != generation() || row.devices[near] != own || row.macs[near] != mac || device == 0 {
        return NO;
    }
    if row.limited != 0 || !row.vip.is_none() {
        return NO;
    }
    let (before, other) = (row.seen[near], row.seen[far]);
    let seen = before | flow::seen(said.flags);
    if flow::is_closed([seen, other]) {
        return NO;
    }
    let time = now();
    if time.saturating_sub(row.last_ns) > flow::QUIET_NS {
        return NO;
    }
    let slots = [row.slots[near], row.slots[far]];
    if row.tag != FlowKey::tag_of(&key) {
        return NO;
    }
    let bytes = u64::from(length);
    row.last_ns = time;
    row.packets[near] += 1;
    row.bytes[near] += bytes;
    forwarded(slots[0].into(), OUT, bytes);
    forwarded(slots[1].into(), IN, bytes);
    if seen != before {
        gain(skb, row, near, said.flags);
    }
    // SAFETY: no pointers.
    (unsafe { bpf_redirect_peer(device, 0) }) as i32
}
