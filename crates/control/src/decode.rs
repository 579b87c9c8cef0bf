//! From rows to the snapshot, and what a change of rows makes dirty.

use std::{collections::BTreeSet, str::FromStr, sync::Arc};

use imbl::OrdMap;
use serde::{Serialize, de::DeserializeOwned};

use hivemind_core::model::{
    AppKey, ClusterSnapshot, ContentKey, ContentKind, InstanceId, NodeName, PolicyKey, Row, Scope, ServiceKey, Subject,
    TenantName, TierKey, VolumeKey,
};
use hivemind_store::{Entry, StoreError, WatchEvent, keys};

/// What changed since the loop last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dirty {
    /// Apps whose plan, service or backends may differ.
    pub(super) apps: BTreeSet<AppKey>,
    /// Instances whose row changed or went.
    pub(super) instances: BTreeSet<InstanceId>,
    /// Services whose row changed or went.
    pub(super) services: BTreeSet<ServiceKey>,
    /// Tenants whose row changed or went.
    pub(super) tenants: BTreeSet<TenantName>,
    /// Namespaces whose row changed or went.
    pub(super) namespaces: BTreeSet<Scope>,
    /// Policies whose row changed or went.
    pub(super) policies: BTreeSet<PolicyKey>,
    /// Policies of tiers whose row changed or went.
    pub(super) tiers: BTreeSet<TierKey>,
    /// Volumes whose row changed or went.
    pub(super) volumes: BTreeSet<VolumeKey>,
    /// Secrets and configs whose row changed or went.
    pub(super) contents: BTreeSet<(ContentKind, ContentKey)>,
    /// Something that is only shown changed: nothing is to be planned, but the snapshot is to be published.
    pub(super) shown: bool,
    /// A node changed: every app may be placed differently.
    pub(super) nodes: bool,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `other` says. Without `..`, so that a field more is not forgotten here.
    pub(super) fn merge(&mut self, other: Self) {
        let Self { apps, instances, services, tenants, namespaces, policies, tiers, volumes, contents, shown, nodes } =
            other;
        self.apps.extend(apps);
        self.instances.extend(instances);
        self.services.extend(services);
        self.tenants.extend(tenants);
        self.namespaces.extend(namespaces);
        self.policies.extend(policies);
        self.tiers.extend(tiers);
        self.volumes.extend(volumes);
        self.contents.extend(contents);
        self.shown |= shown;
        self.nodes |= nodes;
    }
}

/// A row's value. Rows are JSON: fields are added over time, and a person can read them.
pub(super) fn encode(object: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    // Only maps with keys that are no strings could fail; the objects have none.
    serde_json::to_vec(object).map_err(|error| StoreError::Encode { why: error.to_string() })
}

/// A row that this version cannot read. It is left alone: a newer version may have written it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the row {key} cannot be read and is left alone: {why}")]
pub struct Unreadable {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

impl Unreadable {
    /// What an event says it is about.
    pub(super) fn subject(&self) -> Subject {
        Subject::Object { kind: "row", tenant: None, namespace: None, name: self.key.clone() }
    }
}

/// What an unreadable row's key or value has wrong.
type Why = String;

fn read<T: DeserializeOwned>(entry: Option<&Entry>) -> Result<Option<Row<T>>, Why> {
    let Some(entry) = entry else { return Ok(None) };
    let object = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    Ok(Some(Row { object: Arc::new(object), modified: entry.modified }))
}

/// A name in a key.
fn name<T: FromStr>(text: &str) -> Result<T, Why> {
    text.parse().map_err(|_| format!("{text:?} in its key is no name that this version knows"))
}

/// The parts of a key behind its prefix.
fn parts<const N: usize>(rest: &str) -> Result<[&str; N], Why> {
    let parts: Vec<_> = rest.split('/').collect();
    parts.try_into().map_err(|parts: Vec<_>| format!("its key has {} names where {N} are known", parts.len()))
}

fn scope(tenant: &str, namespace: &str) -> Result<Scope, Why> {
    Ok(Scope { tenant: name(tenant)?, namespace: name(namespace)? })
}

/// `tenant/namespace/app/id`
fn instance_key(rest: &str) -> Result<(AppKey, InstanceId), Why> {
    let [tenant, namespace, app, id] = parts(rest)?;
    Ok((AppKey::new(scope(tenant, namespace)?, name(app)?), name(id)?))
}

/// Writes a row that no index knows, or removes it.
fn set<K: Ord + Clone, T: DeserializeOwned + Clone>(
    rows: &mut OrdMap<K, Row<T>>,
    key: K,
    entry: Option<&Entry>,
) -> Result<(), Why> {
    match read(entry)? {
        Some(row) => rows.insert(key, row),
        None => rows.remove(&key),
    };
    Ok(())
}

/// Takes one change into the snapshot. A row that cannot be read changes nothing: it is not one that is gone.
pub(super) fn apply(snapshot: &mut ClusterSnapshot, event: &WatchEvent, dirty: &mut Dirty) -> Result<(), Unreadable> {
    let (key, entry) = match event {
        WatchEvent::Put(entry) => (&*entry.key, Some(entry)),
        WatchEvent::Delete { key, .. } => (&**key, None),
    };
    apply_row(snapshot, key, entry, dirty).map_err(|why| Unreadable { key: key.to_owned(), why })
}

fn apply_row(snapshot: &mut ClusterSnapshot, key: &str, entry: Option<&Entry>, dirty: &mut Dirty) -> Result<(), Why> {
    if let Some(rest) = key.strip_prefix(keys::APPS) {
        let [tenant, namespace, app] = parts(rest)?;
        let app = AppKey::new(scope(tenant, namespace)?, name(app)?);
        snapshot.set_app(&app, read(entry)?);
        dirty.apps.insert(app);
    } else if let Some(rest) = key.strip_prefix(keys::INSTANCES) {
        let (app, id) = instance_key(rest)?;
        snapshot.set_instance(&id, read(entry)?);
        dirty.apps.insert(app);
        dirty.instances.insert(id);
    } else if let Some(rest) = key.strip_prefix(keys::INSTANCE_STATUS) {
        let (app, id) = instance_key(rest)?;
        set(&mut snapshot.instance_status, id, entry)?;
        dirty.apps.insert(app);
    } else if let Some(rest) = key.strip_prefix(keys::ROLLOUTS) {
        let [tenant, namespace, app] = parts(rest)?;
        let app = AppKey::new(scope(tenant, namespace)?, name(app)?);
        set(&mut snapshot.rollouts, app.clone(), entry)?;
        dirty.apps.insert(app);
    } else if let Some(rest) = key.strip_prefix(keys::HISTORY) {
        let [tenant, namespace, app, generation] = parts(rest)?;
        let app = AppKey::new(scope(tenant, namespace)?, name(app)?);
        set(&mut snapshot.past, (app, name(generation)?), entry)?;
        dirty.shown = true;
    } else if let Some(rest) = key.strip_prefix(keys::SERVICES) {
        let [tenant, namespace, service] = parts(rest)?;
        let service = ServiceKey::new(scope(tenant, namespace)?, name(service)?);
        snapshot.set_service(&service, read(entry)?);
        dirty.services.insert(service);
    } else if let Some(rest) = key.strip_prefix(keys::TENANTS) {
        let tenant: TenantName = name(rest)?;
        set(&mut snapshot.tenants, tenant.clone(), entry)?;
        dirty.tenants.insert(tenant);
    } else if let Some(rest) = key.strip_prefix(keys::NAMESPACES) {
        let [tenant, namespace] = parts(rest)?;
        let scope = scope(tenant, namespace)?;
        set(&mut snapshot.namespaces, scope.clone(), entry)?;
        dirty.namespaces.insert(scope);
    } else if let Some(rest) = key.strip_prefix(keys::POLICIES) {
        let [tenant, namespace, policy] = parts(rest)?;
        let policy = PolicyKey::new(scope(tenant, namespace)?, name(policy)?);
        set(&mut snapshot.policies, policy.clone(), entry)?;
        dirty.policies.insert(policy);
    } else if let Some(rest) = key.strip_prefix(keys::TIERS) {
        let policy: TierKey = name(rest)?;
        set(&mut snapshot.tiers, policy.clone(), entry)?;
        dirty.tiers.insert(policy);
    } else if let Some(rest) = key.strip_prefix(keys::VOLUMES) {
        let [tenant, namespace, volume] = parts(rest)?;
        let volume = VolumeKey::new(scope(tenant, namespace)?, name(volume)?);
        set(&mut snapshot.volumes, volume.clone(), entry)?;
        dirty.volumes.insert(volume);
    } else if let Some(rest) = key.strip_prefix(keys::SECRETS) {
        set_content(snapshot, ContentKind::Secret, rest, entry, dirty)?;
    } else if let Some(rest) = key.strip_prefix(keys::CONFIGS) {
        set_content(snapshot, ContentKind::Config, rest, entry, dirty)?;
    } else if let Some(digest) = key.strip_prefix(keys::DONE) {
        set(&mut snapshot.done, digest.to_owned(), entry)?;
        dirty.shown = true;
    } else if let Some(rest) = key.strip_prefix(keys::NODES) {
        let node: NodeName = name(rest)?;
        set(&mut snapshot.nodes, node, entry)?;
        dirty.nodes = true;
    } else if let Some(rest) = key.strip_prefix(keys::NODE_STATUS) {
        let node: NodeName = name(rest)?;
        set(&mut snapshot.node_status, node, entry)?;
        dirty.nodes = true;
    } else if key == keys::LAST_SERVICE_ID {
        if let Some(entry) = entry {
            snapshot.last_service_id = number(entry)?;
        }
    } else if key == keys::CURSOR {
        snapshot.cursor = read(entry)?.map(|row| *row.object).unwrap_or_default();
    } else {
        // Of a newer version, or of one that numbered namespaces: `/v1/identities/`.
        tracing::debug!(key, "a row of an unknown kind is left alone");
    }
    Ok(())
}

fn set_content(
    snapshot: &mut ClusterSnapshot,
    kind: ContentKind,
    rest: &str,
    entry: Option<&Entry>,
    dirty: &mut Dirty,
) -> Result<(), Why> {
    let [tenant, namespace, content] = parts(rest)?;
    let key = (kind, ContentKey::new(scope(tenant, namespace)?, name(content)?));
    set(&mut snapshot.contents, key.clone(), entry)?;
    dirty.contents.insert(key);
    Ok(())
}

fn number(entry: &Entry) -> Result<u32, Why> {
    let text = std::str::from_utf8(&entry.value).map_err(|error| error.to_string())?;
    text.parse().map_err(|error| format!("{text:?} is no number: {error}"))
}
