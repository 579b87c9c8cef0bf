//! Floor 3: the loops that turn desired state into instances, services and feeds. One file per controller.
//!
//! [`Control`] is the one writer of the store. It keeps a decoded snapshot of all rows, publishes it, and answers a
//! command only when the snapshot contains its result, so that whoever reads after writing sees what was written.

mod error;
mod snapshot;

pub use error::ControlError;
pub use snapshot::{ClusterSnapshot, Row};

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::{
    model::{AppKey, FeedMessage, Node, NodeName, NodeStatus, Revision, StatusReport},
    spec::v1::AppSpec,
};

/// The handle of the control loops; cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {}

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The revision that has it.
    pub revision: Revision,
    /// Whether the object is new.
    pub created: bool,
    /// The app's generation after it.
    pub generation: u64,
}

/// A condition on a command: the app's row was last written at this revision (the ETag of a former read).
pub type IfMatch = Option<Revision>;

impl Control {
    /// Everything, as of its revision.
    pub fn snapshot(&self) -> Arc<ClusterSnapshot> {
        todo!()
    }

    /// Every later snapshot; intermediate ones may be skipped.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterSnapshot>> {
        todo!()
    }

    /// Creates the app or changes it to `spec`. The same spec twice changes nothing.
    /// Fails with all faults of the spec at once; if a DNS name or a published port is another app's; or if `if_match` does not hold.
    pub async fn deploy(&self, key: AppKey, spec: AppSpec, if_match: IfMatch) -> Result<Written, ControlError> {
        let _ = (key, spec, if_match);
        todo!()
    }

    /// Changes only the number of instances.
    pub async fn scale(&self, key: &AppKey, replicas: u32, if_match: IfMatch) -> Result<Written, ControlError> {
        let _ = (key, replicas, if_match);
        todo!()
    }

    /// Replaces all instances, one after the other.
    pub async fn restart(&self, key: &AppKey, if_match: IfMatch) -> Result<Written, ControlError> {
        let _ = (key, if_match);
        todo!()
    }

    /// Stops the instances and removes the app and its services.
    pub async fn remove(&self, key: &AppKey, if_match: IfMatch) -> Result<Written, ControlError> {
        let _ = (key, if_match);
        todo!()
    }

    /// Creates or updates a node and its status.
    pub async fn register_node(&self, node: Node, status: NodeStatus) -> Result<(), ControlError> {
        let _ = (node, status);
        todo!()
    }

    /// The feed of a node: everything, the end mark, then changes.
    pub async fn feed(&self, node: &NodeName) -> Result<mpsc::Receiver<FeedMessage>, ControlError> {
        let _ = node;
        todo!()
    }

    /// What agents saw. Many reports are written in one transaction.
    pub async fn report(&self, reports: Vec<StatusReport>) -> Result<(), ControlError> {
        let _ = reports;
        todo!()
    }
}
