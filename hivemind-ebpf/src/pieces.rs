//! How much of the host's memory for fragments one instance may hold.
//!
//! Whatever goes up the host's stack is put together there, for connection tracking, out of a memory that all have in
//! common (4 MiB by default, for 30 seconds). A packet whose fragments come one after the other up to the last is put
//! together at once and costs nothing. What stays open is paid for out of a bucket of the instance.

use crate::packet::{Bytes, ETH, Packet};

/// What an instance may hold, in bytes as the kernel counts them: an eighth of the memory's default.
pub const ROOM: u64 = 512 << 10;
/// For how long the kernel keeps what is not whole, in nanoseconds.
pub const KEPT: u64 = 30_000_000_000;
/// What a byte costs, in nanoseconds until it is free again.
const PRICE: u64 = KEPT / ROOM;
/// What the kernel needs for a fragment besides its bytes.
const AROUND: u32 = 1024;
/// How long what was paid is given back if the packet is whole, in nanoseconds. Long before the kernel forgets it.
const WHOLE_WITHIN: u64 = 1_000_000_000;
/// No fragment begins there.
const NEVER: u32 = u32::MAX;

/// What is there of a packet in fragments.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Open {
    /// Where the next fragment must begin, in bytes of the packet's data.
    pub next: u32,
    /// What was paid for it.
    pub cost: u32,
    /// When it began, in nanoseconds of the monotonic clock.
    pub since: u64,
}

/// A fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Piece {
    /// Where it begins, in bytes of the packet's data.
    pub offset: u32,
    /// Where it ends.
    pub end: u32,
    /// It is not the last.
    pub more: bool,
    /// The stack takes it for what it is here: it drops what has a wrong checksum, or options that it cannot read, before
    /// it looks at what of the packet is there.
    pub sure: bool,
}

impl Piece {
    /// Reads one.
    #[inline(always)]
    pub fn read<B: Bytes + ?Sized>(bytes: &B, packet: &Packet) -> Option<Self> {
        if packet.is_v4() { Self::v4(bytes) } else { Self::v6(bytes) }
    }

    #[inline(always)]
    fn v4<B: Bytes + ?Sized>(bytes: &B) -> Option<Self> {
        let [first, second, third, src, dst] = bytes.words::<5>(ETH)?;
        let mut sum = 0;
        for word in [first, second, third, src, dst] {
            sum += (word & 0xffff) + (word >> 16);
        }
        let sum = (sum & 0xffff) + (sum >> 16);
        let (first, second) = (u32::from_be(first), u32::from_be(second));
        let (plain, total) = (first >> 24 == 0x45, first & 0xffff);
        let offset = (second & 0x1fff) * 8;
        let more = second & 0x2000 != 0;
        Some(Self { offset, end: offset + total.saturating_sub(20), more, sure: plain && total > 20 && sum == 0xffff })
    }

    /// Only right behind the fixed header the kernel reads nothing before it.
    #[inline(always)]
    fn v6<B: Bytes + ?Sized>(bytes: &B) -> Option<Self> {
        let [_, second] = bytes.words::<2>(ETH)?;
        let [field] = bytes.words::<1>(ETH + 40)?;
        let (second, field) = (u32::from_be(second), u32::from_be(field));
        let (plain, total) = (second >> 8 & 0xff == 44, second >> 16);
        let offset = field & 0xfff8;
        let more = field & 1 != 0;
        Some(Self { offset, end: offset + total.saturating_sub(8), more, sure: plain && total > 8 })
    }
}

impl Open {
    /// Takes the next fragment in, which costs so much. True: with it the packet is whole, and all that was paid is given
    /// back. Else it must be paid.
    #[inline(always)]
    pub const fn takes(&mut self, piece: &Piece, cost: u32, now: u64) -> bool {
        if piece.offset == 0 {
            *self = Self { next: 0, cost: 0, since: now };
        }
        let fits = piece.sure && piece.offset == self.next && now.wrapping_sub(self.since) < WHOLE_WITHIN;
        if fits && !piece.more {
            return true;
        }
        self.next = if fits { piece.end } else { NEVER };
        self.cost = self.cost.saturating_add(cost);
        false
    }
}

/// What a fragment in a frame of so many bytes costs.
#[inline(always)]
pub const fn cost(length: u32) -> u32 {
    length.saturating_add(AROUND)
}

/// When all of the instance's room is free, after something was paid; nothing if there is no room for it. `free_at` is
/// when it was before.
#[inline(always)]
pub const fn paid(free_at: u64, now: u64, cost: u32) -> Option<u64> {
    let from = if free_at > now { free_at } else { now };
    let after = from + cost as u64 * PRICE;
    if after - now > KEPT { None } else { Some(after) }
}

/// How much earlier the room is free when that is given back.
#[inline(always)]
pub const fn earlier(cost: u32) -> u64 {
    cost as u64 * PRICE
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn piece(offset: u32, end: u32, more: bool) -> Piece {
        Piece { offset, end, more, sure: true }
    }

    #[test]
    fn what_comes_in_order_up_to_the_last_is_given_back() {
        let mut open = Open::default();
        for (offset, end) in [(0, 1480), (1480, 2960), (2960, 4440)] {
            assert!(!open.takes(&piece(offset, end, true), 100, 5));
        }
        assert_eq!((open.next, open.cost, open.since), (4440, 300, 5));
        assert!(open.takes(&piece(4440, 5000, false), 100, 5 + SECOND / 2));
        assert_eq!(open.cost, 300, "what was paid before, and no more");
    }

    #[test]
    fn what_has_a_hole_or_comes_late_or_may_be_dropped_is_not() {
        let begun = || {
            let mut open = Open::default();
            assert!(!open.takes(&piece(0, 1480, true), 100, 5));
            open
        };
        let unsure = Piece { sure: false, ..piece(1480, 2960, false) };
        for (last, now) in [(piece(2960, 3000, false), 5), (piece(1480, 3000, false), 5 + SECOND), (unsure, 5)] {
            let mut open = begun();
            assert!(!open.takes(&last, 100, now), "{last:?}");
            assert_eq!((open.next, open.cost), (NEVER, 200));
            assert!(!open.takes(&piece(1480, 3000, false), 100, 5), "and is not any more");
        }
        // The same again begins again: what was paid for the first is not given back.
        let mut open = begun();
        assert!(!open.takes(&piece(0, 1480, true), 100, 6));
        assert_eq!((open.cost, open.since), (100, 6));
    }

    #[test]
    fn the_room_is_free_again_when_the_kernel_has_forgotten() {
        let (mut free_at, mut held) = (0, 0);
        let now = 7 * SECOND;
        while let Some(after) = paid(free_at, now, 2000) {
            (free_at, held) = (after, held + 2000);
        }
        assert!((ROOM - 2000..=ROOM).contains(&held), "{held}");
        assert_eq!(paid(free_at, now, 2000), None);
        assert!(paid(free_at - earlier(2000), now, 2000).is_some(), "what is given back may be had again");
        assert!(paid(free_at, now + KEPT, 500_000).is_some());
        assert_eq!(paid(free_at, now + KEPT, 600_000), None, "never more than all of it");
    }

    #[test]
    fn a_fragment_is_read_as_the_stack_reads_it() {
        let mut v4 = vec![0; 14];
        v4.extend([0x45, 0, 0, 44, 0, 7, 0x20, 3, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum: u32 = v4[14..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        v4[24..26].copy_from_slice(&sum.to_be_bytes());
        let packet = Packet { v4: 1, ..Packet::BLANK };
        let read = |bytes: &[u8]| Piece::read(bytes, &packet).expect("long enough");
        assert_eq!(read(&v4), Piece { offset: 24, end: 48, more: true, sure: true });
        for (at, byte) in [(24, v4[24] ^ 1), (14, 0x46)] {
            let mut other = v4.clone();
            other[at] = byte;
            assert!(!read(&other).sure, "{at}");
        }
        let mut v6 = vec![0; 14];
        v6.extend([0x60, 0, 0, 0, 0, 24, 44, 64]);
        v6.extend([0; 32]);
        v6.extend([17, 0, 0, 25, 0, 0, 0, 7]);
        let read = |bytes: &[u8]| Piece::read(bytes, &Packet::BLANK).expect("long enough");
        assert_eq!(read(&v6), Piece { offset: 24, end: 40, more: true, sure: true });
        v6[20] = 60;
        assert!(!read(&v6).sure, "something is between");
    }
}
