//! A packet as the kernel hands it over.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_set_tstamp,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use hivemind_ebpf::{
    packet::{Bytes, ETH},
    reason::Reason,
};

use super::work::work;

/// Up to here headers are looked for in the packet's linear part first, without a call.
const NEAR: u32 = 256;

/// A packet of a TC hook.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Skb(*mut __sk_buff);

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // SAFETY: the context is valid for the run of the program.
        let (start, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if offset <= NEAR {
            let at = start + offset as usize;
            if at + N <= end {
                // SAFETY: within the linear part of the packet; bytes have no alignment.
                return Some(unsafe { core::ptr::read_unaligned(at as *const [u8; N]) });
            }
        }
        let mut bytes = [0u8; N];
        // SAFETY: `bytes` has room for N bytes; the helper checks the packet's bounds.
        let code = unsafe { bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        (code == 0).then_some(bytes)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        // SAFETY: the context is valid for the run of the program.
        let (start, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let mut at = start + (offset & (NEAR - 1)) as usize;
        if offset >= NEAR || at + N * 4 > end {
            let words = &mut work().ok()?.words;
            if !self.load_into(offset, words, N as u32 * 4) {
                return None;
            }
            let mut copied = [0; N];
            for n in 0..N {
                copied[n] = words[n];
            }
            return Some(copied);
        }
        // The compiler must take it as it is: it would check the bounds of another sum of the same parts.
        // SAFETY: the instruction changes nothing. (An empty one would do, but two of them have one place in the debug
        // information, which the kernel refuses.)
        unsafe { core::arch::asm!("{0} += 0", inout(reg) at) };
        let mut copied = [0; N];
        for n in 0..N {
            copied[n] = word(at + n * 4);
        }
        Some(copied)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid for the run of the program.
        unsafe { (*self.0).len }
    }
}

/// The word at an address, which the caller has compared with the packet's end. Headers of a frame lie two bytes off a
/// word's boundary, and the target's compiler reads what may do so byte by byte. The kernel, and the processors that
/// it allows this on, do not mind.
#[inline(always)]
pub(super) fn word(at: usize) -> u32 {
    let word: u64;
    // SAFETY: the instruction reads four bytes of the packet.
    unsafe {
        core::arch::asm!("{word} = *(u32 *)({at} + 0)", at = in(reg) at, word = lateout(reg) word, options(readonly, nostack))
    };
    word as u32
}

/// The first bytes of a packet, which lie in its linear part. Read at fixed offsets, which the types check.
pub(super) struct Near<const N: usize>(usize);

impl<const N: usize> Near<N> {
    /// Four bytes.
    #[inline(always)]
    pub(super) fn word<const OFFSET: usize>(&self) -> u32 {
        const { assert!(OFFSET + 4 <= N) };
        word(self.0 + OFFSET)
    }

    /// Eight bytes.
    #[inline(always)]
    pub(super) fn double<const OFFSET: usize>(&self) -> u64 {
        const { assert!(OFFSET + 8 <= N) };
        let double: u64;
        // SAFETY: the instruction reads eight bytes of the packet.
        unsafe {
            core::arch::asm!(
                "{double} = *(u64 *)({at} + 0)", at = in(reg) self.0 + OFFSET, double = lateout(reg) double,
                options(readonly, nostack)
            )
        };
        double
    }
}

impl Skb {
    /// The packet's first `N` bytes, if they lie in its linear part.
    #[inline(always)]
    pub(super) fn near<const N: usize>(self) -> Option<Near<N>> {
        // SAFETY: the context is valid for the run of the program.
        let (mut at, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if at + N > end {
            return None;
        }
        // As in `words`.
        // SAFETY: the instruction changes nothing.
        unsafe { core::arch::asm!("{0} += 0", inout(reg) at) };
        Some(Near(at))
    }

    #[inline(always)]
    pub(super) const fn new(context: &TcContext) -> Self {
        Self(context.skb.skb)
    }

    /// For the kernel's helpers.
    #[inline(always)]
    pub(super) const fn raw(self) -> *mut __sk_buff {
        self.0
    }

    /// The first `length` bytes of `words` become those at `offset`. False: the packet does not have them.
    #[inline(always)]
    pub(super) fn load_into(self, offset: u32, words: &mut [u32; 10], length: u32) -> bool {
        // SAFETY: no caller asks for more than `words` has; the helper checks the packet's bounds.
        let code = unsafe { bpf_skb_load_bytes(self.0.cast(), offset, words.as_mut_ptr().cast(), length) };
        code == 0
    }

    /// Bytes of the packet.
    #[inline(always)]
    pub(super) fn len(self) -> u32 {
        Bytes::len(&self)
    }

    /// How many packets the kernel will make of it; 0 or 1: it is one.
    #[inline(always)]
    pub(super) fn segments(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).gso_segs }
    }

    /// The Ethernet protocol number that the frame says.
    #[inline(always)]
    pub(super) fn ether_type(self) -> Option<u16> {
        let field: [u8; 2] = self.load(ETH - 2)?;
        Some(u16::from_be_bytes(field))
    }

    /// The device whose hook this is.
    #[inline(always)]
    pub(super) fn ifindex(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).ifindex }
    }

    /// Whether a VLAN tag is carried beside the packet, where its bytes do not show it.
    #[inline(always)]
    pub(super) fn has_tag(self) -> bool {
        // SAFETY: as in `len`.
        unsafe { (*self.0).vlan_present != 0 }
    }

    /// The device the packet came in by, 0 if the node itself made it.
    #[inline(always)]
    pub(super) fn came_by(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// The kernel's mark of the packet.
    #[inline(always)]
    pub(super) fn mark(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).mark }
    }

    /// Sets it.
    #[inline(always)]
    pub(super) fn set_mark(self, mark: u32) {
        // SAFETY: as in `len`; programs of this type may write the field.
        unsafe { (*self.0).mark = mark };
    }

    /// Says that the packet is to leave the machine at this time of the monotonic clock, in nanoseconds, and not before:
    /// forwarding keeps that (since Linux 5.18), and the queue `fq` obeys. What its sender has said itself stays if that
    /// is later.
    #[inline(always)]
    pub(super) fn depart(self, at: u64) {
        /// BPF_SKB_TSTAMP_DELIVERY_MONO of linux/bpf.h
        const DEPARTURE: u32 = 1;
        // SAFETY: as in `len`. The helper refuses nothing but what is not IP, which is not limited.
        unsafe {
            let said = u32::from((*self.0).tstamp_type) == DEPARTURE && (*self.0).tstamp >= at;
            if !said {
                bpf_skb_set_tstamp(self.0, at, DEPARTURE);
            }
        }
    }

    /// Whether the link has delivered the frame to everybody or to a group.
    #[inline(always)]
    pub(super) fn is_cast(self) -> bool {
        /// PACKET_BROADCAST and PACKET_MULTICAST of linux/if_packet.h
        const CAST: [u32; 2] = [1, 2];
        // SAFETY: as in `len`.
        let kind = unsafe { (*self.0).pkt_type };
        kind == CAST[0] || kind == CAST[1]
    }

    /// Whether the frame is for this very device: the stack passes on nothing else that is for one.
    #[inline(always)]
    pub(super) fn is_for_us(self) -> bool {
        /// PACKET_HOST of linux/if_packet.h
        const HOST: u32 = 0;
        // SAFETY: as in `len`.
        unsafe { (*self.0).pkt_type == HOST }
    }

    /// Overwrites bytes. `flags` as the kernel's helper has them.
    #[inline(always)]
    pub(super) fn store<const N: usize>(self, offset: u32, bytes: &[u8; N], flags: u64) -> Result<(), Reason> {
        // SAFETY: `bytes` has N bytes; the helper checks the packet's bounds.
        done(unsafe { bpf_skb_store_bytes(self.0, offset, bytes.as_ptr().cast(), N as u32, flags) })
    }

    /// Corrects IPv4's header checksum at `offset` for a word that changes.
    #[inline(always)]
    pub(super) fn fix_header(self, offset: u32, old: u32, new: u32) -> Result<(), Reason> {
        // SAFETY: the helper checks the packet's bounds.
        done(unsafe { bpf_l3_csum_replace(self.0, offset, old.into(), new.into(), 4) })
    }

    /// Corrects a transport checksum at `offset` for a field of `flags & 15` bytes, or (0) by the difference `new`.
    #[inline(always)]
    pub(super) fn fix_transport(self, offset: u32, old: u64, new: u64, flags: u64) -> Result<(), Reason> {
        // SAFETY: the helper checks the packet's bounds.
        done(unsafe { bpf_l4_csum_replace(self.0, offset, old, new, flags) })
    }
}

/// The difference that a changed IPv6 address makes to a checksum.
#[inline(always)]
pub(super) fn difference(old: &mut [u32; 4], new: &mut [u32; 4]) -> u64 {
    // SAFETY: both are 16 bytes; the helper only reads them.
    (unsafe { bpf_csum_diff(old.as_mut_ptr(), 16, new.as_mut_ptr(), 16, 0) }) as u64
}

#[inline(always)]
const fn done(code: i64) -> Result<(), Reason> {
    if code == 0 { Ok(()) } else { Err(Reason::Rewrite) }
}
