//! Monotonic time for measuring.

use std::time::Duration;

/// A moment of the monotonic clock. Never paused here: what is measured is the kernel.
pub(crate) type Moment = tokio::time::Instant;

/// Runs `what` and says how long it took, in seconds.
pub(crate) fn timed<T>(what: impl FnOnce() -> T) -> (T, f64) {
    let start = Moment::now();
    let value = what();
    (value, start.elapsed().as_secs_f64())
}

/// Waits, to whole milliseconds, for a loop that asks again or a sender that keeps a rate.
pub(crate) fn pause(time: Duration) {
    let timeout = nix::poll::PollTimeout::try_from(time).unwrap_or(nix::poll::PollTimeout::MAX);
    // Interrupted by a signal it returns early, which every caller's loop allows.
    let _ = nix::poll::poll(&mut [], timeout);
}

/// Asks `ready` until it gives a value.
///
/// # Errors
/// When it has given none by the deadline, naming `what`.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Moment::now();
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        anyhow::ensure!(start.elapsed() < limit, "waited {limit:?} for {what}");
        pause(Duration::from_millis(1));
    }
}
