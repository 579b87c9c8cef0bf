//! The store of one server: a redb file and the thread that owns it. The only place that names `redb`.
//!
//! Callers send requests over a channel and await the answer. The thread takes all that is waiting, does the writing
//! part in one commit, answers after it is durable, and feeds the watches. A call that is dropped while waiting may
//! still be done.

mod codec;
#[cfg(test)]
mod crash_tests;
mod engine;
mod file;
mod watch;
mod worker;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use redb::Database;
use tokio::sync::oneshot;

use self::{
    engine::{Action, Done, Fail, initialise},
    worker::{Answer, Request, Worker},
};
use super::{Entry, Lease, LeaseId, Range, Store, StoreError, Txn, TxnOutcome, Watcher};
use hivemind_core::model::Revision;

/// Opens the database; called again after an error that broke it.
type Opener = Box<dyn FnMut() -> Result<Database, StoreError> + Send>;

/// A [`Store`] in a redb file. Cheap to clone. The file is released when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct RedbStore {
    thread: Arc<Thread>,
}

#[derive(Debug)]
struct Thread {
    requests: mpsc::Sender<Request>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    /// Waits for the thread, at most for the commit at hand: afterwards the file may be opened again.
    fn drop(&mut self) {
        // It has ended already if it panicked.
        let _ = self.requests.send(Request::Stop);
        if let Some(handle) = self.handle.take() {
            // The thread's panic was reported when it happened.
            let _ = handle.join();
        }
    }
}

impl RedbStore {
    /// Opens the store at `path`; makes an empty one, atomically, if there is none.
    /// Fails with [`StoreError::Locked`] if another process has it open and [`StoreError::NewerSchema`] if a newer
    /// version wrote it.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let opened = path.clone();
        Self::start(path, Box::new(move || file::open(&opened))).await
    }

    /// An empty store that is gone when it is dropped.
    pub async fn in_memory() -> Result<Self, StoreError> {
        Self::with_backend(redb::backends::InMemoryBackend::new()).await
    }

    /// A store in `backend`, which is initialised if it is empty. After an error of the backend the store stays
    /// broken, as there is no second one to open.
    async fn with_backend(backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
        let path = PathBuf::from("(memory)");
        let mut backend = Some((backend, path.clone()));
        let open = move || {
            let (backend, path) = backend.take().ok_or(StoreError::Closed)?;
            let fail = Fail { path: &path, action: "open" };
            let empty = redb::StorageBackend::len(&backend).map_err(|e| fail.io(&e))? == 0;
            let db = file::builder().create_with_backend(backend).map_err(|e| fail.by(e))?;
            if empty {
                initialise(&db, &path)?;
            }
            Ok(db)
        };
        Self::start(path, Box::new(open)).await
    }

    async fn start(path: PathBuf, open: Opener) -> Result<Self, StoreError> {
        let (requests, inbox) = mpsc::channel();
        let (ready, opened) = oneshot::channel();
        let itself = requests.clone();
        let body = path.clone();
        let run = move || match Worker::new(body, open, itself) {
            Ok(mut worker) => {
                if ready.send(Ok(())).is_ok() {
                    worker.run(&inbox);
                }
            }
            // Nobody waits for the answer if the call was dropped.
            Err(error) => drop(ready.send(Err(error))),
        };
        let spawned = std::thread::Builder::new().name("store".into()).spawn(run);
        let handle = spawned.map_err(|e| Fail { path: &path, action: "start the thread of" }.io(&e))?;
        let thread = Thread { requests, handle: Some(handle) };
        opened.await.unwrap_or(Err(StoreError::Closed))?;
        Ok(Self { thread: Arc::new(thread) })
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.thread.requests.send(request(answer)).map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn act(&self, action: Action) -> Result<Done, StoreError> {
        self.ask(|answer| Request::Act(action, answer)).await
    }
}

#[async_trait::async_trait]
impl Store for RedbStore {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError> {
        self.ask(|answer| Request::Get(key.to_owned(), answer)).await
    }

    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        self.ask(|answer| Request::Range(prefix.to_owned(), answer)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        match self.act(Action::Txn(txn)).await? {
            Done::Txn(outcome) => Ok(outcome),
            _ => Err(StoreError::Closed),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watcher, StoreError> {
        self.ask(|answer| Request::Watch(prefix.to_owned(), after, answer)).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        match self.act(Action::Grant(ttl)).await? {
            Done::Granted(lease) => Ok(lease),
            _ => Err(StoreError::Closed),
        }
    }

    async fn lease_renew(&self, id: LeaseId) -> Result<(), StoreError> {
        self.ask(|answer| Request::Renew(id, answer)).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.act(Action::Revoke(id)).await.map(drop)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.act(Action::Compact(revision)).await.map(drop)
    }

    async fn snapshot(&self, path: &Path) -> Result<Revision, StoreError> {
        self.ask(|answer| Request::Snapshot(path.to_owned(), answer)).await
    }
}

#[cfg(test)]
mod tests;
