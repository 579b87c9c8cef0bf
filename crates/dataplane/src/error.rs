//! What can go wrong with the data plane.

use std::{path::PathBuf, sync::Arc};

use hivemind_core::model::ErrorCode;

/// An error of the data plane.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The object in this binary is the stub that builds without the BPF toolchain.
    #[error("this binary was built without the eBPF programs (hint: build it with 'cargo xtask build')")]
    Stub,
    /// The kernel lacks something.
    #[error("the kernel lacks {what}: {why}")]
    Kernel {
        /// What is missing.
        what: &'static str,
        /// What was tried, and what the kernel said.
        why: String,
    },
    /// The verifier refused a program.
    #[error("the kernel refused the program {program}: {short} (hint: the whole log is in {log})")]
    Rejected {
        /// The program.
        program: String,
        /// The last lines of the log.
        short: String,
        /// The file with all of it.
        log: PathBuf,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {to}: {why}")]
    Attach {
        /// The program.
        program: &'static str,
        /// A device or a cgroup.
        to: String,
        /// What the kernel said.
        why: String,
    },
    /// A pinned map is not the one this version uses.
    #[error("the pinned map {path} differs: {field} is {found}, this version needs {wanted}")]
    Incompatible {
        /// The pin.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// A map holds no more.
    #[error("the map {map} is full: {refused} rows more than its {capacity} entries")]
    Full {
        /// The map.
        map: &'static str,
        /// How many rows were refused.
        refused: u64,
        /// How many it can hold.
        capacity: u32,
    },
    /// A map refused an operation.
    #[error("cannot {action} the map {map}: {why}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        why: String,
    },
    /// No more captures at once.
    #[error("{limit} captures of packets run on this node already, which is as many as there can be")]
    Captures {
        /// How many there can be.
        limit: u32,
    },
    /// Nobody can be asked any more.
    #[error("the daemon is stopping")]
    Stopping,
    /// A pin or a file.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
}

impl DataplaneError {
    /// What could not be done with a pin or a file.
    pub(super) fn file(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File { action, path: path.into(), source: Arc::new(source) }
    }

    /// The code that users see.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Stub => ErrorCode::NoPrograms,
            Self::Kernel { .. } => ErrorCode::Kernel,
            Self::Full { .. } => ErrorCode::MapFull,
            Self::Captures { .. } => ErrorCode::Captures,
            Self::Stopping => ErrorCode::Unavailable,
            _ => ErrorCode::Dataplane,
        }
    }
}
