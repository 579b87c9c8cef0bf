//! Closes sockets that are connected to an instance that is gone: whoever has them would wait for an answer, or send
//! datagrams to nobody, for as long as it likes. A new connection finds another backend.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use tokio::{sync::watch, time::Instant};

use super::worker::Shared;
use hivemind_core::model::{Addresses, EventKind, InstanceId, NodeDesired, Peer, Subject};
use hivemind_net::{Gone, Net, NetError};

/// How soon what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// In how many namespaces at once: each takes a thread, and most of its time is the kernel's look through its sockets.
pub(super) const AT_ONCE: usize = 16;

/// Runs until cancelled. `ranges` are the node's own, of instances: what a daemon that ended has missed is in them.
pub(super) async fn run(shared: Arc<Shared>, mut desired: watch::Receiver<Arc<NodeDesired>>, ranges: Vec<IpNet>) {
    // Nobody is known to be gone before the first end mark.
    if desired.wait_for(|desired| desired.revision > 0).await.is_err() {
        return;
    }
    let mut seen = desired.borrow_and_update().clone();
    let mut within = ranges.clone();
    loop {
        // A socket that is made from now on gets a backend that is still there.
        shared.datapath.shows(seen.revision).await;
        let now = desired.borrow().clone();
        let known = now.peers.values().flat_map(|peer| peer.addresses.iter()).chain(shared.gateway.iter());
        let gone = Arc::new(Gone { within: within.clone(), known: known.collect() });
        let failed = close(&shared, &gone).await;
        if !failed {
            within.clear();
        }
        // A point in time: changes that come all the while do not put it off.
        let retry_at = Instant::now() + RETRY;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(retry_at), if failed => break,
                changed = desired.changed() => if changed.is_err() {
                    return;
                },
            }
            let now = desired.borrow_and_update().clone();
            let left = left(&seen, &now);
            seen = now;
            if !left.is_empty() {
                within.extend(left.into_iter().map(IpNet::from).chain(ranges.iter().copied()));
                break;
            }
        }
    }
}

/// The addresses that somebody had and has no more.
fn left(before: &NodeDesired, now: &NodeDesired) -> BTreeSet<IpAddr> {
    let mut left = BTreeSet::new();
    let of = |peer: &Peer| peer.addresses;
    for change in before.peers.diff(&now.peers) {
        let (old, new) = match change {
            DiffItem::Add(..) => continue,
            DiffItem::Update { old, new } => (of(old.1), of(new.1)),
            DiffItem::Remove(_, old) => (of(old), Addresses::default()),
        };
        left.extend(old.iter().filter(|address| !new.iter().any(|other| other == *address)));
    }
    left
}

/// In the namespace of an instance, or in the host's.
async fn close_in(net: Arc<dyn Net>, of: Option<InstanceId>, gone: Arc<Gone>) -> Result<usize, NetError> {
    net.close_sockets(of.as_ref(), gone).await
}

/// In the namespaces of all instances and in the host's. Whether it failed in one.
async fn close(shared: &Shared, gone: &Arc<Gone>) -> bool {
    let links = match shared.datapath.links().await {
        Ok(links) => links,
        Err(error) => {
            tracing::error!(%error, "sockets to instances that are gone cannot be closed; trying again");
            return true;
        }
    };
    let (mut closed, mut failed) = (0, false);
    let all = links.into_keys().map(Some).chain([None]);
    let all: Vec<_> = all.map(|of| close_in(Arc::clone(&shared.net), of, Arc::clone(gone))).collect();
    let mut all = stream::iter(all).buffer_unordered(AT_ONCE);
    while let Some(done) = all.next().await {
        match done {
            Ok(count) => closed += count,
            Err(error) => {
                tracing::error!(%error, "sockets to instances that are gone cannot be closed; trying again");
                failed = true;
            }
        }
    }
    if closed > 0 {
        let message = format!("{closed} sockets were closed: the instances they were connected to are gone");
        shared.events.emit(EventKind::Normal, "SocketsClosed", &Subject::Node(shared.node.clone()), message);
    }
    failed
}
