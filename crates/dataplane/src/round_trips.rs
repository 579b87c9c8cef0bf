//! Round-trip times of TCP, as histograms. Floor 1: pure.

use hivemind_ebpf::abi::RTT_BUCKETS;

/// The round-trip times between two classes of policies, of one service or directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrips {
    /// The class of who has connected.
    pub from: u32,
    /// The class of whom it is connected with.
    pub to: u32,
    /// The number of the service that was asked for; 0: none.
    pub service: u32,
    /// How many were measured.
    pub histogram: Histogram,
}

/// How many there are of each length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Of at most 1, 2, 4 and so on microseconds, each without those before; the last also has all that are longer.
    pub buckets: [u64; RTT_BUCKETS],
    /// Their sum, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Takes in another one.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, more)| *sum += more);
        self.sum_us += other.sum_us;
    }

    /// What this share of them (of 1,000) is not longer than, in microseconds: the end of the bucket in which it is, a
    /// power of two. None if there are none.
    pub fn quantile_us(&self, per_mille: u64) -> Option<u64> {
        let wanted = (self.count() * per_mille).div_ceil(1_000).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        bucket.map(|bucket| 1 << bucket)
    }

    /// The upper end of each bucket but the last in seconds, and how many are not longer: as Prometheus counts.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut seen = 0;
        let ends = self.buckets.iter().enumerate().take(RTT_BUCKETS - 1);
        ends.map(|(bucket, count)| {
            seen += count;
            (f64::from(1_u32 << bucket) / 1e6, seen)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_ends_of_buckets() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.quantile_us(500)), (0, None));
        histogram.buckets[3] = 98;
        histogram.buckets[10] = 2;
        let at = |per_mille| histogram.quantile_us(per_mille);
        assert_eq!([at(0), at(500), at(980), at(981), at(1_000)], [Some(8), Some(8), Some(8), Some(1024), Some(1024)]);
        let mut sum = Histogram { sum_us: 5, ..histogram };
        sum.add(&histogram);
        assert_eq!((sum.count(), sum.sum_us), (200, 5));
        let shown = histogram.cumulative();
        assert_eq!((shown[2], shown[3], shown[22]), ((4e-6, 0), (8e-6, 98), (4.194_304, 100)));
    }
}
