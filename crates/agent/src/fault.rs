//! Why a step failed, with the code users see.

use std::fmt;

use hivemind_core::model::ErrorCode;
use hivemind_dataplane::DataplaneError;
use hivemind_net::NetError;
use hivemind_runtime::RuntimeError;
use hivemind_storage::StorageError;

/// A failed step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl From<RuntimeError> for Fault {
    fn from(error: RuntimeError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl From<NetError> for Fault {
    fn from(error: NetError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl From<DataplaneError> for Fault {
    fn from(error: DataplaneError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}
