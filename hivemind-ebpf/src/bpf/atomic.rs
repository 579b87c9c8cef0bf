//! Words that several CPUs change at once. The target has no atomic types in `core`, but the instructions (Linux 5.12).

/// Adds in one step, whatever other CPUs do.
///
/// # Safety
/// `word` is a valid and aligned word of a map.
#[inline(always)]
pub(super) unsafe fn add(word: *mut u64, number: u64) {
    // SAFETY: the instruction writes this one word.
    unsafe { core::arch::asm!("lock *(u64 *)({word} + 0) += {number}", word = in(reg) word, number = in(reg) number) };
}

/// Puts `new` there if it is `old` that is there; returns what was.
///
/// # Safety
/// As of [`add`].
#[inline(always)]
pub(super) unsafe fn swap(word: *mut u64, old: u64, new: u64) -> u64 {
    let found: u64;
    // SAFETY: the instruction writes this one word, or none.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word, new = in(reg) new, inlateout("r0") old => found,
        );
    };
    found
}

/// Adds in one step, and returns what was.
///
/// # Safety
/// As of [`add`].
#[inline(always)]
pub(super) unsafe fn fetch_add(word: *mut u64, number: u64) -> u64 {
    let found: u64;
    // SAFETY: the instruction writes this one word.
    unsafe {
        core::arch::asm!(
            "{number} = atomic_fetch_add((u64 *)({word} + 0), {number})",
            word = in(reg) word, number = inlateout(reg) number => found,
        );
    };
    found
}
