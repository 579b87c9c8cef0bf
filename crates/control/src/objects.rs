//! What a command makes of the rows of tenants, namespaces and policies. Pure.
//!
//! The loop is the only writer of the store, so a decision on its snapshot also holds for what other rows it looked at.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{ControlError, IfMatch, NewContent, contents, volumes};
use hivemind_core::{
    model::{
        App, AppKey, AppName, ClusterSnapshot, Content, ContentKey, ContentKind, NAMESPACE_NAME_LABEL, Namespace,
        NodeDesired, Policy, PolicyKey, Revision, Scope, Subject, Tenant, TenantName, TierKey, TierPolicy, Timestamp,
        Volume, VolumeId, VolumeKey,
    },
    spec::v1::{
        LimitSpec, PolicySpec, TierSpec, VolumeSpec, validate_labels, validate_limits, validate_policy,
        validate_tier_of,
    },
};
use hivemind_policy::too_large;

/// What has a row of its own, with its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectName {
    /// An app.
    App(AppKey),
    /// A tenant.
    Tenant(TenantName),
    /// A namespace.
    Namespace(Scope),
    /// A policy.
    Policy(PolicyKey),
    /// A policy of a tier.
    Tier(TierKey),
    /// A volume.
    Volume(VolumeKey),
    /// A secret or a config.
    Content(ContentKind, ContentKey),
}

/// A change of a tenant, a namespace or a policy.
#[derive(Clone, Debug, PartialEq)]
pub enum ObjectChange {
    /// Creates a tenant, or gives it these limits instead of those it has; `None`: leaves them.
    PutTenant(TenantName, Option<LimitSpec>),
    /// Removes a tenant and its namespaces. Nothing may be in them.
    RemoveTenant(TenantName),
    /// Creates a namespace, or gives it these labels instead of those it has.
    PutNamespace(Scope, BTreeMap<String, String>),
    /// Removes a namespace. Nothing may be in it.
    RemoveNamespace(Scope),
    /// Creates a policy, or makes it what the document says.
    PutPolicy(PolicyKey, Box<PolicySpec>),
    /// Removes a policy.
    RemovePolicy(PolicyKey),
    /// Creates a policy of a tier, or makes it what the document says.
    PutTier(TierKey, Box<TierSpec>),
    /// Removes a policy of a tier.
    RemoveTier(TierKey),
    /// Creates a volume, with this id, or makes the one that is there what the document says.
    PutVolume(VolumeKey, VolumeId, VolumeSpec),
    /// Removes a volume with what is in it. Nobody may use it.
    RemoveVolume(VolumeKey),
    /// Creates a secret or a config, or gives it another content.
    PutContent(Box<NewContent>),
    /// Removes a secret or a config. Nobody may use it.
    RemoveContent(ContentKind, ContentKey),
}

/// What such a change did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The revision that has it; 0 for what always exists and has no row.
    pub revision: Revision,
    /// Whether the object is new.
    pub created: bool,
    /// Whether anything is not as it was.
    pub changed: bool,
    /// The apps of its namespace that get new instances for it.
    #[serde(default)]
    pub renewed: Vec<AppName>,
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowChange {
    /// Of a tenant.
    PutTenant(Tenant),
    /// Of a namespace.
    PutNamespace(Namespace),
    /// Of a policy.
    PutPolicy(Policy),
    /// Of a policy of a tier.
    PutTier(TierPolicy),
    /// Of a volume.
    PutVolume(Volume),
    /// Of a secret or a config.
    PutContent(Content),
    /// Gives an app new instances for what it has.
    RenewApp(Box<App>),
    /// It goes.
    Delete(ObjectName),
}

/// `policy default/default/web`
impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(key) => write!(f, "app {key}"),
            Self::Tenant(name) => write!(f, "tenant {name}"),
            Self::Namespace(scope) => write!(f, "namespace {scope}"),
            Self::Policy(key) => write!(f, "policy {key}"),
            Self::Tier(key) => write!(f, "tier policy {key}"),
            Self::Volume(key) => write!(f, "volume {key}"),
            Self::Content(kind, key) => write!(f, "{kind} {key}"),
        }
    }
}

impl ObjectName {
    /// `app`, `tenant`, `namespace`, `policy`, `tier-policy`, `volume`, `secret`, `config`
    pub fn kind(&self) -> &'static str {
        match self {
            Self::App(_) => "app",
            Self::Tenant(_) => "tenant",
            Self::Namespace(_) => "namespace",
            Self::Policy(_) => "policy",
            Self::Tier(_) => "tier-policy",
            Self::Volume(_) => "volume",
            Self::Content(kind, _) => kind.as_str(),
        }
    }

    /// Its last name.
    pub fn name(&self) -> &str {
        match self {
            Self::App(key) => key.name.as_str(),
            Self::Tenant(name) => name.as_str(),
            Self::Namespace(scope) => scope.namespace.as_str(),
            Self::Policy(key) => key.name.as_str(),
            Self::Tier(key) => key.name.as_str(),
            Self::Volume(key) => key.name.as_str(),
            Self::Content(_, key) => key.name.as_str(),
        }
    }

    /// What an event says it is about.
    pub(super) fn about(&self) -> Subject {
        let (tenant, namespace) = match self {
            Self::App(key) => return Subject::App(key.clone()),
            Self::Tenant(name) => (Some(name), None),
            Self::Namespace(scope) => (Some(&scope.tenant), Some(&scope.namespace)),
            Self::Policy(key) => (Some(&key.scope.tenant), Some(&key.scope.namespace)),
            Self::Tier(key) => (key.tenant.as_ref(), None),
            Self::Volume(key) => (Some(&key.scope.tenant), Some(&key.scope.namespace)),
            Self::Content(_, key) => (Some(&key.scope.tenant), Some(&key.scope.namespace)),
        };
        Subject::Object {
            kind: self.kind(),
            tenant: tenant.cloned(),
            namespace: namespace.cloned(),
            name: self.name().to_owned(),
        }
    }

    /// The revision that last wrote its row.
    pub(super) fn row(&self, snapshot: &ClusterSnapshot) -> Option<Revision> {
        match self {
            Self::App(key) => snapshot.apps.get(key).map(|row| row.modified),
            Self::Tenant(name) => snapshot.tenants.get(name).map(|row| row.modified),
            Self::Namespace(scope) => snapshot.namespaces.get(scope).map(|row| row.modified),
            Self::Policy(key) => snapshot.policies.get(key).map(|row| row.modified),
            Self::Tier(key) => snapshot.tiers.get(key).map(|row| row.modified),
            Self::Volume(key) => snapshot.volumes.get(key).map(|row| row.modified),
            Self::Content(kind, key) => snapshot.contents.get(&(*kind, key.clone())).map(|row| row.modified),
        }
    }

    /// Whether it exists, also without a row.
    fn exists(&self, snapshot: &ClusterSnapshot) -> bool {
        match self {
            Self::Tenant(name) => snapshot.has_tenant(name),
            Self::Namespace(scope) => snapshot.has_namespace(scope),
            Self::App(_) | Self::Policy(_) | Self::Tier(_) | Self::Volume(_) | Self::Content(..) => {
                self.row(snapshot).is_some()
            }
        }
    }
}

impl ObjectChange {
    /// What it changes.
    pub fn object(&self) -> ObjectName {
        match self {
            Self::PutTenant(name, _) | Self::RemoveTenant(name) => ObjectName::Tenant(name.clone()),
            Self::PutNamespace(scope, _) | Self::RemoveNamespace(scope) => ObjectName::Namespace(scope.clone()),
            Self::PutPolicy(key, _) | Self::RemovePolicy(key) => ObjectName::Policy(key.clone()),
            Self::PutTier(key, _) | Self::RemoveTier(key) => ObjectName::Tier(key.clone()),
            Self::PutVolume(key, ..) | Self::RemoveVolume(key) => ObjectName::Volume(key.clone()),
            Self::PutContent(new) => ObjectName::Content(new.kind, new.key.clone()),
            Self::RemoveContent(kind, key) => ObjectName::Content(*kind, key.clone()),
        }
    }

    pub(super) fn removes(&self) -> bool {
        match self {
            Self::RemoveTenant(_) | Self::RemoveNamespace(_) | Self::RemovePolicy(_) => true,
            Self::RemoveTier(_) | Self::RemoveVolume(_) | Self::RemoveContent(..) => true,
            Self::PutTenant(..) | Self::PutNamespace(..) | Self::PutPolicy(..) => false,
            Self::PutTier(..) | Self::PutVolume(..) | Self::PutContent(..) => false,
        }
    }
}

/// Whether a row is as the condition of a command says.
pub(super) fn check_unchanged(
    snapshot: &ClusterSnapshot,
    object: &ObjectName,
    if_match: IfMatch,
) -> Result<(), ControlError> {
    let found = object.row(snapshot).unwrap_or(0);
    match if_match {
        Some(expected) if expected != found => Err(ControlError::Conflict { object: object.clone(), expected, found }),
        _ => Ok(()),
    }
}

/// Whether something may be put into a namespace.
pub(super) fn check_scope(snapshot: &ClusterSnapshot, scope: &Scope) -> Result<(), ControlError> {
    let tenant = snapshot.has_tenant(&scope.tenant);
    if tenant && snapshot.has_namespace(scope) {
        return Ok(());
    }
    // With the tenant all its namespaces went.
    Err(ControlError::NoScope { scope: scope.clone(), tenant })
}

/// The rows that the command changes; none if everything is as it should be.
pub(super) fn rows_after(
    snapshot: &ClusterSnapshot,
    change: ObjectChange,
    if_match: IfMatch,
    now: Timestamp,
) -> Result<Vec<RowChange>, ControlError> {
    let object = change.object();
    check_unchanged(snapshot, &object, if_match)?;
    if change.removes() && !object.exists(snapshot) {
        return Err(ControlError::NotFound { object });
    }
    match change {
        ObjectChange::PutTenant(name, limits) => put_tenant(snapshot, name, limits, now),
        ObjectChange::RemoveTenant(name) => remove_tenant(snapshot, name),
        ObjectChange::PutNamespace(scope, labels) => put_namespace(snapshot, scope, labels, now),
        ObjectChange::RemoveNamespace(scope) if scope.is_default_of_tenant() => {
            Err(ControlError::Permanent { object: ObjectName::Namespace(scope) })
        }
        ObjectChange::RemoveNamespace(scope) => {
            check_empty(&object, owned(snapshot, |other| *other == scope))?;
            Ok(vec![RowChange::Delete(object)])
        }
        ObjectChange::PutPolicy(key, spec) => put_policy(snapshot, key, *spec, now),
        ObjectChange::PutTier(key, spec) => put_tier(snapshot, key, *spec, now),
        ObjectChange::PutVolume(key, id, spec) => volumes::put(snapshot, key, id, spec, now),
        ObjectChange::PutContent(new) => contents::put(snapshot, *new, now),
        ObjectChange::RemoveContent(kind, key) => contents::remove(snapshot, kind, key),
        ObjectChange::RemoveVolume(key) => volumes::remove(snapshot, key),
        ObjectChange::RemovePolicy(_) | ObjectChange::RemoveTier(_) => Ok(vec![RowChange::Delete(object)]),
    }
}

/// The apps, policies, volumes, secrets and configs of some namespaces, in words.
pub(super) fn owned(snapshot: &ClusterSnapshot, of: impl Fn(&Scope) -> bool) -> Vec<String> {
    let app = |key: &AppKey| match snapshot.apps.get(key) {
        Some(row) if row.object.deleting => format!("app {key} is still being removed"),
        _ => format!("app {key}"),
    };
    let apps = snapshot.apps.keys().filter(|key| of(&key.scope)).map(app);
    let policies = snapshot.policies.keys().filter(|key| of(&key.scope)).map(|key| format!("policy {key}"));
    let volumes = snapshot.volumes.keys().filter(|key| of(&key.scope)).map(|key| format!("volume {key}"));
    let contents =
        snapshot.contents.keys().filter(|(_, key)| of(&key.scope)).map(|(kind, key)| format!("{kind} {key}"));
    apps.chain(policies).chain(volumes).chain(contents).collect()
}

fn check_empty(object: &ObjectName, owns: Vec<String>) -> Result<(), ControlError> {
    if owns.is_empty() { Ok(()) } else { Err(ControlError::Occupied { object: object.clone(), owns }) }
}

fn remove_tenant(snapshot: &ClusterSnapshot, name: TenantName) -> Result<Vec<RowChange>, ControlError> {
    let object = ObjectName::Tenant(name.clone());
    if name.is_default() {
        return Err(ControlError::Permanent { object });
    }
    let mut owns = owned(snapshot, |scope| scope.tenant == name);
    let tiers = snapshot.tiers.keys().filter(|key| key.tenant.as_ref() == Some(&name));
    owns.extend(tiers.map(|key| format!("tier policy {key}")));
    check_empty(&object, owns)?;
    let namespaces = snapshot.namespaces.keys().filter(|scope| scope.tenant == name).cloned();
    let mut rows: Vec<_> = namespaces.map(|scope| RowChange::Delete(ObjectName::Namespace(scope))).collect();
    rows.push(RowChange::Delete(object));
    Ok(rows)
}

fn put_tenant(
    snapshot: &ClusterSnapshot,
    name: TenantName,
    limits: Option<LimitSpec>,
    now: Timestamp,
) -> Result<Vec<RowChange>, ControlError> {
    let faults = limits.as_ref().map(validate_limits).unwrap_or_default();
    if !faults.is_empty() {
        return Err(ControlError::Invalid { object: ObjectName::Tenant(name), faults });
    }
    let before = snapshot.tenants.get(&name).map(|row| &row.object);
    let has = before.map(|before| before.limits).unwrap_or_default();
    let limits = limits.unwrap_or(has);
    if snapshot.has_tenant(&name) && limits == has {
        return Ok(Vec::new());
    }
    let created_at = before.map_or(now, |before| before.created_at);
    Ok(vec![RowChange::PutTenant(Tenant { name, limits, created_at })])
}

fn put_namespace(
    snapshot: &ClusterSnapshot,
    scope: Scope,
    mut labels: BTreeMap<String, String>,
    now: Timestamp,
) -> Result<Vec<RowChange>, ControlError> {
    if !snapshot.has_tenant(&scope.tenant) {
        return Err(ControlError::NoScope { scope, tenant: false });
    }
    let mut faults = validate_labels(&labels);
    // A document that was read from elsewhere may have it; it is not stored, as it always is the name.
    let own = labels.remove(NAMESPACE_NAME_LABEL);
    if own.is_some_and(|value| value != scope.namespace.as_str()) {
        faults.push(format!("{NAMESPACE_NAME_LABEL} is always the namespace's name, and cannot be changed"));
    }
    if !faults.is_empty() {
        return Err(ControlError::Invalid { object: ObjectName::Namespace(scope), faults });
    }
    let before = snapshot.namespaces.get(&scope).map(|row| &row.object);
    // The one that always exists needs a row only for its labels.
    let as_it_is = match before {
        Some(before) => before.labels == labels,
        None => scope.is_default_of_tenant() && labels.is_empty(),
    };
    let created_at = before.map_or(now, |before| before.created_at);
    Ok(if as_it_is { Vec::new() } else { vec![RowChange::PutNamespace(Namespace { scope, labels, created_at })] })
}

fn put_policy(
    snapshot: &ClusterSnapshot,
    key: PolicyKey,
    spec: PolicySpec,
    now: Timestamp,
) -> Result<Vec<RowChange>, ControlError> {
    check_scope(snapshot, &key.scope)?;
    let faults = validate_policy(&spec);
    if !faults.is_empty() {
        return Err(ControlError::Invalid { object: ObjectName::Policy(key), faults });
    }
    let before = snapshot.policies.get(&key).map(|row| &row.object);
    if before.is_some_and(|before| before.spec == spec) {
        return Ok(Vec::new());
    }
    let created_at = before.map_or(now, |before| before.created_at);
    let policy = Policy { key, spec, created_at };
    let mut desired = NodeDesired::for_policies(snapshot);
    desired.policies.insert(policy.key.clone(), Arc::new(policy.clone()));
    check_room(&desired, || ObjectName::Policy(policy.key.clone()))?;
    Ok(vec![RowChange::PutPolicy(policy)])
}

fn put_tier(
    snapshot: &ClusterSnapshot,
    key: TierKey,
    spec: TierSpec,
    now: Timestamp,
) -> Result<Vec<RowChange>, ControlError> {
    if let Some(tenant) = key.tenant.as_ref().filter(|tenant| !snapshot.has_tenant(tenant)) {
        return Err(ControlError::NoScope { scope: Scope::default_of(tenant.clone()), tenant: false });
    }
    let faults = validate_tier_of(key.tenant.is_some(), &spec);
    if !faults.is_empty() {
        return Err(ControlError::Invalid { object: ObjectName::Tier(key), faults });
    }
    let before = snapshot.tiers.get(&key).map(|row| &row.object);
    if before.is_some_and(|before| before.spec == spec) {
        return Ok(Vec::new());
    }
    let created_at = before.map_or(now, |before| before.created_at);
    let policy = TierPolicy { key, spec, created_at };
    let mut desired = NodeDesired::for_policies(snapshot);
    desired.tiers.insert(policy.key.clone(), Arc::new(policy.clone()));
    check_room(&desired, || ObjectName::Tier(policy.key.clone()))?;
    Ok(vec![RowChange::PutTier(policy)])
}

/// Whether all policies fit into the tables of the nodes: what does not fit is refused, not applied in part.
pub(super) fn check_room(desired: &NodeDesired, object: impl FnOnce() -> ObjectName) -> Result<(), ControlError> {
    let faults = too_large(desired);
    if faults.is_empty() { Ok(()) } else { Err(ControlError::Invalid { object: object(), faults }) }
}

fn renewed(row: &RowChange) -> Option<AppName> {
    if let RowChange::RenewApp(app) = row { Some(app.key.name.clone()) } else { None }
}

/// What is answered when `rows` are what changes, as of the snapshot before.
pub(super) fn outcome(snapshot: &ClusterSnapshot, change: &ObjectName, rows: &[RowChange]) -> Changed {
    Changed {
        revision: change.row(snapshot).unwrap_or(0),
        created: !rows.is_empty() && !change.exists(snapshot),
        changed: !rows.is_empty(),
        renewed: rows.iter().filter_map(renewed).collect(),
    }
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
