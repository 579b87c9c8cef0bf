//! The agent's way to the server when both are one process.

use tokio::sync::mpsc;

use crate::{
    agent::upstream::{Upstream, UpstreamError},
    control::{Control, ControlError},
    model::{FeedMessage, Node, NodeName, NodeStatus, Problem, StatusReport, VolumeId, VolumeKey},
};

/// Calls `control` directly.
#[derive(Debug)]
pub(super) struct LocalUpstream {
    pub(super) control: Control,
    pub(super) node: NodeName,
}

fn refused(error: ControlError) -> UpstreamError {
    let why = error.to_string();
    UpstreamError { code: Problem::from(error).code, why }
}

#[async_trait::async_trait]
impl Upstream for LocalUpstream {
    async fn register(&self, node: Node, status: NodeStatus) -> Result<(), UpstreamError> {
        self.control.register_node(node, status).await.map_err(refused)
    }

    async fn feed(&self) -> Result<mpsc::Receiver<FeedMessage>, UpstreamError> {
        self.control.feed(&self.node).await.map_err(refused)
    }

    async fn report(&self, reports: Vec<StatusReport>) -> Result<(), UpstreamError> {
        self.control.report(reports).await.map_err(refused)
    }

    async fn volume_gone(&self, key: VolumeKey, id: VolumeId) -> Result<(), UpstreamError> {
        self.control.volume_gone(key, id).await.map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::ErrorCode, store::StoreError};

    #[test]
    fn what_the_server_refuses_keeps_its_code() {
        let error = refused(ControlError::Store(StoreError::DiskFull { path: "store.redb".into() }));
        assert_eq!(error.code, ErrorCode::DiskFull);
        let said = "the server did not take it: no space left for the store at store.redb [E-DISK-001]";
        assert_eq!(error.to_string(), said);
    }
}
