//! An instance's containers beside each other. Each has a worker of the same kind: the app's own container one that has
//! the instance's link, tells the workers of the sidecars whose turn it is, and says how the instance is; a sidecar's tells
//! it how that is. What is wanted of a sidecar is an instance made of its part of the specification.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Because, Shared, Wanted, Worker,
    machine::{Beside, Own, Turn, turns},
};
use hivemind_core::{
    model::{
        ContainerId, ContentVersions, Desired, ErrorCode, Instance, InstanceStatus, Phase, SidecarName, SidecarStatus,
        StatusReport,
    },
    spec::v1::RestartPolicy,
};
use hivemind_runtime::RunState;

/// Who is woken when something happens to a container of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Wakes(Arc<BTreeMap<ContainerId, Arc<Notify>>>);

impl Wakes {
    pub(crate) fn new(instance: &Instance) -> Self {
        Self(Arc::new(instance.containers().map(|id| (id, Arc::default())).collect()))
    }

    pub(super) fn of(&self, id: &ContainerId) -> Arc<Notify> {
        self.0.get(id).cloned().unwrap_or_default()
    }

    pub(crate) fn wake(&self, id: &ContainerId) {
        if let Some(wake) = self.0.get(id) {
            wake.notify_one();
        }
    }

    pub(crate) fn wake_all(&self) {
        self.0.values().for_each(|wake| wake.notify_one());
    }
}

/// What a sidecar's worker is told besides what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    turn: Turn,
    /// When the link is up: how many there were before it.
    link: Option<u64>,
}

/// What a sidecar's worker says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    /// `None` until it has looked.
    beside: Option<Beside>,
    /// `None` until it has something to say: what was said before holds.
    status: Option<InstanceStatus>,
}

/// Whose worker it is.
pub(super) enum Role {
    /// The app's own container's.
    App(Crew),
    /// A sidecar's.
    Sidecar(Berth),
}

/// What the worker of the app's own container knows of the sidecars.
#[derive(Default)]
pub(super) struct Crew {
    wakes: Option<Wakes>,
    mates: Vec<Mate>,
    /// How many links were lost.
    lost: u64,
    /// This worker has said how the instance is.
    has_said: bool,
}

struct Mate {
    name: SidecarName,
    wanted: watch::Sender<Wanted>,
    said: watch::Receiver<Said>,
    task: AbortOnDropHandle<()>,
}

/// What the worker of a sidecar knows of its place.
pub(super) struct Berth {
    name: SidecarName,
    said: watch::Sender<Said>,
    /// Of the worker that it tells.
    wake: Arc<Notify>,
    begun: bool,
    /// On which link its process was started, or found.
    link: Option<u64>,
}

impl Crew {
    pub(super) fn new(wakes: Wakes) -> Self {
        Self { wakes: Some(wakes), ..Self::default() }
    }
}

/// What is wanted of a sidecar: an instance of its part of the specification.
fn part(instance: &Instance, at: usize, turn: Turn) -> Instance {
    let spec = instance.spec.sidecars[at].as_app(&instance.spec);
    let desired = if turn == Turn::End { Desired::Stop } else { Desired::Run };
    Instance { spec, desired, ..instance.clone() }
}

fn join(shared: &Arc<Shared>, wakes: &Wakes, wanted: Wanted, name: &SidecarName) -> Mate {
    let instance = wanted.instance.id.clone();
    let id = ContainerId::of_sidecar(instance.clone(), name.clone());
    let (wanted, of_worker) = watch::channel(wanted);
    let (said_by_worker, said) = watch::channel(Said::default());
    let wake = wakes.of(&ContainerId::from(instance));
    let berth = Berth { name: name.clone(), said: said_by_worker, wake, begun: false, link: None };
    let worker = Worker::make(Arc::clone(shared), of_worker, wakes.of(&id), id, Role::Sidecar(berth));
    // Boxed: a worker has the workers of sidecars, which are of the same kind.
    let run: futures::future::BoxFuture<'static, ()> = Box::pin(worker.run());
    Mate { name: name.clone(), wanted, said, task: AbortOnDropHandle::new(tokio::spawn(run)) }
}

impl Worker {
    pub(super) fn is_sidecar(&self) -> bool {
        matches!(self.role, Role::Sidecar(_))
    }

    /// The container's name for people: the instance's, and behind a slash the sidecar's.
    pub(super) fn name(&self, instance: &Instance) -> String {
        match &self.role {
            Role::App(_) => instance.name(),
            Role::Sidecar(berth) => format!("{}/{}", instance.name(), berth.name),
        }
    }

    /// Whether it is not the turn of this container: nothing is done but what makes its begin short.
    pub(super) fn waits_for_turn(&self, wanted: &Wanted) -> bool {
        wanted.told.as_ref().is_some_and(|told| told.turn == Turn::Wait)
    }

    /// Brings together what was seen of this container with what is known of those beside it.
    pub(super) fn look_beside(&mut self, wanted: &Wanted) {
        match self.role {
            Role::App(_) => self.lead(wanted),
            Role::Sidecar(_) => self.take_place(wanted),
        }
    }

    /// Hears the sidecars, and tells each its turn.
    fn lead(&mut self, wanted: &Wanted) {
        let instance = &*wanted.instance;
        let own = Own {
            ground: self.seen.link && !self.seen.before,
            runs: !self.seen.before && self.seen.container.as_ref().is_some_and(|run| run.pid().is_some()),
            ends: self.seen.finished || instance.desired == Desired::Stop,
        };
        let Role::App(crew) = &mut self.role else { return };
        let Some(wakes) = crew.wakes.clone() else { return };
        let link = self.seen.link.then_some(crew.lost);
        let beside: Vec<_> = crew.mates.iter().map(|mate| mate.said.borrow().beside.unwrap_or_default()).collect();
        let beside: Vec<_> =
            (0..instance.spec.sidecars.len()).map(|at| beside.get(at).copied().unwrap_or_default()).collect();
        for (at, turn) in turns(own, &beside).into_iter().enumerate() {
            let told = Told { turn, link };
            let Some(mate) = crew.mates.get_mut(at) else {
                let part = Arc::new(part(instance, at, turn));
                let wanted = Wanted { instance: part, revision: wanted.revision, told: Some(told) };
                crew.mates.push(join(&self.shared, &wakes, wanted, &instance.spec.sidecars[at].name));
                continue;
            };
            if mate.task.is_finished() && !beside[at].gone {
                tracing::error!(instance = %instance.id, sidecar = %mate.name, "a worker has panicked; starting another");
                let wanted = mate.wanted.borrow().clone();
                *mate = join(&self.shared, &wakes, wanted, &mate.name.clone());
            }
            mate.wanted.send_if_modified(|now| {
                let differs = now.told.as_ref() != Some(&told);
                if differs {
                    if now.told.as_ref().is_none_or(|now| (now.turn == Turn::End) != (turn == Turn::End)) {
                        now.instance = Arc::new(part(instance, at, turn));
                    }
                    now.told = Some(told.clone());
                }
                differs
            });
        }
        self.seen.sidecars |= beside.iter().all(|it| it.started);
        self.seen.sidecars_gone = beside.iter().all(|it| it.gone);
        if crew.has_said && self.sidecars_said() != self.status.sidecars {
            let InstanceStatus { phase, message, code, .. } = self.status.clone();
            self.say(instance, phase, message, code);
        }
    }

    /// Takes what it is told, and tells how it is.
    fn take_place(&mut self, wanted: &Wanted) {
        let instance = &*wanted.instance;
        let told = wanted.told.clone().unwrap_or_default();
        let Role::Sidecar(berth) = &mut self.role else { return };
        self.seen.link = told.link.is_some();
        (self.seen.link_removed, self.seen.sidecars, self.seen.sidecars_gone) = (true, true, true);
        if instance.desired == Desired::Stop {
            // Who was connected has had time with the app's own container.
            self.seen.drained_at.get_or_insert_with(tokio::time::Instant::now);
            self.seen.quiet = true;
        }
        let runs = self.seen.container.as_ref().is_some_and(|run| run.pid().is_some());
        if let (true, Some(number)) = (runs, told.link) {
            let lost = berth.link.is_some_and(|on| on != number);
            if lost && !self.seen.unlinked && instance.spec.restart != RestartPolicy::Never {
                self.seen.unlinked = true;
                let message = "the instance's network device was removed by somebody else".to_owned();
                self.ended_because = Some(Because { message, code: ErrorCode::Network, well: None });
            }
            berth.link.get_or_insert(number);
        }
        if !runs {
            berth.link = None;
        }
        berth.begun |= runs;
        let hooks = instance.spec.container.hooks.post_start.is_empty() || self.seen.post_started;
        let probe = instance.spec.probes.startup.is_none() || self.started_up;
        let runs = matches!(self.seen.container, Some(RunState::Running { .. }));
        // One that is not started again when it has ended well has done its part.
        let done = self.seen.finished && self.status.phase == Phase::Completed;
        let beside = Beside { begun: berth.begun, started: (runs && hooks && probe) || done, gone: false };
        berth.tell(|said| said.beside = Some(beside));
    }

    /// Nothing is left of it.
    pub(super) fn say_gone(&mut self, instance: &Instance) {
        match &self.role {
            Role::App(_) => self.say(instance, Phase::Gone, String::new(), None),
            Role::Sidecar(berth) => berth.tell(|said| {
                said.beside = Some(Beside { gone: true, ..said.beside.unwrap_or_default() });
            }),
        }
    }

    /// Passes on what is said of this container.
    pub(super) fn pass_on(&mut self, instance: &Instance, before: &InstanceStatus) {
        self.status.sidecars = self.sidecars_said();
        let contents = self.contents.clone();
        self.status.contents = self.contents_said(contents);
        if self.status == *before && self.status.phase != Phase::Gone {
            return;
        }
        match &mut self.role {
            Role::App(crew) => {
                crew.has_said = true;
                self.shared.reporter.leave(StatusReport {
                    id: instance.id.clone(),
                    app: instance.app.clone(),
                    status: self.status.clone(),
                });
            }
            Role::Sidecar(berth) => berth.tell(|said| said.status = Some(self.status.clone())),
        }
    }

    /// What the sidecars say. Of one that has not said anything yet, what it was holds.
    fn sidecars_said(&self) -> BTreeMap<SidecarName, SidecarStatus> {
        let Role::App(crew) = &self.role else { return BTreeMap::new() };
        let said = crew.mates.iter().filter_map(|mate| {
            let status = mate.said.borrow().status.as_ref().map(SidecarStatus::from)?;
            Some((mate.name.clone(), status))
        });
        let mut all = self.status.sidecars.clone();
        all.extend(said);
        all
    }

    fn contents_said(&self, mut contents: ContentVersions) -> ContentVersions {
        if let Role::App(crew) = &self.role {
            for mate in &crew.mates {
                if let Some(status) = &mate.said.borrow().status {
                    contents.merge(&status.contents);
                }
            }
        }
        contents
    }

    /// What of the sidecars keeps the instance from being Ready. `Err`: one has not said yet how it is.
    pub(super) fn unready_sidecar(&self) -> Result<Option<(String, Phase, Option<ErrorCode>)>, ()> {
        let Role::App(crew) = &self.role else { return Ok(None) };
        for mate in &crew.mates {
            let said = mate.said.borrow();
            let status = said.status.as_ref().ok_or(())?;
            if !matches!(status.phase, Phase::Ready | Phase::Completed) {
                let why = if status.message.is_empty() { status.phase.to_string() } else { status.message.clone() };
                return Ok(Some((format!("sidecar {}: {why}", mate.name), status.phase, status.code)));
            }
        }
        Ok(None)
    }

    /// What the app's own container waits for.
    pub(super) fn awaits(&mut self, instance: &Instance) {
        if instance.desired == Desired::Run
            && !self.is_sidecar()
            && let Ok(Some((why, phase, code))) = self.unready_sidecar()
        {
            // An instance that cannot begin for its sidecar has fallen as that has.
            let fallen = matches!(phase, Phase::Backoff | Phase::Failed | Phase::Unhealthy);
            self.say(instance, if fallen { phase } else { Phase::Starting }, format!("waits for its {why}"), code);
        }
    }

    /// The instance's link was lost: there will be another.
    pub(super) fn count_lost_link(&mut self) {
        if let Role::App(crew) = &mut self.role {
            crew.lost += 1;
        }
    }
}

impl Berth {
    fn tell(&self, change: impl FnOnce(&mut Said)) {
        let changed = self.said.send_if_modified(|said| {
            let before = said.clone();
            change(said);
            *said != before
        });
        if changed {
            self.wake.notify_one();
        }
    }
}
