//! Keeps the firewall's hand-over rules equal to the ports that are published.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    model::NodeDesired,
    net::{Net, PublishedPort},
};

/// How soon a refused set is tried again.
const RETRY: Duration = Duration::from_secs(1);

fn wanted(desired: &NodeDesired) -> BTreeSet<PublishedPort> {
    let ports = desired.services.values().flat_map(|served| &served.service.ports);
    ports.filter_map(|port| Some(PublishedPort { port: port.published?, protocol: port.protocol })).collect()
}

/// Runs until cancelled. Before the first end mark the rules stay as the last daemon left them.
pub(super) async fn run(net: Arc<dyn Net>, mut desired: watch::Receiver<Arc<NodeDesired>>) {
    let mut written: Option<BTreeSet<PublishedPort>> = None;
    loop {
        let now = desired.borrow_and_update().clone();
        let ports = wanted(&now);
        let mut retry = false;
        if now.revision > 0 && written.as_ref() != Some(&ports) {
            let list: Vec<_> = ports.iter().copied().collect();
            match net.sync_published(&list).await {
                Ok(()) => written = Some(ports),
                Err(error) => {
                    tracing::error!(%error, "the rules for published ports could not be written; trying again");
                    retry = true;
                }
            }
        }
        tokio::select! {
            changed = desired.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(RETRY), if retry => {}
        }
    }
}
