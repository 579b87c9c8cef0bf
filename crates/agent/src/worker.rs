//! One task for each container of an instance: looks, asks [`machine::next`] for the step, takes it, and says what it saw.
//!
//! Every step is safe to repeat and safe to cancel: a change of what is wanted cancels a fetch or a wait at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};

use super::{
    datapath::Datapath,
    fault::Fault,
    machine::{self, Seen, Step, Stop, Want},
    ports::Ports,
    reporter::Reporter,
    words,
};
use hivemind_core::{
    lifecycle::{clock, killpoint},
    model::{
        Addresses, ContainerId, ContentVersions, Desired, ErrorCode, EventKind, Exit, Instance, InstanceStatus,
        NodeDesired, NodeName, Phase, Revision, Subject, Timestamp,
    },
    spec::v1::{AppSpec, PortSpec},
};
use hivemind_dns as dns;
use hivemind_net::{HostLink, InstanceLink, Net, PublishedPort};
use hivemind_observe::{Events, Metrics};
use hivemind_runtime::{ContainerSpec, Image, Mark, Mount, RunState, Runtime};
use hivemind_storage::Storage;

mod before;
mod beside;
mod drain;
mod health;
mod hooks;
mod image;
mod lost;
mod mounting;

use beside::{Crew, Role};
pub(super) use beside::{Told, Wakes};

/// Label on every container of ours: the instance's app, `tenant/namespace/app`.
pub(super) const LABEL_APP: &str = "hivemind.app";
/// Label: how often the process had been started again when this container was made.
const LABEL_RESTARTS: &str = "hivemind.restarts";
/// How often a process is looked at without a word of its end.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What all workers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) net: Arc<dyn Net>,
    pub(super) datapath: Datapath,
    pub(super) reporter: Reporter,
    pub(super) events: Events,
    pub(super) storage: Storage,
    /// What the node is to be, for what instances refer to.
    pub(super) desired: watch::Receiver<Arc<NodeDesired>>,
    /// The node.
    pub(super) node: NodeName,
    pub(super) metrics: Metrics,
    /// The node's own addresses: gateways and name servers of the instances.
    pub(super) gateway: Addresses,
    /// The published ports that are held.
    pub(super) ports: Ports,
    /// How many instances may get their link at the same moment. Apart from the rest: making a link is waiting for the
    /// kernel (a grace period of RCU for each program that is attached), making a container is work.
    pub(super) links: Semaphore,
    /// How many containers may be made or started at the same moment.
    pub(super) slots: Semaphore,
}

/// What is wanted of an instance, and the revision that says so.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) instance: Arc<Instance>,
    pub(super) revision: Revision,
    /// Of a sidecar: its turn.
    pub(super) told: Option<Told>,
}

/// The worker.
pub(super) struct Worker {
    shared: Arc<Shared>,
    wanted: watch::Receiver<Wanted>,
    /// Something happened to the container.
    wake: Arc<Notify>,
    /// Which container.
    id: ContainerId,
    role: Role,
    seen: Seen,
    /// How many of the containers that come before the app's have ended well.
    stage: usize,
    image: Option<Image>,
    link: Option<HostLink>,
    /// What it was started with of secrets and configs.
    contents: ContentVersions,
    /// This process has brought about what is mounted for the container that is there.
    mounted: bool,
    status: InstanceStatus,
    started: Option<Instant>,
    health: Option<health::Watching>,
    /// Why we have the process ended, said at its exit.
    ended_because: Option<Because>,
    /// The startup probe of the process has passed.
    started_up: bool,
    /// The process stood still, and goes on.
    resumed: bool,
    /// When the container was found without the process that ran in it, and without a word of how it ended.
    lost: Option<Timestamp>,
}

/// Why we have a process ended.
struct Because {
    message: String,
    code: ErrorCode,
    /// How long it was well, if that is known better than by how long it ran.
    well: Option<Duration>,
}

impl Worker {
    /// The worker of an instance: of its app's own container, and of the workers of its sidecars.
    pub(super) fn new(shared: Arc<Shared>, wanted: watch::Receiver<Wanted>, wakes: Wakes) -> Self {
        let id = ContainerId::from(&wanted.borrow().instance.id);
        Self::make(shared, wanted, wakes.of(&id), id, Role::App(Crew::new(wakes)))
    }

    fn make(
        shared: Arc<Shared>,
        wanted: watch::Receiver<Wanted>,
        wake: Arc<Notify>,
        id: ContainerId,
        role: Role,
    ) -> Self {
        Self {
            shared,
            wanted,
            wake,
            id,
            role,
            seen: Seen::default(),
            stage: 0,
            image: None,
            link: None,
            contents: ContentVersions::default(),
            mounted: false,
            status: InstanceStatus::default(),
            started: None,
            health: None,
            ended_because: None,
            started_up: false,
            resumed: false,
            lost: None,
        }
    }

    /// Runs until nothing is left of the instance.
    pub(super) async fn run(mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let instance = &wanted.instance;
            if let Err(fault) = self.observe(instance).await {
                // The instance may well be running: its status stays as it was.
                tracing::warn!(container = %self.id, %fault, "the runtime does not answer; trying again");
                self.pause_or_change(Instant::now() + Duration::from_secs(1)).await;
                continue;
            }
            self.look_beside(&wanted);
            let want = self.want(instance);
            let step = machine::next(&want, &self.seen, Instant::now());
            tracing::debug!(container = %self.id, ?step, "next");
            match step {
                Step::Gone => {
                    self.say_gone(instance);
                    return;
                }
                // An image is fetched while others begin; all else has its turn.
                step if step != Step::EnsureImage && self.waits_for_turn(&wanted) => self.changed().await,
                Step::EnsureLink if self.is_sidecar() => self.changed().await,
                Step::AwaitSidecars => {
                    self.awaits(instance);
                    self.pause_or_change(Instant::now() + LOOK_AGAIN).await;
                }
                // A lost event must not leave an ended process unnoticed for long.
                Step::Rest if self.seen.before => {
                    self.goes_on(instance);
                    self.pause_or_change(Instant::now() + LOOK_AGAIN).await;
                }
                Step::Rest => self.changed().await,
                Step::Wait(until) => self.pause_or_change(until).await,
                Step::Watch => self.watch(instance).await,
                Step::Hold => self.hold(instance).await,
                Step::Linger => self.linger(instance).await,
                step => {
                    // A change of what is wanted cancels what takes long; what is short is finished.
                    let mut wanted_again = self.wanted.clone();
                    let interrupted = async {
                        match step {
                            Step::EnsureImage => drop(wanted_again.changed().await),
                            Step::PostStart => {
                                drop(wanted_again.wait_for(|now| now.instance.desired == Desired::Stop).await);
                            }
                            _ => std::future::pending().await,
                        }
                    };
                    let result = tokio::select! {
                        biased;
                        result = self.take(step, &wanted) => result,
                        () = interrupted => continue,
                    };
                    if let Err(fault) = result {
                        self.failed(instance, step, fault);
                    }
                }
            }
        }
    }

    fn want(&self, instance: &Instance) -> Want {
        Want {
            desired: instance.desired,
            restart: instance.spec.restart,
            drain: Duration::from_secs(instance.spec.stop.drain_seconds.into()),
            grace: Duration::from_secs(instance.spec.stop.grace_seconds.into()),
            post_start: !instance.spec.container.hooks.post_start.is_empty(),
            pre_stop: !instance.spec.container.hooks.pre_stop.is_empty(),
        }
    }

    /// Looks at the container.
    async fn observe(&mut self, instance: &Instance) -> Result<(), Fault> {
        if self.seen.container_removed {
            self.seen.container = None;
            return Ok(());
        }
        let state = self.shared.runtime.state(&self.id).await?;
        if let Some(state) = &state
            && let Some(restarts) = state.labels.get(LABEL_RESTARTS).and_then(|text| text.parse().ok())
        {
            self.status.restarts = self.status.restarts.max(restarts);
        }
        self.recall_stage(instance, state.as_ref());
        let marked = |mark| state.as_ref().is_some_and(|state| state.marks.contains(&mark));
        (self.seen.post_started, self.started_up) = (marked(Mark::Begun), marked(Mark::Started));
        self.look_at_task(state.map(|state| state.run));
        if !self.is_sidecar() {
            self.look_at_link(instance).await;
        }
        Ok(())
    }

    async fn changed(&mut self) {
        tokio::select! {
            _ = self.wanted.changed() => {}
            () = self.wake.notified() => {}
        }
    }

    async fn pause_or_change(&mut self, until: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = self.changed() => {}
        }
    }

    async fn take(&mut self, step: Step, wanted: &Wanted) -> Result<(), Fault> {
        killpoint::before("a step");
        let instance = &*wanted.instance;
        let shared = Arc::clone(&self.shared);
        match step {
            Step::EnsureImage => self.ensure_image(instance).await?,
            Step::EnsureLink => {
                let _slot = shared.links.acquire().await;
                shared.ports.hold(&*shared.net, published(&instance.spec))?;
                let link =
                    InstanceLink { id: instance.id.clone(), addresses: instance.addresses, gateway: shared.gateway };
                let host = shared.net.ensure_link(&link).await?;
                killpoint::before("attaching the programs");
                // The programs deny everything before the link comes up, and know the instance's row.
                shared.datapath.attach(instance.id.clone(), host.clone()).await?;
                killpoint::before("bringing up the link");
                shared.metrics.forgotten(shared.net.bring_up(&link).await?);
                self.link = Some(host);
                self.seen.link = true;
            }
            Step::Create => {
                self.say(instance, Phase::Creating, String::new(), None);
                let _slot = shared.slots.acquire().await;
                let mounts = self.mount(instance).await?;
                let spec = self.container_spec(instance, mounts)?;
                shared.runtime.create(&spec).await?;
                (self.seen.exit_recorded, self.lost) = (false, None);
            }
            Step::Start => {
                let _slot = shared.slots.acquire().await;
                if !self.mounted {
                    // A container from before a reboot, or a kill: its mounts may be gone.
                    self.mount(instance).await?;
                }
                shared.runtime.start(&self.id).await?;
                self.started = Some(Instant::now());
                self.status.started_at = Some(clock::now());
                let what = self.before(instance);
                self.say(
                    instance,
                    Phase::Starting,
                    what.clone().map(|what| format!("{what} runs")).unwrap_or_default(),
                    None,
                );
                let text = what.map_or_else(|| "started".to_owned(), |what| format!("{what} started"));
                self.event(EventKind::Normal, "Started", instance, format!("{} {text}", self.name(instance)));
            }
            Step::PostStart => self.post_start(instance).await?,
            Step::RecordExit => self.record_exit(instance),
            Step::Drain => self.drain(wanted).await,
            Step::Resume => shared.runtime.resume(&self.id).await?,
            Step::PreStop => self.pre_stop(instance).await,
            Step::Signal => {
                shared.runtime.kill(&self.id, self.stop_signal(instance), false).await?;
                // The time until SIGKILL is that of the hooks as well.
                self.seen.stop = Stop::Signalled(self.seen.pre_stop.unwrap_or_else(Instant::now));
            }
            Step::Kill => {
                shared.runtime.kill(&self.id, nix::libc::SIGKILL, true).await?;
                self.seen.stop = Stop::Killed(Instant::now());
            }
            Step::RemoveContainer => {
                self.health = None;
                self.status.serving = false;
                self.say(instance, Phase::Stopping, String::new(), None);
                shared.runtime.remove(&self.id).await?;
                killpoint::before("removing what is mounted");
                shared.storage.release(&self.id).await?;
                if !self.is_sidecar() {
                    shared.storage.remove_own(&instance.id).await?;
                    killpoint::before("removing the logs");
                    shared.runtime.remove_logs(&self.id).await?;
                }
                self.seen.container_removed = true;
            }
            Step::RemoveLink => {
                shared.datapath.detach(instance.id.clone()).await?;
                killpoint::before("removing the link");
                shared.metrics.forgotten(shared.net.remove_link(&instance.id).await?);
                self.seen.link_removed = true;
                self.event(EventKind::Normal, "Stopped", instance, format!("{} stopped", instance.name()));
            }
            Step::Watch | Step::Hold | Step::Linger | Step::Wait(_) | Step::Rest | Step::Gone | Step::AwaitSidecars => {
            }
        }
        Ok(())
    }

    fn container_spec(&self, instance: &Instance, mounts: Vec<Mount>) -> Result<ContainerSpec, Fault> {
        let Some(image) = self.image.clone() else {
            let message = "the image is not known".into();
            return Err(Fault { code: ErrorCode::Internal, message });
        };
        let spec = &instance.spec;
        let labels = [
            (LABEL_APP.to_owned(), instance.app.to_string()),
            (LABEL_RESTARTS.to_owned(), self.status.restarts.to_string()),
        ];
        Ok(self.of_stage(
            instance,
            ContainerSpec {
                id: self.id.clone(),
                image,
                hostname: spec.container.hostname.clone().unwrap_or_else(|| instance.name()),
                command: spec.command.clone(),
                args: spec.args.clone(),
                env: spec.env.clone(),
                user: spec.user.clone(),
                workdir: spec.workdir.clone(),
                resources: spec.resources.clone(),
                netns: self.shared.net.netns(&instance.id),
                resolv_conf: dns::resolv_conf(&self.shared.gateway, &instance.app.scope, &spec.container.dns),
                mounts,
                addresses: instance.addresses.iter().collect(),
                extra_hosts: words::extra_hosts(&spec.container, &self.shared.gateway),
                logging: spec.logging.clone(),
                options: spec.container.clone(),
                labels: BTreeMap::from(labels),
            },
        ))
    }

    fn stop_signal(&self, instance: &Instance) -> i32 {
        let named = instance.spec.stop.signal.as_deref();
        let named = named.or_else(|| self.image.as_ref().and_then(|image| image.stop_signal.as_deref()));
        words::signal(named)
    }

    fn record_exit(&mut self, instance: &Instance) {
        let Some(RunState::Exited { code, oom, at }) = self.seen.container else { return };
        self.health = None;
        self.resumed = false;
        let because = self.ended_because.take();
        let said = because.as_ref().map(|because| because.message.clone());
        self.status.last_exit = Some(Exit { code, oom, at, because: said });
        let ran = self.started.take().map_or(Duration::ZERO, |started| started.elapsed());
        let ran = because.as_ref().and_then(|because| because.well).unwrap_or(ran);
        self.seen.failures = if ran >= machine::WELL_AFTER { 1 } else { self.seen.failures + 1 };
        self.seen.exit_recorded = true;
        (self.seen.unhealthy, self.seen.unlinked) = (false, false);
        (self.seen.stop, self.seen.pre_stop) = (Stop::NotBegun, None);
        if self.seen.before && code == 0 && because.is_none() {
            return self.next_stage(instance);
        }
        // What we had to end has failed, however well it took it.
        let code = if because.is_some() { code.max(1) } else { code };
        let (how, fault) = match because {
            Some(because) => (because.message, because.code),
            None => (words::exit(code, oom, instance.spec.resources.memory), ErrorCode::StartFailed),
        };
        let how = self.before(instance).map_or_else(|| how.clone(), |what| format!("{what} {how}"));
        if machine::restarts(instance.spec.restart, code) {
            self.status.restarts += 1;
            let pause = machine::pause(self.seen.failures, rand::random());
            self.seen.retry_at = Some(Instant::now() + pause);
            let message = format!("{how}; started again in {:.1} s", pause.as_secs_f32());
            self.event(EventKind::Warning, "BackOff", instance, format!("{}: {message}", self.name(instance)));
            self.say(instance, Phase::Backoff, message, Some(fault));
        } else {
            self.seen.finished = true;
            let (phase, kind) =
                if code == 0 { (Phase::Completed, EventKind::Normal) } else { (Phase::Failed, EventKind::Warning) };
            self.event(kind, "Exited", instance, format!("{}: {how}", self.name(instance)));
            self.say(instance, phase, how, (code != 0).then_some(fault));
        }
    }

    /// A step failed: say so and try again after a pause.
    fn failed(&mut self, instance: &Instance, step: Step, fault: Fault) {
        self.seen.failures += 1;
        let pause = machine::pause(self.seen.failures, rand::random());
        self.seen.retry_at = Some(Instant::now() + pause);
        tracing::warn!(container = %self.id, ?step, %fault, failures = self.seen.failures, "a step failed");
        let name = self.name(instance);
        self.event(EventKind::Warning, "Failed", instance, format!("{name}: {}", fault.message));
        if instance.desired == Desired::Stop {
            // The machine repeats a refused step of a stop after the pause; the pauses of a start do not count there.
            self.seen.stop_retry_at = Some(Instant::now() + pause);
            self.say(instance, Phase::Stopping, fault.message, Some(fault.code));
        } else if self.seen.container.as_ref().is_none_or(|run| run.pid().is_none()) {
            self.say(instance, Phase::Backoff, fault.message, Some(fault.code));
        }
    }

    fn event(&self, kind: EventKind, reason: &str, instance: &Instance, message: String) {
        self.shared.events.emit(kind, reason, &Subject::from(instance), message);
    }

    /// Says what was seen, unless it was said already.
    fn say(&mut self, instance: &Instance, phase: Phase, message: String, code: Option<ErrorCode>) {
        let before = self.status.clone();
        self.status.phase = phase;
        self.status.message = message;
        self.status.code = code;
        self.pass_on(instance, &before);
    }
}

fn published(spec: &AppSpec) -> impl Iterator<Item = PublishedPort> {
    let port = |port: &PortSpec| Some(PublishedPort { port: port.published?, protocol: port.protocol });
    spec.ports.iter().filter_map(port)
}
