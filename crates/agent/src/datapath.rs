//! The owner of the data plane: one thread that has the [`Dataplane`], knows the links, and keeps the maps equal to
//! what the feed says.
//!
//! Everyone else asks through [`Datapath`]. Nothing is removed from the maps before the feed's first end mark.

mod said;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use ipnet::IpNet;
use tokio::sync::{oneshot, watch};

use hivemind_core::{
    model::{InstanceId, NodeDesired, NodeName},
    spec::v1::Action,
};
use hivemind_dataplane::{
    Captures, Counter, Dataplane, DataplaneError, DataplaneInfo, Measuring, ProgramRuns, Watch,
    drift::Difference,
    follow::{self, Follower},
    round_trips::RoundTrips,
    tables::{LimitOwner, NodeRow, Part, Tables, Usage},
};
use hivemind_dns::Resolved;
use hivemind_net::HostLink;
use hivemind_policy::{self as policy, Failsafe, KnownNames, PolicyRef, Trial, Trials};

use super::{hosts::HostNames, node::Facts};
pub use said::{DatapathState, HostsReport, Names, RuleHits, Seen, User};

mod handle;

/// How often timed-out connections are removed.
const SWEEP: Duration = Duration::from_secs(5);
/// How soon after an error the maps are written again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Request {
    Attach(InstanceId, HostLink, oneshot::Sender<Result<(), DataplaneError>>),
    Detach(InstanceId, oneshot::Sender<Result<(), DataplaneError>>),
    Desired(Arc<NodeDesired>),
    NodeFacts(Facts),
    Counters(oneshot::Sender<Result<Vec<Counter>, DataplaneError>>),
    RuleHits(oneshot::Sender<Result<Vec<RuleHits>, DataplaneError>>),
    Measure(oneshot::Sender<Result<Measuring, DataplaneError>>),
    Runs(oneshot::Sender<Result<Vec<ProgramRuns>, DataplaneError>>),
    RoundTrips(oneshot::Sender<Result<Vec<RoundTrips>, DataplaneError>>),
    Uses(oneshot::Sender<Result<Vec<(User, Usage)>, DataplaneError>>),
    Seen(oneshot::Sender<Result<Seen, DataplaneError>>),
    Names(oneshot::Sender<Names>),
    Trials(oneshot::Sender<Result<BTreeMap<PolicyRef, Trial>, DataplaneError>>),
    Check(oneshot::Sender<Result<Vec<Difference>, DataplaneError>>),
    Held(&'static [Part], oneshot::Sender<Result<Tables, DataplaneError>>),
    Info(oneshot::Sender<DataplaneInfo>),
    Links(oneshot::Sender<BTreeMap<InstanceId, HostLink>>),
    Resolved(Resolved),
    KnownNames(oneshot::Sender<Arc<KnownNames>>),
    Stop,
}

/// The way to the owner. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Datapath {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<DatapathState>,
    watch: Watch,
    captures: Captures,
    named: watch::Receiver<Option<BTreeSet<String>>>,
    named_of_host: watch::Receiver<BTreeSet<String>>,
}

/// The owner's thread. Dropping it without [`DatapathThread::stop`] leaves the thread running until the process ends,
/// which harms nothing: the data plane is pinned.
#[derive(Debug)]
pub struct DatapathThread {
    requests: mpsc::Sender<Request>,
    thread: JoinHandle<()>,
}

impl DatapathThread {
    /// Lets the owner finish what it does and waits for it. Nothing is detached.
    pub fn stop(self) {
        let _ = self.requests.send(Request::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the data plane's thread has panicked");
        }
    }
}

/// What is in place when the daemon starts. Without it the first write would close what the last daemon left open.
#[derive(Clone, Debug, Default)]
pub struct InPlace {
    /// The links that stand and have their programs.
    pub links: BTreeMap<InstanceId, HostLink>,
    /// The node's own addresses and their networks.
    pub addresses: Vec<IpNet>,
    /// How the addresses of other nodes are reached.
    pub ways: BTreeMap<IpAddr, NodeRow>,
    /// What names of hosts stood for.
    pub hosts: HostNames,
}

/// Starts the owner. `failsafe` are the ports of the host that no policy closes.
pub fn start(
    dataplane: Box<dyn Dataplane>,
    node: NodeName,
    in_place: InPlace,
    failsafe: Failsafe,
) -> std::io::Result<(Datapath, DatapathThread)> {
    let (requests, inbox) = mpsc::channel();
    let (listeners, captures) = (dataplane.watch(), dataplane.captures());
    let (state_tx, state) = watch::channel(DatapathState::default());
    let (named_tx, named) = watch::channel(None);
    let (of_host_tx, named_of_host) = watch::channel(BTreeSet::new());
    let owner = Owner {
        dataplane,
        node,
        links: in_place.links,
        desired: Arc::default(),
        policies: policy::Cache::new(failsafe),
        trials: Trials::default(),
        knows_numbers: false,
        rows: Follower::default(),
        addresses: in_place.addresses,
        ways: in_place.ways,
        queues: BTreeMap::new(),
        paced: false,
        hosts: in_place.hosts,
        early: Vec::new(),
        named: named_tx,
        named_of_host: of_host_tx,
        state: state_tx,
        dirty: false,
    };
    let thread = std::thread::Builder::new().name("datapath".into()).spawn(move || owner.run(&inbox))?;
    let datapath = Datapath { requests: requests.clone(), state, watch: listeners, captures, named, named_of_host };
    Ok((datapath, DatapathThread { requests, thread }))
}

struct Owner {
    dataplane: Box<dyn Dataplane>,
    node: NodeName,
    links: BTreeMap<InstanceId, HostLink>,
    desired: Arc<NodeDesired>,
    policies: policy::Cache,
    /// What policies on trial would have denied.
    trials: Trials,
    /// Whether the numbers of the last daemon were taken over.
    knows_numbers: bool,
    rows: Follower,
    addresses: Vec<IpNet>,
    ways: BTreeMap<IpAddr, NodeRow>,
    /// The queues of the uplinks.
    queues: BTreeMap<String, String>,
    /// Whether all of them keep packets until their time of departure.
    paced: bool,
    hosts: HostNames,
    /// What was told before the first policies were known.
    early: Vec<Resolved>,
    /// The names of hosts that policies have; none before the first are known.
    named: watch::Sender<Option<BTreeSet<String>>>,
    /// Those that policies of the host have.
    named_of_host: watch::Sender<BTreeSet<String>>,
    state: watch::Sender<DatapathState>,
    /// The maps may not be what they should be.
    dirty: bool,
}

impl Owner {
    fn run(mut self, inbox: &mpsc::Receiver<Request>) {
        let mut next_sweep = tokio::time::Instant::now() + SWEEP;
        loop {
            let until_sweep = next_sweep.saturating_duration_since(tokio::time::Instant::now());
            let wait = if self.dirty { until_sweep.min(RETRY) } else { until_sweep };
            let mut waiting = Vec::new();
            let mut told = Vec::new();
            match inbox.recv_timeout(wait) {
                Ok(first) => {
                    // What has piled up is taken in one go, and the maps are written once for all of it.
                    for request in std::iter::once(first).chain(inbox.try_iter()) {
                        if self.handle(request, &mut waiting, &mut told).is_break() {
                            return;
                        }
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.learn(&mut told);
            let written = if self.dirty { self.write() } else { Ok(()) };
            for Answer { reply, result, needs_rows } in waiting {
                // Without its row an instance is denied everything: it is not attached before the row is there.
                let rows = if needs_rows { written.clone() } else { Ok(()) };
                let _ = reply.send(result.and(rows));
            }
            self.opened(told);
            if tokio::time::Instant::now() >= next_sweep {
                self.sweep();
                next_sweep = tokio::time::Instant::now() + SWEEP;
            }
        }
    }

    fn handle(
        &mut self,
        request: Request,
        waiting: &mut Vec<Answer>,
        told: &mut Vec<Resolved>,
    ) -> std::ops::ControlFlow<()> {
        match request {
            Request::Attach(id, link, reply) => {
                let result = self.dataplane.attach(&id, &link);
                if result.is_ok() {
                    self.links.insert(id, link);
                    self.dirty = true;
                }
                waiting.push(Answer { reply, result, needs_rows: true });
            }
            Request::Detach(id, reply) => {
                // The device is kept closed by its missing row even if the detaching fails.
                self.links.remove(&id);
                self.dirty = true;
                waiting.push(Answer { reply, result: self.dataplane.detach(&id), needs_rows: false });
            }
            Request::Desired(desired) => {
                self.desired = desired;
                self.dirty = true;
            }
            Request::NodeFacts(facts) => {
                self.paced = facts.paced();
                let Facts { uplinks, queues, addresses, ways } = facts;
                if let Err(error) = self.dataplane.attach_uplinks(&uplinks) {
                    tracing::error!(%error, ?uplinks, "published ports and policies of the host do not work at some uplinks");
                }
                (self.addresses, self.queues) = (addresses, queues);
                // Of those that it says nothing of, the ways that the last daemon knew are as good.
                self.ways.extend(ways);
                self.dirty = true;
            }
            Request::Counters(reply) => {
                let _ = reply.send(self.dataplane.counters());
            }
            Request::RuleHits(reply) => {
                let policies = self.compile();
                let denying = policies.rules.values().filter(|row| matches!(row.action, Action::Deny | Action::Reject));
                let denying: BTreeSet<u32> = denying.map(|row| row.number).collect();
                let named = |(rule, packets): (u32, u64)| {
                    let name = policies.names.get(&rule)?.clone();
                    Some(RuleHits { name, denies: denying.contains(&rule), packets })
                };
                let hits = self.dataplane.rule_hits();
                let _ = reply.send(hits.map(|hits| hits.into_iter().filter_map(named).collect()));
            }
            Request::Measure(reply) => {
                let _ = reply.send(self.dataplane.measure());
            }
            Request::Runs(reply) => {
                let _ = reply.send(self.dataplane.runs());
            }
            Request::RoundTrips(reply) => {
                let _ = reply.send(self.dataplane.round_trips());
            }
            Request::Uses(reply) => {
                let uses = self.dataplane.uses().map(|uses| self.named_uses(uses));
                let _ = reply.send(uses);
            }
            Request::Seen(reply) => {
                let flows = self.dataplane.flows();
                let seen = flows.and_then(|flows| Ok(Seen { flows, drops: self.dataplane.drops()? }));
                let _ = reply.send(seen);
            }
            Request::Names(reply) => {
                let policies = self.compile();
                let devices = self.links.iter().map(|(id, link)| (link.ifindex, id.clone())).collect();
                let _ = reply.send(Names {
                    policies,
                    retired: Arc::clone(self.policies.retired().names()),
                    trials: Arc::clone(self.trials.places()),
                    devices,
                    addresses: self.addresses.iter().map(IpNet::addr).collect(),
                });
            }
            Request::Trials(reply) => {
                let _ = reply.send(self.counted_trials());
            }
            Request::Check(reply) => {
                let _ = reply.send(self.dataplane.check());
            }
            Request::Held(parts, reply) => {
                let _ = reply.send(self.dataplane.held(parts));
            }
            Request::Info(reply) => {
                let mut info = self.dataplane.info();
                for uplink in &mut info.uplinks {
                    uplink.queue = self.queues.get(&uplink.device).cloned().unwrap_or_default();
                }
                let _ = reply.send(info);
            }
            Request::Links(reply) => {
                let _ = reply.send(self.links.clone());
            }
            Request::Resolved(resolved) => told.push(resolved),
            Request::KnownNames(reply) => {
                let _ = reply.send(Arc::clone(self.hosts.known()));
            }
            Request::Stop => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Uses with the names of those whose they are.
    fn named_uses(&mut self, uses: BTreeMap<LimitOwner, Usage>) -> Vec<(User, Usage)> {
        let policies = self.compile();
        let mut users = BTreeMap::new();
        for (id, link) in &self.links {
            users.insert(LimitOwner::Instance(link.ifindex), User::Instance(id.clone()));
        }
        for (id, instance) in &self.desired.instances {
            let number = policies.peers.get(id).map_or(0, |peer| peer.tenant);
            users.insert(LimitOwner::Tenant(number), User::Tenant(instance.app.scope.tenant.clone()));
        }
        uses.into_iter().filter_map(|(owner, usage)| Some((users.get(&owner)?.clone(), usage))).collect()
    }

    /// Makes the maps what they should be. An error is remembered and tried again, and is here for those who wait.
    fn write(&mut self) -> Result<(), DataplaneError> {
        if self.desired.revision == 0 {
            // What was not named yet may still come: the maps keep what the last daemon wrote.
            return Ok(());
        }
        let policies = self.compile();
        self.say_names(&policies);
        self.try_policies(&policies);
        let result = self.dataplane.sync(self.rows.follow(follow::Facts {
            desired: &self.desired,
            policies: &policies,
            policies_version: self.policies.version(),
            node: &self.node,
            links: &self.links,
            node_addresses: &self.addresses,
            ways: &self.ways,
            paced: self.paced,
        }));
        self.dirty = result.is_err();
        let revision = self.desired.revision;
        self.state.send_modify(|state| match &result {
            Ok(report) => {
                state.revision = revision;
                state.fault = None;
                state.repairs.rows += report.repaired;
            }
            Err(error) => {
                tracing::error!(%error, revision, "the data plane's maps are not complete; trying again");
                state.fault = Some(error.to_string());
            }
        });
        result.map(drop)
    }

    fn sweep(&mut self) {
        match self.dataplane.sweep() {
            Ok(report) => self.state.send_modify(|state| {
                state.sweep = report;
                state.repairs += report.repairs;
            }),
            Err(error) => tracing::error!(%error, "the data plane could not be swept and mended"),
        }
        if let Err(error) = self.sweep_past() {
            tracing::warn!(%error, "what policies on trial would have denied is not counted");
        }
        self.close_hosts();
    }
}

/// An answer that waits until the maps are written.
struct Answer {
    reply: oneshot::Sender<Result<(), DataplaneError>>,
    result: Result<(), DataplaneError>,
    /// Whether it is no success if the maps could not be written.
    needs_rows: bool,
}

mod hosts;
mod numbers;
mod past;
#[cfg(test)]
mod tests;
