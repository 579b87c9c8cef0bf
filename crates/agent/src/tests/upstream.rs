//! A server for one agent: a few rows, a feed of them, and what the agent said.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, watch};

use crate::upstream::{Upstream, UpstreamError};
use hivemind_core::model::{
    Desired, FeedMessage, Instance, InstanceId, InstanceStatus, Node, NodeStatus, Peer, Phase, Revision, StatusReport,
    VolumeId, VolumeKey,
};

/// Messages that may wait for the agent.
const QUEUE: usize = 1024;

/// Keeps rows as `control` does: one whose instance is Gone is removed. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct FakeUpstream {
    rows: Arc<Mutex<Rows>>,
    said: watch::Sender<BTreeMap<InstanceId, InstanceStatus>>,
}

#[derive(Debug, Default)]
struct Rows {
    revision: Revision,
    instances: BTreeMap<InstanceId, Arc<Instance>>,
    feed: Option<mpsc::Sender<FeedMessage>>,
    /// The end mark is not said.
    unfinished: bool,
}

impl Default for FakeUpstream {
    fn default() -> Self {
        let rows = Rows { revision: 1, ..Rows::default() };
        Self { rows: Arc::new(Mutex::new(rows)), said: watch::channel(BTreeMap::new()).0 }
    }
}

impl FakeUpstream {
    /// Wants an instance as it says, new or changed.
    pub(super) fn want(&self, instance: Instance) {
        let mut rows = self.lock();
        let messages = of(&instance);
        rows.instances.insert(instance.id.clone(), Arc::new(instance));
        rows.change(messages);
    }

    /// Wants an instance to stop. Nothing if it has gone.
    pub(super) fn stop(&self, id: &InstanceId) {
        let instance = self.lock().instances.get(id).map(|instance| (**instance).clone());
        if let Some(instance) = instance {
            self.want(Instance { desired: Desired::Stop, ..instance });
        }
    }

    /// Removes the row of an instance.
    pub(super) fn forget(&self, id: &InstanceId) {
        self.lock().forget(id);
    }

    /// Ends the feed. The next one is not finished until [`FakeUpstream::finish`].
    pub(super) fn break_feed(&self) {
        let mut rows = self.lock();
        rows.feed = None;
        rows.unfinished = true;
    }

    /// Whether a feed is open.
    pub(super) fn is_open(&self) -> bool {
        self.lock().feed.is_some()
    }

    /// Says the end mark that was held back.
    pub(super) fn finish(&self) {
        let mut rows = self.lock();
        rows.unfinished = false;
        rows.change(Vec::new());
    }

    /// The newest status of each instance.
    pub(super) fn said(&self) -> watch::Receiver<BTreeMap<InstanceId, InstanceStatus>> {
        self.said.subscribe()
    }

    /// Whether an instance has a row.
    pub(super) fn has(&self, id: &InstanceId) -> bool {
        self.lock().instances.contains_key(id)
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the feed says of an instance.
fn of(instance: &Instance) -> Vec<FeedMessage> {
    let Instance { id, node, addresses, app, spec, .. } = instance;
    let (scope, labels) = (app.scope.clone(), spec.labels.clone());
    let peer = Peer { node: node.clone(), addresses: *addresses, scope, labels };
    vec![FeedMessage::Instance(Arc::new(instance.clone())), FeedMessage::Peer(id.clone(), Arc::new(peer))]
}

impl Rows {
    fn forget(&mut self, id: &InstanceId) {
        if self.instances.remove(id).is_some() {
            self.change(vec![FeedMessage::InstanceGone(id.clone()), FeedMessage::PeerGone(id.clone())]);
        }
    }

    /// Says what changed, at the next revision.
    fn change(&mut self, messages: Vec<FeedMessage>) {
        self.revision += 1;
        let Some(feed) = &self.feed else { return };
        let end = (!self.unfinished).then_some(FeedMessage::SnapshotEnd(self.revision));
        for message in messages.into_iter().chain(end) {
            // An agent that has gone asks for another feed, which says it all.
            let _ = feed.try_send(message);
        }
    }
}

#[async_trait::async_trait]
impl Upstream for FakeUpstream {
    async fn register(&self, _: Node, _: NodeStatus) -> Result<(), UpstreamError> {
        Ok(())
    }

    async fn feed(&self) -> Result<mpsc::Receiver<FeedMessage>, UpstreamError> {
        let (feed, messages) = mpsc::channel(QUEUE);
        let mut rows = self.lock();
        let end = (!rows.unfinished).then_some(FeedMessage::SnapshotEnd(rows.revision));
        for message in rows.instances.values().flat_map(|instance| of(instance)).chain(end) {
            let _ = feed.try_send(message);
        }
        rows.feed = Some(feed);
        Ok(messages)
    }

    async fn report(&self, reports: Vec<StatusReport>) -> Result<(), UpstreamError> {
        for report in &reports {
            if report.status.phase == Phase::Gone {
                self.forget(&report.id);
            }
        }
        let statuses = reports.into_iter().map(|report| (report.id, report.status));
        self.said.send_modify(|said| said.extend(statuses));
        Ok(())
    }

    async fn volume_gone(&self, _: VolumeKey, _: VolumeId) -> Result<(), UpstreamError> {
        Ok(())
    }
}
