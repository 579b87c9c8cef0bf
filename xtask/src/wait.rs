//! Waiting for something that happens elsewhere: always for the thing itself, always with a deadline.

use std::time::Duration;

use anyhow::{Result, bail};

/// How often it is looked.
const PERIOD: Duration = Duration::from_millis(20);

/// A moment to measure from.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "other processes live in real time")]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Looks until `look` finds it. When `limit` is over, the error says what was waited for and why the last look failed.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let watch = Stopwatch::start();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(why) if watch.elapsed() >= limit => {
                bail!("waited {:.1} s for {what}: {why:#}", limit.as_secs_f64())
            }
            Err(_) => pause(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that waits between two looks")]
fn pause() {
    std::thread::sleep(PERIOD);
}
