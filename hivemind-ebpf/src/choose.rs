//! Which backend a connection gets: the arithmetic, for both sides. Random choice by weight is Walker's alias method;
//! the choice that every node makes alike is a table of Maglev (Eisenbud et al., NSDI 2016), filled by the daemon.

use crate::abi::Addr;

/// The greatest weight of a backend. One with weight 0 is in no group.
pub const MAX_WEIGHT: u16 = 256;

/// Spreads the bits of `x`, which may be a counter, over 64 bits (the finaliser of MurmurHash3).
#[inline(always)]
pub const fn spread(x: u64) -> u64 {
    let mut x = x;
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

/// The same over 32 bits.
#[inline(always)]
pub const fn mix(x: u64) -> u32 {
    (spread(x) >> 32) as u32
}

/// An index below `count` (not 0) from 32 random bits, without the bias and the cost of a division.
#[inline(always)]
pub const fn index(random: u32, count: u32) -> u32 {
    ((random as u64 * count as u64) >> 32) as u32
}

/// What [`index`] leaves of the random bits: a fraction of 2^32.
#[inline(always)]
pub const fn rest(random: u32, count: u32) -> u32 {
    (random as u64 * count as u64) as u32
}

/// The same number on every node for the same connection. The node's own address is not in it, so that a client that
/// is led to another node in the middle of a connection reaches the same backend.
#[inline(always)]
pub const fn flow(client: &Addr, sport_be: u16, dport_be: u16, protocol: u8) -> u32 {
    let [a, b, c, d] = client.words_be;
    let high = spread((a as u64) << 32 | b as u64);
    let low = spread(high ^ ((c as u64) << 32 | d as u64));
    mix(low ^ ((sport_be as u64) << 32 | (dport_be as u64) << 8 | protocol as u64))
}

/// Whether the first of two backends has no more open connections for its weight.
#[inline(always)]
pub const fn has_less(load: u64, weight: u16, other_load: u64, other_weight: u16) -> bool {
    // The new connection is counted as well: of two empty ones the heavier is meant.
    (load + 1).wrapping_mul(other_weight as u64) <= (other_load + 1).wrapping_mul(weight as u64)
}

/// Whether a client may go on with its backend: `seconds` is when it last began a connection.
#[inline(always)]
pub const fn is_sticky(now: u32, seconds: u32, affinity: u32) -> bool {
    now.wrapping_sub(seconds) < affinity
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn flows_that_differ_in_one_thing_are_told_apart() {
        let client = Addr::v4(0x0a00_0001);
        let one = flow(&client, 1, 2, 6);
        assert_eq!(one, flow(&client, 1, 2, 6));
        for other in [flow(&Addr::v4(0x0a00_0002), 1, 2, 6), flow(&client, 2, 1, 6), flow(&client, 1, 2, 17)] {
            assert_ne!(one, other);
        }
        // Whichever word of an address differs: networks of IPv6 do in the first ones.
        let v6 = [1, 2, 3, 4];
        let one = flow(&Addr::v6(v6), 1, 2, 6);
        for word in 0..v6.len() {
            let mut other = v6;
            other[word] += 1;
            assert_ne!(one, flow(&Addr::v6(other), 1, 2, 6), "word {word}");
        }
        // Clients that count their ports up are spread.
        let mut hits = [0u32; 16];
        for port in 0..16_000u16 {
            hits[index(flow(&client, port.to_be(), 80u16.to_be(), 6), 16) as usize] += 1;
        }
        assert!(hits.iter().all(|n| (850..1150).contains(n)), "{hits:?}");
    }

    #[test]
    fn the_lighter_loaded_for_its_weight_is_taken() {
        assert!(has_less(0, 1, 1, 1) && !has_less(1, 1, 0, 1));
        assert!(has_less(0, 2, 0, 1) && !has_less(0, 1, 0, 2), "the heavier of two that are empty");
        assert!(has_less(3, 4, 1, 1) && !has_less(8, 4, 1, 1), "four times the weight, four times the load");
    }

    #[test]
    fn a_client_stays_until_its_time_is_over_and_a_clock_may_wrap() {
        assert!(is_sticky(100, 91, 10) && !is_sticky(100, 90, 10));
        assert!(is_sticky(4, u32::MAX - 4, 10) && !is_sticky(6, u32::MAX - 4, 10));
    }
}
