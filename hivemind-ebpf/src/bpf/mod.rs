//! The programs and what they share. What judges a packet returns the reason for a drop, and leaves any other verdict
//! in a variable of the caller: one byte is returned, because the verifier follows a register that is set on every
//! path, but not the two halves of an enum. Only [`finish`] makes a return code of it, and counts drops.
//!
//! Passing is `TC_ACT_UNSPEC`, not `TC_ACT_OK`: programs of others on the same hook still see the packet.

mod atomic;
mod balance;
mod begun;
mod capture;
mod container;
mod flow;
mod host;
mod limit;
#[cfg(hivemind_log)]
mod log;
mod maps;
mod pieces;
mod policy;
mod publish;
mod quick;
mod refuse;
mod related;
mod rewrite;
mod rtt;
mod service;
mod skb;
mod socket;
mod tell;
mod tunnel;
mod verdicts;
mod words;
mod work;
mod xdp;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use hivemind_ebpf::reason::Reason;

use skb::Skb;

/// Nothing the programs call needs the GPL's helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

/// What becomes of a packet that is not dropped: the code of a redirect, or this, which leaves it to the stack.
const PASS: i32 = TC_ACT_UNSPEC;

/// The return code. Drops are counted for the endpoint.
#[inline(always)]
fn finish(result: Result<(), Reason>, verdict: i32, skb: Skb, endpoint: u32, direction: u8) -> i32 {
    match result {
        Ok(()) => verdict,
        Err(reason) => {
            maps::count(endpoint, 0, direction, reason as u8, u64::from(skb.len()));
            tell::dropped(endpoint, direction, reason, skb.len());
            #[cfg(hivemind_log)]
            log::dropped(skb, endpoint, direction, reason as u8);
            if capture::is_on() {
                capture::dropped(skb, endpoint, direction, reason as u8);
            }
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
