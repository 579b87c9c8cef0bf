//! The only place that reads the wall clock. Durations are measured with `tokio::time::Instant`, which tests can pause.

use crate::model::Timestamp;

/// Now, by the wall clock. It may jump; only for records and people.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
