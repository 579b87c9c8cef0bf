//! What changed after a revision. Rows carry the revision that last wrote them, so only deletions must be remembered;
//! [`History`] keeps the last of them. A watcher is never behind by more than one answer: what changed several times
//! since it last asked is said once, as it is now.

use std::{collections::BTreeSet, sync::Arc};

use imbl::{
    Vector,
    ordmap::{DiffItem, OrdMap},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{
    object_view::{NamespaceView, PolicyView, TenantView, TierView},
    view::{AppView, InstanceView, NodeView, ServiceView},
};
use hivemind_core::model::{
    AppKey, ClusterSnapshot, InstanceId, NodeName, PolicyKey, Revision, Scope, ServiceKey, TenantName, TierKey,
};

/// Deletions that are remembered. Whoever comes back later starts anew.
const KEPT: usize = 4_096;

/// What a line of a watch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A tenant.
    Tenant,
    /// A namespace.
    Namespace,
    /// A policy.
    Policy,
    /// A policy of a tier.
    TierPolicy,
    /// An app.
    App,
    /// An instance.
    Instance,
    /// A service.
    Service,
    /// A node.
    Node,
    /// Nothing: everything up to this revision has been said.
    Bookmark,
    /// Forget everything: all there is follows. The first line of a watch from the beginning, or from a revision that
    /// the history does not reach back to.
    Reset,
}

/// A line of a watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Watching after this revision misses nothing; what was said since the last bookmark may be said again.
    pub revision: Revision,
    /// What it is about.
    pub kind: ChangeKind,
    /// `tenant/namespace/name` of apps, services and policies, `name` or `tenant/name` of policies of tiers, `tenant/namespace` of a namespace, the id of an instance,
    /// the name of a node or a tenant; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The object as it is now; absent if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<serde_json::Value>,
}

/// Something that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Gone {
    Tenant(TenantName),
    Namespace(Scope),
    Policy(PolicyKey),
    Tier(TierKey),
    App(AppKey),
    Instance(InstanceId, AppKey, NodeName),
    Service(ServiceKey),
    Node(NodeName),
}

impl Gone {
    /// How a watch calls it, unless it has come back. The id of an instance never does.
    fn still(&self, snapshot: &ClusterSnapshot) -> Option<(ChangeKind, String)> {
        let (kind, key, back) = match self {
            Self::Tenant(name) => (ChangeKind::Tenant, name.to_string(), snapshot.tenants.contains_key(name)),
            Self::Namespace(scope) => {
                (ChangeKind::Namespace, scope.to_string(), snapshot.namespaces.contains_key(scope))
            }
            Self::Policy(key) => (ChangeKind::Policy, key.to_string(), snapshot.policies.contains_key(key)),
            Self::Tier(key) => (ChangeKind::TierPolicy, key.to_string(), snapshot.tiers.contains_key(key)),
            Self::App(key) => (ChangeKind::App, key.to_string(), snapshot.apps.contains_key(key)),
            Self::Instance(id, ..) => (ChangeKind::Instance, id.to_string(), false),
            Self::Service(key) => (ChangeKind::Service, key.to_string(), snapshot.services.contains_key(key)),
            Self::Node(name) => (ChangeKind::Node, name.to_string(), snapshot.nodes.contains_key(name)),
        };
        (!back).then_some((kind, key))
    }
}

/// The state as of one revision, with the deletions that led to it. A copy costs next to nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    snapshot: Arc<ClusterSnapshot>,
    /// Oldest first.
    gone: Vector<(Revision, Gone)>,
    /// Every deletion after this revision is in `gone`.
    complete_after: Revision,
}

impl History {
    /// Begins now: what was deleted before is not known.
    pub(super) fn begin(snapshot: Arc<ClusterSnapshot>) -> Self {
        Self { complete_after: snapshot.revision, snapshot, gone: Vector::new() }
    }

    /// Takes in the next snapshot.
    fn advance(&mut self, next: Arc<ClusterSnapshot>) {
        let before = std::mem::replace(&mut self.snapshot, next);
        let (before, now) = (&*before, &*self.snapshot);
        let gone = removed(&before.apps, &now.apps).map(|(key, _)| Gone::App(key.clone()));
        let instances = removed(&before.instances, &now.instances).map(|(id, row)| {
            let instance = &row.object;
            Gone::Instance(id.clone(), instance.app.clone(), instance.node.clone())
        });
        let services = removed(&before.services, &now.services).map(|(key, _)| Gone::Service(key.clone()));
        let nodes = removed(&before.nodes, &now.nodes).map(|(name, _)| Gone::Node(name.clone()));
        let tenants = removed(&before.tenants, &now.tenants).map(|(name, _)| Gone::Tenant(name.clone()));
        let namespaces = removed(&before.namespaces, &now.namespaces).map(|(scope, _)| Gone::Namespace(scope.clone()));
        let policies = removed(&before.policies, &now.policies).map(|(key, _)| Gone::Policy(key.clone()));
        let tiers = removed(&before.tiers, &now.tiers).map(|(key, _)| Gone::Tier(key.clone()));
        let policies = policies.chain(tiers);
        let all = gone.chain(instances).chain(services).chain(nodes).chain(policies).chain(namespaces).chain(tenants);
        self.gone.extend(all.map(|gone| (now.revision, gone)));
        while self.gone.len() > KEPT {
            if let Some((revision, _)) = self.gone.pop_front() {
                self.complete_after = revision;
            }
        }
    }

    /// The revision it stands at.
    pub(super) fn revision(&self) -> Revision {
        self.snapshot.revision
    }

    /// What whoever knows everything up to `since` must be told, deletions first, and a bookmark. 0 knows nothing.
    pub(super) fn after(&self, since: Revision) -> Vec<Change> {
        let known = (self.complete_after.max(1)..=self.revision()).contains(&since);
        let line = |revision, kind, key: String, object| Change { revision, kind, key, object };
        let mut lines = Vec::new();
        let since = if known { since } else { 0 };
        if since == 0 {
            lines.push(line(0, ChangeKind::Reset, String::new(), None));
        }
        let touched = self.touched(since);
        let mut say = |kind, key: String, object| lines.push(line(since, kind, key, object));
        if since > 0 {
            for (_, gone) in self.gone.iter().filter(|(revision, _)| *revision > since) {
                // What has come back is told as what it is now.
                if let Some((kind, key)) = gone.still(&self.snapshot) {
                    say(kind, key, None);
                }
            }
        }
        let snapshot = &*self.snapshot;
        let rows = written(&snapshot.tenants, since).filter_map(|name| Some((name, snapshot.tenants.get(name)?)));
        rows.for_each(|(name, row)| {
            say(ChangeKind::Tenant, name.to_string(), value(&TenantView::new(name, Some(row))));
        });
        for scope in written(&snapshot.namespaces, since) {
            say(ChangeKind::Namespace, scope.to_string(), value(&NamespaceView::new(snapshot, scope)));
        }
        let rows = written(&snapshot.policies, since).filter_map(|key| snapshot.policies.get(key));
        rows.for_each(|row| say(ChangeKind::Policy, row.object.key.to_string(), value(&PolicyView::new(row))));
        let rows = written(&snapshot.tiers, since).filter_map(|key| snapshot.tiers.get(key));
        rows.for_each(|row| say(ChangeKind::TierPolicy, row.object.key.to_string(), value(&TierView::new(row))));
        let rows = touched.nodes.iter().filter_map(|name| snapshot.nodes.get(name));
        rows.for_each(|row| {
            let name = row.object.name.to_string();
            say(ChangeKind::Node, name, value(&NodeView::new(snapshot, &row.object)));
        });
        let rows = touched.apps.iter().filter_map(|key| snapshot.apps.get(key));
        rows.for_each(|row| say(ChangeKind::App, row.object.key.to_string(), value(&AppView::new(snapshot, row))));
        let rows = touched.instances.iter().filter_map(|id| snapshot.instances.get(id));
        rows.for_each(|row| {
            let id = row.object.id.to_string();
            say(ChangeKind::Instance, id, value(&InstanceView::new(snapshot, &row.object)));
        });
        let rows = touched.services.iter().filter_map(|key| snapshot.services.get(key));
        rows.for_each(|row| {
            let key = row.object.key.to_string();
            say(ChangeKind::Service, key, value(&ServiceView::new(snapshot, &row.object, None)));
        });
        lines.push(line(self.revision(), ChangeKind::Bookmark, String::new(), None));
        lines
    }

    /// The objects whose documents may differ from those of `since`: a document also shows the rows it is made from.
    fn touched(&self, since: Revision) -> Touched {
        let snapshot = &*self.snapshot;
        let mut touched = Touched::default();
        touched.nodes.extend(written(&snapshot.nodes, since).cloned());
        touched.nodes.extend(written(&snapshot.node_status, since).cloned());
        touched.apps.extend(written(&snapshot.apps, since).cloned());
        touched.apps.extend(written(&snapshot.rollouts, since).cloned());
        for (id, row) in &snapshot.instances {
            let status = snapshot.instance_status.get(id).map_or(0, |status| status.modified);
            if row.modified.max(status) > since {
                touched.instances.insert(id.clone());
                touched.apps.insert(row.object.app.clone());
                if row.modified > since {
                    touched.nodes.insert(row.object.node.clone());
                }
            }
        }
        for (_, gone) in self.gone.iter().filter(|(revision, _)| *revision > since) {
            if let Gone::Instance(_, app, node) = gone {
                touched.apps.insert(app.clone());
                touched.nodes.insert(node.clone());
            }
        }
        for (key, row) in &snapshot.services {
            if row.modified > since || touched.apps.contains(&row.object.app) {
                touched.services.insert(key.clone());
            }
        }
        touched
    }
}

#[derive(Debug, Default)]
struct Touched {
    apps: BTreeSet<AppKey>,
    instances: BTreeSet<InstanceId>,
    services: BTreeSet<ServiceKey>,
    nodes: BTreeSet<NodeName>,
}

type Rows<K, T> = OrdMap<K, hivemind_core::model::Row<T>>;

/// The keys of rows that were written after a revision.
fn written<K: Ord + Clone, T>(rows: &Rows<K, T>, since: Revision) -> impl Iterator<Item = &K> {
    rows.iter().filter(move |(_, row)| row.modified > since).map(|(key, _)| key)
}

/// The rows of `before` that are not in `now`. Costs as much as differs.
fn removed<'a, K: Ord + Clone, T: PartialEq>(
    before: &'a Rows<K, T>,
    now: &'a Rows<K, T>,
) -> impl Iterator<Item = (&'a K, &'a hivemind_core::model::Row<T>)> {
    before.diff(now).filter_map(|difference| match difference {
        DiffItem::Remove(key, row) => Some((key, row)),
        DiffItem::Add(..) | DiffItem::Update { .. } => None,
    })
}

fn value(view: &impl Serialize) -> Option<serde_json::Value> {
    serde_json::to_value(view).ok()
}

/// Follows the snapshots until there will be no more.
pub(super) async fn follow(mut snapshots: watch::Receiver<Arc<ClusterSnapshot>>, history: watch::Sender<History>) {
    loop {
        let next = snapshots.borrow_and_update().clone();
        // Watchers see only what this has seen: a snapshot that is skipped here is skipped by all of them.
        history.send_if_modified(|history| {
            let newer = next.revision > history.revision();
            if newer {
                history.advance(next);
            }
            newer
        });
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
