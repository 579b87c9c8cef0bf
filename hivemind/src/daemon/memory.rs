//! Gives back what was taken for a moment: loading the programs, unpacking an image, a deploy of a hundred instances.
//! The allocator keeps such memory for the next time, in an arena for each thread, which on a node that then sits idle
//! is most of what the daemon takes.

use std::time::Duration;

/// How often. It takes about a millisecond.
const EVERY: Duration = Duration::from_secs(30);

/// Gives back at once, and then every half a minute. Never ends.
pub(super) async fn give_back() -> &'static str {
    let mut timer = tokio::time::interval(EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        #[cfg(target_env = "gnu")]
        // SAFETY: the call takes a number only, locks what it works on, and leaves what is in use where it is.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
