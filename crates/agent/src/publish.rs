//! Keeps the firewall's hand-over rules equal to the ports that are published.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{ports::Published, worker::Shared};
use hivemind_core::model::NodeDesired;
use hivemind_net::Mended;

/// How soon a refused set is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the rules are looked at though nothing changed.
const REFRESH: Duration = Duration::from_secs(10);

/// Runs until cancelled. Before the first end mark the rules stay as the last daemon left them.
pub(super) async fn run(shared: Arc<Shared>, mut desired: watch::Receiver<Arc<NodeDesired>>) {
    let mut published = Published::default();
    let mut written = false;
    loop {
        let now = desired.borrow_and_update().clone();
        let mut pause = REFRESH;
        if now.revision > 0 {
            published.follow(&now);
            written = true;
            let list: Vec<_> = published.places().into_iter().collect();
            match shared.net.sync_published(&list).await {
                Ok(Mended { firewall: 0, .. }) => {}
                Ok(Mended { firewall, .. }) => {
                    shared.metrics.repaired("firewall", firewall);
                    tracing::warn!("the rules for published ports were changed by someone else and put right");
                }
                Err(error) => {
                    tracing::error!(%error, "the rules for published ports could not be written; trying again");
                    pause = RETRY;
                }
            }
        }
        // Most changes are none of the ports. The refresh is for rules that somebody else flushed.
        let changed = async {
            while desired.changed().await.is_ok() {
                let now = desired.borrow_and_update();
                // The first time also if nothing is published: the last daemon may have left something.
                if now.revision > 0 && (published.follow(&now) || !written) {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
