//! The daemon as a service of systemd's (sd_notify(3)): that it is ready, that it stops, and, as long as those answer who
//! own something, that it lives. Without `NOTIFY_SOCKET` and `WATCHDOG_USEC` nothing of it happens.

use std::{convert::Infallible, time::Duration};

use sd_notify::NotifyState;

/// How many times it is said that the daemon lives in the time after which systemd takes it for dead.
const TIMES: u32 = 4;

/// The daemon is ready.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("ready")]);
}

/// The daemon stops.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping; containers go on")]);
}

/// Says that the daemon lives as often as systemd wants to hear it, and only while `alive` answers in time. Never ends.
pub(super) async fn watch<F: Future<Output = ()>>(alive: impl Fn() -> F) -> Infallible {
    match sd_notify::watchdog_enabled() {
        Some(limit) => keep(limit, alive, || tell(&[NotifyState::Watchdog])).await,
        None => std::future::pending().await,
    }
}

async fn keep<F: Future<Output = ()>>(limit: Duration, alive: impl Fn() -> F, say: impl Fn()) -> Infallible {
    let mut timer = tokio::time::interval(limit / TIMES);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        // What takes longer is not dead yet: the next question may find it done, before the limit is over.
        let patience = limit / 2;
        match tokio::time::timeout(patience, alive()).await {
            Ok(()) => say(),
            Err(_) => tracing::error!(?patience, "control or the data plane does not answer; the watchdog is not fed"),
        }
    }
}

/// systemd may have gone, or never have been there: it is told, not asked.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told how the daemon is");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_said_four_times_in_the_limit_and_only_while_everybody_answers() {
        let limit = Duration::from_secs(60);
        let (said, hangs) = (Cell::new(0), Cell::new(false));
        let alive = || async {
            if hangs.get() {
                std::future::pending::<()>().await;
            }
        };
        let all = async {
            let run = keep(limit, alive, || said.set(said.get() + 1));
            let _ = tokio::time::timeout(Duration::from_secs(61), run).await;
        };
        all.await;
        assert_eq!(said.get(), 5, "at once, and every quarter of a minute");
        hangs.set(true);
        said.set(0);
        let run = keep(limit, alive, || said.set(said.get() + 1));
        let _ = tokio::time::timeout(limit * 3, run).await;
        assert_eq!(said.get(), 0);
    }
}
