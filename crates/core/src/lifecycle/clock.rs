//! The only place that reads the wall clock. Durations are measured with `tokio::time::Instant`, which tests can pause.

use std::time::Duration;

use crate::model::Timestamp;

/// Now, by the wall clock. It may jump; only for records and people.
pub fn now() -> Timestamp {
    Timestamp::from_millis(i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX))
}

/// The time since the machine started, sleep included: it never jumps, and every process is told the same.
pub fn uptime() -> Duration {
    // It fails for a clock that the kernel does not have; this one came with Linux 2.6.39.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The time since the Unix epoch, as finely as the wall clock tells it.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
