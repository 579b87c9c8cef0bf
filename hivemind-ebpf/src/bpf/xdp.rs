//! An uplink's driver: packets of connections that [`super::tunnel`] has decided about, and whose backend is on another
//! node, go out again before the kernel makes a packet of its own of them. All that is not plain is left to the stack, as
//! it is: fragments, options, what begins, what is too long, a next hop that is not known or is elsewhere.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::bpf_xdp_adjust_head,
    macros::xdp,
    programs::XdpContext,
};
use hivemind_ebpf::{
    abi::{Addr, BY_DRIVER, HOP_NS},
    flow::QUIET_NS,
    packet::{self, Bytes, ETH, IPV4, IPV6, Packet, WHOLE},
    tunnel::{self as header, V4_HEADER, V6_HEADER},
};

use super::{
    maps::{FORWARDS, HOPS, generation, has_nodes, now, sent_on},
    skb::word,
};

/// Headers are looked for up to here.
const NEAR: u32 = 256;

/// Ingress of an uplink, in its driver.
#[xdp]
fn hm_xdp(context: XdpContext) -> u32 {
    forward(Frame(context.ctx)).unwrap_or(xdp_action::XDP_PASS)
}

/// A frame in the driver's memory.
#[derive(Clone, Copy)]
struct Frame(*mut xdp_md);

impl Frame {
    /// Where it begins and ends.
    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: the context is valid for the run of the program.
        unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) }
    }
}

impl Bytes for Frame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let (start, end) = self.bounds();
        let at = start + (offset & (NEAR - 1)) as usize;
        if offset >= NEAR || at + N > end {
            return None;
        }
        // SAFETY: within the frame; bytes have no alignment.
        Some(unsafe { core::ptr::read_unaligned(at as *const [u8; N]) })
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let (start, end) = self.bounds();
        let mut at = start + (offset & (NEAR - 1)) as usize;
        if offset >= NEAR || at + N * 4 > end {
            return None;
        }
        // As in `Skb`: the address that was compared is the one that is read.
        // SAFETY: the instruction changes nothing.
        unsafe { core::arch::asm!("{0} += 0", inout(reg) at) };
        let mut copied = [0; N];
        for n in 0..N {
            copied[n] = word(at + n * 4);
        }
        Some(copied)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        let (start, end) = self.bounds();
        (end - start) as u32
    }
}

/// Sends the frame to the node that has its backend. `None`: it is the stack's, and unchanged.
#[inline(always)]
fn forward(frame: Frame) -> Option<u32> {
    if !has_nodes() {
        return None;
    }
    let ether_type = u16::from_be_bytes(frame.load::<2>(ETH - 2)?);
    let mut packet = Packet::BLANK;
    packet::parse(&frame, ether_type, &mut packet).ok()?;
    if packet.fragment != WHOLE || !packet.is_balanced() || packet.opens() {
        return None;
    }
    // SAFETY: the context is valid for the run of the program.
    let device = unsafe { (*frame.0).ingress_ifindex };
    let v4 = packet.is_v4();
    let [first, second] = frame.words::<2>(ETH)?;
    let length = header::length(v4, first, second);
    if length == 0 {
        return None;
    }
    let row = FORWARDS.get_ptr_mut(&packet.tuple)?;
    // SAFETY: a row of the table; what is copied is compared with the key afterwards.
    let row = unsafe { &mut *row };
    let time = now();
    if row.generation != generation() || row.device != device || time.saturating_sub(row.last_ns) > QUIET_NS {
        return None;
    }
    let (node, mtu) = (row.node, row.mtu);
    if row.tag != packet.tuple.tag() {
        return None;
    }
    let from = packet.tuple.dst;
    // SAFETY: copied at once. A row that was reused in between is of another node on the same link, or of none.
    let hop = unsafe { HOPS.get(&node) }.copied()?;
    if hop.device != device || time.saturating_sub(hop.since_ns) > HOP_NS || length + header::overhead(v4) > mtu {
        return None;
    }
    row.last_ns = time;
    let bytes = frame.len();
    let room = -(header::overhead(v4) as i32);
    // SAFETY: no pointers but the frame's.
    if unsafe { bpf_xdp_adjust_head(frame.0, room) } != 0 {
        return None;
    }
    let sent = if v4 {
        before_v4(frame, &hop.macs, first, length, &from, &node)
    } else {
        before_v6(frame, &hop.macs, first, length, &from, &node)
    };
    sent_on(BY_DRIVER, bytes.into());
    // It has room for its header, but half a frame is never sent.
    Some(if sent { xdp_action::XDP_TX } else { xdp_action::XDP_DROP })
}

#[inline(always)]
fn before_v4(frame: Frame, macs: &[u32; 3], first: u32, length: u32, from: &Addr, to: &Addr) -> bool {
    let (start, end) = frame.bounds();
    if start + (ETH + V4_HEADER) as usize > end {
        return false;
    }
    ethernet(start, macs, IPV4);
    let outer = header::v4(first, length, from.v4_be(), to.v4_be());
    for n in 0..outer.len() {
        store(start + ETH as usize + n * 4, outer[n]);
    }
    true
}

#[inline(always)]
fn before_v6(frame: Frame, macs: &[u32; 3], first: u32, length: u32, from: &Addr, to: &Addr) -> bool {
    let (start, end) = frame.bounds();
    if start + (ETH + V6_HEADER) as usize > end {
        return false;
    }
    ethernet(start, macs, IPV6);
    let outer = header::v6(first, length, from.words_be, to.words_be);
    for n in 0..outer.len() {
        store(start + ETH as usize + n * 4, outer[n]);
    }
    true
}

/// Writes an Ethernet header.
#[inline(always)]
fn ethernet(start: usize, macs: &[u32; 3], ether_type: u16) {
    for n in 0..macs.len() {
        store(start + n * 4, macs[n]);
    }
    // SAFETY: within the frame, as the caller has compared.
    unsafe { core::ptr::write_unaligned((start + 12) as *mut [u8; 2], ether_type.to_be_bytes()) };
}

/// Writes a word into a frame, at an address that the caller has compared with its end. See [`word`].
#[inline(always)]
fn store(at: usize, word: u32) {
    // SAFETY: the instruction writes four bytes of the frame.
    unsafe { core::arch::asm!("*(u32 *)({at} + 0) = {word}", at = in(reg) at, word = in(reg) u64::from(word)) };
}
