//! From single results to a state. Pure.

use std::time::Duration;

use super::HealthState;

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
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ready: false, successes: 0, failures: 0 }
    }

    /// The state after a result, `age` after the process's start.
    pub(super) fn take(&mut self, result: Result<(), String>, age: Duration) -> HealthState {
        match result {
            Ok(()) => {
                self.failures = 0;
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
                    HealthState::Unhealthy(why)
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { healthy_after: 2, unhealthy_after: 3, start_period: Duration::from_secs(10) };

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
        assert_eq!(late[3], HealthState::Unhealthy("no".into()));
        assert!(matches!(late[2], HealthState::Waiting(_)));
    }

    #[test]
    fn a_ready_one_stands_single_failures_even_in_the_start_period() {
        let states =
            run(&[(true, 0), (true, 1), (false, 2), (false, 3), (true, 4), (false, 5), (false, 6), (false, 7)]);
        assert!(states[1..7].iter().all(|state| *state == HealthState::Ready), "{states:?}");
        assert_eq!(states[7], HealthState::Unhealthy("no".into()));
    }
}
