//! Seam: who tells this node what to do, and hears what it did. In one process it is `control` itself.

use tokio::sync::mpsc;

use hivemind_core::model::{ErrorCode, FeedMessage, Node, NodeStatus, StatusReport, VolumeId, VolumeKey};

/// The other end is not reachable now, or cannot do it. The node goes on with its last known state and tries again.
#[derive(Debug, thiserror::Error)]
#[error("the server did not take it: {why} [{code}]")]
pub struct UpstreamError {
    /// The code of what it said.
    pub code: ErrorCode,
    /// What it, or the transport, said.
    pub why: String,
}

/// The way to the server.
#[async_trait::async_trait]
pub trait Upstream: Send + Sync + std::fmt::Debug {
    /// Says who this node is and how it is. Repeated whenever the status changes.
    async fn register(&self, node: Node, status: NodeStatus) -> Result<(), UpstreamError>;

    /// A new feed: everything, the end mark, then changes. When it ends, the caller asks for another.
    async fn feed(&self) -> Result<mpsc::Receiver<FeedMessage>, UpstreamError>;

    /// Says what was seen. An error means that it may or may not have arrived: it is said again.
    async fn report(&self, reports: Vec<StatusReport>) -> Result<(), UpstreamError>;

    /// Says that nothing is left of a volume that was to be removed.
    async fn volume_gone(&self, key: VolumeKey, id: VolumeId) -> Result<(), UpstreamError>;
}
