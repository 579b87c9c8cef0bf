//! What can go wrong with the store.

use std::path::PathBuf;

use super::{Compacted, LeaseId};
use hivemind_core::model::ErrorCode;

/// An error of the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The change log no longer reaches back that far.
    #[error("the change log begins after revision {}; read the range again", .0.oldest)]
    Compacted(Compacted),
    /// There is no such lease (any more).
    #[error("lease {0} has ended")]
    NoLease(LeaseId),
    /// A transaction names a key twice: there is no order among its changes that could say which one holds.
    #[error("the transaction names the key {key} twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The file system is full. Nothing of the transaction was kept.
    #[error("no space left for the store at {path}")]
    DiskFull {
        /// The store's file.
        path: PathBuf,
    },
    /// Another process has the store open.
    #[error("the store at {path} is open in another process (hint: is another hivemind daemon running?)")]
    Locked {
        /// The store's file.
        path: PathBuf,
    },
    /// The store was written by a newer version.
    #[error("the store at {path} has schema {found}, this version knows up to {known}")]
    NewerSchema {
        /// The store's file.
        path: PathBuf,
        /// The file's schema version.
        found: u32,
        /// The newest this program knows.
        known: u32,
    },
    /// The store's file cannot be read or written.
    #[error("cannot {action} the store at {path}: {why}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The store's file.
        path: PathBuf,
        /// What the library or the operating system said.
        why: String,
    },
    /// An object has no form in the store.
    #[error("an object cannot be written to the store: {why}")]
    Encode {
        /// What the library said.
        why: String,
    },
    /// The store's thread has ended: the daemon is stopping.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// The code that users see.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NewerSchema { .. } => ErrorCode::StoreVersion,
            Self::DiskFull { .. } => ErrorCode::DiskFull,
            _ => ErrorCode::Store,
        }
    }
}
