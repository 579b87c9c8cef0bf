//! The documents of tenants, namespaces and policies. Their JSON is stable: fields are added, never changed.
//!
//! Counts are of the moment and only in answers to a question, not in a watch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use hivemind_core::{
    model::{ClusterSnapshot, NamespaceName, Policy, Revision, Row, Scope, Tenant, TenantName, TierPolicy, Timestamp},
    spec::v1::{LimitSpec, PolicySpec, TierSpec},
};
use hivemind_policy::{PolicyRef, Trial};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantView {
    /// Its name.
    pub name: TenantName,
    /// How many namespaces it has, with the one named `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<usize>,
    /// Limits of the traffic of its instances, on each node together.
    #[serde(default, skip_serializing_if = "LimitSpec::is_default")]
    pub limits: LimitSpec,
    /// The ETag: the revision that last wrote it; 0 for `default`, which always exists, while it has no limits.
    pub revision: Revision,
    /// When it was created; absent for `default` while it has no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamespaceView {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its name.
    pub name: NamespaceName,
    /// The labels that it was given. Selectors also see `kubernetes.io/metadata.name`, which always is its name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How many apps are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apps: Option<usize>,
    /// How many policies are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<usize>,
    /// The ETag: the revision that last wrote it; 0 for one named `default` that was given no labels.
    pub revision: Revision,
    /// When it was created; absent for one that always was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyView {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: PolicySpec,
    /// How many instances it is about now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<usize>,
    /// Of one on trial, what it would have denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialView>,
    /// The ETag: the revision that last wrote it.
    pub revision: Revision,
    /// When it was first applied.
    pub created_at: Timestamp,
}

/// What a policy on trial would have denied on the node that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrialView {
    /// Since when it is counted: since the policy says what it says, or the daemon runs.
    pub since: Timestamp,
    /// How often something was let in that it would have denied. What lives on is decided about, and counted, again at each
    /// change of the tables.
    pub inwards: u64,
    /// The same of what was let out.
    pub outwards: u64,
    /// Other policies on trial about the same instances: only what none of them allows is counted there, for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<String>,
}

impl TrialView {
    /// What was counted for a policy on trial; nothing for one that is none, or cannot be read.
    pub(super) async fn read(state: &ApiState, policy: PolicyRef, audit: bool) -> Option<Self> {
        let mut all = if audit { state.datapath.trials().await.unwrap_or_default() } else { return None };
        let Trial { since, inwards, outwards, beside } = all.remove(&policy)?;
        Some(Self { since, inwards, outwards, beside: beside.iter().map(ToString::to_string).collect() })
    }
}

/// A policy of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TierView {
    /// Whose it is; absent: the operator's, about all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: TierSpec,
    /// Of a policy of the host: the ports of the node that answers which no policy closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe: Option<String>,
    /// Of one on trial, what it would have denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialView>,
    /// The ETag: the revision that last wrote it.
    pub revision: Revision,
    /// When it was first applied.
    pub created_at: Timestamp,
}

impl TierView {
    /// What it is called by: NAME of an operator's policy, TENANT/NAME of a tenant's.
    pub fn key(&self) -> String {
        self.tenant.as_ref().map_or_else(|| self.name.clone(), |tenant| format!("{tenant}/{}", self.name))
    }
}

impl TierView {
    /// A policy of the snapshot.
    pub fn new(row: &Row<TierPolicy>) -> Self {
        let policy = &row.object;
        Self {
            tenant: policy.key.tenant.clone(),
            name: policy.key.name.to_string(),
            spec: policy.spec.clone(),
            failsafe: None,
            trial: None,
            revision: row.modified,
            created_at: policy.created_at,
        }
    }
}

impl TenantView {
    /// A tenant that exists, with or without a row.
    pub fn new(name: &TenantName, row: Option<&Row<Tenant>>) -> Self {
        Self {
            name: name.clone(),
            namespaces: None,
            limits: row.map(|row| row.object.limits).unwrap_or_default(),
            revision: row.map_or(0, |row| row.modified),
            created_at: row.map(|row| row.object.created_at),
        }
    }

    /// With its counts.
    pub(super) fn counted(snapshot: &ClusterSnapshot, name: &TenantName) -> Self {
        let mut view = Self::new(name, snapshot.tenants.get(name));
        view.namespaces = Some(namespaces_of(snapshot, name).len());
        view
    }
}

impl NamespaceView {
    /// A namespace that exists, with or without a row.
    pub fn new(snapshot: &ClusterSnapshot, scope: &Scope) -> Self {
        let row = snapshot.namespaces.get(scope);
        Self {
            tenant: scope.tenant.clone(),
            name: scope.namespace.clone(),
            labels: row.map(|row| row.object.labels.clone()).unwrap_or_default(),
            apps: None,
            policies: None,
            revision: row.map_or(0, |row| row.modified),
            created_at: row.map(|row| row.object.created_at),
        }
    }

    /// With its counts.
    pub(super) fn counted(snapshot: &ClusterSnapshot, scope: &Scope) -> Self {
        let apps = snapshot.apps.keys().filter(|key| key.scope == *scope).count();
        let policies = snapshot.policies.keys().filter(|key| key.scope == *scope).count();
        Self { apps: Some(apps), policies: Some(policies), ..Self::new(snapshot, scope) }
    }
}

impl PolicyView {
    /// A policy of the snapshot.
    pub fn new(row: &Row<Policy>) -> Self {
        let policy = &row.object;
        Self {
            tenant: policy.key.scope.tenant.clone(),
            namespace: policy.key.scope.namespace.clone(),
            name: policy.key.name.to_string(),
            spec: policy.spec.clone(),
            instances: None,
            trial: None,
            revision: row.modified,
            created_at: policy.created_at,
        }
    }

    /// With its counts.
    pub(super) fn counted(snapshot: &ClusterSnapshot, row: &Row<Policy>) -> Self {
        let Policy { key, spec, .. } = &*row.object;
        let here = snapshot.instances.values().map(|row| &row.object).filter(|i| i.app.scope == key.scope);
        let selected = here.filter(|instance| spec.instances.matches(&instance.spec.labels)).count();
        Self { instances: Some(selected), ..Self::new(row) }
    }
}

/// The tenants, the one that always exists among them.
pub(super) fn tenants(snapshot: &ClusterSnapshot) -> Vec<TenantName> {
    let mut all: Vec<_> = snapshot.tenants.keys().cloned().collect();
    all.push(Scope::default().tenant);
    all.sort();
    all.dedup();
    all
}

/// The namespaces of a tenant, the one that it always has among them.
pub(super) fn namespaces_of(snapshot: &ClusterSnapshot, tenant: &TenantName) -> Vec<Scope> {
    let mut all: Vec<_> = snapshot.namespaces.keys().filter(|scope| scope.tenant == *tenant).cloned().collect();
    all.push(Scope::default_of(tenant.clone()));
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_always_exists_is_listed_once_and_in_order() {
        let mut snapshot = ClusterSnapshot::at(1);
        assert_eq!(tenants(&snapshot).len(), 1);
        let scope = |tenant: &str, namespace: &str| Scope {
            tenant: tenant.parse().expect("a name"),
            namespace: namespace.parse().expect("a name"),
        };
        for scope in [scope("default", "prod"), scope("default", "default"), scope("acme", "a")] {
            let namespace = hivemind_core::model::Namespace {
                scope: scope.clone(),
                labels: BTreeMap::from([("a".into(), "b".into())]),
                created_at: Timestamp::default(),
            };
            snapshot.namespaces.insert(scope, Row { object: std::sync::Arc::new(namespace), modified: 1 });
        }
        let names = |tenant: &str| {
            let all = namespaces_of(&snapshot, &tenant.parse().expect("a name"));
            all.iter().map(|scope| scope.namespace.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names("default"), ["default", "prod"]);
        assert_eq!(names("acme"), ["a", "default"]);
        let default = NamespaceView::counted(&snapshot, &Scope::default());
        assert_eq!((default.labels.len(), default.apps, default.revision), (1, Some(0), 1));
        assert_eq!(TenantView::counted(&snapshot, &Scope::default().tenant).namespaces, Some(2));
    }
}
