//! What goes into the store and comes out of it.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::StoreError;
use hivemind_core::model::Revision;

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

impl Compare {
    /// The row it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Modified(key, _) | Self::Created(key, _) | Self::Absent(key) | Self::Present(key) => key,
        }
    }

    /// Whether it holds for `row`, the row of its key.
    pub fn holds(&self, row: Option<&Entry>) -> bool {
        match self {
            Self::Modified(_, revision) => row.is_some_and(|row| row.modified == *revision),
            Self::Created(_, revision) => row.is_some_and(|row| row.created == *revision),
            Self::Absent(_) => row.is_none(),
            Self::Present(_) => row.is_some(),
        }
    }
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

impl Op {
    /// The row it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
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

    /// Adds the writing of a row that ends with `lease`.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
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

impl WatchEvent {
    /// The row that changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// All changes of one revision under the watched prefix: never split, never merged with another revision's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision.
    pub revision: Revision,
    /// Its changes in key order; at least one.
    pub events: Vec<WatchEvent>,
}

/// What an implementation of the store sends to a [`Watcher`].
pub enum WatchItem {
    /// A revision's changes.
    Batch(WatchBatch),
    /// The watch has ended.
    Failed(StoreError),
    /// The channel was about to overflow. What is missing stays in the log until the watcher, having taken all that
    /// came before, calls this.
    Behind(Box<dyn FnOnce() + Send>),
}

impl fmt::Debug for WatchItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(batch) => batch.fmt(f),
            Self::Failed(error) => error.fmt(f),
            Self::Behind(_) => f.write_str("Behind"),
        }
    }
}

/// A running watch. Dropping it ends it.
///
/// A watcher that falls behind costs no memory beyond its channel: the store re-reads what it missed from the log.
#[derive(Debug)]
pub struct Watcher {
    items: mpsc::Receiver<WatchItem>,
}

impl Watcher {
    /// A watch fed through `items`; for implementations of the store.
    pub fn new(items: mpsc::Receiver<WatchItem>) -> Self {
        Self { items }
    }

    /// The next batch; waits for it. After an error the watch has ended. Safe to cancel.
    pub async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            match self.items.recv().await {
                Some(WatchItem::Batch(batch)) => return Ok(batch),
                Some(WatchItem::Failed(error)) => return Err(error),
                Some(WatchItem::Behind(resume)) => resume(),
                None => return Err(StoreError::Closed),
            }
        }
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
