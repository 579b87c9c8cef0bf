//! What can go wrong with folders and mounts.

use std::{
    io,
    path::{Path, PathBuf},
};

use hivemind_core::model::ErrorCode;

/// An error of the node's storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file or a folder.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file system is full.
    #[error("no space left on {} while it was to {action}", path.display())]
    Full {
        /// Where.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
    },
    /// A program that makes file systems, or mounts them, has failed.
    #[error("{program} has failed on {}: {why}", path.display())]
    Tool {
        /// The program.
        program: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// It cannot be grown as long as somebody uses it.
    #[error(
        "{} cannot be made larger while it is used: the daemon has not CAP_SYS_RESOURCE; it is as soon as nobody uses it, \
         or when it is mounted the next time",
        path.display()
    )]
    Used {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// A program is missing that volumes with a limit need.
    #[error(
        "a volume with a limit needs the program {program}, which is not there (hint: apt-get install e2fsprogs mount)"
    )]
    NoTool {
        /// The program.
        program: &'static str,
    },
    /// The path of the node cannot be had.
    #[error("{} of the node cannot be mounted: {why}", path.display())]
    Refused {
        /// What was asked for.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

impl StorageError {
    /// An error with a file.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, action },
            _ => Self::File { action, path, source },
        }
    }

    /// The code that users see.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::File { .. } | Self::Tool { .. } | Self::Used { .. } | Self::NoTool { .. } => ErrorCode::Storage,
            Self::Full { .. } => ErrorCode::DiskFull,
            Self::Refused { .. } => ErrorCode::Mount,
        }
    }
}
