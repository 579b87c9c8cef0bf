//! The way of a process through its probes: startup first, then readiness and liveness beside each other.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{EAGER, Failure, HealthState, Subject, gate::Tally, probe, rest, started, tell};
use hivemind_core::spec::v1::ProbeSpec;
use hivemind_runtime::{Mark, Runtime};

/// Follows them until the process must be started again.
pub(super) async fn run(subject: &Subject, runtime: &Arc<dyn Runtime>, state: &watch::Sender<HealthState>) {
    let course = Course { subject, runtime, state, begun: Instant::now() };
    if let Some(spec) = subject.probes.startup.as_ref().filter(|_| !subject.started) {
        if let Err(failure) = course.start(spec).await {
            return tell(state, HealthState::Unhealthy(failure));
        }
        // Without the note it is asked again by who looks after it next.
        if let Err(error) = runtime.set_mark(&subject.id, Mark::Started).await {
            tracing::warn!(instance = %subject.id, %error, "that its startup probe has passed could not be noted");
        }
    }
    // Both look as they like: one that waits for its answer does not hold the other up.
    tokio::select! {
        biased;
        failure = course.live() => tell(state, HealthState::Unhealthy(failure)),
        () = course.serve() => {}
    }
}

struct Course<'a> {
    subject: &'a Subject,
    runtime: &'a Arc<dyn Runtime>,
    state: &'a watch::Sender<HealthState>,
    begun: Instant,
}

impl Course<'_> {
    /// Until the startup probe has decided.
    async fn start(&self, spec: &ProbeSpec) -> Result<(), Failure> {
        self.delay(spec).await;
        let mut tally = Tally::new(spec);
        loop {
            let at = Instant::now();
            let result = self.ask(spec).await;
            let decided = tally.take(result.is_ok(), at);
            match (decided, result) {
                (Some(true), _) => return Ok(()),
                (Some(false), Err(why)) => return Err(Failure { of: "startup probe", why, well: Duration::ZERO }),
                (_, Err(why)) => tell(self.state, HealthState::Waiting(format!("startup probe: {why}"))),
                (_, Ok(())) => {}
            }
            rest(at, period(spec).min(EAGER)).await;
        }
    }

    /// Says for ever whether it is to be served.
    async fn serve(&self) {
        let probes = &self.subject.probes;
        let Some(spec) = &probes.readiness else {
            // What has passed a startup probe has shown more than an open port does.
            match &probes.startup {
                Some(_) => tell(self.state, HealthState::Ready),
                None => started(self.subject, self.state).await,
            }
            return std::future::pending().await;
        };
        self.delay(spec).await;
        let mut tally = Tally::new(spec);
        let (mut passes, mut eager) = (None, true);
        loop {
            let at = Instant::now();
            let result = self.ask(spec).await;
            passes = tally.take(result.is_ok(), at).or(passes);
            match (passes, result) {
                // A single failure takes nobody out of service, nor does a single success bring anybody back.
                (Some(true), _) => tell(self.state, HealthState::Ready),
                (Some(false), Err(why)) => tell(self.state, HealthState::NotReady(why)),
                (None, Err(why)) => tell(self.state, HealthState::Waiting(format!("readiness probe: {why}"))),
                (Some(false) | None, Ok(())) => {}
            }
            eager &= passes != Some(true);
            rest(at, if eager { period(spec).min(EAGER) } else { period(spec) }).await;
        }
    }

    /// Until the process is no longer alive.
    async fn live(&self) -> Failure {
        let Some(spec) = &self.subject.probes.liveness else { return std::future::pending().await };
        self.delay(spec).await;
        let mut tally = Tally::new(spec);
        let mut well = Duration::ZERO;
        loop {
            let at = Instant::now();
            let result = self.ask(spec).await;
            match (tally.take(result.is_ok(), at), result) {
                (Some(false), Err(why)) => return Failure { of: "liveness probe", why, well },
                (_, Ok(())) => well = at - self.begun,
                (_, Err(_)) => {}
            }
            rest(at, period(spec)).await;
        }
    }

    /// From the start of the process to the first check.
    async fn delay(&self, spec: &ProbeSpec) {
        if !self.subject.adopted {
            tokio::time::sleep_until(self.begun + Duration::from_millis(spec.initial_delay_ms.into())).await;
        }
    }

    async fn ask(&self, spec: &ProbeSpec) -> Result<(), String> {
        let limit = Duration::from_millis(spec.timeout_ms.into());
        probe::probe(&spec.check, &self.subject.id, &self.subject.addresses, self.runtime, limit).await
    }
}

fn period(spec: &ProbeSpec) -> Duration {
    Duration::from_millis(spec.period_ms.into())
}
