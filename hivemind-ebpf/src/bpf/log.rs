//! Lines for who works on the programs: only in a build that was asked for them (`cargo xtask build --bpf-log`), since a line
//! costs more than all else that is done for a packet.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;

use super::skb::Skb;

/// A packet is dropped.
#[inline(never)]
pub(super) fn dropped(skb: Skb, endpoint: u32, direction: u8, reason: u8) {
    let context = TcContext::new(skb.raw());
    debug!(&context, "drop: reason {} endpoint {} direction {} bytes {}", reason, endpoint, direction, skb.len());
}
