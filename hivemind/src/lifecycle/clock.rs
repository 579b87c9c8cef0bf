//! The only place that reads the wall clock. Durations are measured with `tokio::time::Instant`, which tests can pause.

use std::time::Duration;

use crate::model::Timestamp;

/// Now, by the wall clock. It may jump; only for records and people.
pub fn now() -> Timestamp {
    Timestamp::from_millis(i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX))
}

/// The time since the Unix epoch, as finely as the wall clock tells it.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
