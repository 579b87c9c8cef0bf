//! An agent, what it drives, and the lives of its daemon.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::upstream::FakeUpstream;
use crate::{
    Agent,
    datapath::{self, InPlace},
    worker::LABEL_APP,
};
use hivemind_core::{
    model::{Addresses, AppKey, Desired, Instance, InstanceId, NodeDesired, NodeName, Phase, Scope, Timestamp},
    spec::v1::AppSpec,
};
use hivemind_fakes::{
    dataplane::FakeDataplane,
    journal::Journal,
    net::FakeNet,
    runtime::{Call, FakeRuntime, Fault, FaultyRuntime},
};
use hivemind_observe::{Events, Metrics};
use hivemind_policy::Failsafe;
use hivemind_runtime::{RunState, Runtime};
use hivemind_storage::Storage;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Paused time runs ahead while the data plane's thread works, in the steps of [`World::poll`].
const PAUSED_PATIENCE: Duration = Duration::from_secs(3 * 3600);

/// See the module.
pub(super) struct World {
    pub(super) runtime: FakeRuntime,
    pub(super) net: FakeNet,
    pub(super) dataplane: FakeDataplane,
    pub(super) upstream: FakeUpstream,
    pub(super) events: Events,
    pub(super) metrics: Metrics,
    /// Of this life.
    pub(super) journal: Journal,
    /// The next call of that name to the runtime panics.
    pub(super) panics: Arc<Mutex<Option<&'static str>>>,
    folder: tempfile::TempDir,
    agent: Option<JoinHandle<()>>,
    patience: Duration,
}

impl Drop for World {
    fn drop(&mut self) {
        self.dataplane.go_on();
        if let Some(agent) = &self.agent {
            agent.abort();
        }
    }
}

fn here() -> NodeName {
    "here".parse().expect("a name")
}

/// Instance number `n`, of an image without ports, to be run.
pub(super) fn instance(n: u8) -> Instance {
    Instance {
        id: InstanceId::from_bits(n.into()),
        app: AppKey::new(Scope::default(), "web".parse().expect("a name")),
        generation: 1,
        spec: AppSpec::new("x"),
        node: here(),
        addresses: Addresses { v4: Some([10, 88, 0, n].into()), v6: None },
        desired: Desired::Run,
        contents: hivemind_core::model::ContentVersions::default(),
        created_at: Timestamp::from_millis(0),
    }
}

impl World {
    pub(super) fn new() -> Self {
        let journal = Journal::default();
        Self {
            runtime: FakeRuntime::default(),
            net: FakeNet::new(journal.clone()),
            dataplane: FakeDataplane::new(journal.clone()),
            upstream: FakeUpstream::default(),
            events: Events::default(),
            metrics: Metrics::default(),
            journal,
            panics: Arc::default(),
            folder: tempfile::tempdir().expect("a folder"),
            agent: None,
            patience: PATIENCE,
        }
    }

    /// For a test with paused time.
    pub(super) fn paused() -> Self {
        let mut world = Self::new();
        world.patience = PAUSED_PATIENCE;
        world
    }

    /// Starts the agent.
    pub(super) fn begin(&mut self) {
        self.begin_for(usize::MAX);
    }

    /// Starts an agent, the first or the next, whose life is over before its call after so many.
    pub(super) fn begin_for(&mut self, calls: usize) {
        self.journal = self.journal.next_life(calls);
        let (faults, panics) = (self.journal.clone(), Arc::clone(&self.panics));
        let fault = move |what| {
            let panics = panics.lock().expect("not poisoned").take_if(|at| *at == what).is_some();
            assert!(!panics, "a fault of the test");
            faults.pass(what, Vec::new())
        };
        let net = self.net.in_life(self.journal.clone());
        let dataplane = self.dataplane.in_life(self.journal.clone());
        // As the daemon does: what stands and has its programs is in place.
        let attached = self.dataplane.pinned().attached;
        let links = self.net.links().into_iter().filter(|(id, _)| attached.contains(id));
        let links = links.map(|(id, link)| (id, link.host)).collect();
        let in_place = InPlace { links, ..InPlace::default() };
        let (datapath, thread) =
            datapath::start(Box::new(dataplane), here(), in_place, Failsafe::default()).expect("a thread");
        let agent = Agent {
            upstream: Arc::new(self.upstream.clone()),
            runtime: Arc::new(FaultyRuntime::new(self.runtime.clone(), fault)),
            net: Arc::new(net),
            datapath,
            events: self.events.clone(),
            storage: Storage::new(&self.folder.path().join("state"), &self.folder.path().join("run")),
            node: here(),
            metrics: self.metrics.clone(),
            gateway: Addresses { v4: Some([10, 88, 0, 1].into()), v6: None },
            ranges: vec!["10.88.0.0/16".parse().expect("a range")],
            parallel: 4,
        };
        self.agent = Some(tokio::spawn(async move {
            let _stops = Stops(Some(thread));
            agent.run(watch::channel(Arc::new(NodeDesired::default())).0).await;
        }));
    }

    /// Drops the agent where it is.
    pub(super) async fn end(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
            let _ = agent.await;
        }
    }

    /// Wants instance number `n`.
    pub(super) fn wants(&self, n: u8) -> InstanceId {
        let instance = instance(n);
        let id = instance.id.clone();
        self.upstream.want(instance);
        id
    }

    /// A container and a link from before this world began.
    pub(super) async fn runs_already(&self, id: &InstanceId) {
        let mut spec = FakeRuntime::container(id);
        spec.labels.insert(LABEL_APP.into(), "default/default/web".into());
        self.runtime.create(&spec).await.expect("made");
        self.runtime.start(&id.into()).await.expect("started");
        self.net.add_link(id);
    }

    /// Waits for a phase.
    pub(super) async fn until(&self, id: &InstanceId, phase: Phase) {
        let said = self.upstream.said();
        let is = || said.borrow().get(id).is_some_and(|status| status.phase == phase);
        self.poll(&format!("{phase}"), is).await;
    }

    /// Waits until the agent has asked for another feed.
    pub(super) async fn until_open(&self) {
        self.poll("another feed", || self.upstream.is_open()).await;
    }

    /// Waits until sockets were closed in so many namespaces at once.
    pub(super) async fn until_closed_at_once(&self, count: usize) {
        self.poll("closing at once", || self.net.closed_at_once() >= count).await;
    }

    /// Waits for a link that is up.
    pub(super) async fn until_link(&self, id: &InstanceId) {
        self.poll("a link", || self.net.links().get(id).is_some_and(|link| link.up)).await;
    }

    /// Waits until the process has been started again so many times.
    pub(super) async fn until_restarts(&self, id: &InstanceId, times: u32) {
        let said = self.upstream.said();
        let is = || said.borrow().get(id).is_some_and(|status| status.restarts == times);
        self.poll(&format!("started again {times} times"), is).await;
    }

    /// Waits for a call to the runtime.
    pub(super) async fn until_call(&self, call: &Call) {
        self.poll(&format!("{call:?}"), || self.runtime.calls().contains(call)).await;
    }

    /// Waits for a call to a seam, and returns when it was seen.
    pub(super) async fn until_asked(&self, what: &str) -> Instant {
        self.poll(what, || self.journal.entries().iter().any(|entry| entry.what == what)).await;
        Instant::now()
    }

    /// What took effect of the steps towards running, each once, in order.
    pub(super) fn steps(&self) -> Vec<&'static str> {
        let of_interest = ["ensure_image", "net.ensure_link", "dataplane.attach", "net.bring_up", "create", "start"];
        let mut steps: Vec<_> = self.journal.entries().iter().map(|entry| entry.what).collect();
        steps.retain(|what| of_interest.contains(what));
        steps
    }

    /// Checks every call there was: a link goes up only with programs and row, a process starts only on one that is up.
    /// For one instance.
    pub(super) fn in_order(&self) {
        let (mut attached, mut rows, mut up) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for entry in self.journal.entries().iter().filter(|entry| entry.fault != Fault::Before) {
            match entry.what {
                "dataplane.attach" => attached.extend(&entry.links),
                "dataplane.detach" => attached.clear(),
                "dataplane.sync" => rows = entry.links.iter().copied().collect(),
                "net.bring_up" => {
                    let link: BTreeSet<u32> = entry.links.iter().copied().collect();
                    assert!(link.is_subset(&attached) && link.is_subset(&rows), "{:#?}", self.journal.entries());
                    up = link;
                }
                "net.remove_link" => up.clear(),
                "start" => assert!(!up.is_empty(), "{:#?}", self.journal.entries()),
                _ => {}
            }
        }
    }

    /// Checks that all of an instance is there, and its process runs. Its row may still come.
    pub(super) async fn all_there(&self, id: &InstanceId) {
        let state = self.runtime.state(&id.into()).await.expect("an answer").expect("a container");
        assert!(matches!(state.run, RunState::Running { .. }), "{state:?}");
        let (links, pinned) = (self.net.links(), self.dataplane.pinned());
        let link = links.get(id).expect("a link");
        assert!(link.up && pinned.attached.contains(id), "{link:?}, {pinned:?}");
        self.poll("its row", || self.dataplane.pinned().tables.endpoints.contains_key(&link.host.ifindex)).await;
    }

    /// Looks until it is so.
    pub(super) async fn poll(&self, what: &str, is: impl Fn() -> bool) {
        let looks = async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let entries = || self.journal.entries();
        assert!(timeout(self.patience, looks).await.is_ok(), "never {what}: {:#?}", entries());
    }

    fn leftovers(&self, id: &InstanceId) -> Vec<&'static str> {
        let pinned = self.dataplane.pinned();
        let there = [
            ("a row", self.upstream.has(id)),
            ("a container", self.runtime.containers().iter().any(|container| container.instance() == id)),
            ("a link", self.net.links().contains_key(id)),
            ("programs", pinned.attached.contains(id)),
        ];
        there.into_iter().filter_map(|(what, there)| there.then_some(what)).collect()
    }

    pub(super) fn nothing_left(&self, id: &InstanceId) {
        assert_eq!(self.leftovers(id), Vec::<&str>::new());
    }

    pub(super) async fn until_nothing_left(&self, id: &InstanceId) {
        self.poll(&format!("rid of {id}"), || self.leftovers(id).is_empty()).await;
    }
}

/// Stops the thread of a data plane when its agent is dropped.
struct Stops(Option<datapath::DatapathThread>);

impl Drop for Stops {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            thread.stop();
        }
    }
}
