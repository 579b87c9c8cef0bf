//! Policies.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{
    Json as Body,
    extract::State,
    response::{IntoResponse, Response},
};

use super::{
    ApiState,
    apps::etag,
    extract::{InScope, Json, Named},
    list::{Candidate, List, ListAll, ListAllArgs, ListArgs, key},
    object_view::{PolicyView, TrialView},
    problem::ApiError,
    tenants::{ChangedView, change, check, refused},
    terms::{Conditions, DryRun, Key, Terms},
};
use hivemind_control::{ControlError, ObjectChange, ObjectName};
use hivemind_core::{
    model::{PolicyKey, Problem, Scope},
    spec::v1::PolicySpec,
};
use hivemind_policy::PolicyRef;

/// The policies of all namespaces.
#[utoipa::path(get, operation_id = "listAllPolicies", path = "/v1/policies", tag = "policies", params(ListAllArgs),
    responses((status = 200, body = [PolicyView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_all(State(state): State<ApiState>, ListAll(of, list): ListAll) -> Result<Response, ApiError> {
    all(&state, list, |scope| of.has(scope))
}

/// The policies of a namespace.
#[utoipa::path(get, operation_id = "listPolicies", path = "/v1/tenants/{tenant}/namespaces/{namespace}/policies", tag = "policies",
    params(("tenant" = String, Path), ("namespace" = String, Path), ListArgs),
    responses((status = 200, body = [PolicyView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    list: List,
) -> Result<Response, ApiError> {
    check(&state, &scope)?;
    all(&state, list, |other| *other == scope)
}

fn all(state: &ApiState, list: List, of: impl Fn(&Scope) -> bool) -> Result<Response, ApiError> {
    let open = list.open::<PolicyView>(state)?;
    let snapshot = Arc::clone(&open.snapshot);
    let policies = snapshot.policies.iter().filter(|(key, _)| of(&key.scope));
    Ok(open.answer(policies.map(|(PolicyKey { scope, name }, row)| Candidate {
        key: key([&scope.tenant, &scope.namespace, name]),
        labels: Cow::Owned(BTreeMap::new()),
        view: || PolicyView::counted(&snapshot, row),
    })))
}

/// A policy, with how many instances it is about now.
#[utoipa::path(get, operation_id = "getPolicy", path = "/v1/tenants/{tenant}/namespaces/{namespace}/policies/{name}", tag = "policies",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = PolicyView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, named: Named) -> Result<Response, ApiError> {
    let key = named.policy()?;
    let snapshot = state.control.snapshot();
    check(&state, &key.scope)?;
    let Some(row) = snapshot.policies.get(&key) else {
        return Err(refused(&state, ControlError::NotFound { object: ObjectName::Policy(key) }));
    };
    let mut view = PolicyView::counted(&snapshot, row);
    view.trial = TrialView::read(&state, PolicyRef::Namespace(key), view.spec.audit).await;
    Ok((etag(row.modified), Body(view)).into_response())
}

/// Create a policy or change it.
#[utoipa::path(put, operation_id = "putPolicy", path = "/v1/tenants/{tenant}/namespaces/{namespace}/policies/{name}", tag = "policies",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    request_body = PolicySpec,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    named: Named,
    terms: Terms,
    Json(spec): Json<PolicySpec>,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::PutPolicy(named.policy()?, Box::new(spec)), terms).await
}

/// Remove a policy.
#[utoipa::path(delete, operation_id = "deletePolicy", path = "/v1/tenants/{tenant}/namespaces/{namespace}/policies/{name}", tag = "policies",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete(State(state): State<ApiState>, named: Named, terms: Terms) -> Result<Response, ApiError> {
    change(&state, ObjectChange::RemovePolicy(named.policy()?), terms).await
}
