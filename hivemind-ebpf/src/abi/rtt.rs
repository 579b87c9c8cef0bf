//! What TCP measures of the way there and back.

use core::mem::{align_of, offset_of, size_of};

/// How many buckets a histogram has.
pub const RTT_BUCKETS: usize = 24;

/// Between whom.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RttKey {
    /// The class of who has connected, [`crate::policy::HOST`] for the node.
    pub from: u32,
    /// The class of whom it is connected with.
    pub to: u32,
    /// The number of the service that was asked for; 0: the other side itself.
    pub service: u32,
}

/// Round-trip times of one CPU, as TCP has smoothed them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rtt {
    /// How many there are of at most 1, 2, 4 and so on microseconds, each without those before; the last also has all
    /// that are longer.
    pub buckets: [u64; RTT_BUCKETS],
    /// Their sum, in microseconds.
    pub sum_us: u64,
}

/// The bucket of a round-trip time in microseconds.
#[inline(always)]
pub const fn rtt_bucket(us: u32) -> usize {
    let bits = u32::BITS - us.saturating_sub(1).leading_zeros();
    if bits as usize >= RTT_BUCKETS { RTT_BUCKETS - 1 } else { bits as usize }
}

layout!(RttKey, 12, 4, from: 0, to: 4, service: 8);
layout!(Rtt, 200, 8, buckets: 0, sum_us: 192);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_at_a_power_of_two() {
        for (us, bucket) in
            [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1 << 20, 20), (8 << 20, 23), (u32::MAX, 23)]
        {
            assert_eq!(rtt_bucket(us), bucket, "{us}");
        }
    }
}
