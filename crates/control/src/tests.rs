//! The loop on a real store: what is answered, what is told, what is left when it ends at any moment.

mod balance;
mod once;
mod project;
mod rows;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::*;
use hivemind_core::model::{InstanceId, InstanceStatus, NodeDesired, Phase, Scope, Timestamp};
use hivemind_observe::Events;
use hivemind_schedule::ServiceRanges;
use hivemind_store::{Lease, LeaseId, Range, RedbStore, Store, StoreError, Txn, TxnOutcome, Watcher};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A real store that can be told to fail.
#[derive(Debug)]
struct Faulty {
    inner: RedbStore,
    /// Transactions that are still taken; then the store is closed, as when the process ends.
    left: AtomicU64,
    /// While set, the disk is full.
    full: AtomicBool,
}

impl Faulty {
    async fn open(path: &Path, left: u64) -> Arc<Self> {
        let inner = RedbStore::open(path.join("store.redb")).await.expect("a store");
        Arc::new(Self { inner, left: left.into(), full: false.into() })
    }
}

#[async_trait::async_trait]
impl Store for Faulty {
    async fn get(&self, key: &str) -> Result<(Option<hivemind_store::Entry>, Revision), StoreError> {
        self.inner.get(key).await
    }
    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        self.inner.range(prefix).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::DiskFull { path: "store.redb".into() });
        }
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        taken.map_err(|_| StoreError::Closed)?;
        self.inner.txn(txn).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watcher, StoreError> {
        self.inner.watch(prefix, after).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner.lease_grant(ttl).await
    }
    async fn lease_renew(&self, id: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_renew(id).await
    }
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(id).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
    async fn snapshot(&self, path: &Path) -> Result<Revision, StoreError> {
        self.inner.snapshot(path).await
    }
}

/// A control loop that runs.
struct Running {
    store: Arc<Faulty>,
    control: Control,
    events: Events,
    task: JoinHandle<Result<(), StoreError>>,
}

impl Running {
    async fn start(path: &Path, left: u64) -> Self {
        let store = Faulty::open(path, left).await;
        let events = Events::default();
        let services = ServiceRanges { v4: "10.96.0.0/16".parse().ok(), v6: "fd00:2::/112".parse().ok() };
        let asked: Arc<dyn Store> = Arc::clone(&store) as _;
        let loaded = load(asked).await.expect("readable rows");
        let (control, run) = start(loaded, ControlConfig { services }, events.clone()).await.expect("a loop");
        Self { store, control, events, task: tokio::spawn(run) }
    }

    /// The same on a new store, with one node of 4 CPUs.
    async fn with_node(path: &Path) -> Self {
        let running = Self::start(path, u64::MAX).await;
        register(&running.control).await.expect("registered");
        running
    }

    /// Ends the loop as the end of the process would, and frees the store's file.
    async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn register(control: &Control) -> Result<(), ControlError> {
    let node = Node {
        name: "node-1".parse().expect("a name"),
        instances_v4: "10.88.0.0/24".parse().ok(),
        instances_v6: "fd00:1::/64".parse().ok(),
        created_at: Timestamp::from_millis(0),
    };
    let status = NodeStatus { ready: true, cpu_milli: 4000, memory_bytes: 8 << 30, ..NodeStatus::default() };
    control.register_node(node, status).await
}

fn key(name: &str) -> AppKey {
    AppKey::new(Scope::default(), name.parse().expect("a name"))
}

fn spec(replicas: u32) -> AppSpec {
    AppSpec { replicas, services: vec!["web.local".into()], ..AppSpec::new("web") }
}

fn ids(control: &Control, app: &AppKey) -> Vec<InstanceId> {
    control.snapshot().instances_of(app).map(|instance| instance.id.clone()).collect()
}

fn report(app: &AppKey, id: &InstanceId, phase: Phase) -> StatusReport {
    StatusReport { id: id.clone(), app: app.clone(), status: InstanceStatus { phase, ..InstanceStatus::default() } }
}

/// Plays the agent: what is to run is Ready, what is to stop is gone, until nothing changes any more.
async fn agent(control: &Control) -> Result<(), ControlError> {
    loop {
        let snapshot = control.snapshot();
        let reports: Vec<_> = snapshot
            .instances
            .values()
            .map(|row| {
                let run = row.object.desired == hivemind_core::model::Desired::Run;
                report(&row.object.app, &row.object.id, if run { Phase::Ready } else { Phase::Gone })
            })
            .filter(|report| snapshot.phase_of(&report.id) != report.status.phase)
            .collect();
        if reports.is_empty() {
            return Ok(());
        }
        control.report(reports).await?;
    }
}

#[tokio::test]
async fn a_deploy_is_answered_when_everybody_sees_it_and_the_same_again_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    let written = control.deploy(app.clone(), spec(3), None).await.expect("deployed");
    assert!(written.created && written.generation == 1);
    assert_eq!(ids(control, &app).len(), 3, "the snapshot has what was answered");
    let revision = control.snapshot().revision;
    let again = control.deploy(app.clone(), spec(3), None).await.expect("deployed");
    assert!(!again.created && again.revision == written.revision);
    assert_eq!(control.snapshot().revision, revision);

    let scaled = control.scale(&app, 5, Some(again.revision)).await.expect("scaled");
    assert_eq!((scaled.generation, ids(control, &app).len()), (1, 5));
    let stale = control.scale(&app, 1, Some(again.revision)).await;
    assert!(matches!(stale, Err(ControlError::Conflict { .. })), "{stale:?}");
    let absent = control.deploy(key("other"), spec(1), Some(7)).await;
    assert!(matches!(absent, Err(ControlError::Conflict { found: 0, .. })), "{absent:?}");

    // A name more is the service's alone: nothing is started anew for it.
    let before = ids(control, &app);
    let named = AppSpec { services: vec!["web.local".into()], ..spec(5) };
    let renamed = control.deploy(app.clone(), named, None).await.expect("deployed");
    assert_eq!((renamed.generation, ids(control, &app)), (1, before));
    let changed = AppSpec { workdir: Some("/".into()), ..spec(5) };
    let renewed = control.deploy(app.clone(), changed, None).await.expect("deployed");
    assert_eq!(renewed.generation, 2);
    running.stop().await;
}

#[tokio::test]
async fn faults_are_all_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let control = &running.control;
    let revision = control.snapshot().revision;
    let bad = AppSpec { replicas: 1_000_000, services: vec!["not a name".into()], ..AppSpec::new("") };
    let Err(ControlError::Invalid { faults, .. }) = control.deploy(key("web"), bad, None).await else {
        panic!("it was taken");
    };
    assert!(faults.len() >= 3, "{faults:?}");
    for missing in [
        control.scale(&key("nobody"), 1, None).await,
        control.restart(&key("nobody"), None).await,
        control.remove(&key("nobody"), None).await,
    ] {
        assert!(matches!(missing, Err(ControlError::NotFound { .. })), "{missing:?}");
    }
    assert_eq!(control.snapshot().revision, revision);
    running.stop().await;
}

#[tokio::test]
async fn names_and_ports_belong_to_one_app_until_it_is_gone() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let control = &running.control;
    let published = AppSpec { ports: vec!["8080:80".parse().expect("a port")], ..spec(1) };
    control.deploy(key("one"), published, None).await.expect("deployed");
    let name = AppSpec { services: vec!["WEB.local".into()], ..AppSpec::new("web") };
    let port = AppSpec { ports: vec!["8080:81".parse().expect("a port")], ..AppSpec::new("web") };
    let udp = AppSpec { ports: vec!["8080:81/udp".parse().expect("a port")], ..AppSpec::new("web") };
    for taken in [name.clone(), port] {
        let refused = control.deploy(key("two"), taken, None).await;
        assert!(matches!(&refused, Err(ControlError::Taken { by, .. }) if *by == key("one")), "{refused:?}");
    }
    control.deploy(key("two"), udp, None).await.expect("the same number of another protocol is another port");
    control.remove(&key("one"), None).await.expect("removed");
    assert!(control.deploy(key("two"), name.clone(), None).await.is_err(), "it still has instances");
    agent(control).await.expect("reported");
    control.deploy(key("two"), name, None).await.expect("free again");
    // Names of services are as names of apps, and one app may have several.
    let more = |names: &[&str]| {
        let mut spec = spec(1);
        spec.services.clear();
        let port =
            hivemind_core::spec::v1::ServiceSpec { ports: vec!["80".parse().expect("a port")], ..Default::default() };
        spec.more_services = names.iter().map(|name| (name.parse().expect("a name"), port.clone())).collect();
        spec
    };
    control.deploy(key("three"), more(&["a", "b"]), None).await.expect("deployed");
    agent(control).await.expect("reported");
    let services = control.snapshot().services_of(&key("three")).count();
    assert_eq!(services, 3, "its own and two");
    for (app, names) in [("a", &[][..]), ("four", &["two"]), ("four", &["b"]), ("four", &["four"])] {
        control.deploy(key(app), more(names), None).await.expect_err(app);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_removed_app_leaves_nothing_but_the_counter_of_services() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    control.deploy(app.clone(), spec(2), None).await.expect("deployed");
    agent(control).await.expect("reported");
    control.remove(&app, None).await.expect("removed");
    agent(control).await.expect("reported");
    let rows = running.store.range("").await.expect("rows").entries;
    let keys: Vec<_> = rows.iter().map(|entry| &*entry.key).filter(|key| !key.contains("node")).collect();
    assert_eq!(keys, [hivemind_store::keys::CURSOR, hivemind_store::keys::LAST_SERVICE_ID]);

    // A report that comes late writes nothing.
    let revision = control.snapshot().revision;
    control.report(vec![report(&app, &InstanceId::from_bits(1), Phase::Ready)]).await.expect("taken");
    assert_eq!(control.snapshot().revision, revision);
    running.stop().await;
}

#[tokio::test]
async fn what_no_node_takes_is_said_until_it_is_mended() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    let mut large = spec(1);
    large.resources.cpu = "5".parse().ok();
    control.deploy(app.clone(), large, None).await.expect("deployed");
    let unmet = control.snapshot().unmet.get(&app).map(|unmet| unmet.join(" ")).unwrap_or_default();
    assert!(unmet.contains("node-1: 5000m CPU wanted"), "{unmet}");
    control.restart(&app, None).await.expect("restarted");
    let said = running.events.after(0).0.iter().filter(|event| event.reason == "Unschedulable").count();
    assert_eq!(said, 1, "the same is not said twice");
    control.deploy(app.clone(), spec(1), None).await.expect("deployed");
    assert!(control.snapshot().unmet.is_empty());
    assert_eq!(ids(control, &app).len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn an_app_needs_a_namespace_that_exists_but_one_that_is_there_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let control = &running.control;
    let scope = Scope { tenant: "acme".parse().expect("a name"), namespace: "prod".parse().expect("a name") };
    let app = AppKey::new(scope.clone(), "web".parse().expect("a name"));
    let refused = control.deploy(app.clone(), spec(1), None).await;
    assert!(matches!(refused, Err(ControlError::NoScope { tenant: false, .. })), "{refused:?}");
    control.change(ObjectChange::PutTenant(scope.tenant.clone(), None), None).await.expect("created");
    let refused = control.deploy(app.clone(), spec(1), None).await;
    assert!(matches!(refused, Err(ControlError::NoScope { tenant: true, .. })), "{refused:?}");
    let created = control.change(ObjectChange::PutNamespace(scope.clone(), [].into()), None).await.expect("created");
    assert!(created.created && control.snapshot().namespaces[&scope].modified == created.revision);
    control.deploy(app.clone(), spec(1), None).await.expect("deployed");
    let refused = control.change(ObjectChange::RemoveTenant(scope.tenant.clone()), None).await;
    assert!(matches!(refused, Err(ControlError::Occupied { .. })), "{refused:?}");

    // As if the app had been there before namespaces were.
    let gone =
        Txn::new().delete(hivemind_store::keys::namespace(&scope)).delete(hivemind_store::keys::tenant(&scope.tenant));
    running.store.inner.txn(gone).await.expect("written past the loop");
    control.scale(&app, 2, None).await.expect("scaled");
    control.deploy(app.clone(), AppSpec { image: "web:2".into(), ..spec(2) }, None).await.expect("deployed");
    assert!(control.snapshot().namespaces.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn every_node_is_told_of_namespaces_and_policies_and_only_of_changes() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let control = &running.control;
    let scope = Scope { namespace: "prod".parse().expect("a name"), ..Scope::default() };
    let key = hivemind_core::model::PolicyKey::new(scope.clone(), "closed".parse().expect("a name"));
    let put =
        |json: &str| ObjectChange::PutPolicy(key.clone(), Box::new(serde_json::from_str(json).expect("a policy")));
    control.change(ObjectChange::PutNamespace(scope.clone(), [].into()), None).await.expect("created");
    let mut feed = control.feed(&"node-2".parse().expect("a name")).await.expect("a feed");
    let mut desired = NodeDesired::default();
    take(&mut feed, &mut desired).await;
    assert_eq!((desired.namespaces.len(), desired.policies.len()), (1, 0));

    let written = control.change(put("{\"ingress\": []}"), None).await.expect("applied");
    let again = control.change(put("{\"ingress\": []}"), None).await.expect("applied");
    assert!(written.created && !again.changed && again.revision == written.revision);
    let stale = control.change(put("{\"egress\": []}"), Some(written.revision - 1)).await;
    assert!(matches!(stale, Err(ControlError::Conflict { .. })), "{stale:?}");
    let preview = control.preview_change(put("{\"egress\": []}"), None).expect("allowed");
    assert!(preview.0.changed && !preview.0.created && preview.1.len() == 1, "{preview:?}");
    take(&mut feed, &mut desired).await;
    assert_eq!((desired.policies.len(), desired.revision), (1, written.revision));
    assert!(feed.try_recv().is_err(), "what changes nothing is not said");

    let tier: hivemind_core::model::TierKey = "guard".parse().expect("a name");
    let spec = r#"{"tier": "admin", "priority": 1, "egress": [{"action": "deny"}]}"#;
    let spec = Box::new(serde_json::from_str(spec).expect("a policy"));
    control.change(ObjectChange::PutTier(tier.clone(), spec), None).await.expect("applied");
    take(&mut feed, &mut desired).await;
    assert!(desired.tiers.contains_key(&tier));
    control.change(ObjectChange::RemoveTier(tier), None).await.expect("removed");
    control.change(ObjectChange::RemovePolicy(key.clone()), None).await.expect("removed");
    control.change(ObjectChange::RemoveNamespace(scope), None).await.expect("removed");
    while desired.revision < control.snapshot().revision {
        take(&mut feed, &mut desired).await;
    }
    assert_eq!((desired.namespaces.len(), desired.policies.len(), desired.tiers.len()), (0, 0, 0));
    running.stop().await;
}

/// Takes a feed up to its next end mark.
async fn take(feed: &mut mpsc::Receiver<FeedMessage>, desired: &mut NodeDesired) {
    loop {
        let message = timeout(PATIENCE, feed.recv()).await.expect("in time").expect("the feed goes on");
        let end = matches!(message, FeedMessage::SnapshotEnd(_));
        desired.apply(message);
        if end {
            return;
        }
    }
}

#[tokio::test]
async fn a_feed_begins_with_everything_and_tells_every_change() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    control.deploy(app.clone(), spec(2), None).await.expect("deployed");
    agent(control).await.expect("reported");
    let node = "node-1".parse().expect("a name");
    let mut feed = control.feed(&node).await.expect("a feed");
    let mut desired = NodeDesired::default();
    take(&mut feed, &mut desired).await;
    assert_eq!((desired.instances.len(), desired.peers.len(), desired.services.len()), (2, 2, 1));
    assert_eq!(desired.services.values().next().expect("a service").backends.len(), 2);
    assert_eq!(desired.revision, control.snapshot().revision);

    let mut other = control.feed(&"node-2".parse().expect("a name")).await.expect("a feed");
    let mut of_other = NodeDesired::default();
    take(&mut other, &mut of_other).await;
    assert_eq!((of_other.instances.len(), of_other.peers.len()), (0, 2), "others' instances are peers only");

    let first = ids(control, &app)[0].clone();
    control.report(vec![report(&app, &first, Phase::Unhealthy)]).await.expect("reported");
    control.remove(&app, None).await.expect("removed");
    agent(control).await.expect("reported");
    while desired.revision < control.snapshot().revision {
        take(&mut feed, &mut desired).await;
    }
    assert_eq!((desired.instances.len(), desired.peers.len(), desired.services.len()), (0, 0, 0));
    // An agent that is gone costs nothing and stops nobody.
    drop(feed);
    control.deploy(app, spec(1), None).await.expect("deployed");
    running.stop().await;
}

#[tokio::test]
async fn a_full_disk_is_the_askers_to_know_and_plans_are_made_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    control.deploy(app.clone(), spec(1), None).await.expect("deployed");
    running.store.full.store(true, Ordering::SeqCst);
    let refused = control.scale(&app, 3, None).await;
    assert!(matches!(refused, Err(ControlError::Store(StoreError::DiskFull { .. }))), "{refused:?}");
    running.store.full.store(false, Ordering::SeqCst);
    control.scale(&app, 2, None).await.expect("there is room again");

    // The app's row is written, its plan is not: `left` transactions fit, then the disk is full.
    let full_after_one = async {
        let mut snapshots = control.subscribe();
        running.store.full.store(true, Ordering::SeqCst);
        let row = serde_json::to_vec(&hivemind_core::model::App {
            spec: spec(4),
            ..(*control.snapshot().apps[&app].object).clone()
        });
        let txn = Txn::new().put(hivemind_store::keys::app(&app), row.expect("JSON"));
        running.store.inner.txn(txn).await.expect("written past the fault");
        let failed = || running.events.after(0).0.iter().any(|event| event.reason == "StoreFailed");
        while !failed() {
            tokio::task::yield_now().await;
        }
        running.store.full.store(false, Ordering::SeqCst);
        snapshots.wait_for(|snapshot| snapshot.instances_of(&app).count() == 4).await.map(drop)
    };
    timeout(PATIENCE, full_after_one).await.expect("in time").expect("the loop lives");
    running.stop().await;
}

/// A story that uses everything, and how far it came.
async fn story(control: &Control) -> Result<(), ControlError> {
    let (web, client) = (key("web"), key("client"));
    register(control).await?;
    control.deploy(web.clone(), spec(3), None).await?;
    agent(control).await?;
    control.deploy(client.clone(), AppSpec::new("client"), None).await?;
    control.restart(&web, None).await?;
    agent(control).await?;
    control.scale(&web, 2, None).await?;
    agent(control).await?;
    control.remove(&client, None).await?;
    agent(control).await
}

/// What is there in the end, without what differs from run to run.
fn end(control: &Control) -> (Vec<(AppKey, usize)>, usize) {
    let snapshot = control.snapshot();
    let apps = snapshot.apps.keys().map(|app| (app.clone(), snapshot.instances_of(app).count())).collect();
    (apps, snapshot.services.len())
}

#[tokio::test]
async fn broken_off_after_any_transaction_the_story_ends_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::start(dir.path(), u64::MAX).await;
    story(&running.control).await.expect("told");
    let expected = end(&running.control);
    assert_eq!(expected, (vec![(key("web"), 2)], 1));
    running.stop().await;

    let mut points = 0;
    for left in 0.. {
        let dir = tempfile::tempdir().expect("a folder");
        let running = Running::start(dir.path(), left).await;
        let finished = timeout(PATIENCE, story(&running.control)).await.expect("in time").is_ok();
        running.stop().await;
        let running = Running::start(dir.path(), u64::MAX).await;
        // The user repeats what was not acknowledged; the agent repeats what it sees.
        timeout(PATIENCE, story(&running.control)).await.expect("in time").expect("told");
        let snapshot = running.control.snapshot();
        for app in snapshot.apps.values().map(|row| &row.object) {
            let all: Vec<_> = snapshot.instances_of(&app.key).collect();
            assert!(all.iter().all(|instance| instance.generation == app.generation), "after {left} transactions");
        }
        assert_eq!(end(&running.control), expected, "after {left} transactions");
        assert!(running.task.now_or_never().is_none(), "the loop ended after {left} transactions");
        points += 1;
        if finished {
            break;
        }
    }
    assert!(points > 20, "only {points} points were passed");
}
