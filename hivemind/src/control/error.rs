//! Why a command was refused.

use crate::{
    model::{AppKey, Problem, Revision},
    store::StoreError,
};

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The document has faults.
    #[error("the specification of {key} has {} fault(s): {}", .faults.len(), .faults.join("; "))]
    Invalid {
        /// The app.
        key: AppKey,
        /// All of them.
        faults: Vec<String>,
    },
    /// There is no such app.
    #[error("app {key} does not exist")]
    NotFound {
        /// The app.
        key: AppKey,
    },
    /// A name or a port belongs to another app.
    #[error("{what} is used by app {by}")]
    Taken {
        /// `DNS name web.local` or `published port 8080/tcp`.
        what: String,
        /// Whose it is.
        by: AppKey,
    },
    /// The app changed since it was read.
    #[error("app {key} changed since revision {expected}; it is now at {found}")]
    Conflict {
        /// The app.
        key: AppKey,
        /// The revision of the former read.
        expected: Revision,
        /// The revision now.
        found: Revision,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control loops have ended: the daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        use crate::model::ErrorCode;
        let title = error.to_string();
        match error {
            ControlError::Invalid { key, faults } => Self {
                code: ErrorCode::Invalid,
                title: format!("{} is not valid", key.name),
                details: faults,
                hint: None,
            },
            ControlError::NotFound { .. } => Self::new(ErrorCode::NotFound, title).hint("hivemind app ls"),
            ControlError::Taken { by, .. } => {
                Self::new(ErrorCode::Taken, title).hint(format!("hivemind app info {}", by.name))
            }
            ControlError::Conflict { key, .. } => {
                Self::new(ErrorCode::Conflict, title).hint(format!("hivemind app info {}", key.name))
            }
            ControlError::Store(error) => Self::new(error.code(), title),
            ControlError::Stopping => Self::new(ErrorCode::Unavailable, title),
        }
    }
}
