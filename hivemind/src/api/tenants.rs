//! Tenants and their namespaces.

use std::collections::BTreeMap;

use axum::{
    Json as Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    apps::etag,
    extract::{Args, InScope, InTenant, Json, NoArgs, OptionalJson, if_match},
    object_view::{NamespaceView, TenantView, namespaces_of, tenants},
    problem::{ApiError, with_nearest},
};
use crate::{
    control::{Changed, ControlError, ObjectChange, ObjectName},
    model::{AppName, Problem, Revision, Scope, TenantName},
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
    ChangedView { revision, created, changed, renewed }
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
#[utoipa::path(get, operation_id = "listTenants", path = "/v1/tenants", tag = "tenants", responses((status = 200, body = [TenantView])))]
pub(super) async fn list(State(state): State<ApiState>) -> Body<Vec<TenantView>> {
    let snapshot = state.control.snapshot();
    Body(tenants(&snapshot).iter().map(|name| TenantView::counted(&snapshot, name)).collect())
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
#[utoipa::path(put, operation_id = "putTenant", path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path)),
    request_body = Option<TenantBody>,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    InTenant(name): InTenant,
    Args(NoArgs {}): Args<NoArgs>,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<TenantBody>,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::PutTenant(name, body.map(|body| body.limits)), &headers).await
}

/// Remove a tenant with its namespaces; refused while there are apps, policies or volumes in them.
#[utoipa::path(delete, operation_id = "deleteTenant", path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    InTenant(name): InTenant,
    Args(NoArgs {}): Args<NoArgs>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::RemoveTenant(name), &headers).await
}

/// The namespaces of a tenant.
#[utoipa::path(get, operation_id = "listNamespaces", path = "/v1/tenants/{tenant}/namespaces", tag = "tenants",
    params(("tenant" = String, Path)),
    responses((status = 200, body = [NamespaceView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_namespaces(
    State(state): State<ApiState>,
    InTenant(tenant): InTenant,
) -> Result<Body<Vec<NamespaceView>>, ApiError> {
    let snapshot = state.control.snapshot();
    if !snapshot.has_tenant(&tenant) {
        return Err(missing(&state, ObjectName::Tenant(tenant)));
    }
    let all = namespaces_of(&snapshot, &tenant);
    Ok(Body(all.iter().map(|scope| NamespaceView::counted(&snapshot, scope)).collect()))
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
    params(("tenant" = String, Path), ("namespace" = String, Path)),
    request_body = NamespaceBody,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put_namespace(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    Args(NoArgs {}): Args<NoArgs>,
    headers: HeaderMap,
    Json(body): Json<NamespaceBody>,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::PutNamespace(scope, body.labels), &headers).await
}

/// Remove a namespace; refused while there are apps, policies or volumes in it.
#[utoipa::path(delete, operation_id = "deleteNamespace", path = "/v1/tenants/{tenant}/namespaces/{namespace}", tag = "tenants",
    params(("tenant" = String, Path), ("namespace" = String, Path)),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete_namespace(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    Args(NoArgs {}): Args<NoArgs>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::RemoveNamespace(scope), &headers).await
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

pub(super) async fn change(state: &ApiState, change: ObjectChange, headers: &HeaderMap) -> Result<Response, ApiError> {
    let done = state.control.change(change, if_match(headers)?).await;
    done.map(changed).map_err(|error| refused(state, error))
}

/// What belongs to one tenant, or to all.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct OfTenant {
    /// Only of this tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantName>,
}

impl OfTenant {
    pub(super) fn has(&self, scope: &Scope) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| *tenant == scope.tenant)
    }
}
