//! From rows to the snapshot, and what a change of rows makes dirty.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    model::{
        App, AppKey, ClusterSnapshot, Instance, InstanceId, NodeName, PolicyKey, Row, Scope, ServiceKey, TenantName,
        TierKey,
    },
    store::{Entry, StoreError, WatchEvent, keys},
};

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
    /// Something that is only shown changed: nothing is to be planned, but the snapshot is to be published.
    pub(super) shown: bool,
    /// A node changed: every app may be placed differently.
    pub(super) nodes: bool,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A row's value. Rows are JSON: fields are added over time, and a person can read them.
pub(super) fn encode(object: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    // Only maps with keys that are no strings could fail; the objects have none.
    serde_json::to_vec(object).map_err(|error| StoreError::Encode { why: error.to_string() })
}

fn read<T: DeserializeOwned>(entry: &Entry) -> Option<Row<T>> {
    match serde_json::from_slice(&entry.value) {
        Ok(object) => Some(Row { object: Arc::new(object), modified: entry.modified }),
        Err(error) => {
            // Left alone: a newer version may have written it, and deleting it would lose it.
            tracing::error!(key = %entry.key, %error, "a row cannot be read and is not acted upon");
            None
        }
    }
}

/// The parts of a key behind its prefix: `tenant/namespace/name[/id]`.
fn parts(rest: &str) -> Option<(Scope, &str, Option<&str>)> {
    let mut parts = rest.split('/');
    let scope = Scope { tenant: parts.next()?.parse().ok()?, namespace: parts.next()?.parse().ok()? };
    Some((scope, parts.next()?, parts.next()))
}

fn scope_key(rest: &str) -> Option<Scope> {
    let (tenant, namespace) = rest.split_once('/')?;
    Some(Scope { tenant: tenant.parse().ok()?, namespace: namespace.parse().ok()? })
}

/// Writes a row that no index knows, or removes it.
fn set<K: Ord + Clone, T: DeserializeOwned + Clone>(rows: &mut OrdMap<K, Row<T>>, key: K, entry: Option<&Entry>) {
    match entry.and_then(read) {
        Some(row) => rows.insert(key, row),
        None => rows.remove(&key),
    };
}

fn app_key(rest: &str) -> Option<AppKey> {
    let (scope, name, _) = parts(rest)?;
    Some(AppKey::new(scope, name.parse().ok()?))
}

/// Takes one change into the snapshot.
pub(super) fn apply(snapshot: &mut ClusterSnapshot, event: &WatchEvent, dirty: &mut Dirty) {
    let (key, entry) = match event {
        WatchEvent::Put(entry) => (&*entry.key, Some(entry)),
        WatchEvent::Delete { key, .. } => (&**key, None),
    };
    if apply_known(snapshot, key, entry, dirty).is_none() {
        tracing::debug!(key, "a row of an unknown kind is left alone");
    }
}

fn apply_known(snapshot: &mut ClusterSnapshot, key: &str, entry: Option<&Entry>, dirty: &mut Dirty) -> Option<()> {
    if let Some(rest) = key.strip_prefix(keys::APPS) {
        let app = app_key(rest)?;
        snapshot.set_app(&app, entry.and_then(read::<App>));
        dirty.apps.insert(app);
    } else if let Some(rest) = key.strip_prefix(keys::INSTANCES) {
        let (app, id) = (app_key(rest)?, parts(rest)?.2?.parse::<InstanceId>().ok()?);
        snapshot.set_instance(&id, entry.and_then(read::<Instance>));
        dirty.apps.insert(app);
        dirty.instances.insert(id);
    } else if let Some(rest) = key.strip_prefix(keys::INSTANCE_STATUS) {
        let (app, id) = (app_key(rest)?, parts(rest)?.2?.parse::<InstanceId>().ok()?);
        set(&mut snapshot.instance_status, id, entry);
        dirty.apps.insert(app);
    } else if let Some(rest) = key.strip_prefix(keys::SERVICES) {
        let (scope, name, _) = parts(rest)?;
        let service = ServiceKey::new(scope, name.parse().ok()?);
        snapshot.set_service(&service, entry.and_then(read));
        dirty.services.insert(service);
    } else if let Some(name) = key.strip_prefix(keys::TENANTS) {
        let name: TenantName = name.parse().ok()?;
        set(&mut snapshot.tenants, name.clone(), entry);
        dirty.tenants.insert(name);
    } else if let Some(rest) = key.strip_prefix(keys::NAMESPACES) {
        let scope = scope_key(rest)?;
        set(&mut snapshot.namespaces, scope.clone(), entry);
        dirty.namespaces.insert(scope);
    } else if let Some(rest) = key.strip_prefix(keys::POLICIES) {
        let (scope, name, _) = parts(rest)?;
        let policy = PolicyKey::new(scope, name.parse().ok()?);
        set(&mut snapshot.policies, policy.clone(), entry);
        dirty.policies.insert(policy);
    } else if let Some(rest) = key.strip_prefix(keys::TIERS) {
        let policy: TierKey = rest.parse().ok()?;
        set(&mut snapshot.tiers, policy.clone(), entry);
        dirty.tiers.insert(policy);
    } else if let Some(name) = key.strip_prefix(keys::NODES) {
        let name: NodeName = name.parse().ok()?;
        set(&mut snapshot.nodes, name, entry);
        dirty.nodes = true;
    } else if let Some(name) = key.strip_prefix(keys::NODE_STATUS) {
        let name: NodeName = name.parse().ok()?;
        set(&mut snapshot.node_status, name, entry);
        dirty.nodes = true;
    } else if let Some(rest) = key.strip_prefix(keys::IDENTITIES) {
        let scope = scope_key(rest)?;
        let number = entry.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok())?;
        snapshot.identities.insert(scope, number);
    } else if key == keys::LAST_SERVICE_ID {
        snapshot.last_service_id = entry.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok())?;
    } else if key == keys::CURSOR {
        snapshot.cursor = entry.and_then(read).map(|row| *row.object).unwrap_or_default();
    } else {
        return None;
    }
    Some(())
}
