//! The agent's way to the server when both are one process.

use tokio::sync::mpsc;

use crate::{
    agent::upstream::{Upstream, UpstreamError},
    control::{Control, ControlError},
    model::{FeedMessage, Node, NodeName, NodeStatus, StatusReport},
};

/// Calls `control` directly.
#[derive(Debug)]
pub(super) struct LocalUpstream {
    pub(super) control: Control,
    pub(super) node: NodeName,
}

fn unreachable(error: ControlError) -> UpstreamError {
    UpstreamError { why: error.to_string() }
}

#[async_trait::async_trait]
impl Upstream for LocalUpstream {
    async fn register(&self, node: Node, status: NodeStatus) -> Result<(), UpstreamError> {
        self.control.register_node(node, status).await.map_err(unreachable)
    }

    async fn feed(&self) -> Result<mpsc::Receiver<FeedMessage>, UpstreamError> {
        self.control.feed(&self.node).await.map_err(unreachable)
    }

    async fn report(&self, reports: Vec<StatusReport>) -> Result<(), UpstreamError> {
        self.control.report(reports).await.map_err(unreachable)
    }
}
