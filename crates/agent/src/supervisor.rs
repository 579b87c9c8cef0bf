//! Gives every instance a worker, wakes workers when the runtime says something, and removes what nobody wants.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
};

use super::worker::{Shared, Wakes, Wanted, Worker};
use hivemind_core::{
    lifecycle::backoff,
    model::{ContainerId, Desired, EventKind, InstanceId, NodeDesired, Subject},
};
use hivemind_runtime::RuntimeEvent;

/// How soon what could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(10);

struct Handle {
    wanted: watch::Sender<Wanted>,
    wakes: Wakes,
    /// `None` once it has ended: nothing is left of the instance, only its row.
    task: Option<Id>,
}

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>, mut desired: watch::Receiver<Arc<NodeDesired>>) {
    let mut supervisor = Supervisor { shared, handles: BTreeMap::new(), tasks: JoinSet::new() };
    // Nothing is decided before the first end mark.
    if desired.wait_for(|desired| desired.revision > 0).await.is_err() {
        return;
    }
    let first = desired.borrow_and_update().clone();
    supervisor.apply(&first);
    let mut leftovers = JoinSet::new();
    for (id, containers) in orphans(&supervisor.shared, &first).await {
        leftovers.spawn(remove_orphan(Arc::clone(&supervisor.shared), id, containers));
    }
    let mut events = RuntimeEvents::new(Arc::clone(&supervisor.shared));
    loop {
        tokio::select! {
            changed = desired.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = desired.borrow_and_update().clone();
                supervisor.apply(&now);
            }
            event = events.next() => supervisor.wake(event.as_ref()),
            Some(_) = leftovers.join_next() => {}
            Some(ended) = supervisor.tasks.join_next_with_id() => supervisor.ended(ended),
        }
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    handles: BTreeMap<InstanceId, Handle>,
    tasks: JoinSet<()>,
}

impl Supervisor {
    fn apply(&mut self, desired: &NodeDesired) {
        let revision = desired.revision;
        for (id, instance) in &desired.instances {
            let wanted = Wanted { instance: Arc::clone(instance), revision, told: None };
            match self.handles.get(id) {
                Some(handle) => {
                    handle.wanted.send_if_modified(|now| {
                        let differs = !Arc::ptr_eq(&now.instance, instance) && *now.instance != **instance;
                        if differs {
                            *now = wanted;
                        }
                        differs
                    });
                }
                None => self.spawn(id.clone(), wanted),
            }
        }
        self.handles.retain(|id, handle| {
            if desired.instances.contains_key(id) {
                return true;
            }
            // The row has gone. A worker that still has something to remove does so, as for a stop.
            handle.wanted.send_if_modified(|now| {
                let running = now.instance.desired == Desired::Run;
                if running {
                    let mut instance = (*now.instance).clone();
                    instance.desired = Desired::Stop;
                    *now = Wanted { instance: Arc::new(instance), revision, told: None };
                }
                running
            });
            handle.task.is_some()
        });
    }

    fn spawn(&mut self, id: InstanceId, wanted: Wanted) {
        let (sender, receiver) = watch::channel(wanted);
        let wakes = Wakes::new(&receiver.borrow().instance);
        let worker = Worker::new(Arc::clone(&self.shared), receiver, wakes.clone());
        let task = self.tasks.spawn(worker.run()).id();
        self.handles.insert(id, Handle { wanted: sender, wakes, task: Some(task) });
    }

    fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let task = match &ended {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        let Some((id, handle)) = self.handles.iter_mut().find(|(_, handle)| handle.task == Some(task)) else { return };
        handle.task = None;
        if let Err(error) = ended {
            tracing::error!(instance = %id, %error, "a worker has panicked; starting another");
            let (id, wanted) = (id.clone(), handle.wanted.borrow().clone());
            self.spawn(id, wanted);
        }
    }

    fn wake(&self, event: Option<&RuntimeEvent>) {
        match event {
            Some(
                RuntimeEvent::Exited { id, .. }
                | RuntimeEvent::Oom { id }
                | RuntimeEvent::Started { id }
                | RuntimeEvent::Paused { id },
            ) => {
                let Ok(id) = id.parse::<ContainerId>() else { return };
                if let Some(handle) = self.handles.get(id.instance()) {
                    handle.wakes.wake(&id);
                }
            }
            // The stream was broken: anything may have been missed.
            None => self.handles.values().for_each(|handle| handle.wakes.wake_all()),
        }
    }
}

/// The containers and links of ours that belong to no instance: the store lost them, or another daemon with another
/// state left them here. By instance.
async fn orphans(shared: &Shared, desired: &NodeDesired) -> BTreeMap<InstanceId, BTreeSet<ContainerId>> {
    let mut found = BTreeSet::new();
    match shared.runtime.list().await {
        Ok(containers) => {
            let ours = containers.into_iter().filter(super::is_ours);
            found.extend(ours.filter_map(|container| container.id.parse::<ContainerId>().ok()));
        }
        Err(error) => tracing::warn!(%error, "containers could not be listed; leftovers are kept"),
    }
    match shared.net.list_links().await {
        Ok(links) => found.extend(links.into_iter().map(|(id, _)| ContainerId::from(id))),
        Err(error) => tracing::warn!(%error, "links could not be listed; leftovers are kept"),
    }
    match shared.storage.containers().await {
        Ok(containers) => found.extend(containers),
        Err(error) => tracing::warn!(%error, "what is mounted could not be listed; leftovers are kept"),
    }
    let mut orphans = BTreeMap::<_, BTreeSet<_>>::new();
    for id in found.into_iter().filter(|id| !desired.instances.contains_key(id.instance())) {
        orphans.entry(id.instance().clone()).or_default().insert(id);
    }
    orphans
}

/// Removes one, however often it must be tried.
async fn remove_orphan(shared: Arc<Shared>, id: InstanceId, containers: BTreeSet<ContainerId>) {
    let say = |message| shared.events.emit(EventKind::Warning, "Orphan", &Subject::Leftover(id.to_string()), message);
    let mut said = String::new();
    loop {
        let removed = async {
            for container in &containers {
                shared.runtime.remove(container).await?;
                shared.storage.release(container).await?;
            }
            shared.storage.remove_own(&id).await?;
            shared.runtime.remove_logs(&ContainerId::from(&id)).await?;
            shared.datapath.detach(id.clone()).await?;
            shared.metrics.forgotten(shared.net.remove_link(&id).await?);
            Ok::<_, super::fault::Fault>(())
        };
        match removed.await {
            Ok(()) => return say("removed: no instance of that id is wanted here".to_owned()),
            Err(fault) => {
                let message = format!("left over and could not be removed: {fault}");
                if message != said {
                    say(message.clone());
                    said = message;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The runtime's events, with a new subscription when one breaks. `None` says that some may have been missed.
struct RuntimeEvents {
    shared: Arc<Shared>,
    stream: Option<futures::stream::BoxStream<'static, RuntimeEvent>>,
    failures: u32,
}

impl RuntimeEvents {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, stream: None, failures: 0 }
    }

    /// Safe to cancel: a subscription that is being made is made again.
    async fn next(&mut self) -> Option<RuntimeEvent> {
        if let Some(stream) = &mut self.stream {
            if let Some(event) = stream.next().await {
                return Some(event);
            }
            self.stream = None;
        }
        loop {
            match self.shared.runtime.events().await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.failures = 0;
                    return None;
                }
                Err(error) => {
                    self.failures += 1;
                    tracing::warn!(%error, "no events from the runtime; trying again");
                    let first = Duration::from_millis(200);
                    let pause = backoff::delay(self.failures, first, Duration::from_secs(5), rand::random());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
