//! Floor 2: the revisioned key-value store that holds desired state and status.
//!
//! [`Store`] maps one to one to etcd's API, so that a second implementation can replace redb. Rules for its users:
//! no clock and no random number inside a transaction (pass them in); a value that was read is a constant; every
//! field has one writer. Events, logs and samples never go into it.

#[cfg(any(test, feature = "testkit"))]
pub mod conformance;
mod error;
pub mod keys;
mod redb;
mod types;

pub use error::StoreError;
pub use redb::RedbStore;
pub use types::{
    Compacted, Compare, Entry, Lease, LeaseId, Op, Range, Txn, TxnOutcome, WatchBatch, WatchEvent, WatchItem, Watcher,
};

use hivemind_core::model::Revision;

/// The store. Every call is answered by the store's own thread, never on the async runtime.
#[async_trait::async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The row of `key`, and the revision of the store it was read at.
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), StoreError>;

    /// All rows whose key begins with `prefix`, in key order, as of one revision.
    async fn range(&self, prefix: &str) -> Result<Range, StoreError>;

    /// Does all of `txn.ops` if all of `txn.compares` hold, else nothing. An acknowledged transaction is on disk.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError>;

    /// Every change of rows under `prefix` with a revision greater than `after`, in order and without gaps,
    /// first from the log and then as they happen. Fails with [`StoreError::Compacted`] if the log no longer
    /// reaches back to `after`; then read the range again and watch from its revision.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watcher, StoreError>;

    /// A lease that ends `ttl` after its last renewal; rows put with it are deleted when it ends.
    /// A restart of the store renews every lease once, so that no row is lost to the store's own downtime.
    async fn lease_grant(&self, ttl: std::time::Duration) -> Result<Lease, StoreError>;

    /// Renews a lease for its whole time to live. Fails with [`StoreError::NoLease`] if it has ended.
    async fn lease_renew(&self, id: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now and deletes its rows.
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError>;

    /// Forgets the change log up to and including `revision`; current rows stay.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Writes a consistent copy of all current rows, with revision and schema version, to a new file at `path`.
    /// The copy is complete and synced when this returns, or there is no file.
    async fn snapshot(&self, path: &std::path::Path) -> Result<Revision, StoreError>;
}
