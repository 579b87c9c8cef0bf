//! Floor 1: how connections are shared among backends. The tables by which the programs choose at the same cost however
//! many backends there are. Pure.
//!
//! * By chance and weight: Walker's alias method. Each slot has its own backend and one other, and a fraction that
//!   decides between them.
//! * Alike on every node: Maglev (Eisenbud et al., NSDI 2016). The table is made of the backends' addresses, ports and
//!   weights alone, in whatever order they come.

use hivemind_ebpf::{abi::Addr, choose::spread};

use super::tables::BackendRow;

/// The sizes of a Maglev table: primes, so that each backend's steps visit every entry. Few of them and far apart,
/// because nearly all connections move when the size changes.
const SIZES: [u32; 4] = [509, 4093, 32_749, 131_071];
/// Entries for each backend, for shares that are equal to about a percent.
const ENTRIES_EACH: usize = 100;

/// For each slot the fraction of 2^32 below which its own backend is meant, and the slot that is meant otherwise.
/// Weights are 1 or more.
pub fn aliases(weights: impl ExactSizeIterator<Item = u16>) -> Vec<(u32, u32)> {
    let count = weights.len() as u64;
    // In units in which a slot holds `total`: exact, without fractions.
    let mut shares: Vec<u64> = weights.map(|weight| u64::from(weight) * count).collect();
    let total = shares.iter().sum::<u64>() / count.max(1);
    let mut slots: Vec<(u32, u32)> = (0..).map(|own| (u32::MAX, own)).take(shares.len()).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..shares.len()).partition(|i| shares[*i] < total);
    while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
        // What is missing in one slot is taken from the share of another.
        let threshold = (shares[less] << 32) / total;
        slots[less] = (u32::try_from(threshold).unwrap_or(u32::MAX), slots[more].1);
        shares[more] -= total - shares[less];
        if shares[more] < total {
            large.pop();
            small.push(more);
        }
    }
    slots
}

/// Entries of the table for so many backends; 0: there is no choice, or too many for a table.
pub fn table_size(backends: usize) -> u32 {
    if !(2..=usize::from(u16::MAX)).contains(&backends) {
        return 0;
    }
    let wanted = backends * ENTRIES_EACH;
    SIZES.into_iter().find(|size| *size as usize >= wanted).unwrap_or(SIZES[3])
}

/// The table: indices into `backends`. Empty if [`table_size`] is 0.
pub fn table(backends: &[BackendRow]) -> Vec<u16> {
    let size = table_size(backends.len());
    let mut order: Vec<usize> = (0..backends.len()).collect();
    order.sort_by_key(|i| (backends[*i].address, backends[*i].port));
    let mut turns: Vec<Turn> = order.into_iter().map(|i| Turn::new(i, &backends[i], size)).collect();
    let heaviest = turns.iter().map(|turn| u32::from(turn.weight)).max().unwrap_or(1);
    let (mut table, mut taken) = (vec![0; size as usize], Taken::new(size));
    while taken.left > 0 {
        for turn in &mut turns {
            // The heaviest has a turn in every round, one of half the weight in every other.
            turn.credit += u32::from(turn.weight);
            if turn.credit < heaviest {
                continue;
            }
            turn.credit -= heaviest;
            taken.take(turn);
            table[turn.next as usize] = turn.index;
            if taken.left == 0 {
                break;
            }
        }
    }
    table
}

/// Which entries of a table have a backend. As bits: they are looked at a dozen times for each entry, and so they fit
/// into the processor's nearest cache.
struct Taken {
    bits: Vec<u64>,
    size: u32,
    left: usize,
    /// The entries that are left when they are few: those who look for one would pass many others.
    last: Vec<u32>,
    /// How many are few.
    few: usize,
}

impl Taken {
    fn new(size: u32) -> Self {
        let left = size as usize;
        Self { bits: vec![0; left.div_ceil(64)], size, left, last: Vec::new(), few: left.isqrt() / 2 }
    }

    /// Takes the first free entry in the order of a backend, which is its `next` then.
    fn take(&mut self, turn: &mut Turn) {
        if self.left > self.few {
            // In variables of its own, and without a branch but the loop's: nearly all the time of a table is spent here.
            let (mut at, skip, size, bits) = (turn.next, turn.skip, self.size, self.bits.as_mut_slice());
            while bits[at as usize / 64] >> (at % 64) & 1 == 1 {
                at += skip;
                // Beyond the last one it goes on from the first; below it, the difference wraps to more.
                at = at.min(at.wrapping_sub(size));
            }
            bits[at as usize / 64] |= 1 << (at % 64);
            turn.next = at;
        } else {
            if self.last.is_empty() {
                self.last = (0..self.size).filter(|entry| !self.has(*entry)).collect();
            }
            // How many steps it is to an entry follows from the size being a prime.
            let size = u64::from(self.size);
            let inverse = inverse(turn.skip.into(), size);
            let steps = |entry: u32| u64::from(entry + self.size - turn.next) % size * inverse % size;
            let first = (0..self.last.len()).min_by_key(|at| steps(self.last[*at])).unwrap_or(0);
            turn.next = self.last.swap_remove(first);
        }
        self.left -= 1;
    }

    fn has(&self, entry: u32) -> bool {
        self.bits[entry as usize / 64] >> (entry % 64) & 1 == 1
    }
}

/// The number that times `number` is 1, modulo `prime`. `number` is from 1 to `prime - 1`.
fn inverse(number: u64, prime: u64) -> u64 {
    // Fermat: to the power of `prime - 2`.
    let (mut result, mut power, mut left) = (1, number, prime - 2);
    while left > 0 {
        if left & 1 == 1 {
            result = result * power % prime;
        }
        power = power * power % prime;
        left >>= 1;
    }
    result
}

/// A backend that takes entries in an order of its own.
///
/// Small, because all of them are gone through again and again.
struct Turn {
    next: u32,
    skip: u32,
    credit: u32,
    index: u16,
    weight: u16,
}

impl Turn {
    fn new(index: usize, backend: &BackendRow, size: u32) -> Self {
        let [a, b, c, d] = Addr::from(backend.address).words_be.map(u64::from);
        let hash = spread(spread(a << 32 | b) ^ spread(c << 32 | d) ^ u64::from(backend.port));
        let (high, low) = ((hash >> 32) as u32, hash as u32);
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let (next, skip) = if size == 0 { (0, 0) } else { (high % size, low % (size - 1) + 1) };
        Self { next, skip, credit: 0, index, weight: backend.weight }
    }
}

#[cfg(test)]
mod tests {
    use hivemind_ebpf::choose::{index, mix, rest};
    use proptest::prelude::*;

    use super::*;

    fn backends(weights: &[u16]) -> Vec<BackendRow> {
        let row = |(i, weight): (usize, &u16)| {
            let [high, low] = u16::try_from(i).expect("few").to_be_bytes();
            BackendRow { address: [10, 88, high, low].into(), port: 80, weight: *weight }
        };
        weights.iter().enumerate().map(row).collect()
    }

    /// What each backend gets of all 2^32 random numbers, as a fraction, by the slots alone.
    fn shares(slots: &[(u32, u32)]) -> Vec<f64> {
        let mut shares = vec![0.0; slots.len()];
        for (own, (threshold, alias)) in slots.iter().enumerate() {
            let part = if *alias as usize == own { 1.0 } else { f64::from(*threshold) / 2f64.powi(32) };
            shares[own] += part / slots.len() as f64;
            shares[*alias as usize] += (1.0 - part) / slots.len() as f64;
        }
        shares
    }

    proptest! {
        #[test]
        fn every_weight_gets_its_share_by_chance(weights in prop::collection::vec(1u16..=256, 1..200)) {
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let got = shares(&aliases(weights.iter().copied()));
            for (weight, got) in weights.iter().zip(got) {
                let wanted = f64::from(*weight) / total;
                prop_assert!((got - wanted).abs() < 1e-6, "{wanted} {got}");
            }
        }

        #[test]
        fn a_table_does_not_depend_on_the_order_of_backends(
            weights in prop::collection::vec(1u16..=256, 2..30), by in 1usize..30
        ) {
            let one = backends(&weights);
            let mut other = one.clone();
            other.rotate_left(by % weights.len());
            let named = |rows: &[BackendRow]| table(rows).into_iter().map(|i| rows[usize::from(i)]).collect::<Vec<_>>();
            prop_assert_eq!(named(&one), named(&other));
        }

        #[test]
        fn a_table_is_what_one_step_after_the_other_makes(weights in prop::collection::vec(1u16..=9, 2..60)) {
            let backends = backends(&weights);
            prop_assert_eq!(table(&backends), stepped(&backends));
        }

        #[test]
        fn every_weight_gets_its_share_of_a_table(weights in prop::collection::vec(1u16..=256, 2..40)) {
            has_its_shares(&weights);
        }
    }

    /// After r whole rounds a backend has r times its weight by the heaviest, rounded down, and one more at most in the
    /// round in which the table is full. So two entries, less than one for each of these, are the most it lacks. What all
    /// together lack by the rounding, less than one each, is filled by further rounds, by weight: so the most it has too
    /// many is one, and its weight by the mean weight.
    fn has_its_shares(weights: &[u16]) {
        let (count, total) = (weights.len(), weights.iter().map(|weight| usize::from(*weight)).sum::<usize>());
        let table = table(&backends(weights));
        for (i, weight) in weights.iter().map(|weight| usize::from(*weight)).enumerate() {
            let got = table.iter().filter(|entry| usize::from(**entry) == i).count();
            // All of it times the sum of the weights: without fractions.
            let (got, wanted) = (got * total, table.len() * weight);
            let bounds = wanted.saturating_sub(2 * total)..=wanted + total + weight * count;
            assert!(bounds.contains(&got), "{} of {} for {weight} in {weights:?}", got / total, table.len());
        }
    }

    #[test]
    fn a_heavy_backend_among_light_ones_gets_what_their_rounding_leaves() {
        // Found by chance: two entries more than its share.
        has_its_shares(&[7, 6, 5, 1, 6, 1, 3, 1, 2, 1, 3, 3, 2, 7, 1, 3]);
        has_its_shares(&[256, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }

    /// The table as the paper has it.
    fn stepped(backends: &[BackendRow]) -> Vec<u16> {
        let size = table_size(backends.len());
        // In order of address already.
        let mut turns: Vec<Turn> = backends.iter().enumerate().map(|(i, of)| Turn::new(i, of, size)).collect();
        let heaviest = turns.iter().map(|turn| u32::from(turn.weight)).max().expect("some");
        let mut table = vec![u16::MAX; size as usize];
        while table.contains(&u16::MAX) {
            for turn in &mut turns {
                turn.credit += u32::from(turn.weight);
                if turn.credit < heaviest || !table.contains(&u16::MAX) {
                    continue;
                }
                turn.credit -= heaviest;
                while table[turn.next as usize] != u16::MAX {
                    turn.next = (turn.next + turn.skip) % size;
                }
                table[turn.next as usize] = turn.index;
            }
        }
        table
    }

    #[test]
    fn equal_weights_are_their_own_slots() {
        assert_eq!(aliases([7u16; 3].into_iter()), [(u32::MAX, 0), (u32::MAX, 1), (u32::MAX, 2)]);
        assert_eq!(aliases([].into_iter()), []);
    }

    #[test]
    fn consecutive_cookies_are_shared_by_weight() {
        let weights = [1u16, 3, 12];
        let slots = aliases(weights.iter().copied());
        let mut hits = [0u32; 3];
        for cookie in 0..160_000u64 {
            let random = mix(cookie);
            let (own, (threshold, alias)) = (index(random, 3), slots[index(random, 3) as usize]);
            hits[if rest(random, 3) < threshold { own } else { alias } as usize] += 1;
        }
        for (weight, hits) in weights.iter().zip(hits) {
            assert!(hits.abs_diff(u32::from(*weight) * 10_000) < 500, "{weight}: {hits}");
        }
    }

    #[test]
    fn one_of_a_hundred_that_goes_moves_little_else() {
        let all = backends(&[1; 100]);
        let before = table(&all);
        let (mut others, mut worst) = (0, 0.0f64);
        for gone in 0..all.len() {
            let mut rest = all.clone();
            rest.remove(gone);
            let after = table(&rest);
            let was = |entry: &u16| all[usize::from(*entry)];
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(old, new)| usize::from(**old) != gone && was(old) != rest[usize::from(**new)]);
            let moved = moved.count();
            others += moved;
            worst = worst.max(moved as f64 / before.len() as f64);
        }
        let mean = others as f64 / (before.len() * all.len()) as f64;
        println!(
            "moved besides the 1 % that had to: {:.2} % in the mean, {:.2} % at worst",
            mean * 100.0,
            worst * 100.0
        );
        assert!(mean < 0.02 && worst < 0.03, "{mean} {worst}");
    }

    #[test]
    fn tables_are_as_large_as_needed() {
        assert_eq!([0, 1, 2, 5, 6, 100, 1000].map(table_size), [0, 0, 509, 509, 4093, 32_749, 131_071]);
        let prime = |n: u32| (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        assert!(SIZES.into_iter().all(prime));
    }
}
