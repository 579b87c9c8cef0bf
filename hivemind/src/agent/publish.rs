//! Keeps the firewall's hand-over rules, and the ports this node holds, equal to the ports that are published.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::worker::Shared;
use crate::{
    model::{EventKind, NodeDesired},
    net::PublishedPort,
};

/// How soon a refused set is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the rules are written though nothing changed.
const REFRESH: Duration = Duration::from_secs(10);

fn wanted(desired: &NodeDesired) -> BTreeSet<PublishedPort> {
    let ports = desired.services.values().flat_map(|served| &served.service.ports);
    ports.filter_map(|port| Some(PublishedPort { port: port.published?, protocol: port.protocol })).collect()
}

/// Runs until cancelled. Before the first end mark the rules stay as the last daemon left them.
pub(super) async fn run(shared: Arc<Shared>, mut desired: watch::Receiver<Arc<NodeDesired>>) {
    let mut written = None;
    let mut refused = BTreeSet::new();
    loop {
        let now = desired.borrow_and_update().clone();
        let mut pause = REFRESH;
        if now.revision > 0 {
            let ports = wanted(&now);
            let faults: BTreeSet<String> =
                shared.ports.keep(&*shared.net, &ports).iter().map(ToString::to_string).collect();
            for fault in faults.difference(&refused) {
                shared.events.emit(EventKind::Warning, "PortTaken", "node".into(), fault.clone());
            }
            let list: Vec<_> = ports.iter().copied().collect();
            let ok = shared.net.sync_published(&list).await.inspect_err(|error| {
                tracing::error!(%error, "the rules for published ports could not be written; trying again");
            });
            if ok.is_err() || !faults.is_empty() {
                pause = RETRY;
            }
            (written, refused) = (Some(ports), faults);
        }
        // Most changes are none of the ports. The refresh is for rules that somebody else flushed.
        let changed = async {
            while desired.changed().await.is_ok() {
                let now = desired.borrow_and_update();
                if now.revision > 0 && written.as_ref() != Some(&wanted(&now)) {
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
