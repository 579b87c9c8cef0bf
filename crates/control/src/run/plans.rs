//! Plans of apps: decided one upon the other, written together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{Loop, RETRY};
use crate::{
    decode::{Dirty, apply, encode},
    transaction::transaction,
};
use hivemind_core::model::{AppKey, ClusterSnapshot, EventKind, Subject};
use hivemind_schedule::{self as schedule, Input, Plan};
use hivemind_store::{Compare, Entry, Op, StoreError, Txn, WatchEvent, keys};

/// So many apps' plans are one transaction at most: what one cannot have, the others wait for.
const TOGETHER: usize = 64;

/// What several plans write. A row that several name is as the last one has it: it was decided upon the others.
#[derive(Default)]
struct Together {
    compares: Vec<Compare>,
    ops: BTreeMap<String, Op>,
}

impl Together {
    fn add(&mut self, txn: Txn) {
        self.compares.extend(txn.compares);
        self.ops.extend(txn.ops.into_iter().map(|op| (op.key().to_owned(), op)));
    }

    fn into_txn(self) -> Txn {
        Txn { compares: self.compares, ops: self.ops.into_values().collect() }
    }
}

impl Loop {
    /// Plans these apps. What they come to is written together: a project is on disk as soon as one app of it would be. What the
    /// store does not take is put off.
    pub(super) async fn plan(&mut self, apps: BTreeSet<AppKey>) -> Result<(), StoreError> {
        let apps: Vec<_> = apps.into_iter().collect();
        for some in apps.chunks(TOGETHER) {
            match self.plan_together(some).await {
                Ok(true) => {}
                // One of them was changed meanwhile: the others need not wait for it. It is dirty, and planned again.
                Ok(false) => {
                    for app in some {
                        if let Err(error) = self.plan_together(std::slice::from_ref(app)).await {
                            self.put_off(std::slice::from_ref(app), error)?;
                        }
                    }
                }
                Err(error) => self.put_off(some, error)?,
            }
        }
        Ok(())
    }

    /// Whether the store has taken it.
    async fn plan_together(&mut self, apps: &[AppKey]) -> Result<bool, StoreError> {
        // As it will be when the plans before are written.
        let mut ahead = self.snapshot.clone();
        let mut together = Together::default();
        for (at, app) in apps.iter().enumerate() {
            let plan = self.decide(&ahead, app);
            match plan.again_at {
                Some(at) => self.due.insert(app.clone(), self.clock.instant(at)),
                None => self.due.remove(app),
            };
            if let Some(reason) = plan.failed {
                self.recover(app, reason).await?;
                continue;
            }
            self.say_unmet(app, plan.unmet);
            self.say_waits(app, plan.waits);
            if !plan.changes.is_empty() {
                let txn = transaction(&ahead, app, &plan.changes)?;
                // Nothing is decided upon the last one.
                if at + 1 < apps.len() {
                    look_ahead(&mut ahead, &txn);
                }
                together.add(txn);
            }
        }
        let mut txn = together.into_txn();
        if txn.ops.is_empty() {
            return Ok(true);
        }
        if self.cursor != self.snapshot.cursor {
            txn = txn.put(keys::CURSOR, encode(&self.cursor)?);
        }
        let before: Vec<_> =
            apps.iter().map(|app| self.snapshot.rollouts.get(app).map(|row| Arc::clone(&row.object))).collect();
        let taken = self.commit(txn).await?.is_some();
        for (app, before) in apps.iter().zip(before) {
            self.say_rollout(app, before.as_deref());
        }
        Ok(taken)
    }

    /// A disk that is full now need not be so for ever, and what runs goes on meanwhile: the plans are made again later.
    fn put_off(&mut self, apps: &[AppKey], error: StoreError) -> Result<(), StoreError> {
        if !matches!(error, StoreError::DiskFull { .. } | StoreError::Io { .. }) {
            return Err(error);
        }
        for app in apps {
            let message = format!("a change of {} is put off: {error}", app.name);
            self.events.emit(EventKind::Warning, "StoreFailed", &Subject::App(app.clone()), message);
            self.put_off.insert(app.clone());
        }
        self.retry_at = Instant::now() + RETRY;
        Ok(())
    }

    fn decide(&mut self, snapshot: &ClusterSnapshot, app: &AppKey) -> Plan {
        let mut input = Input {
            snapshot,
            services: self.config.services,
            since: self.clock.begun_at(),
            now: self.clock.now(),
            random: &mut rand::random,
            cursor: &mut self.cursor,
        };
        schedule::plan(&mut input, app)
    }

    /// Says once what keeps an app from what it should be.
    fn say_unmet(&mut self, app: &AppKey, unmet: Vec<String>) {
        if unmet.is_empty() {
            self.snapshot.unmet.remove(app);
        } else if self.snapshot.unmet.get(app).is_none_or(|said| **said != unmet) {
            let message = format!("no node can take an instance of {}: {}", app.name, unmet.join("; "));
            self.events.emit(EventKind::Warning, "Unschedulable", &Subject::App(app.clone()), message);
            self.snapshot.unmet.insert(app.clone(), Arc::new(unmet));
        }
    }

    /// Says once whom an app waits for.
    fn say_waits(&mut self, app: &AppKey, waits: Vec<String>) {
        if waits.is_empty() {
            self.snapshot.waits.remove(app);
        } else if self.snapshot.waits.get(app).is_none_or(|said| **said != waits) {
            let message = format!("{} {}", app.name, waits.join(", and "));
            self.events.emit(EventKind::Normal, "Waits", &Subject::App(app.clone()), message);
            self.snapshot.waits.insert(app.clone(), Arc::new(waits));
        }
    }
}

/// The snapshot as a transaction will have made it, with the next revision.
fn look_ahead(snapshot: &mut ClusterSnapshot, txn: &Txn) {
    let revision = snapshot.revision + 1;
    for op in &txn.ops {
        let event = match op {
            Op::Put { key, value, lease } => WatchEvent::Put(Entry {
                key: key.as_str().into(),
                value: value.as_slice().into(),
                created: revision,
                modified: revision,
                lease: *lease,
            }),
            Op::Delete { key } => WatchEvent::Delete { key: key.as_str().into(), revision },
        };
        // What could not be read here is said when it comes from the store.
        let _ = apply(snapshot, &event, &mut Dirty::default());
    }
}
