//! Collects the newest status of every instance and sends it upstream, many at a time.
//!
//! Statuses are levels, not events: an intermediate one that was never sent is not missed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::upstream::Upstream;
use hivemind_core::{
    lifecycle::backoff,
    model::{InstanceId, StatusReport},
};

/// Where workers leave statuses. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Reporter {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<BTreeMap<InstanceId, StatusReport>>,
    wake: Notify,
}

impl Reporter {
    /// Leaves a status; it replaces an unsent one of the same instance.
    pub(super) fn leave(&self, report: StatusReport) {
        self.lock().insert(report.id.clone(), report);
        self.shared.wake.notify_one();
    }

    /// Sends for ever. Cancelling it loses nothing but what was left since the last send.
    pub(super) async fn run(self, upstream: Arc<dyn Upstream>) {
        let mut failures = 0;
        loop {
            let batch = self.take();
            if batch.is_empty() {
                self.shared.wake.notified().await;
                continue;
            }
            let reports: Vec<_> = batch.into_values().collect();
            match upstream.report(reports.clone()).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, reports = reports.len(), "statuses could not be sent; trying again");
                    self.put_back(reports);
                    let pause =
                        backoff::delay(failures, Duration::from_millis(100), Duration::from_secs(5), rand::random());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn take(&self) -> BTreeMap<InstanceId, StatusReport> {
        std::mem::take(&mut *self.lock())
    }

    /// Newer ones that were left meanwhile win.
    fn put_back(&self, reports: Vec<StatusReport>) {
        let mut pending = self.lock();
        for report in reports {
            pending.entry(report.id.clone()).or_insert(report);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstanceId, StatusReport>> {
        // The map is whole after every statement, so that a panic elsewhere does not spoil it.
        self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::model::{AppKey, InstanceStatus, Phase, Scope};

    fn report(n: u8, phase: Phase) -> StatusReport {
        let app = AppKey::new(Scope::default(), "web".parse().expect("a name"));
        let status = InstanceStatus { phase, ..InstanceStatus::default() };
        StatusReport { id: InstanceId::from_bits(n.into()), app, status }
    }

    #[test]
    fn what_could_not_be_sent_comes_back_unless_there_is_a_newer_one() {
        let reporter = Reporter::default();
        reporter.leave(report(1, Phase::Creating));
        reporter.leave(report(2, Phase::Creating));
        let sent: Vec<_> = reporter.take().into_values().collect();
        assert_eq!(sent.len(), 2);
        reporter.leave(report(1, Phase::Ready));
        reporter.put_back(sent);
        let phases: Vec<_> = reporter.take().into_values().map(|report| report.status.phase).collect();
        assert_eq!(phases, [Phase::Ready, Phase::Creating]);
    }
}
