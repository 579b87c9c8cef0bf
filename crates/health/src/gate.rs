//! From single results to a state. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::{Failure, HealthState};
use hivemind_core::spec::v1::ProbeSpec;

/// How many results in a row count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) healthy_after: u32,
    pub(super) unhealthy_after: u32,
    /// Failures this soon after the start do not count, until the first success.
    pub(super) start_period: Duration,
}

/// Takes results in, one after the other.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    ready: bool,
    successes: u32,
    failures: u32,
    /// The process's age at the last success.
    well: Duration,
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ready: false, successes: 0, failures: 0, well: Duration::ZERO }
    }

    /// The state after a result, `age` after the process's start.
    pub(super) fn take(&mut self, result: Result<(), String>, age: Duration) -> HealthState {
        match result {
            Ok(()) => {
                (self.failures, self.well) = (0, age);
                self.successes = self.successes.saturating_add(1);
                self.ready |= self.successes >= self.limits.healthy_after;
                if self.ready {
                    return HealthState::Ready;
                }
                HealthState::Waiting(format!("{} of {} checks passed", self.successes, self.limits.healthy_after))
            }
            Err(why) => {
                self.successes = 0;
                if self.ready || age >= self.limits.start_period {
                    self.failures = self.failures.saturating_add(1);
                }
                if self.failures >= self.limits.unhealthy_after {
                    HealthState::Unhealthy(Failure { of: "health check", why, well: self.well })
                } else if self.ready {
                    // A single failure takes nobody out of service.
                    HealthState::Ready
                } else {
                    HealthState::Waiting(why)
                }
            }
        }
    }
}

/// Counts a probe's results in a row, as Kubernetes does.
#[derive(Debug)]
pub(super) struct Tally {
    successes_wanted: u32,
    failures_wanted: u32,
    period: Duration,
    successes: u32,
    failures: u32,
    /// When the last failure was that counted.
    counted_at: Option<Instant>,
}

impl Tally {
    pub(super) fn new(spec: &ProbeSpec) -> Self {
        Self {
            successes_wanted: spec.success_threshold,
            failures_wanted: spec.failure_threshold,
            period: Duration::from_millis(spec.period_ms.into()),
            successes: 0,
            failures: 0,
            counted_at: None,
        }
    }

    /// What is decided by the result of a check that began `at`: passed, failed, or nothing yet. Who asks more often than the
    /// period says is told of successes sooner; of its failures, one in a period counts.
    pub(super) fn take(&mut self, well: bool, at: Instant) -> Option<bool> {
        if well {
            (self.failures, self.counted_at) = (0, None);
            self.successes = self.successes.saturating_add(1);
            return (self.successes >= self.successes_wanted).then_some(true);
        }
        self.successes = 0;
        if self.counted_at.is_none_or(|last| at.duration_since(last) >= self.period) {
            self.failures = self.failures.saturating_add(1);
            self.counted_at = Some(at);
        }
        (self.failures >= self.failures_wanted).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::spec::v1::Check;

    const LIMITS: Limits = Limits { healthy_after: 2, unhealthy_after: 3, start_period: Duration::from_secs(10) };

    fn unhealthy(well: u64) -> HealthState {
        HealthState::Unhealthy(Failure { of: "health check", why: "no".into(), well: Duration::from_secs(well) })
    }

    fn run(results: &[(bool, u64)]) -> Vec<HealthState> {
        let mut gate = Gate::new(LIMITS);
        let result = |good: bool| if good { Ok(()) } else { Err("no".to_owned()) };
        results.iter().map(|(good, age)| gate.take(result(*good), Duration::from_secs(*age))).collect()
    }

    #[test]
    fn ready_after_successes_in_a_row() {
        let states = run(&[(true, 0), (false, 1), (true, 2), (true, 3)]);
        assert_eq!(states[3], HealthState::Ready);
        assert!(states[..3].iter().all(|state| matches!(state, HealthState::Waiting(_))), "{states:?}");
    }

    #[test]
    fn failures_count_after_the_start_period_only() {
        assert!(
            run(&[(false, 1), (false, 2), (false, 3), (false, 9)]).iter().all(|s| matches!(s, HealthState::Waiting(_)))
        );
        let late = run(&[(false, 9), (false, 10), (false, 11), (false, 12)]);
        assert_eq!(late[3], unhealthy(0));
        assert!(matches!(late[2], HealthState::Waiting(_)));
    }

    #[test]
    fn a_ready_one_stands_single_failures_even_in_the_start_period() {
        let states =
            run(&[(true, 0), (true, 1), (false, 2), (false, 3), (true, 4), (false, 5), (false, 6), (false, 7)]);
        assert!(states[1..7].iter().all(|state| *state == HealthState::Ready), "{states:?}");
        assert_eq!(states[7], unhealthy(4));
    }

    fn tally(success_threshold: u32, failure_threshold: u32) -> Tally {
        let check = Check::Tcp { port: 1 };
        Tally::new(&ProbeSpec { period_ms: 1_000, success_threshold, failure_threshold, ..ProbeSpec::new(check) })
    }

    /// Results with their time in milliseconds.
    fn taken(mut tally: Tally, results: &[(bool, u64)]) -> Vec<Option<bool>> {
        let begun = Instant::now();
        results.iter().map(|(well, at)| tally.take(*well, begun + Duration::from_millis(*at))).collect()
    }

    #[tokio::test]
    async fn a_probe_decides_by_results_in_a_row() {
        let results = [(true, 0), (true, 1_000), (false, 2_000), (true, 3_000), (false, 4_000), (false, 5_000)];
        let expected = [None, Some(true), None, None, None, Some(false)];
        assert_eq!(taken(tally(2, 2), &results), expected);
    }

    #[tokio::test]
    async fn of_failures_in_a_period_one_counts_and_successes_all_do() {
        let failures = [(false, 0), (false, 500), (false, 999), (false, 1_000), (false, 1_500), (false, 2_000)];
        assert_eq!(taken(tally(1, 3), &failures), [None, None, None, None, None, Some(false)]);
        assert_eq!(taken(tally(2, 3), &[(true, 0), (true, 500)]), [None, Some(true)]);
        let mixed = [(false, 0), (true, 500), (false, 600)];
        assert_eq!(taken(tally(2, 2), &mixed), [None, None, None], "the row begins anew");
    }
}
