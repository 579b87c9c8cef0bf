//! Floor 3: brings a node to what its feed says.
//!
//! The feed is assembled into a [`NodeDesired`]; a worker for each instance takes the steps that [`machine`] names;
//! [`datapath`] keeps the kernel's maps equal to it; the name server reads it. Nothing is removed before the feed has
//! said its end mark, and a broken feed leaves everything as it is.

pub mod datapath;
mod fault;
pub mod machine;
pub mod node;
mod ports;
mod publish;
mod reporter;
mod supervisor;
pub mod upstream;
mod words;
mod worker;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    lifecycle::backoff,
    model::{Addresses, NodeDesired},
    net::Net,
    observe::Events,
    runtime::Runtime,
};
use datapath::Datapath;
use ports::Ports;
use reporter::Reporter;
use upstream::Upstream;

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
    /// The node's own addresses: gateways and name servers of its instances.
    pub gateway: Addresses,
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
            datapath: self.datapath.clone(),
            reporter: reporter.clone(),
            events: self.events,
            gateway: self.gateway,
            ports: Ports::default(),
            slots: Semaphore::new(self.parallel),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(reporter.run(Arc::clone(&self.upstream)));
        tasks.spawn(publish::run(Arc::clone(&shared), desired.subscribe()));
        tasks.spawn(supervisor::run(shared, desired.subscribe()));
        tasks.spawn(follow(self.upstream, self.datapath, desired));
        // None of them returns. One that panics takes the agent down, and the daemon's supervisor starts it again.
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the agent has ended; the agent begins anew");
                return;
            }
        }
    }
}

/// Follows the feed for ever, and publishes the desired state at every end mark.
async fn follow(upstream: Arc<dyn Upstream>, datapath: Datapath, desired: watch::Sender<Arc<NodeDesired>>) {
    let mut failures = 0;
    loop {
        match upstream.feed().await {
            Ok(mut feed) => {
                failures = 0;
                // A new feed says everything again: what it does not name by its end mark is gone.
                let mut next = NodeDesired::default();
                while let Some(message) = feed.recv().await {
                    let complete = matches!(message, crate::model::FeedMessage::SnapshotEnd(_));
                    next.apply(message);
                    if complete {
                        let published = Arc::new(next.clone());
                        datapath.desired(Arc::clone(&published));
                        desired.send_replace(published);
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
