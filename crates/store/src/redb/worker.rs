//! The store's thread: takes what is waiting, commits once, answers, feeds the watches, ends leases.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Opener,
    engine::{Action, Done, Engine},
    file,
    watch::Watches,
};
use crate::{Entry, Lease, LeaseId, Range, StoreError, Watcher};
use hivemind_core::model::Revision;

/// The most requests of one commit: bounds how long the first waits for the last.
const GROUP: usize = 256;
/// The longest sleep when no lease ends sooner.
const IDLE: Duration = Duration::from_secs(3600);

/// Where an answer goes. That nobody waits for it any more is no error.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers ask for.
#[derive(Debug)]
pub(super) enum Request {
    Act(Action, Answer<Done>),
    Get(String, Answer<(Option<Entry>, Revision)>),
    Range(String, Answer<Range>),
    Watch(String, Revision, Answer<Watcher>),
    Renew(LeaseId, Answer<()>),
    Snapshot(PathBuf, Answer<Revision>),
    /// A watcher that was behind can take more.
    Resume(u64),
    /// The last handle was dropped.
    Stop,
}

/// The owner of the database.
pub(super) struct Worker {
    path: PathBuf,
    open: Opener,
    /// Absent after an error that broke it, until it could be opened again.
    engine: Option<Engine>,
    watches: Watches,
    leases: BTreeMap<LeaseId, Due>,
}

/// When a lease ends.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    ttl: Duration,
}

impl Due {
    fn after(ttl: Duration) -> Self {
        let now = Instant::now();
        Self { at: now.checked_add(ttl).unwrap_or(now + IDLE * 24 * 365), ttl }
    }
}

impl Worker {
    pub(super) fn new(path: PathBuf, mut open: Opener, requests: Sender<Request>) -> Result<Self, StoreError> {
        let engine = Engine::new(open()?, path.clone())?;
        let leases = engine.leases()?.into_iter().map(|lease| (lease.id, Due::after(lease.ttl))).collect();
        Ok(Self { path, open, engine: Some(engine), watches: Watches::new(requests), leases })
    }

    /// Serves until it is told to stop.
    pub(super) fn run(&mut self, inbox: &Receiver<Request>) {
        loop {
            let mut requests = match inbox.recv_timeout(self.until_next_lease_ends()) {
                Ok(request) => vec![request],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            requests.extend(inbox.try_iter().take(GROUP));
            let stop = requests.iter().any(|request| matches!(request, Request::Stop));
            self.serve(requests);
            if stop {
                return;
            }
        }
    }

    fn until_next_lease_ends(&self) -> Duration {
        let first = self.leases.values().map(|due| due.at).min();
        first.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()).min(IDLE))
    }

    /// Writes first, then reads: a read sees at least what was acknowledged before it was asked for.
    fn serve(&mut self, requests: Vec<Request>) {
        let (mut actions, mut answers, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        for request in requests {
            match request {
                Request::Act(action, answer) => {
                    actions.push(action);
                    answers.push(Some(answer));
                }
                // Before the ended leases are looked for: a renewal that came in time counts.
                Request::Renew(id, answer) => drop(answer.send(self.renew(id))),
                other => reads.push(other),
            }
        }
        let now = Instant::now();
        let ended = self.leases.iter().filter(|(_, due)| due.at <= now).map(|(id, _)| Action::Revoke(*id));
        actions.extend(ended);
        answers.resize_with(actions.len(), || None);
        if !actions.is_empty() {
            self.write(&actions, answers);
        }
        for request in reads {
            self.read(request);
        }
    }

    fn write(&mut self, actions: &[Action], answers: Vec<Option<Answer<Done>>>) {
        match self.engine().and_then(|engine| engine.commit(actions)) {
            Ok(committed) => {
                for done in committed.results.iter().flatten() {
                    match done {
                        Done::Granted(lease) => self.keep(*lease),
                        Done::Revoked(id) => drop(self.leases.remove(id)),
                        Done::Txn(_) | Done::Compacted => {}
                    }
                }
                for (answer, result) in answers.into_iter().zip(committed.results) {
                    let _ = answer.map(|answer| answer.send(result));
                }
                self.watches.publish(&committed.batches);
            }
            Err(error) => {
                tracing::error!(%error, "the store could not be written");
                // redb refuses everything after an error of the file until it is opened anew.
                self.engine = None;
                // Ended leases are tried again, not at once but when the disk may have been cleared.
                for due in self.leases.values_mut().filter(|due| due.at <= Instant::now()) {
                    *due = Due { at: Instant::now() + Duration::from_secs(1), ttl: due.ttl };
                }
                for answer in answers.into_iter().flatten() {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn read(&mut self, request: Request) {
        match request {
            Request::Get(key, answer) => {
                let row = self.engine().and_then(|engine| Ok((engine.get(&key)?, engine.revision())));
                let _ = answer.send(row);
            }
            Request::Range(prefix, answer) => {
                let rows = self
                    .engine()
                    .and_then(|engine| Ok(Range { entries: engine.range(&prefix)?, revision: engine.revision() }));
                let _ = answer.send(rows);
            }
            Request::Watch(prefix, after, answer) => {
                let watcher = self.ready().and_then(|()| match &self.engine {
                    Some(engine) => self.watches.add(engine, prefix, after),
                    None => Err(StoreError::Closed),
                });
                let _ = answer.send(watcher);
            }
            Request::Snapshot(path, answer) => {
                let _ = answer.send(self.engine().and_then(|engine| snapshot(engine, &path)));
            }
            Request::Resume(id) => {
                // If the store cannot be opened the watch stays behind; opening it brings all up to date.
                if self.ready().is_ok()
                    && let Some(engine) = &self.engine
                {
                    self.watches.resume(engine, id);
                }
            }
            Request::Act(..) | Request::Renew(..) | Request::Stop => {}
        }
    }

    /// The database, opened again if an error broke it.
    fn engine(&mut self) -> Result<&mut Engine, StoreError> {
        self.ready()?;
        self.engine.as_mut().ok_or(StoreError::Closed)
    }

    fn ready(&mut self) -> Result<(), StoreError> {
        if self.engine.is_none() {
            let engine = Engine::new((self.open)()?, self.path.clone())?;
            tracing::info!(revision = engine.revision(), "the store was opened again");
            // A commit whose outcome was unknown may have reached the disk: grants of it too.
            for lease in engine.leases()? {
                self.leases.entry(lease.id).or_insert_with(|| Due::after(lease.ttl));
            }
            self.watches.catch_up(&engine);
            self.engine = Some(engine);
        }
        Ok(())
    }

    fn keep(&mut self, lease: Lease) {
        self.leases.insert(lease.id, Due::after(lease.ttl));
    }

    fn renew(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let due = self.leases.get_mut(&id).ok_or(StoreError::NoLease(id))?;
        *due = Due::after(due.ttl);
        Ok(())
    }
}

fn snapshot(engine: &Engine, path: &Path) -> Result<Revision, StoreError> {
    file::make(path, false, |db| engine.copy_to(db, path))?;
    Ok(engine.revision())
}
