//! Copies and zeroes whole words. The compiler makes calls of what it recognises as a copy or a fill, and what it calls
//! works byte by byte: 128 bytes took longer than everything else that a packet of a known flow costs.

use core::ptr;

/// Makes `to` what `from` is.
#[inline(always)]
pub(super) fn copy<T: Copy>(from: &T, to: &mut T) {
    let (from, to): (*const T, *mut T) = (from, to);
    if align_of::<T>() >= 8 {
        for i in 0..size_of::<T>() / 8 {
            // SAFETY: within the type, whose size is a multiple of its alignment.
            unsafe { ptr::write_volatile(to.cast::<u64>().add(i), ptr::read_volatile(from.cast::<u64>().add(i))) };
        }
    } else {
        const { assert!(align_of::<T>() >= 4) };
        for i in 0..size_of::<T>() / 4 {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(to.cast::<u32>().add(i), ptr::read_volatile(from.cast::<u32>().add(i))) };
        }
    }
}

/// Makes all of it zeroes, which must be a value of its type.
#[inline(always)]
pub(super) fn zero<T: Copy>(value: &mut T) {
    let value: *mut T = value;
    if align_of::<T>() >= 8 {
        for i in 0..size_of::<T>() / 8 {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(value.cast::<u64>().add(i), 0) };
        }
    } else {
        const { assert!(align_of::<T>() >= 4) };
        for i in 0..size_of::<T>() / 4 {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(value.cast::<u32>().add(i), 0) };
        }
    }
}
