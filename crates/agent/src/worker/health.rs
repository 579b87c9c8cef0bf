//! What the instance's health check and probes make of it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{Because, LOOK_AGAIN, Worker, words};
use hivemind_core::model::{ErrorCode, EventKind, Instance, Phase};
use hivemind_health::{self as health, Failure, HealthState};

/// How long a process that shows its health in no way must run before it counts as Ready, and when it failed before.
const STEADY: Duration = Duration::from_millis(300);
const STEADY_AGAIN: Duration = Duration::from_secs(1);

/// The watch over a running process. Dropping it ends it.
pub(super) struct Watching {
    state: watch::Receiver<HealthState>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Worker {
    /// The process runs: follows its health until something changes.
    pub(super) async fn watch(&mut self, instance: &Instance) {
        self.recall_image(instance).await;
        self.goes_on(instance);
        if self.health.is_none() {
            self.health = Some(self.begin_health(instance));
        }
        let Some(health) = &mut self.health else { return };
        let state = health.state.borrow_and_update().clone();
        match state {
            // An adopted instance keeps the status it had until its health is known.
            HealthState::Unknown => {}
            HealthState::Waiting(why) => self.say_unless_ready(instance, why),
            HealthState::Ready => match self.unready_sidecar() {
                // As above: an instance that was Ready before this daemon began stays so until its sidecars are known.
                Err(()) => {}
                Ok(Some((why, _, code))) => self.beside_not_ready(instance, why, code),
                Ok(None) => {
                    if self.status.phase != Phase::Ready {
                        self.event(EventKind::Normal, "Ready", instance, format!("{} is ready", self.name(instance)));
                    }
                    self.say(instance, Phase::Ready, String::new(), None);
                }
            },
            HealthState::NotReady(why) => self.not_ready(instance, &why),
            HealthState::Unhealthy(failure) => return self.unhealthy(instance, failure),
        }
        let Some(health) = &mut self.health else { return };
        tokio::select! {
            _ = self.wanted.changed() => {}
            () = self.wake.notified() => {}
            changed = health.state.changed() => if changed.is_err() {
                // The check's task has ended, which only a fault of its own can bring about: begin anew.
                self.health = None;
                tokio::time::sleep(Duration::from_millis(200)).await;
            },
            // A lost event must not leave an ended process unnoticed for long.
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }

    /// All its processes stand still: nobody asks how it is, until somebody has them go on.
    pub(super) async fn hold(&mut self, instance: &Instance) {
        self.health = None;
        if self.status.phase != Phase::Paused {
            self.event(EventKind::Normal, "Paused", instance, format!("{} stands still", self.name(instance)));
        }
        let message = format!("it stands still; hivemind unpause {}", instance.name());
        self.say(instance, Phase::Paused, message, None);
        self.pause_or_change(Instant::now() + LOOK_AGAIN).await;
    }

    /// Its processes run. If they stood still, it begins anew to become Ready.
    pub(super) fn goes_on(&mut self, instance: &Instance) {
        if self.status.phase == Phase::Paused {
            self.event(EventKind::Normal, "Resumed", instance, format!("{} goes on", self.name(instance)));
            let what = self.before(instance).map(|what| format!("{what} runs"));
            let message = what.unwrap_or_else(|| "it goes on: its health is looked at again".into());
            self.say(instance, Phase::Starting, message, None);
            self.resumed = true;
        }
    }

    /// It is not to be served for now.
    fn not_ready(&mut self, instance: &Instance, why: &str) {
        let message = format!("readiness probe failed: {why}");
        if self.status.phase != Phase::NotReady {
            let text = format!("{}: {message}; it is not served until it passes", self.name(instance));
            self.event(EventKind::Warning, "NotReady", instance, text);
        }
        self.say(instance, Phase::NotReady, message, Some(ErrorCode::NotReady));
    }

    /// The container is well, and one beside it is not: the instance is not to be served.
    fn beside_not_ready(&mut self, instance: &Instance, why: String, code: Option<ErrorCode>) {
        match self.status.phase {
            Phase::Ready | Phase::NotReady => {
                if self.status.phase == Phase::Ready {
                    let text = format!("{} is not served: {why}", instance.name());
                    self.event(EventKind::Warning, "NotReady", instance, text);
                }
                self.say(instance, Phase::NotReady, why, code.or(Some(ErrorCode::NotReady)));
            }
            _ => self.say(instance, Phase::Starting, why, code),
        }
    }

    /// It must be started again.
    fn unhealthy(&mut self, instance: &Instance, failure: Failure) {
        let Failure { of, why, well } = failure;
        let message = format!("{of} failed: {why}");
        self.event(EventKind::Warning, "Unhealthy", instance, format!("{}: {message}", self.name(instance)));
        self.say(instance, Phase::Unhealthy, message.clone(), Some(ErrorCode::Unhealthy));
        self.ended_because = Some(Because { message, code: ErrorCode::Unhealthy, well: Some(well) });
        self.seen.unhealthy = true;
        self.health = None;
    }

    /// While an instance is not Ready, its status says what it waits for; a Ready one stays so until it is Unhealthy.
    fn say_unless_ready(&mut self, instance: &Instance, why: String) {
        if (self.started.is_some() || self.resumed) && self.status.phase != Phase::Ready {
            self.say(instance, Phase::Starting, why, None);
        }
    }

    fn begin_health(&self, instance: &Instance) -> Watching {
        let (tx, state) = watch::channel(HealthState::Unknown);
        let subject = health::Subject {
            id: self.id.clone(),
            addresses: instance.addresses.iter().collect(),
            spec: instance.spec.health.clone(),
            probes: instance.spec.probes.clone(),
            started: self.started_up,
            adopted: self.started.is_none() || self.resumed,
            image: self.image.as_ref().and_then(|image| image.health.clone()),
            first_tcp_port: words::first_tcp_port(&instance.spec, self.image.as_ref()),
            steady: match (self.started, self.seen.failures) {
                _ if self.resumed => Duration::ZERO,
                // It ran before this daemon did.
                (None, _) => Duration::ZERO,
                (Some(_), 0) => STEADY,
                (Some(_), _) => STEADY_AGAIN,
            },
        };
        let task = tokio::spawn(health::watch(subject, Arc::clone(&self.shared.runtime), tx));
        Watching { state, _task: tokio_util::task::AbortOnDropHandle::new(task) }
    }
}
