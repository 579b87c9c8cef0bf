//! Apps.

use axum::{
    Json as Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    extract::{Args, InScope, Json, Named, if_match},
    problem::ApiError,
    view::AppView,
};
use crate::{
    control::{ControlError, Written},
    model::{AppKey, ErrorCode, Problem, Revision},
    spec::v1::{AppSpec, validate_app},
};

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WrittenView {
    /// The revision that has it.
    pub revision: Revision,
    /// Whether the app is new.
    pub created: bool,
    /// The app's generation after it.
    pub generation: u64,
}

/// How many instances.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// 0 to 1000.
    pub replicas: u32,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PutArgs {
    /// Check only; change nothing.
    #[serde(default)]
    dry_run: bool,
}

fn etag(revision: Revision) -> [(header::HeaderName, String); 1] {
    [(header::ETAG, format!("\"{revision}\""))]
}

fn written(done: Written) -> Response {
    let status = if done.created { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    let Written { revision, created, generation } = done;
    (status, etag(revision), Body(WrittenView { revision, created, generation })).into_response()
}

fn find(state: &ApiState, key: &AppKey) -> Result<AppView, ApiError> {
    let snapshot = state.control.snapshot();
    match snapshot.apps.get(key) {
        Some(row) => Ok(AppView::new(&snapshot, row)),
        None => Err(ControlError::NotFound { key: key.clone() }.into()),
    }
}

/// The apps of a namespace.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path)),
    responses((status = 200, body = [AppView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(state): State<ApiState>, InScope(scope): InScope) -> Body<Vec<AppView>> {
    let snapshot = state.control.snapshot();
    let apps = snapshot.apps.iter().filter(|(key, _)| key.scope == scope);
    Body(apps.map(|(_, row)| AppView::new(&snapshot, row)).collect())
}

/// An app.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = AppView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, named: Named) -> Result<Response, ApiError> {
    let app = find(&state, &named.app()?)?;
    Ok((etag(app.revision), Body(app)).into_response())
}

/// Create an app or change it.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), PutArgs),
    request_body = AppSpec,
    responses((status = 201, body = WrittenView), (status = 202, body = WrittenView), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    named: Named,
    Args(args): Args<PutArgs>,
    headers: HeaderMap,
    Json(spec): Json<AppSpec>,
) -> Result<Response, ApiError> {
    let key = named.app()?;
    if args.dry_run {
        let faults = validate_app(&spec);
        if !faults.is_empty() {
            return Err(ControlError::Invalid { key, faults }.into());
        }
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(written(state.control.deploy(key, spec, if_match(&headers)?).await?))
}

/// Stop the instances of an app and remove it.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 202, body = WrittenView), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    named: Named,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    Ok(written(state.control.remove(&named.app()?, if_match(&headers)?).await?))
}

/// Change the number of instances.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/scale", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    request_body = Scale,
    responses((status = 202, body = WrittenView), (status = "4XX", body = Problem)))]
pub(super) async fn scale(
    State(state): State<ApiState>,
    named: Named,
    headers: HeaderMap,
    Json(scale): Json<Scale>,
) -> Result<Response, ApiError> {
    Ok(written(state.control.scale(&named.app()?, scale.replicas, if_match(&headers)?).await?))
}

/// Replace all instances, one after the other.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/restart", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 202, body = WrittenView), (status = "4XX", body = Problem)))]
pub(super) async fn restart(
    State(state): State<ApiState>,
    named: Named,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    Ok(written(state.control.restart(&named.app()?, if_match(&headers)?).await?))
}

/// The problem of an object that is not there, with names that are near.
pub(super) fn not_found<'a>(kind: &str, name: &str, there: impl Iterator<Item = &'a str>) -> ApiError {
    let mut problem = Problem::new(ErrorCode::NotFound, format!("{kind} {name} does not exist"));
    let near = there.filter(|other| other.contains(name) || name.contains(other) || distance(name, other) <= 2);
    if let Some(near) = near.min_by_key(|other| distance(name, other)) {
        problem = problem.detail(format!("did you mean {near}?"));
    }
    problem.into()
}

/// Edit distance (Levenshtein), for short names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let here = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], here);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn near_names_are_near() {
        for (a, b, d) in
            [("web", "web", 0), ("web", "wep", 1), ("web-ap", "web-app", 1), ("", "abc", 3), ("kitten", "sitting", 3)]
        {
            assert_eq!(super::distance(a, b), d, "{a} {b}");
        }
    }
}
