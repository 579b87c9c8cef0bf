//! Paired samples: every round measures every subject once, and ratios are taken within a round.

use serde::{Deserialize, Serialize};

/// What one subject gave, one value per round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(pub(crate) Vec<f64>);

/// Median and extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The middle value; of an even number the mean of the two middle ones.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Series {
    /// Median, smallest and largest; `NaN` of nothing.
    pub(crate) fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let [first, .., last] = sorted[..] else {
            let only = sorted.first().copied().unwrap_or(f64::NAN);
            return Summary { median: only, min: only, max: only };
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Summary { median, min: first, max: last }
    }

    /// This series over `other`, round by round.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect())
    }
}

/// The value below which `per_mille` of the samples lie. `samples` need not be sorted and are reordered.
pub(crate) fn percentile(samples: &mut [u32], per_mille: usize) -> u32 {
    if samples.is_empty() {
        return 0;
    }
    let at = (samples.len() * per_mille / 1000).min(samples.len() - 1);
    *samples.select_nth_unstable(at).1
}

#[cfg(test)]
mod tests {
    use super::{Series, Summary, percentile};

    #[test]
    fn medians_and_extremes() {
        let check = |values: &[f64], median, min, max| {
            assert_eq!(Series(values.to_vec()).summary(), Summary { median, min, max }, "{values:?}");
        };
        check(&[5.0], 5.0, 5.0, 5.0);
        check(&[3.0, 1.0], 2.0, 1.0, 3.0);
        check(&[9.0, 1.0, 2.0], 2.0, 1.0, 9.0);
        assert!(Series::default().summary().median.is_nan());
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let ratio = Series(vec![10.0, 40.0]).over(&Series(vec![5.0, 10.0]));
        assert_eq!(ratio.0, [2.0, 4.0]);
    }

    #[test]
    fn percentiles() {
        let mut samples: Vec<u32> = (0..1000).rev().collect();
        assert_eq!(percentile(&mut samples, 500), 500);
        assert_eq!(percentile(&mut samples, 990), 990);
        assert_eq!(percentile(&mut samples, 1000), 999);
        assert_eq!(percentile(&mut [], 500), 0);
    }
}
