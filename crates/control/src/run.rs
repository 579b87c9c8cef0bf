//! The loop: takes commands, follows the store, plans, writes, publishes.

mod plans;
mod projects;
mod updates;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Answer, AppChange, Changed, Command, Control, ControlError, IfMatch, Loaded, ObjectChange, ObjectName, Written,
    commands::{app_after, back},
    decode::{Dirty, apply, encode},
    feed::Feed,
    objects::{RowChange, outcome, rows_after},
    once::{self, Once, Outcome},
    project,
    transaction::{transaction, with},
};
use updates::Clock;

use hivemind_core::{
    lifecycle::{clock, killpoint},
    model::{
        AppKey, Cause, ClusterSnapshot, Cursor, EventKind, Node, NodeStatus, Phase, Revision, Row, StatusReport,
        Subject, VolumeId, VolumeKey,
    },
};
use hivemind_observe::Events;
use hivemind_schedule::ServiceRanges;
use hivemind_store::{Compare, Store, StoreError, Txn, TxnOutcome, WatchBatch, Watcher, keys};

/// Commands that may wait.
const QUEUE: usize = 256;
/// Revisions of the change log that are kept for watchers and point-in-time recovery.
pub(super) const LOG_KEPT: Revision = 10_000;
/// How soon a plan is made again that the store would not take.
const RETRY: Duration = Duration::from_secs(1);
/// The log is compacted when it is longer than this.
pub(super) const LOG_LONGEST: Revision = 12_000;

/// How the loop is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlConfig {
    /// Ranges of service addresses.
    pub services: ServiceRanges,
}

/// Returns the handle with the loop, which the caller owns and runs. The loop ends when the store fails for good, or
/// when the last handle is dropped.
pub async fn start(
    loaded: Loaded,
    config: ControlConfig,
    events: Events,
) -> Result<(Control, impl Future<Output = Result<(), StoreError>> + Send + use<>), StoreError> {
    let Loaded { store, snapshot, dirty } = loaded;
    let watcher = store.watch(keys::ALL, snapshot.revision).await?;
    let (commands, inbox) = mpsc::channel(QUEUE);
    let (publish, published) = watch::channel(Arc::new(snapshot.clone()));
    let cursor = snapshot.cursor;
    let run = Loop {
        store,
        config,
        events,
        watcher,
        snapshot,
        dirty,
        feeds: Vec::new(),
        publish,
        cursor,
        put_off: BTreeSet::new(),
        retry_at: Instant::now(),
        due: BTreeMap::new(),
        clock: Clock::begin(),
        compacted: 0,
    };
    Ok((Control { commands, snapshot: published, once: None }, run.run(inbox)))
}

struct Loop {
    store: Arc<dyn Store>,
    config: ControlConfig,
    events: Events,
    watcher: Watcher,
    snapshot: ClusterSnapshot,
    dirty: Dirty,
    feeds: Vec<Feed>,
    publish: watch::Sender<Arc<ClusterSnapshot>>,
    cursor: Cursor,
    /// Apps whose plan the store would not take, to be planned again at `retry_at`.
    put_off: BTreeSet<AppKey>,
    retry_at: Instant,
    /// When apps are to be planned again though nothing has changed.
    due: BTreeMap<AppKey, Instant>,
    clock: Clock,
    compacted: Revision,
}

impl Loop {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) -> Result<(), StoreError> {
        loop {
            self.settle().await?;
            let due = self.due.values().min().copied();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.handle(command).await?,
                    None => return Ok(()),
                },
                batch = self.watcher.next() => self.take(batch?),
                () = tokio::time::sleep_until(self.retry_at), if !self.put_off.is_empty() => {
                    self.dirty.apps.append(&mut self.put_off);
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let now = Instant::now();
                    let apps = self.due.extract_if(.., |_, at| *at <= now).map(|(app, _)| app);
                    self.dirty.apps.extend(apps);
                }
            }
        }
    }

    fn take(&mut self, batch: WatchBatch) {
        self.snapshot.revision = batch.revision;
        for event in &batch.events {
            // It cannot be while the loop is the only writer: what is there already stays as it was last read.
            if let Err(row) = apply(&mut self.snapshot, event, &mut self.dirty) {
                self.events.emit(EventKind::Warning, "RowUnreadable", &row.subject(), row.to_string());
            }
        }
    }

    /// Writes, and takes in everything up to the new revision. `None` if a condition did not hold.
    async fn commit(&mut self, txn: Txn) -> Result<Option<Revision>, StoreError> {
        killpoint::before("a transaction");
        let (revision, done) = match self.store.txn(txn).await? {
            TxnOutcome::Committed(revision) => (revision, true),
            TxnOutcome::Refused(revision) => (revision, false),
        };
        killpoint::before("a transaction is taken in");
        while self.snapshot.revision < revision {
            let batch = self.watcher.next().await?;
            self.take(batch);
        }
        Ok(done.then_some(revision))
    }

    /// Plans until there is nothing to plan, then publishes.
    async fn settle(&mut self) -> Result<(), StoreError> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        let mut said = Dirty::default();
        loop {
            let dirty = std::mem::take(&mut self.dirty);
            let mut apps = dirty.apps.clone();
            apps.extend(dirty.apps.iter().flat_map(|app| self.snapshot.dependents_of(app)).cloned());
            if dirty.nodes {
                apps.extend(self.snapshot.apps.keys().cloned());
                apps.extend(self.snapshot.instances.values().map(|row| row.object.app.clone()));
            }
            said.merge(dirty);
            self.plan(apps).await?;
            if self.dirty.is_empty() {
                break;
            }
        }
        let before = self.publish.send_replace(Arc::new(self.snapshot.clone()));
        let snapshot = &self.snapshot;
        if before.revision != snapshot.revision {
            self.feeds.retain_mut(|feed| feed.update(snapshot, &said));
        }
        self.compact().await;
        Ok(())
    }

    async fn compact(&mut self) {
        if self.snapshot.revision.saturating_sub(self.compacted) > LOG_LONGEST {
            let to = self.snapshot.revision - LOG_KEPT;
            if let Err(error) = self.store.compact(to).await {
                tracing::warn!(%error, "the store's log is not compacted; trying again later");
            }
            // Also when it failed: otherwise it would be tried at every change.
            self.compacted = to;
        }
    }

    async fn handle(&mut self, command: Command) -> Result<(), StoreError> {
        match command {
            Command::Write { key, change, if_match, once, answer } => {
                let result = match once::before(&self.snapshot, once.as_ref(), self.clock.now()) {
                    Some(done) => done,
                    None => self.write(&key, change, if_match, once.as_ref()).await,
                };
                self.answer(answer, result).await
            }
            Command::Project { key, change, once, answer } => {
                let result = match once::before(&self.snapshot, once.as_ref(), self.clock.now()) {
                    Some(done) => done,
                    None => self.project(&key, change, once.as_ref()).await,
                };
                self.answer(answer, result).await
            }
            Command::Change { change, if_match, once, answer } => {
                let result = match once::before(&self.snapshot, once.as_ref(), self.clock.now()) {
                    Some(done) => done,
                    None => self.change(change, if_match, once.as_ref()).await,
                };
                self.answer(answer, result).await
            }
            Command::Register { node, status, answer } => {
                let result = self.register(*node, *status).await;
                self.answer(answer, result).await
            }
            Command::Report { reports, answer } => {
                let result = self.report(reports).await;
                self.answer(answer, result).await
            }
            Command::VolumeGone { key, id, answer } => {
                let result = self.volume_gone(&key, &id).await;
                self.answer(answer, result).await
            }
            Command::Feed { node, answer } => {
                self.settle().await?;
                let (feed, messages) = Feed::begin(node, &self.snapshot);
                if answer.send(Ok(messages)).is_ok() {
                    self.feeds.push(feed);
                }
                Ok(())
            }
        }
    }

    /// Answers when the published snapshot has the result. A full disk is the asker's to know and no end of the loop.
    async fn answer<T>(&mut self, answer: Answer<T>, result: Result<T, ControlError>) -> Result<(), StoreError> {
        self.settle().await?;
        if let Err(ControlError::Store(error)) = &result {
            tracing::error!(%error, "the store refused a write");
        }
        // The asker may have gone: the command is done all the same.
        let _ = answer.send(result);
        Ok(())
    }

    /// Nothing is changed; that this was the answer is kept all the same.
    async fn unchanged<T: Outcome>(
        &mut self,
        once: Option<&Once>,
        outcome: T,
        revision: Revision,
    ) -> Result<T, ControlError> {
        let txn = once::kept(&self.snapshot, once, &outcome, Some(revision), self.clock.now())?;
        if !txn.ops.is_empty() {
            self.commit(txn).await?;
        }
        Ok(outcome)
    }

    async fn write(
        &mut self,
        key: &AppKey,
        change: AppChange,
        if_match: IfMatch,
        once: Option<&Once>,
    ) -> Result<Written, ControlError> {
        killpoint::arm();
        let what = match &change {
            AppChange::Deploy(_) => "Deployed",
            AppChange::Scale(_) => "Scaled",
            AppChange::Restart => "Restarted",
            AppChange::RollBack(_) => "RolledBack",
            AppChange::Remove => "Removed",
        };
        let before = self.snapshot.apps.get(key).cloned();
        let after = app_after(&self.snapshot, key, change, if_match, clock::now())?;
        let Some((after, cause)) = after else {
            let row = before.ok_or_else(|| ControlError::NotFound { object: ObjectName::App(key.clone()) })?;
            let (revision, generation) = (row.modified, row.object.generation);
            let outcome = Written { revision, created: false, generation, back_to: None };
            return self.unchanged(once, outcome, revision).await;
        };
        let back_to = if let Cause::RolledBack(to) = cause { Some(to) } else { None };
        let done = Written { revision: 0, created: before.is_none(), generation: after.generation, back_to };
        let txn = once::kept(&self.snapshot, once, &done, None, self.clock.now())?;
        let Some(revision) = self.write_app(txn, key, &after, cause, None).await? else {
            let found = self.snapshot.apps.get(key).map_or(0, |row| row.modified);
            let expected = before.map_or(0, |row| row.modified);
            return Err(ControlError::Conflict { object: ObjectName::App(key.clone()), expected, found });
        };
        let mut message = format!("{}: {} instances of {}", key.name, after.spec.replicas, after.spec.image);
        if let Some(to) = back_to {
            message = format!("{message}, as generation {to} had it");
        }
        self.events.emit(EventKind::Normal, what, &Subject::App(key.clone()), message);
        Ok(done.at(revision))
    }

    async fn change(
        &mut self,
        change: ObjectChange,
        if_match: IfMatch,
        once: Option<&Once>,
    ) -> Result<Changed, ControlError> {
        killpoint::arm();
        let (object, removes) = (change.object(), change.removes());
        let rows = rows_after(&self.snapshot, change, if_match, clock::now())?;
        let before = outcome(&self.snapshot, &object, &rows);
        if !before.changed {
            let revision = before.revision;
            return self.unchanged(once, before, revision).await;
        }
        let row = row_key(&object);
        let compare = match object.row(&self.snapshot) {
            Some(modified) => Compare::Modified(row, modified),
            None => Compare::Absent(row),
        };
        let mut txn = once::kept(&self.snapshot, once, &before, None, self.clock.now())?.when(compare);
        for change in &rows {
            txn = match change {
                RowChange::PutTenant(tenant) => txn.put(row_key(&object), encode(tenant)?),
                RowChange::PutNamespace(namespace) => txn.put(row_key(&object), encode(namespace)?),
                RowChange::PutTier(policy) => txn.put(row_key(&object), encode(policy)?),
                RowChange::PutPolicy(policy) => txn.put(row_key(&object), encode(policy)?),
                RowChange::PutVolume(volume) => txn.put(row_key(&object), encode(volume)?),
                RowChange::PutContent(content) => txn.put(row_key(&object), encode(content)?),
                RowChange::RenewApp(app) => self.renew(txn, app)?,
                RowChange::Delete(object) => txn.delete(row_key(object)),
            };
        }
        let Some(revision) = self.commit(txn).await? else {
            let found = object.row(&self.snapshot).unwrap_or(0);
            return Err(ControlError::Conflict { object, expected: before.revision, found });
        };
        let what = match (removes, before.created) {
            (true, _) => ("Removed", "is removed"),
            (false, true) => ("Created", "is created"),
            (false, false) => ("Changed", "is changed"),
        };
        let message = format!("{object} {}", what.1);
        self.events.emit(EventKind::Normal, what.0, &object.about(), message);
        self.say_renewed(&object, &rows);
        Ok(Changed { revision, ..before })
    }

    async fn register(&mut self, mut node: Node, status: NodeStatus) -> Result<(), ControlError> {
        if let Some(row) = self.snapshot.nodes.get(&node.name) {
            node.created_at = row.object.created_at;
        }
        let mut txn = Txn::new();
        if self.snapshot.nodes.get(&node.name).is_none_or(|row| *row.object != node) {
            txn = txn.put(keys::node(&node.name), encode(&node)?);
        }
        if self.snapshot.node_status.get(&node.name).is_none_or(|row| *row.object != status) {
            txn = txn.put(keys::node_status(&node.name), encode(&status)?);
        }
        if !txn.ops.is_empty() {
            self.commit(txn).await?;
        }
        Ok(())
    }

    /// The row goes if it is still the one that was to be removed.
    async fn volume_gone(&mut self, key: &VolumeKey, id: &VolumeId) -> Result<(), ControlError> {
        let Some(row) = self.snapshot.volumes.get(key).filter(|row| row.object.deleting && row.object.id == *id) else {
            return Ok(());
        };
        let name = keys::volume(key);
        let mut txn = Txn::new().when(Compare::Modified(name.clone(), row.modified)).delete(name);
        if let Some(namespace) = project::goes_with_volume(&self.snapshot, key) {
            txn = txn.delete(row_key(&namespace));
        }
        self.commit(txn).await?;
        Ok(())
    }

    async fn report(&mut self, reports: Vec<StatusReport>) -> Result<(), ControlError> {
        let mut txn = Txn::new();
        for StatusReport { id, app, mut status } in reports {
            status.ready_since = self.ready_since(&id, &status);
            if let Some(before) = self.snapshot.instance_status.get(&id) {
                status.contents.keep(&before.object.contents);
            }
            let known = self.snapshot.instances.get(&id).is_some_and(|row| row.object.app == app);
            let Some(before) = self.snapshot.instance_status.get(&id).filter(|_| known) else {
                if known {
                    txn = txn.put(keys::instance_status(&app, &id), encode(&status)?);
                }
                continue;
            };
            if before.object.phase == Phase::Pulling && status.phase == Phase::Pulling {
                // How far a fetch is changes several times a second, and nobody decides by it: it is shown, not stored.
                let row = Row { object: Arc::new(status), modified: before.modified };
                self.snapshot.instance_status.insert(id, row);
                self.dirty.shown = true;
            } else if *before.object != status {
                txn = txn.put(keys::instance_status(&app, &id), encode(&status)?);
            }
        }
        if !txn.ops.is_empty() {
            self.commit(txn).await?;
        }
        Ok(())
    }
}

pub(super) fn row_key(object: &ObjectName) -> String {
    match object {
        ObjectName::App(key) => keys::app(key),
        ObjectName::Tenant(name) => keys::tenant(name),
        ObjectName::Namespace(scope) => keys::namespace(scope),
        ObjectName::Policy(key) => keys::policy(key),
        ObjectName::Tier(key) => keys::tier(key),
        ObjectName::Volume(key) => keys::volume(key),
        ObjectName::Content(kind, key) => keys::content(*kind, key),
    }
}
