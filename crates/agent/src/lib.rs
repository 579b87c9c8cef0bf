//! Floor 3: brings a node to what its feed says.
//!
//! The feed is assembled into a [`NodeDesired`]; a worker for each instance takes the steps that [`machine`] names;
//! [`datapath`] keeps the kernel's maps equal to it; the name server reads it. Nothing is removed before the feed has
//! said its end mark, and a broken feed leaves everything as it is.

mod closing;
pub mod datapath;
mod fault;
pub mod host_names;
pub mod hosts;
pub mod images;
pub mod machine;
mod mounts;
pub mod node;
mod ports;
mod publish;
pub mod registries;
mod reporter;
mod supervisor;
#[cfg(test)]
mod tests;
pub mod upstream;
mod volumes;
mod words;
mod worker;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use datapath::Datapath;
use hivemind_core::{
    lifecycle::backoff,
    model::{Addresses, EventKind, FeedMessage, NodeDesired, NodeName, Subject},
};
use hivemind_net::{Net, PublishedPort};
use hivemind_observe::{Events, Metrics};
use hivemind_runtime::{ContainerState, Runtime};
use hivemind_storage::Storage;
use ports::{Ports, Published};
use reporter::Reporter;
use upstream::Upstream;

/// How soon a published port that another process has is tried again.
const PORT_RETRY: Duration = Duration::from_secs(1);

/// What an agent is made of.
#[derive(Debug)]
pub struct Agent {
    /// Where it is told what to do.
    pub upstream: Arc<dyn Upstream>,
    /// Runs the containers.
    pub runtime: Arc<dyn Runtime>,
    /// Connects them.
    pub net: Arc<dyn Net>,
    /// The owner of the maps.
    pub datapath: Datapath,
    /// Where it says what happened.
    pub events: Events,
    /// The node's folders of volumes.
    pub storage: Storage,
    /// The node.
    pub node: NodeName,
    /// Where it counts what it puts right.
    pub metrics: Metrics,
    /// The node's own addresses: gateways and name servers of its instances.
    pub gateway: Addresses,
    /// The node's ranges of instance addresses.
    pub ranges: Vec<IpNet>,
    /// How many instances it makes at the same moment.
    pub parallel: usize,
}

impl Agent {
    /// Runs until cancelled. Cancelling leaves every container, link and map as it is.
    ///
    /// `desired` publishes what the feed says, for those who only read it (the name server).
    pub async fn run(self, desired: watch::Sender<Arc<NodeDesired>>) {
        let reporter = Reporter::default();
        let shared = Arc::new(worker::Shared {
            runtime: self.runtime,
            net: self.net,
            datapath: self.datapath,
            reporter: reporter.clone(),
            events: self.events,
            storage: self.storage,
            desired: desired.subscribe(),
            node: self.node,
            metrics: self.metrics,
            gateway: self.gateway,
            ports: Ports::default(),
            links: Semaphore::new(self.parallel),
            slots: Semaphore::new(self.parallel),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(reporter.run(Arc::clone(&self.upstream)));
        tasks.spawn(closing::run(Arc::clone(&shared), desired.subscribe(), self.ranges));
        tasks.spawn(publish::run(Arc::clone(&shared), desired.subscribe()));
        tasks.spawn(volumes::run(Arc::clone(&shared), Arc::clone(&self.upstream), desired.subscribe()));
        tasks.spawn(supervisor::run(Arc::clone(&shared), desired.subscribe()));
        tasks.spawn(follow(self.upstream, Admission::new(shared, desired)));
        // None of them is to return. One that does takes the agent down, and the daemon with it: whatever started that
        // starts it again, and what runs goes on meanwhile.
        if let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(()) => tracing::error!("a task of the agent has ended: what it listened to is gone"),
                Err(error) => tracing::error!(%error, "a task of the agent has panicked"),
            }
        }
    }
}

/// Whether a container is an instance of ours.
pub fn is_ours(container: &ContainerState) -> bool {
    container.labels.contains_key(worker::LABEL_APP)
}

/// Follows the feed for ever, and publishes the desired state at every end mark.
async fn follow(upstream: Arc<dyn Upstream>, mut admission: Admission) {
    let mut failures = 0;
    loop {
        match upstream.feed().await {
            Ok(mut feed) => {
                failures = 0;
                // A new feed says everything again: what it does not name by its end mark is gone.
                let mut next = NodeDesired::default();
                let mut complete = false;
                loop {
                    tokio::select! {
                        message = feed.recv() => {
                            let Some(message) = message else { break };
                            complete = matches!(message, FeedMessage::SnapshotEnd(_));
                            next.apply(message);
                            if complete {
                                admission.take_ports(&next);
                                admission.publish(&next);
                            }
                        }
                        () = tokio::time::sleep(PORT_RETRY), if complete && !admission.refused.is_empty() => {
                            if admission.take_ports(&next) {
                                admission.publish(&next);
                            }
                        }
                    }
                }
                tracing::warn!("the feed has ended; asking for another");
            }
            Err(error) => tracing::warn!(%error, "no feed; the node goes on as it is"),
        }
        failures += 1;
        let pause = backoff::delay(failures, Duration::from_millis(50), Duration::from_secs(5), rand::random());
        tokio::time::sleep(pause).await;
    }
}

/// Lets the desired state through to those who make it real, without the ports that other processes of the node have.
struct Admission {
    shared: Arc<worker::Shared>,
    desired: watch::Sender<Arc<NodeDesired>>,
    published: Published,
    refused: BTreeSet<PublishedPort>,
}

impl Admission {
    fn new(shared: Arc<worker::Shared>, desired: watch::Sender<Arc<NodeDesired>>) -> Self {
        Self { shared, desired, published: Published::default(), refused: BTreeSet::new() }
    }

    /// Holds what is to be published, as far as it is free. Whether other ports than before are refused.
    fn take_ports(&mut self, complete: &NodeDesired) -> bool {
        self.published.follow(complete);
        let faults = self.shared.ports.keep(&*self.shared.net, &self.published.places());
        for (_, fault) in faults.iter().filter(|(port, _)| !self.refused.contains(port)) {
            let about = Subject::Node(self.shared.node.clone());
            self.shared.events.emit(EventKind::Warning, "PortTaken", &about, fault.to_string());
        }
        let refused = faults.into_keys().collect();
        let differs = self.refused != refused;
        self.refused = refused;
        differs
    }

    fn publish(&self, complete: &NodeDesired) {
        let mut admitted = complete.clone();
        ports::withhold(&mut admitted, &self.refused);
        let admitted = Arc::new(admitted);
        self.shared.datapath.desired(Arc::clone(&admitted));
        self.desired.send_replace(admitted);
    }
}
