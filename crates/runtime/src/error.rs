//! What can go wrong with containers and images.

use std::path::PathBuf;

use super::LogPosition;
use hivemind_core::model::ErrorCode;

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// containerd does not answer.
    #[error("containerd does not answer at {socket}: {why}")]
    Unavailable {
        /// Its socket.
        socket: PathBuf,
        /// What the connection said.
        why: String,
    },
    /// The reference is not one.
    #[error("{reference:?} is not an image reference: {why}")]
    BadReference {
        /// What was given.
        reference: String,
        /// The rule it breaks.
        why: String,
    },
    /// The registry does not have it.
    #[error("image {reference} was not found in the registry {registry}")]
    ImageNotFound {
        /// The image.
        reference: String,
        /// The registry's host and port.
        registry: String,
    },
    /// The image is not on the node and may not be fetched.
    #[error("image {reference} is not on this node, and its pull policy is never")]
    ImageAbsent {
        /// The image.
        reference: String,
    },
    /// Parts of the image are not on the node.
    #[error("image {reference} is not whole on this node: {why}")]
    Incomplete {
        /// The image.
        reference: String,
        /// What is missing.
        why: String,
    },
    /// The registry does not answer.
    #[error("registry {registry} does not answer: {why}")]
    RegistryUnreachable {
        /// The registry's host and port.
        registry: String,
        /// What the connection said.
        why: String,
    },
    /// The registry answers, and does not do what it is asked for.
    #[error("registry {registry} does not serve {reference}: {why}")]
    RegistryRefused {
        /// The registry's host and port.
        registry: String,
        /// The image.
        reference: String,
        /// What it said.
        why: String,
    },
    /// The program that keeps a registry's credentials does not give them.
    #[error("docker-credential-{helper} gives no credentials for {registry}: {why}")]
    CredentialHelper {
        /// Its name, without what all begin with.
        helper: String,
        /// The registry's host and port.
        registry: String,
        /// Why; never what it wrote.
        why: String,
    },
    /// The registry refused.
    #[error("registry {registry} refused access to {reference}: {why}")]
    RegistryAuth {
        /// The registry's host and port.
        registry: String,
        /// The image.
        reference: String,
        /// What the registry said.
        why: String,
    },
    /// No variant for this machine.
    #[error("image {reference} has no variant for {wanted}; it has {}", .available.join(", "))]
    NoPlatform {
        /// The image.
        reference: String,
        /// `linux/amd64`.
        wanted: String,
        /// The variants there are.
        available: Vec<String>,
    },
    /// The data is not what its digest says, or is no image.
    #[error("image {reference} is damaged: {why}")]
    Corrupt {
        /// The image.
        reference: String,
        /// What was found.
        why: String,
    },
    /// What was to be imported is no archive of images.
    #[error("the archive cannot be imported: {why}")]
    BadArchive {
        /// What was found.
        why: String,
    },
    /// A file system is full.
    #[error("no space left on {path} while {action}")]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// What was being done.
        action: String,
    },
    /// The process could not be started: the command does not exist, is not executable, the user is unknown, …
    #[error("cannot start {id}: {why}")]
    Start {
        /// The container.
        id: String,
        /// What the runtime said.
        why: String,
    },
    /// A further command cannot be run in it: there is none of that name, it is no program, the user is unknown, …
    #[error("cannot run the command in {id}: {why}")]
    Command {
        /// The container.
        id: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such container, or it does not run.
    #[error("container {id} is not running")]
    NotRunning {
        /// The container.
        id: String,
    },
    /// containerd's process that keeps the container is there and does not say how it is.
    #[error("containerd's process that keeps container {id} (its shim) does not answer")]
    Silent {
        /// The container.
        id: String,
    },
    /// Nobody can look on what it does, or write to it.
    #[error("cannot attach to {id}: {why}")]
    Attach {
        /// The container.
        id: String,
        /// Why not.
        why: String,
    },
    /// Its processes stand still.
    #[error("container {id} is paused: nothing can be run in it")]
    Paused {
        /// The container.
        id: String,
    },
    /// containerd refused something else.
    #[error("containerd could not {action} {id}: {why}")]
    Containerd {
        /// What was tried.
        action: &'static str,
        /// On what.
        id: String,
        /// What it said.
        why: String,
    },
    /// The log does not reach back so far.
    #[error(
        "the log does not have the position {position} any more: it begins at file {oldest}, and lines before it were removed"
    )]
    LogGone {
        /// Where somebody wanted to go on.
        position: LogPosition,
        /// The oldest file that is kept; 0 if there is none.
        oldest: u64,
    },
    /// A file of ours.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RuntimeError {
    /// Whether where an image comes from is to blame: another place may do better.
    pub(super) const fn is_of_source(&self) -> bool {
        matches!(
            self,
            Self::ImageNotFound { .. }
                | Self::RegistryUnreachable { .. }
                | Self::RegistryRefused { .. }
                | Self::RegistryAuth { .. }
                | Self::CredentialHelper { .. }
                | Self::Corrupt { .. }
        )
    }

    /// The code that users see.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unavailable { .. } | Self::Silent { .. } => ErrorCode::NoContainerd,
            Self::BadReference { .. } | Self::Command { .. } => ErrorCode::Invalid,
            Self::ImageNotFound { .. } | Self::ImageAbsent { .. } | Self::Incomplete { .. } => ErrorCode::ImageNotFound,
            Self::RegistryUnreachable { .. } | Self::RegistryRefused { .. } => ErrorCode::RegistryDown,
            Self::RegistryAuth { .. } | Self::CredentialHelper { .. } => ErrorCode::RegistryAuth,
            Self::NoPlatform { .. } => ErrorCode::ImagePlatform,
            Self::Corrupt { .. } => ErrorCode::ImageCorrupt,
            Self::BadArchive { .. } => ErrorCode::BadArchive,
            Self::DiskFull { .. } => ErrorCode::DiskFull,
            Self::LogGone { .. } => ErrorCode::Expired,
            Self::NotRunning { .. } => ErrorCode::NotRunning,
            Self::Attach { .. } => ErrorCode::NoAttach,
            Self::Paused { .. } => ErrorCode::Paused,
            Self::Start { .. } | Self::Containerd { .. } | Self::File { .. } => ErrorCode::StartFailed,
        }
    }
}
