//! What goes into the store and comes out of it.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::StoreError;
use crate::model::Revision;

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Arc<str>,
    /// Its value.
    pub value: Arc<[u8]>,
    /// The revision that created it (it was absent before).
    pub created: Revision,
    /// The revision that last wrote it.
    pub modified: Revision,
    /// The lease it ends with.
    pub lease: Option<LeaseId>,
}

/// Rows as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The rows, in key order.
    pub entries: Vec<Entry>,
    /// The store's revision when they were read: watch after it to miss nothing.
    pub revision: Revision,
}

/// What must hold for a transaction to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The row was last written at this revision.
    Modified(String, Revision),
    /// The row was created at this revision.
    Created(String, Revision),
    /// There is no such row.
    Absent(String),
    /// There is such a row.
    Present(String),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a row.
    Put {
        /// Its key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The lease it ends with.
        lease: Option<LeaseId>,
    },
    /// Deletes a row; deleting an absent one changes nothing.
    Delete {
        /// Its key.
        key: String,
    },
}

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Then all are done, with one new revision. A key may be named once.
    pub ops: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds the writing of a row.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Adds the deletion of a row.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// It was done. A transaction that changed no row keeps the revision it found.
    Committed(Revision),
    /// A condition did not hold as of this revision; nothing was done.
    Refused(Revision),
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// The row was written.
    Put(Entry),
    /// The row was deleted.
    Delete {
        /// Its key.
        key: Arc<str>,
        /// The revision that deleted it.
        revision: Revision,
    },
}

/// All changes of one revision under the watched prefix: never split, never merged with another revision's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision.
    pub revision: Revision,
    /// Its changes in key order; at least one.
    pub events: Vec<WatchEvent>,
}

/// A running watch. Dropping it ends it.
///
/// A watcher that falls behind costs no memory beyond its channel: the store re-reads what it missed from the log.
#[derive(Debug)]
pub struct Watcher {
    batches: mpsc::Receiver<Result<WatchBatch, StoreError>>,
}

impl Watcher {
    /// A watch fed through `batches`; for implementations of the store.
    pub fn new(batches: mpsc::Receiver<Result<WatchBatch, StoreError>>) -> Self {
        Self { batches }
    }

    /// The next batch; waits for it. After an error the watch has ended. Safe to cancel.
    pub async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        self.batches.recv().await.unwrap_or(Err(StoreError::Closed))
    }
}

/// The log was compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Watching after this revision or a later one works.
    pub oldest: Revision,
}

/// The number of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A granted lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// How long it lives after a renewal.
    pub ttl: Duration,
}
