//! An instance that is to stop: nobody new is sent to it, and who is connected has time to finish.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Wanted, Worker};
use hivemind_core::model::{Instance, Phase};

/// How long a stop waits for the data plane to send nothing new to the instance.
const TABLES: Duration = Duration::from_secs(2);
/// From one look at the open connections to the next. What was on its way when the tables changed has arrived by the first.
const LOOK: Duration = Duration::from_millis(100);

impl Worker {
    /// Waits until the tables send nothing new there.
    pub(super) async fn drain(&mut self, wanted: &Wanted) {
        self.health = None;
        self.status.serving |= self.status.phase == Phase::Ready;
        self.say(&wanted.instance, Phase::Stopping, String::new(), None);
        // A data plane that cannot be written must not keep an instance from stopping.
        let _ = timeout(TABLES, self.shared.datapath.shows(wanted.revision)).await;
        self.seen.drained_at = Some(Instant::now());
    }

    /// Waits a moment, and looks whether anybody is still connected.
    pub(super) async fn linger(&mut self, instance: &Instance) {
        self.pause_or_change(Instant::now() + LOOK).await;
        match self.shared.net.open_connections(&instance.id).await {
            Ok(0) => self.seen.quiet = true,
            Ok(open) => {
                let s = if open == 1 { "" } else { "s" };
                self.say(instance, Phase::Stopping, format!("waits for {open} connection{s} to end"), None);
            }
            // Who is connected is not known: they get the time that was said.
            Err(error) => tracing::warn!(instance = %instance.id, %error, "its connections cannot be counted"),
        }
    }
}
