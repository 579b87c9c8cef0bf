//! Updates: what is written with an app's row, what is taken back, what is said, and when it is looked at again.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Loop, back, encode, transaction, with};
use crate::{ObjectName, RowChange, volumes};
use hivemind_core::{
    lifecycle::clock,
    model::{
        App, AppKey, Cause, EventKind, InstanceId, InstanceStatus, Phase, Revision, Rollout, RolloutState, Subject,
        Timestamp, Undone,
    },
};
use hivemind_schedule::{Change, history};
use hivemind_store::{Compare, StoreError, Txn, keys};

/// An update is looked at at least so often while it waits for something.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// The wall clock as it was at the start, and the time since: rows that tell when something was are compared with it, and
/// who sets the machine's clock meanwhile must not make an update late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    at: Timestamp,
    begun: Instant,
}

impl Clock {
    pub(super) fn begin() -> Self {
        Self { at: clock::now(), begun: Instant::now() }
    }

    /// When the loop began.
    pub(super) const fn begun_at(self) -> Timestamp {
        self.at
    }

    pub(super) fn now(self) -> Timestamp {
        let passed = i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.at.as_millis().saturating_add(passed))
    }

    /// When it will be `at`. What lies far ahead, as the clock of a former daemon may have gone wrong, is looked at sooner.
    pub(super) fn instant(self, at: Timestamp) -> Instant {
        let left = at.as_millis().saturating_sub(self.now().as_millis()).max(1);
        Instant::now() + Duration::from_millis(left.unsigned_abs()).min(LONGEST_WAIT)
    }
}

impl Loop {
    /// Takes back the newest generation of an app, which does not come up.
    pub(super) async fn recover(&mut self, key: &AppKey, reason: String) -> Result<(), StoreError> {
        let (Some(row), Some(rollout)) = (self.snapshot.apps.get(key), self.snapshot.rollouts.get(key)) else {
            return Ok(());
        };
        let (app, rollout) = (Arc::clone(&row.object), Arc::clone(&rollout.object));
        let past = rollout.good.and_then(|good| self.snapshot.past.get(&(key.clone(), good)));
        let after = match past.map(|row| back(&self.snapshot, (*app).clone(), &row.object)) {
            Some(Ok(after)) => after,
            // What it was has gone to somebody else meanwhile.
            Some(Err(error)) => {
                return self.pause(key, &rollout, format!("{reason}; it cannot be taken back: {error}")).await;
            }
            None => return self.pause(key, &rollout, format!("{reason}; what was there before is not kept")).await,
        };
        let good = rollout.good.unwrap_or_default();
        let undone = Undone { generation: app.generation, reason: reason.clone() };
        if self.write_app(Txn::new(), key, &after, Cause::Recovered(good), Some(undone)).await?.is_some() {
            let message = format!(
                "{}: generation {} did not come up, {good} is put back as {}: {reason}",
                key.name, app.generation, after.generation
            );
            self.events.emit(EventKind::Warning, "RolledBack", &Subject::App(key.clone()), message);
        }
        Ok(())
    }

    async fn pause(&mut self, key: &AppKey, rollout: &Rollout, message: String) -> Result<(), StoreError> {
        let paused = Rollout { state: RolloutState::Paused, message, ..rollout.clone() };
        let change = Change::PutRollout(key.clone(), Box::new(paused));
        let txn = transaction(&self.snapshot, key, &[change])?;
        self.commit(txn).await?;
        self.say_rollout(key, Some(rollout));
        Ok(())
    }

    /// Says what has become of an update.
    pub(super) fn say_rollout(&self, key: &AppKey, before: Option<&Rollout>) {
        let Some(now) = self.snapshot.rollouts.get(key).map(|row| &row.object) else { return };
        let same = before.is_some_and(|before| before.generation == now.generation);
        let news = before.filter(|_| same).is_none_or(|before| before.state != now.state);
        let held = before.filter(|_| same).is_none_or(|before| before.message.is_empty()) && !now.message.is_empty();
        let (kind, reason, message) = match now.state {
            RolloutState::Complete if news => (EventKind::Normal, "Updated", "is in place".to_owned()),
            RolloutState::Paused if news => (EventKind::Warning, "UpdatePaused", format!("is held: {}", now.message)),
            RolloutState::Progressing if held => {
                (EventKind::Warning, "UpdateStuck", format!("does not come up and is tried on: {}", now.message))
            }
            _ => return,
        };
        let message = format!("{}: generation {} {message}", key.name, now.generation);
        self.events.emit(kind, reason, &Subject::App(key.clone()), message);
    }

    /// Writes an app's row with those of its history, and what `txn` has. `None` if it was changed meanwhile.
    pub(super) async fn write_app(
        &mut self,
        txn: Txn,
        key: &AppKey,
        after: &App,
        cause: Cause,
        undone: Option<Undone>,
    ) -> Result<Option<Revision>, StoreError> {
        let before = self.snapshot.apps.get(key);
        let row = keys::app(key);
        let compare = match before {
            Some(before) => Compare::Modified(row.clone(), before.modified),
            None => Compare::Absent(row.clone()),
        };
        let mut txn = txn.when(compare).put(row, encode(after)?);
        let before = before.map(|row| &*row.object);
        for change in history::recorded(&self.snapshot, before, after, cause, undone, self.clock.now()) {
            txn = with(txn, &self.snapshot, key, &change)?;
        }
        // What a volume holds outlives its app: its row comes with the first that names it, and never goes with one.
        let volumes = volumes::missing(&self.snapshot, after, rand::random, self.clock.now());
        for volume in &volumes {
            let row = keys::volume(&volume.key);
            txn = txn.when(Compare::Absent(row.clone())).put(row, encode(volume)?);
        }
        let written = self.commit(txn).await?;
        for volume in volumes.into_iter().filter(|_| written.is_some()) {
            let object = ObjectName::Volume(volume.key);
            self.events.emit(EventKind::Normal, "Created", &object.about(), format!("{object} is created"));
        }
        Ok(written)
    }

    /// Adds to a transaction that an app gets new instances for the contents that it has.
    pub(super) fn renew(&self, txn: Txn, app: &App) -> Result<Txn, StoreError> {
        let Some(before) = self.snapshot.apps.get(&app.key) else { return Ok(txn) };
        let row = keys::app(&app.key);
        let mut txn = txn.when(Compare::Modified(row.clone(), before.modified)).put(row, encode(app)?);
        let now = self.clock.now();
        for change in history::recorded(&self.snapshot, Some(&before.object), app, Cause::Contents, None, now) {
            txn = with(txn, &self.snapshot, &app.key, &change)?;
        }
        Ok(txn)
    }

    /// Says which apps get new instances with these rows.
    pub(super) fn say_renewed(&self, object: &ObjectName, rows: &[RowChange]) {
        for row in rows {
            let RowChange::RenewApp(app) = row else { continue };
            let message = format!("{} gets new instances: {object} has another content", app.key.name);
            self.events.emit(EventKind::Normal, "ContentChanged", &Subject::App(app.key.clone()), message);
        }
    }

    /// Since when an instance is Ready: an agent that begins anew finds it Ready, and does not know since when.
    pub(super) fn ready_since(&self, id: &InstanceId, status: &InstanceStatus) -> Option<Timestamp> {
        let before = self.snapshot.instance_status.get(id).map(|row| &row.object);
        let since = before.filter(|before| before.phase == Phase::Ready).and_then(|before| before.ready_since);
        (status.phase == Phase::Ready).then(|| since.unwrap_or_else(|| self.clock.now()))
    }
}
