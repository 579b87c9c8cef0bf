//! The programs and what they share. Every packet's fate is a [`Verdict`]; only [`finish`] turns one into a return
//! code, and counts drops.
//!
//! Passing is `TC_ACT_UNSPEC`, not `TC_ACT_OK`: programs of others on the same hook still see the packet.

mod balance;
mod container;
mod maps;
mod publish;
mod rewrite;
mod skb;
mod socket;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use hivemind_ebpf::reason::Reason;

use skb::Skb;

/// Nothing the programs call needs the GPL's helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

/// What becomes of a packet.
enum Verdict {
    /// To the host's stack, or on with what the stack has decided.
    Pass,
    /// What a redirect helper returned.
    Redirect(i32),
    /// Dropped.
    Drop(Reason),
}

/// Turns a verdict into the return code. Drops are counted for the endpoint.
#[inline(always)]
fn finish(verdict: Verdict, skb: Skb, endpoint: u32, direction: u8) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Redirect(code) => code,
        Verdict::Drop(reason) => {
            maps::count(endpoint, 0, direction, reason as u8, u64::from(skb.len()));
            TC_ACT_SHOT
        }
    }
}

/// Unreachable: an index out of bounds or an overflow would be a call of this, which the verifier refuses as an
/// endless loop. So a panic that could happen fails to load.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
