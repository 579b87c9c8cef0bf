//! Policies of tiers: the operator's, and tenants' for all their namespaces.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{
    Json as Body,
    extract::{FromRequestParts, Path, State},
    http::request::Parts,
    response::{IntoResponse, Response},
};

use super::{
    ApiState,
    apps::etag,
    extract::Json,
    list::{Candidate, List, ListArgs, key},
    object_view::{TierView, TrialView},
    problem::ApiError,
    tenants::{ChangedView, change, refused},
    terms::{Conditions, DryRun, Key, Terms},
};
use hivemind_control::{ControlError, ObjectChange, ObjectName};
use hivemind_core::{
    model::{Problem, TierKey},
    spec::v1::{Tier, TierSpec},
};
use hivemind_policy::PolicyRef;

/// `{name}`, or `{tenant}` and `{name}`, of the path.
pub(super) struct Called(TierKey);

impl<S: Send + Sync> FromRequestParts<S> for Called {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(names) = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await?;
        let of = |wanted: &str| names.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let tenant = of("tenant").map(str::parse).transpose()?;
        Ok(Self(TierKey { tenant, name: of("name").unwrap_or_default().parse()? }))
    }
}

async fn found(state: &ApiState, key: TierKey) -> Result<Response, ApiError> {
    let snapshot = state.control.snapshot();
    let Some(row) = snapshot.tiers.get(&key) else {
        return Err(refused(state, ControlError::NotFound { object: ObjectName::Tier(key) }));
    };
    let mut view = TierView::new(row);
    view.failsafe = (view.spec.tier == Tier::Host).then(|| state.failsafe.to_string());
    view.trial = TrialView::read(state, PolicyRef::Tier(key), view.spec.audit).await;
    Ok((etag(row.modified), Body(view)).into_response())
}

/// All policies of tiers.
#[utoipa::path(get, operation_id = "listTierPolicies", path = "/v1/tier-policies", tag = "policies", params(ListArgs),
    responses((status = 200, body = [TierView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(state): State<ApiState>, list: List) -> Result<Response, ApiError> {
    let open = list.open::<TierView>(&state)?;
    let snapshot = Arc::clone(&open.snapshot);
    Ok(open.answer(snapshot.tiers.iter().map(|(TierKey { tenant, name }, row)| Candidate {
        // The operator's, which are no tenant's, come first.
        key: key([&tenant.as_ref().map_or("", |tenant| tenant.as_str()), name]),
        labels: Cow::Owned(BTreeMap::new()),
        view: || TierView::new(row),
    })))
}

/// A policy of a tier of the operator's.
#[utoipa::path(get, operation_id = "getTierPolicy", path = "/v1/tier-policies/{name}", tag = "policies",
    params(("name" = String, Path)), responses((status = 200, body = TierView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, Called(key): Called) -> Result<Response, ApiError> {
    found(&state, key).await
}

/// Create a policy of a tier for the whole cluster, or change it.
#[utoipa::path(put, operation_id = "putTierPolicy", path = "/v1/tier-policies/{name}", tag = "policies",
    params(("name" = String, Path), DryRun, Conditions, Key), request_body = TierSpec,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    Called(key): Called,
    terms: Terms,
    Json(spec): Json<TierSpec>,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::PutTier(key, Box::new(spec)), terms).await
}

/// Remove a policy of a tier of the operator's.
#[utoipa::path(delete, operation_id = "deleteTierPolicy", path = "/v1/tier-policies/{name}", tag = "policies",
    params(("name" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Called(key): Called,
    terms: Terms,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::RemoveTier(key), terms).await
}

/// A policy of a tier of a tenant.
#[utoipa::path(get, operation_id = "getTierPolicyOfTenant", path = "/v1/tenants/{tenant}/tier-policies/{name}", tag = "policies",
    params(("tenant" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = TierView), (status = "4XX", body = Problem)))]
pub(super) async fn get_of_tenant(State(state): State<ApiState>, Called(key): Called) -> Result<Response, ApiError> {
    found(&state, key).await
}

/// Create a policy of a tier about the namespaces of a tenant, or change it.
#[utoipa::path(put, operation_id = "putTierPolicyOfTenant", path = "/v1/tenants/{tenant}/tier-policies/{name}", tag = "policies",
    params(("tenant" = String, Path), ("name" = String, Path), DryRun, Conditions, Key), request_body = TierSpec,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put_of_tenant(
    State(state): State<ApiState>,
    Called(key): Called,
    terms: Terms,
    Json(spec): Json<TierSpec>,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::PutTier(key, Box::new(spec)), terms).await
}

/// Remove a policy of a tier of a tenant.
#[utoipa::path(delete, operation_id = "deleteTierPolicyOfTenant", path = "/v1/tenants/{tenant}/tier-policies/{name}", tag = "policies",
    params(("tenant" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete_of_tenant(
    State(state): State<ApiState>,
    Called(key): Called,
    terms: Terms,
) -> Result<Response, ApiError> {
    change(&state, ObjectChange::RemoveTier(key), terms).await
}
