//! The owner of the data plane: one thread that has the [`Dataplane`], knows the links, and keeps the maps equal to
//! what the feed says.
//!
//! Everyone else asks through [`Datapath`]. Nothing is removed from the maps before the feed's first end mark.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use crate::{
    dataplane::{
        Captures, Counter, Dataplane, DataplaneError, DataplaneInfo, Measuring, ProgramRuns, SweepReport, Watch,
        drift::{Difference, Repairs},
        flows::{DropRecord, FlowRecord},
        round_trips::RoundTrips,
        tables::{self, Tables},
    },
    dns::Resolved,
    model::{InstanceId, NodeDesired, NodeName, Revision},
    net::HostLink,
    policy::{self, Compiled, KnownNames, RuleName},
    spec::v1::Action,
};

use super::hosts::HostNames;

mod handle;

/// How often timed-out connections are removed.
const SWEEP: Duration = Duration::from_secs(5);
/// How soon after an error the maps are written again.
const RETRY: Duration = Duration::from_secs(1);

/// How the maps stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatapathState {
    /// The revision the maps show.
    pub revision: Revision,
    /// Why the last write failed; it is repeated.
    pub fault: Option<String>,
    /// What was found changed by someone else and put right, since the start.
    pub repairs: Repairs,
    /// The last sweep.
    pub sweep: SweepReport,
    /// What names of hosts in policies stand for.
    pub hosts: HostsReport,
}

/// How it stands with names of hosts in policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostsReport {
    /// Addresses of names, now.
    pub addresses: usize,
    /// Addresses for which there was no place, since the start.
    pub refused: u64,
    /// Answers that went out before their addresses were open, since the start.
    pub late: u64,
}

#[derive(Debug)]
enum Request {
    Attach(InstanceId, HostLink, oneshot::Sender<Result<(), DataplaneError>>),
    Detach(InstanceId, oneshot::Sender<Result<(), DataplaneError>>),
    Desired(Arc<NodeDesired>),
    NodeFacts { uplinks: Vec<String>, addresses: Vec<IpAddr> },
    Counters(oneshot::Sender<Result<Vec<Counter>, DataplaneError>>),
    RuleHits(oneshot::Sender<Result<Vec<RuleHits>, DataplaneError>>),
    Measure(oneshot::Sender<Result<Measuring, DataplaneError>>),
    Runs(oneshot::Sender<Result<Vec<ProgramRuns>, DataplaneError>>),
    RoundTrips(oneshot::Sender<Result<Vec<RoundTrips>, DataplaneError>>),
    Seen(oneshot::Sender<Result<Seen, DataplaneError>>),
    Names(oneshot::Sender<Names>),
    Check(oneshot::Sender<Result<Vec<Difference>, DataplaneError>>),
    Held(oneshot::Sender<Result<Tables, DataplaneError>>),
    Info(oneshot::Sender<DataplaneInfo>),
    Links(oneshot::Sender<BTreeMap<InstanceId, HostLink>>),
    Resolved(Resolved),
    KnownNames(oneshot::Sender<Arc<KnownNames>>),
    Stop,
}

/// How many packets a rule of policies has decided about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleHits {
    /// The rule.
    pub name: RuleName,
    /// Whether it denies them.
    pub denies: bool,
    /// Packets; of what it allows without answers.
    pub packets: u64,
}

/// What the programs have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The flows that are in the table.
    pub flows: Vec<FlowRecord>,
    /// The latest drops.
    pub drops: Vec<DropRecord>,
}

/// What numbers and addresses of the data plane stand for.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// What policies were compiled to, with the names of rules.
    pub policies: Arc<policy::Compiled>,
    /// The instances, by the interface index of their host device.
    pub devices: BTreeMap<u32, InstanceId>,
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
}

/// The way to the owner. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Datapath {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<DatapathState>,
    watch: Watch,
    captures: Captures,
    named: watch::Receiver<Option<BTreeSet<String>>>,
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
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// What names of hosts stood for.
    pub hosts: HostNames,
}

/// Starts the owner.
pub fn start(
    dataplane: Box<dyn Dataplane>,
    node: NodeName,
    in_place: InPlace,
) -> std::io::Result<(Datapath, DatapathThread)> {
    let (requests, inbox) = mpsc::channel();
    let (listeners, captures) = (dataplane.watch(), dataplane.captures());
    let (state_tx, state) = watch::channel(DatapathState::default());
    let (named_tx, named) = watch::channel(None);
    let owner = Owner {
        dataplane,
        node,
        links: in_place.links,
        desired: Arc::default(),
        policies: policy::Cache::default(),
        addresses: in_place.addresses,
        hosts: in_place.hosts,
        early: Vec::new(),
        named: named_tx,
        state: state_tx,
        dirty: false,
    };
    let thread = std::thread::Builder::new().name("datapath".into()).spawn(move || owner.run(&inbox))?;
    let datapath = Datapath { requests: requests.clone(), state, watch: listeners, captures, named };
    Ok((datapath, DatapathThread { requests, thread }))
}

fn not_written(why: &str) -> DataplaneError {
    DataplaneError::Map { action: "write", map: "(all)", why: why.to_owned() }
}

/// The owner has ended: the daemon is stopping.
fn stopped() -> DataplaneError {
    DataplaneError::Map { action: "reach", map: "(all)", why: "the daemon is stopping".into() }
}

struct Owner {
    dataplane: Box<dyn Dataplane>,
    node: NodeName,
    links: BTreeMap<InstanceId, HostLink>,
    desired: Arc<NodeDesired>,
    policies: policy::Cache,
    addresses: Vec<IpAddr>,
    hosts: HostNames,
    /// What was told before the first policies were known.
    early: Vec<Resolved>,
    /// The names of hosts that policies have; none before the first are known.
    named: watch::Sender<Option<BTreeSet<String>>>,
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
                let _ = reply.send(result.and_then(|()| rows.map_err(|why| not_written(&why))));
            }
            self.opened(told);
            if tokio::time::Instant::now() >= next_sweep {
                self.sweep();
                next_sweep = tokio::time::Instant::now() + SWEEP;
            }
        }
    }

    fn compile(&mut self) -> Arc<Compiled> {
        self.policies.compile(&self.desired, &self.node, self.hosts.known())
    }

    /// Takes in what instances are about to be told. Before the first policies are known it waits, and nobody is told.
    fn learn(&mut self, told: &mut Vec<Resolved>) {
        if self.desired.revision == 0 {
            self.early.append(told);
            return;
        }
        told.append(&mut self.early);
        if !told.is_empty() {
            let policies = self.compile();
            for resolved in &*told {
                self.dirty |= self.hosts.learn(resolved, &self.desired, &policies);
            }
        }
    }

    /// Lets answers go out. Also after a write that failed: it is repeated, and no answer helps nobody.
    fn opened(&mut self, told: Vec<Resolved>) {
        if told.is_empty() {
            return;
        }
        let open = !self.dirty;
        let sent = told.into_iter().map(|resolved| resolved.opened.send(()));
        let late = sent.filter(|sent| !open || sent.is_err()).count();
        self.say_hosts(u64::try_from(late).unwrap_or(u64::MAX));
    }

    fn say_hosts(&self, late: u64) {
        let (addresses, refused) = (self.hosts.hosts().len(), self.hosts.hosts().refused());
        self.state.send_if_modified(|state| {
            let now = HostsReport { addresses, refused, late: state.hosts.late + late };
            std::mem::replace(&mut state.hosts, now) != now
        });
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
            Request::NodeFacts { uplinks, addresses } => {
                if let Err(error) = self.dataplane.attach_uplinks(&uplinks) {
                    tracing::error!(%error, ?uplinks, "published ports are not reachable through some uplinks");
                }
                self.addresses = addresses;
                self.dirty = true;
            }
            Request::Counters(reply) => {
                let _ = reply.send(self.dataplane.counters());
            }
            Request::RuleHits(reply) => {
                let policies = self.compile();
                let denying = policies.rules.values().filter(|row| row.action == Action::Deny);
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
            Request::Seen(reply) => {
                let flows = self.dataplane.flows();
                let seen = flows.and_then(|flows| Ok(Seen { flows, drops: self.dataplane.drops()? }));
                let _ = reply.send(seen);
            }
            Request::Names(reply) => {
                let policies = self.compile();
                let devices = self.links.iter().map(|(id, link)| (link.ifindex, id.clone())).collect();
                let _ = reply.send(Names { policies, devices, addresses: self.addresses.clone() });
            }
            Request::Check(reply) => {
                let _ = reply.send(self.dataplane.check());
            }
            Request::Held(reply) => {
                let _ = reply.send(self.dataplane.held());
            }
            Request::Info(reply) => {
                let _ = reply.send(self.dataplane.info());
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

    /// Makes the maps what they should be. An error is remembered and tried again, and is here for those who wait.
    fn write(&mut self) -> Result<(), String> {
        if self.desired.revision == 0 {
            // What was not named yet may still come: the maps keep what the last daemon wrote.
            return Ok(());
        }
        let policies = self.compile();
        let named = Some(policies.hosts.values().flatten().cloned().collect());
        self.named.send_if_modified(|before| std::mem::replace(before, named.clone()) != named);
        let tables: Tables = tables::compute(&self.desired, &policies, &self.node, &self.links, &self.addresses);
        let result = self.dataplane.sync(&tables);
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
        result.map(drop).map_err(|error| error.to_string())
    }

    fn sweep(&mut self) {
        match self.dataplane.sweep() {
            Ok(report) => self.state.send_modify(|state| {
                state.sweep = report;
                state.repairs += report.repairs;
            }),
            Err(error) => tracing::error!(%error, "the data plane could not be swept and mended"),
        }
        self.close_hosts();
    }
}

impl Owner {
    /// Closes addresses of names whose time is over, unless flows to them live.
    fn close_hosts(&mut self) {
        if self.desired.revision == 0 || self.hosts.hosts().is_empty() {
            return;
        }
        let over = self.hosts.over();
        let in_use = if over.is_empty() { Ok(BTreeSet::new()) } else { self.dataplane.in_use(&over) };
        // What is not known to be unused is kept.
        let in_use = in_use.unwrap_or_else(|error| {
            tracing::error!(%error, "addresses of names stay open: it is not known which of them are in use");
            over
        });
        let policies = self.compile();
        self.dirty |= self.hosts.forget(&in_use, &policies);
        self.say_hosts(0);
    }
}

/// An answer that waits until the maps are written.
struct Answer {
    reply: oneshot::Sender<Result<(), DataplaneError>>,
    result: Result<(), DataplaneError>,
    /// Whether it is no success if the maps could not be written.
    needs_rows: bool,
}

#[cfg(test)]
mod tests;
