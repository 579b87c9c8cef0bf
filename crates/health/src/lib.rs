//! Floor 2: health checks. [`gate`] decides (pure), [`probe`] asks, [`watch`] brings both together for one process: by the one
//! check for all purposes, by probes for one purpose each (`course`), or by whether it has started.

mod course;
mod gate;
mod grpc;
mod probe;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use gate::{Gate, Limits};
use hivemind_core::{
    model::ContainerId,
    spec::v1::{HealthSpec, ProbesSpec},
};
use hivemind_runtime::{ImageHealth, Runtime};

/// The pause between start-up checks of an instance without a health check: this part of the time for which it has been
/// waited, between these bounds. Ready is late by no more than that part.
const START_PART: u32 = 5;
const START_SHORTEST: Duration = Duration::from_millis(20);
const START_LONGEST: Duration = Duration::from_secs(1);
/// While an instance is not Ready, it is looked at at least this often, so that Ready is not late by an interval.
const EAGER: Duration = Duration::from_millis(500);

/// What is known of a process's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Nothing yet.
    Unknown,
    /// Not Ready yet, and what it waits for.
    Waiting(String),
    /// Ready.
    Ready,
    /// Its readiness probe fails, and why: it is not to be served, and must not be started again.
    NotReady(String),
    /// It fails: it must be started again.
    Unhealthy(Failure),
}

/// Why a process must be started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What has failed: `health check`, `startup probe`, `liveness probe`.
    pub of: &'static str,
    /// Why, for people.
    pub why: String,
    /// How long it was well: from the begin of the watch to the last success.
    pub well: Duration,
}

/// Whose health.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The instance.
    pub id: ContainerId,
    /// Its addresses; network checks go to all of them.
    pub addresses: Vec<IpAddr>,
    /// The check that the user wrote.
    pub spec: Option<HealthSpec>,
    /// The probes that the user wrote instead.
    pub probes: ProbesSpec,
    /// Its startup probe has passed ([`hivemind_runtime::Mark::Started`]).
    pub started: bool,
    /// It ran before it was watched: no probe waits for its initial delay.
    pub adopted: bool,
    /// The check that the image brings, used if the user wrote none.
    pub image: Option<ImageHealth>,
    /// Without any check: the port that must accept a connection once, on one of the addresses.
    pub first_tcp_port: Option<u16>,
    /// Without a check and a port: how long the process must run before it counts as Ready. What ends at once is not.
    pub steady: Duration,
}

/// Follows the health of one process for ever. Cancel it when the process ends.
pub async fn watch(subject: Subject, runtime: Arc<dyn Runtime>, state: watch::Sender<HealthState>) {
    match effective(&subject) {
        _ if !subject.probes.is_empty() => course::run(&subject, &runtime, &state).await,
        Some(spec) => follow(&subject, &spec, &runtime, &state).await,
        None => started(&subject, &state).await,
    }
    // Ready for good: nothing to look at. The channel must stay open.
    state.closed().await;
}

/// Says a state, unless it was said last.
fn tell(state: &watch::Sender<HealthState>, now: HealthState) {
    state.send_if_modified(|before| {
        let differs = *before != now;
        *before = now;
        differs
    });
}

/// The user's check, else the image's.
fn effective(subject: &Subject) -> Option<HealthSpec> {
    subject.spec.clone().or_else(|| {
        let image = subject.image.as_ref()?;
        let mut spec = HealthSpec::new(image.check.clone());
        spec.interval_ms = image.interval_ms.unwrap_or(spec.interval_ms);
        spec.timeout_ms = image.timeout_ms.unwrap_or(spec.timeout_ms);
        spec.start_period_ms = image.start_period_ms.unwrap_or(spec.start_period_ms);
        spec.unhealthy_after = image.retries.unwrap_or(spec.unhealthy_after);
        Some(spec)
    })
}

async fn follow(subject: &Subject, spec: &HealthSpec, runtime: &Arc<dyn Runtime>, state: &watch::Sender<HealthState>) {
    let millis = |n: u32| Duration::from_millis(n.into());
    let limits = Limits {
        healthy_after: spec.healthy_after,
        unhealthy_after: spec.unhealthy_after,
        start_period: millis(spec.start_period_ms),
    };
    let (interval, limit) = (millis(spec.interval_ms), millis(spec.timeout_ms));
    let begun = Instant::now();
    let mut gate = Gate::new(limits);
    loop {
        let at = Instant::now();
        let result = probe::probe(&spec.check, &subject.id, &subject.addresses, runtime, limit).await;
        let now = gate.take(result, begun.elapsed());
        let pause = if now == HealthState::Ready { interval } else { interval.min(EAGER) };
        tell(state, now);
        rest(at, pause).await;
    }
}

/// From the begin of a check to that of the next, but never without a pause.
async fn rest(begun: Instant, pause: Duration) {
    tokio::time::sleep_until((begun + pause).max(Instant::now() + Duration::from_millis(10))).await;
}

/// Without a check, a process is Ready when its first TCP port accepts a connection, or, if it has none, when it has run
/// for a moment.
async fn started(subject: &Subject, state: &watch::Sender<HealthState>) {
    let begun = Instant::now();
    if let Some(port) = subject.first_tcp_port {
        while let Err(why) = probe::listens(port, &subject.addresses, START_LONGEST).await {
            state.send_replace(HealthState::Waiting(why));
            tokio::time::sleep((begun.elapsed() / START_PART).clamp(START_SHORTEST, START_LONGEST)).await;
        }
    } else {
        tokio::time::sleep(subject.steady).await;
    }
    state.send_replace(HealthState::Ready);
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::{model::InstanceId, spec::v1::Check};

    fn subject(spec: Option<HealthSpec>, image: Option<ImageHealth>) -> Subject {
        let (addresses, steady) = (Vec::new(), Duration::ZERO);
        let (probes, started, adopted) = (ProbesSpec::default(), false, false);
        let id = ContainerId::from(InstanceId::from_bits(1));
        Subject { id, addresses, spec, probes, started, adopted, image, first_tcp_port: None, steady }
    }

    fn exec(command: &str) -> Check {
        Check::Exec { command: vec![command.into()] }
    }

    #[test]
    fn an_images_check_comes_with_its_times_and_retries() {
        let image = ImageHealth {
            check: exec("image"),
            interval_ms: Some(7_000),
            timeout_ms: Some(700),
            start_period_ms: Some(70),
            retries: Some(7),
        };
        let expected = HealthSpec {
            check: exec("image"),
            interval_ms: 7_000,
            timeout_ms: 700,
            start_period_ms: 70,
            unhealthy_after: 7,
            ..HealthSpec::new(exec("image"))
        };
        assert_eq!(effective(&subject(None, Some(image.clone()))), Some(expected));
        let (interval_ms, timeout_ms, start_period_ms, retries) = (None, None, None, None);
        let bare = ImageHealth { check: exec("image"), interval_ms, timeout_ms, start_period_ms, retries };
        assert_eq!(effective(&subject(None, Some(bare))), Some(HealthSpec::new(exec("image"))));
        let own = HealthSpec::new(exec("own"));
        assert_eq!(effective(&subject(Some(own.clone()), Some(image))), Some(own), "the user's goes before it");
        assert_eq!(effective(&subject(None, None)), None);
    }
}
