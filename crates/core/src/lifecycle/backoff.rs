//! Exponential back-off. Pure: the jitter is the caller's random number.

use std::time::Duration;

/// How long to wait before the attempt after `failures` failures in a row: `first` doubled each time, at most `max`,
/// times a factor from 0.75 to 1.25 that `jitter` (0 to 1) chooses, so that many do not wake together.
pub fn delay(failures: u32, first: Duration, max: Duration, jitter: f64) -> Duration {
    let doubled = first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let base = if failures == 0 { Duration::ZERO } else { doubled.min(max) };
    base.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum() {
        let wait = |n| delay(n, Duration::from_millis(100), Duration::from_secs(5), 0.5).as_millis();
        assert_eq!([wait(0), wait(1), wait(2), wait(3), wait(7), wait(60)], [0, 100, 200, 400, 5000, 5000]);
    }

    #[test]
    fn jitter_is_a_quarter_each_way() {
        let wait = |j| delay(1, Duration::from_secs(4), Duration::from_secs(9), j).as_secs();
        assert_eq!([wait(0.0), wait(1.0), wait(7.0)], [3, 5, 5]);
    }
}
