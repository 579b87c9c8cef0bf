//! What others ask of the owner.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::{oneshot, watch};

use super::{super::node::Facts, Datapath, DatapathState, Names, Request, RuleHits, Seen, User};
use hivemind_core::{
    model::{InstanceId, NodeDesired, Revision},
    spec::v1::dns_name_covers,
};
use hivemind_dataplane::{
    Captures, Counter, DataplaneError, DataplaneInfo, Measuring, ProgramRuns, Watch,
    drift::Difference,
    round_trips::RoundTrips,
    tables::{Part, Tables, Usage},
};
use hivemind_dns::Resolved;
use hivemind_net::HostLink;
use hivemind_policy::{KnownNames, PolicyRef, Trial};

impl Datapath {
    /// Attaches the programs to an instance's device and writes its rows. When this returns, the link may go up.
    pub async fn attach(&self, id: InstanceId, link: HostLink) -> Result<(), DataplaneError> {
        self.ask(|reply| Request::Attach(id, link, reply)).await?
    }

    /// Removes an instance's rows and programs.
    pub async fn detach(&self, id: InstanceId) -> Result<(), DataplaneError> {
        self.ask(|reply| Request::Detach(id, reply)).await?
    }

    /// Tells the newest desired state.
    pub fn desired(&self, desired: Arc<NodeDesired>) {
        let _ = self.requests.send(Request::Desired(desired));
    }

    /// Tells the node's uplinks and addresses, and the ways to other nodes.
    pub fn node_facts(&self, facts: Facts) {
        let _ = self.requests.send(Request::NodeFacts(facts));
    }

    /// All counters.
    pub async fn counters(&self) -> Result<Vec<Counter>, DataplaneError> {
        self.ask(Request::Counters).await?
    }

    /// The round-trip times of TCP between instances.
    pub async fn round_trips(&self) -> Result<Vec<RoundTrips>, DataplaneError> {
        self.ask(Request::RoundTrips).await?
    }

    /// What instances and tenants use that may have limits.
    pub async fn uses(&self) -> Result<Vec<(User, Usage)>, DataplaneError> {
        self.ask(Request::Uses).await?
    }

    /// The flows and the latest drops.
    pub async fn seen(&self) -> Result<Seen, DataplaneError> {
        self.ask(Request::Seen).await?
    }

    /// What numbers and addresses stand for now.
    pub async fn names(&self) -> Result<Names, DataplaneError> {
        self.ask(Request::Names).await
    }

    /// What each policy on trial would have denied on this node.
    pub async fn trials(&self) -> Result<BTreeMap<PolicyRef, Trial>, DataplaneError> {
        self.ask(Request::Trials).await?
    }

    /// Where to listen to flows and drops as they happen.
    pub const fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Where to capture the packets of instances.
    pub const fn captures(&self) -> &Captures {
        &self.captures
    }

    /// What in the kernel is not as it should be.
    pub async fn check(&self) -> Result<Vec<Difference>, DataplaneError> {
        self.ask(Request::Check).await?
    }

    /// The rows that the maps hold now of these parts.
    pub async fn held(&self, parts: &'static [Part]) -> Result<Tables, DataplaneError> {
        self.ask(|reply| Request::Held(parts, reply)).await?
    }

    /// What the data plane uses.
    pub async fn info(&self) -> Result<DataplaneInfo, DataplaneError> {
        self.ask(Request::Info).await
    }

    /// Has the kernel measure programs for as long as the answer lives.
    pub async fn measure(&self) -> Result<Measuring, DataplaneError> {
        self.ask(Request::Measure).await?
    }

    /// How often each program has run while it was measured, and how long.
    pub async fn runs(&self) -> Result<Vec<ProgramRuns>, DataplaneError> {
        self.ask(Request::Runs).await?
    }

    /// How many packets each rule of policies has allowed or denied.
    pub async fn rule_hits(&self) -> Result<Vec<RuleHits>, DataplaneError> {
        self.ask(Request::RuleHits).await?
    }

    /// Takes in what an instance is about to be told, and says so when its policies let it go there.
    pub fn resolved(&self, resolved: Resolved) {
        // Before the first policies are known, everything is for the owner to keep.
        let named = self.named.borrow().as_ref().is_none_or(|names| {
            let covers = |name: &String| dns_name_covers(name, &resolved.name);
            names.iter().any(covers)
        });
        if named {
            let _ = self.requests.send(Request::Resolved(resolved));
        } else {
            let _ = resolved.opened.send(());
        }
    }

    /// The names of hosts that policies of the host have, now and at every change.
    pub fn names_of_host(&self) -> watch::Receiver<BTreeSet<String>> {
        self.named_of_host.clone()
    }

    /// What names of hosts in policies stand for.
    pub async fn known_names(&self) -> Result<Arc<KnownNames>, DataplaneError> {
        self.ask(Request::KnownNames).await
    }

    /// The links it knows: whose interface index is whose.
    pub async fn links(&self) -> Result<BTreeMap<InstanceId, HostLink>, DataplaneError> {
        self.ask(Request::Links).await
    }

    /// How the maps stand, now and at every change.
    pub fn state(&self) -> watch::Receiver<DatapathState> {
        self.state.clone()
    }

    /// Waits until the maps show `revision` or a later one. Safe to cancel.
    pub async fn shows(&self, revision: Revision) {
        let mut state = self.state.clone();
        // An error means that the owner has ended; there is nothing to wait for then.
        let _ = state.wait_for(|state| state.revision >= revision).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, DataplaneError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).map_err(|_| DataplaneError::Stopping)?;
        answer.await.map_err(|_| DataplaneError::Stopping)
    }
}
