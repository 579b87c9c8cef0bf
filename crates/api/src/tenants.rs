//! Tenants and their namespaces.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{
    Json as Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    apps::etag,
    contents::ContentView,
    extract::{InScope, InTenant, Json, OptionalJson},
    list::{Candidate, List, ListArgs, key},
    object_view::{NamespaceView, PolicyView, TenantView, TierView, namespaces_of, tenants},
    problem::{ApiError, with_nearest},
    terms::{Conditions, DryRun, Key, Terms},
    volumes::VolumeView,
};
use hivemind_control::{Changed, ControlError, ObjectChange, ObjectName, RowChange};
use hivemind_core::{
    model::{AppName, ClusterSnapshot, NAMESPACE_NAME_LABEL, Problem, Revision, Row, Scope, TenantName},
    spec::v1::LimitSpec,
};

/// What a change of a tenant, a namespace or a policy did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedView {
    /// The revision that has it.
    pub revision: Revision,
    /// Whether the object is new.
    pub created: bool,
    /// Whether anything is not as it was.
    pub changed: bool,
    /// Only of a dry run that finds something to change: the object as it would be, as it is shown where one asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub object: Option<serde_json::Value>,
    /// The apps of its namespace that get new instances for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub renewed: Vec<AppName>,
}

/// What a tenant is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantBody {
    /// Limits of the traffic of its instances, on each node together; those that it has and that are not here go.
    #[serde(default)]
    pub limits: LimitSpec,
}

/// What a namespace is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceBody {
    /// All its labels; those that it has and that are not here go.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The answer to a change: it is done when it is answered.
pub(super) fn changed(done: Changed) -> Response {
    let status = if done.created { StatusCode::CREATED } else { StatusCode::OK };
    (status, etag(done.revision), Body(view(done))).into_response()
}

pub(super) fn view(Changed { revision, created, changed, renewed }: Changed) -> ChangedView {
    ChangedView { revision, created, changed, renewed, object: None }
}

/// A refused command; what is not there with the nearest name of those that are.
pub(super) fn refused(state: &ApiState, error: ControlError) -> ApiError {
    let snapshot = state.control.snapshot();
    let (name, there): (String, Vec<String>) = match &error {
        ControlError::NotFound { object: ObjectName::Tenant(name) }
        | ControlError::NoScope { scope: Scope { tenant: name, .. }, tenant: false } => {
            (name.to_string(), tenants(&snapshot).iter().map(ToString::to_string).collect())
        }
        ControlError::NotFound { object: ObjectName::Namespace(scope) }
        | ControlError::NoScope { scope, tenant: true } => {
            let there = namespaces_of(&snapshot, &scope.tenant);
            (scope.namespace.to_string(), there.iter().map(|scope| scope.namespace.to_string()).collect())
        }
        ControlError::NotFound { object: ObjectName::Policy(key) } => {
            let there = snapshot.policies.keys().filter(|other| other.scope == key.scope);
            (key.name.to_string(), there.map(|key| key.name.to_string()).collect())
        }
        ControlError::NotFound { object: ObjectName::Tier(key) } => {
            let there = snapshot.tiers.keys().filter(|other| other.tenant == key.tenant);
            (key.name.to_string(), there.map(|key| key.name.to_string()).collect())
        }
        ControlError::NotFound { object: ObjectName::Volume(key) } => {
            let there = snapshot.volumes.keys().filter(|other| other.scope == key.scope);
            (key.name.to_string(), there.map(|key| key.name.to_string()).collect())
        }
        ControlError::NotFound { object: ObjectName::Content(kind, key) } => {
            let there = snapshot.contents.keys().filter(|(other, it)| other == kind && it.scope == key.scope);
            (key.name.to_string(), there.map(|(_, key)| key.name.to_string()).collect())
        }
        _ => return error.into(),
    };
    with_nearest(error.into(), &name, there.iter().map(String::as_str)).into()
}

fn missing(state: &ApiState, object: ObjectName) -> ApiError {
    refused(state, ControlError::NotFound { object })
}

/// All tenants.
#[utoipa::path(get, operation_id = "listTenants", path = "/v1/tenants", tag = "tenants", params(ListArgs),
    responses((status = 200, body = [TenantView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(state): State<ApiState>, list: List) -> Result<Response, ApiError> {
    let open = list.open::<TenantView>(&state)?;
    let snapshot = Arc::clone(&open.snapshot);
    let all = tenants(&snapshot);
    Ok(open.answer(all.iter().map(|name| Candidate {
        key: key([name]),
        labels: Cow::Owned(BTreeMap::new()),
        view: || TenantView::counted(&snapshot, name),
    })))
}

/// A tenant.
#[utoipa::path(get, operation_id = "getTenant", path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, body = TenantView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, InTenant(name): InTenant) -> Result<Response, ApiError> {
    let snapshot = state.control.snapshot();
    if !snapshot.has_tenant(&name) {
        return Err(missing(&state, ObjectName::Tenant(name)));
    }
    let tenant = TenantView::counted(&snapshot, &name);
    Ok((etag(tenant.revision), Body(tenant)).into_response())
}

/// Create a tenant, or give it other limits; without a body it keeps those that it has.
#[utoipa::path(put, operation_id = "putTenant", path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path), DryRun, Conditions, Key),
    request_body = Option<TenantBody>,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    InTenant(name): InTenant,
    terms: Terms,
    OptionalJson(body): OptionalJson<TenantBody>,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::PutTenant(name, body.map(|body| body.limits)), terms).await
}

/// Remove a tenant with its namespaces; refused while there are apps, policies or volumes in them.
#[utoipa::path(delete, operation_id = "deleteTenant", path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    InTenant(name): InTenant,
    terms: Terms,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::RemoveTenant(name), terms).await
}

/// The namespaces of a tenant.
#[utoipa::path(get, operation_id = "listNamespaces", path = "/v1/tenants/{tenant}/namespaces", tag = "tenants",
    params(("tenant" = String, Path), ListArgs),
    responses((status = 200, body = [NamespaceView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_namespaces(
    State(state): State<ApiState>,
    InTenant(tenant): InTenant,
    list: List,
) -> Result<Response, ApiError> {
    let open = list.open::<NamespaceView>(&state)?;
    let snapshot = Arc::clone(&open.snapshot);
    if !snapshot.has_tenant(&tenant) {
        return Err(missing(&state, ObjectName::Tenant(tenant)));
    }
    let all = namespaces_of(&snapshot, &tenant);
    Ok(open.answer(all.iter().map(|scope| Candidate {
        key: key([&scope.namespace]),
        labels: Cow::Owned(namespace_labels(&snapshot, scope)),
        view: || NamespaceView::counted(&snapshot, scope),
    })))
}

/// The labels that selectors see.
fn namespace_labels(snapshot: &ClusterSnapshot, scope: &Scope) -> BTreeMap<String, String> {
    let mut labels = snapshot.namespaces.get(scope).map(|row| row.object.labels.clone()).unwrap_or_default();
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), scope.namespace.to_string());
    labels
}

/// A namespace.
#[utoipa::path(get, operation_id = "getNamespace", path = "/v1/tenants/{tenant}/namespaces/{namespace}", tag = "tenants",
    params(("tenant" = String, Path), ("namespace" = String, Path)),
    responses((status = 200, body = NamespaceView), (status = "4XX", body = Problem)))]
pub(super) async fn get_namespace(
    State(state): State<ApiState>,
    InScope(scope): InScope,
) -> Result<Response, ApiError> {
    let snapshot = state.control.snapshot();
    check(&state, &scope)?;
    let namespace = NamespaceView::counted(&snapshot, &scope);
    Ok((etag(namespace.revision), Body(namespace)).into_response())
}

/// Create a namespace, or give it other labels.
#[utoipa::path(put, operation_id = "putNamespace", path = "/v1/tenants/{tenant}/namespaces/{namespace}", tag = "tenants",
    params(("tenant" = String, Path), ("namespace" = String, Path), DryRun, Conditions, Key),
    request_body = NamespaceBody,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put_namespace(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    terms: Terms,
    Json(body): Json<NamespaceBody>,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::PutNamespace(scope, body.labels), terms).await
}

/// Remove a namespace; refused while there are apps, policies or volumes in it.
#[utoipa::path(delete, operation_id = "deleteNamespace", path = "/v1/tenants/{tenant}/namespaces/{namespace}", tag = "tenants",
    params(("tenant" = String, Path), ("namespace" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete_namespace(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    terms: Terms,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::RemoveNamespace(scope), terms).await
}

/// A namespace that is not there, or whose tenant is not.
pub(super) fn check(state: &ApiState, scope: &Scope) -> Result<(), ApiError> {
    let snapshot = state.control.snapshot();
    match snapshot.has_namespace(scope) {
        true => Ok(()),
        false => {
            let tenant = snapshot.has_tenant(&scope.tenant);
            Err(refused(state, ControlError::NoScope { scope: scope.clone(), tenant }))
        }
    }
}

/// Changes an object, or only looks what would come of it.
pub(super) async fn change(state: &ApiState, change: ObjectChange, terms: Terms) -> Result<Response, ApiError> {
    if terms.dry_run {
        let preview = state.control.preview_change(change, terms.if_match);
        let (outcome, rows) = preview.map_err(|error| refused(state, error))?;
        let object = would_be(state, rows, outcome.revision);
        return Ok(Body(ChangedView { object, ..view(outcome) }).into_response());
    }
    let done = state.control.once(terms.once).change(change, terms.if_match).await;
    done.map(changed).map_err(|error| refused(state, error))
}

/// The document of the object that these rows write, as it would be shown right after; none if they only remove.
fn would_be(state: &ApiState, rows: Vec<RowChange>, modified: Revision) -> Option<serde_json::Value> {
    let mut snapshot = (*state.control.snapshot()).clone();
    let mut object = None;
    for row in rows {
        let document = match row {
            RowChange::PutTenant(tenant) => {
                let name = tenant.name.clone();
                snapshot.tenants.insert(name.clone(), Row { object: Arc::new(tenant), modified });
                serde_json::to_value(TenantView::counted(&snapshot, &name))
            }
            RowChange::PutNamespace(namespace) => {
                let scope = namespace.scope.clone();
                snapshot.namespaces.insert(scope.clone(), Row { object: Arc::new(namespace), modified });
                serde_json::to_value(NamespaceView::counted(&snapshot, &scope))
            }
            RowChange::PutPolicy(policy) => {
                serde_json::to_value(PolicyView::counted(&snapshot, &Row { object: Arc::new(policy), modified }))
            }
            RowChange::PutTier(policy) => {
                serde_json::to_value(TierView::new(&Row { object: Arc::new(policy), modified }))
            }
            RowChange::PutVolume(volume) => {
                serde_json::to_value(VolumeView::new(state, &snapshot, &Row { object: Arc::new(volume), modified }))
            }
            // Without its content, as in a list.
            RowChange::PutContent(content) => {
                serde_json::to_value(ContentView::new(&snapshot, &Row { object: Arc::new(content), modified }))
            }
            // What is renewed besides is named by the outcome.
            RowChange::RenewApp(_) | RowChange::Delete(_) => continue,
        };
        object = document.ok();
    }
    object
}

/// What belongs to one tenant, or to all.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfTenant {
    /// Only of this tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantName>,
}

impl OfTenant {
    /// Of this one; without it, of all.
    pub(super) fn new(tenant: Option<TenantName>) -> Self {
        Self { tenant }
    }

    pub(super) fn has(&self, scope: &Scope) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| *tenant == scope.tenant)
    }
}
