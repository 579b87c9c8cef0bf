//! Says and counts what goes wrong with registries and is dealt with: without it nobody would know that a mirror is down.

use tokio::sync::broadcast::{Receiver, error::RecvError};

use hivemind_core::model::{EventKind, NodeName, Subject};
use hivemind_observe::{Events, Metrics};
use hivemind_runtime::Notice;

/// What saying it needs.
#[derive(Debug)]
pub struct RegistryWatch {
    /// What goes wrong.
    pub notices: Receiver<Notice>,
    /// The node.
    pub node: NodeName,
    /// Where it is said.
    pub events: Events,
    /// Where it is counted.
    pub metrics: Metrics,
}

impl RegistryWatch {
    /// Runs until cancelled.
    pub async fn run(mut self) {
        loop {
            match self.notices.recv().await {
                Ok(Notice::MirrorFailed { mirror, registry, why }) => {
                    self.metrics.mirror_failed(&mirror);
                    let text = format!("mirror {mirror} of {registry} has failed, and the next one is asked: {why}");
                    self.events.emit(EventKind::Warning, "MirrorFailed", &Subject::Node(self.node.clone()), text);
                }
                Ok(Notice::Retried(why)) => self.metrics.registry_retried(why.as_str()),
                Err(RecvError::Lagged(lost)) => tracing::warn!(lost, "failures of registries came too fast to be told"),
                // Whoever fetches images is gone, and the daemon with it.
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}
