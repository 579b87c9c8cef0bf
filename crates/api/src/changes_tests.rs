//! A watcher that applies every line knows what there is.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use hivemind_core::{
    model::{
        Addresses, App, Desired, Instance, InstanceStatus, Namespace, Node, Phase, Policy, Row, Scope, Service,
        ServiceKey, Tenant, Timestamp,
    },
    spec::v1::AppSpec,
};

fn app_key(n: u8) -> AppKey {
    AppKey::new(Scope::default(), format!("app-{n}").parse().expect("valid"))
}

fn instance_id(app: u8, n: u8) -> InstanceId {
    InstanceId::from_bits(u64::from(app) << 8 | u64::from(n))
}

fn node_name() -> NodeName {
    "node-1".parse().expect("valid")
}

/// One change of the cluster.
#[derive(Clone, Copy, Debug)]
enum Step {
    App(u8),
    AppGone(u8),
    Instance(u8, u8),
    InstanceGone(u8, u8),
    Phase(u8, u8, Phase),
    Service(u8),
    ServiceGone(u8),
    Node,
    Tenant(bool),
    Namespace(bool),
    Policy(bool),
}

fn row<T>(object: T, modified: Revision) -> Row<T> {
    Row { object: Arc::new(object), modified }
}

fn apply(snapshot: &mut ClusterSnapshot, step: Step) {
    snapshot.revision += 1;
    let now = snapshot.revision;
    let created_at = Timestamp::default();
    match step {
        Step::App(n) => {
            let generation = now;
            let app = App { key: app_key(n), spec: AppSpec::new("image"), generation, created_at, deleting: false };
            snapshot.set_app(&app_key(n), Some(row(app, now)));
        }
        Step::AppGone(n) => {
            snapshot.set_app(&app_key(n), None);
        }
        Step::Instance(app, n) => {
            let id = instance_id(app, n);
            let instance = Instance {
                id: id.clone(),
                app: app_key(app),
                generation: now,
                spec: AppSpec::new("image"),
                node: node_name(),
                addresses: Addresses::default(),
                desired: Desired::Run,
                contents: hivemind_core::model::ContentVersions::default(),
                created_at,
            };
            snapshot.set_instance(&id, Some(row(instance, now)));
        }
        Step::InstanceGone(app, n) => {
            snapshot.set_instance(&instance_id(app, n), None);
            snapshot.instance_status.remove(&instance_id(app, n));
        }
        Step::Phase(app, n, phase) => {
            let id = instance_id(app, n);
            if snapshot.instances.contains_key(&id) {
                snapshot.instance_status.insert(id, row(InstanceStatus { phase, ..InstanceStatus::default() }, now));
            }
        }
        Step::Service(n) => {
            let key = ServiceKey::new(Scope::default(), format!("app-{n}").parse().expect("valid"));
            let service = Service {
                key: key.clone(),
                id: u32::from(n) + 1,
                addresses: Addresses::default(),
                dns_names: vec![],
                networks: Default::default(),
                ports: vec![],
                app: app_key(n),
                balance: hivemind_core::spec::v1::BalanceSpec::default(),
                shares: hivemind_core::model::Shares::default(),
                created_at,
            };
            snapshot.set_service(&key, Some(row(service, now)));
        }
        Step::ServiceGone(n) => {
            let key = ServiceKey::new(Scope::default(), format!("app-{n}").parse().expect("valid"));
            snapshot.set_service(&key, None);
        }
        Step::Node => {
            let node = Node { name: node_name(), instances_v4: None, instances_v6: None, created_at };
            snapshot.nodes.insert(node_name(), row(node, now));
        }
        Step::Tenant(there) => {
            let name = Scope::default().tenant;
            match there {
                true => snapshot
                    .tenants
                    .insert(name.clone(), row(Tenant { name, limits: Default::default(), created_at }, now)),
                false => snapshot.tenants.remove(&name),
            };
        }
        Step::Namespace(there) => {
            let scope = Scope::default();
            let labels = BTreeMap::from([("at".into(), now.to_string())]);
            match there {
                true => snapshot.namespaces.insert(scope.clone(), row(Namespace { scope, labels, created_at }, now)),
                false => snapshot.namespaces.remove(&scope),
            };
        }
        Step::Policy(there) => {
            let key = PolicyKey::new(Scope::default(), "policy".parse().expect("valid"));
            let spec = serde_json::from_str("{\"ingress\": []}").expect("valid");
            match there {
                true => snapshot.policies.insert(key.clone(), row(Policy { key, spec, created_at }, now)),
                false => snapshot.policies.remove(&key),
            };
        }
    }
}

/// What a watcher knows.
#[derive(Default)]
struct Watcher {
    resume: Revision,
    objects: BTreeMap<(String, String), serde_json::Value>,
}

impl Watcher {
    /// Takes in the first `lines` of what it is told, as if the connection broke then.
    fn ask(&mut self, history: &History, lines: usize) {
        for change in history.after(self.resume).into_iter().take(lines) {
            self.resume = change.revision;
            let key = (format!("{:?}", change.kind), change.key);
            match (change.kind, change.object) {
                (ChangeKind::Reset, _) => self.objects.clear(),
                (ChangeKind::Bookmark, _) => {}
                (_, Some(object)) => drop(self.objects.insert(key, object)),
                (_, None) => drop(self.objects.remove(&key)),
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (app, n) = (0..3u8, 0..3u8);
    let phase = prop_oneof![Just(Phase::Ready), Just(Phase::Backoff), Just(Phase::Completed)];
    prop_oneof![
        app.clone().prop_map(Step::App),
        app.clone().prop_map(Step::AppGone),
        (app.clone(), n.clone()).prop_map(|(app, n)| Step::Instance(app, n)),
        (app.clone(), n.clone()).prop_map(|(app, n)| Step::InstanceGone(app, n)),
        (app.clone(), n, phase).prop_map(|(app, n, phase)| Step::Phase(app, n, phase)),
        app.clone().prop_map(Step::Service),
        app.prop_map(Step::ServiceGone),
        Just(Step::Node),
        any::<bool>().prop_map(Step::Tenant),
        any::<bool>().prop_map(Step::Namespace),
        any::<bool>().prop_map(Step::Policy),
    ]
}

proptest! {
    /// Snapshots may be skipped, and the connection may break after any line: in the end the watcher knows exactly
    /// what a new one is told.
    #[test]
    fn a_watcher_that_comes_back_misses_nothing(
        steps in prop::collection::vec((step(), any::<bool>(), prop::option::of(0..12usize)), 1..60)
    ) {
        let mut snapshot = ClusterSnapshot::default();
        apply(&mut snapshot, Step::Node);
        let mut history = History::begin(Arc::new(snapshot.clone()));
        let mut watcher = Watcher::default();
        for (step, seen, asks) in steps {
            apply(&mut snapshot, step);
            if seen {
                history.advance(Arc::new(snapshot.clone()));
            }
            if let Some(lines) = asks {
                watcher.ask(&history, lines);
            }
        }
        history.advance(Arc::new(snapshot.clone()));
        watcher.ask(&history, usize::MAX);
        let mut fresh = Watcher::default();
        fresh.ask(&history, usize::MAX);
        prop_assert_eq!(watcher.objects, fresh.objects);
        prop_assert_eq!(watcher.resume, snapshot.revision);
    }
}

#[test]
fn whoever_was_away_too_long_or_comes_from_elsewhere_starts_anew() {
    let mut snapshot = ClusterSnapshot::at(100);
    apply(&mut snapshot, Step::Node);
    let history = History::begin(Arc::new(snapshot));
    for since in [0, 1, 100, 102] {
        assert_eq!(history.after(since)[0].kind, ChangeKind::Reset, "{since}");
    }
    let up_to_date: Vec<_> = history.after(101).iter().map(|change| change.kind).collect();
    assert_eq!(up_to_date, [ChangeKind::Bookmark]);
}

#[test]
fn forgotten_deletions_are_not_passed_over() {
    let mut snapshot = ClusterSnapshot::default();
    apply(&mut snapshot, Step::App(0));
    let mut history = History::begin(Arc::new(snapshot.clone()));
    let first = snapshot.revision;
    for n in 0..=KEPT {
        let n = u8::try_from(n % 200).expect("small");
        apply(&mut snapshot, Step::Instance(1, n));
        history.advance(Arc::new(snapshot.clone()));
        apply(&mut snapshot, Step::InstanceGone(1, n));
        history.advance(Arc::new(snapshot.clone()));
    }
    assert_eq!(history.gone.len(), KEPT);
    assert_eq!(history.after(first)[0].kind, ChangeKind::Reset);
}
