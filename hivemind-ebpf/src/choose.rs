//! Which backend a connection gets.

/// Spreads the bits of `x`, which may be a counter, over 32 bits (the finaliser of MurmurHash3).
#[inline(always)]
pub const fn mix(x: u64) -> u32 {
    let mut x = x;
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (x >> 32) as u32
}

/// An index below `count` (not 0) from 32 random bits, without the bias and the cost of a division.
#[inline(always)]
pub const fn index(random: u32, count: u32) -> u32 {
    ((random as u64 * count as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::{index, mix};

    #[test]
    fn every_backend_gets_its_share_of_consecutive_cookies() {
        for count in [1u32, 2, 3, 7, 100] {
            let mut hits = vec![0u32; count as usize];
            for cookie in 0..100_000u64 {
                hits[index(mix(cookie), count) as usize] += 1;
            }
            let fair = 100_000 / count;
            assert!(hits.iter().all(|&n| n > fair * 8 / 10 && n < fair * 12 / 10 + 1), "{count}: {hits:?}");
        }
    }

    #[test]
    fn the_last_index_is_below_the_count() {
        assert_eq!(index(u32::MAX, 3), 2);
        assert_eq!(index(0, 3), 0);
        assert_eq!(index(u32::MAX, u32::MAX), u32::MAX - 1);
    }
}
