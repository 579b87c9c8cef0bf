//! Projects: apps of one namespace that are changed together.

use axum::{
    Json as Body,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    ApiState,
    apps::etag,
    auth::Caller,
    extract::{Args, Json, Named},
    problem::ApiError,
    tenants,
    terms::{DryRun, Key, Terms},
};
pub use hivemind_control::{AppAction, AppChanged, ProjectChanged};
use hivemind_control::{ControlError, ObjectName, ProjectChange, ProjectKey};
use hivemind_core::{
    model::{ErrorCode, Problem},
    spec::v1::ProjectSpec,
};
use hivemind_runtime::check_reference;

fn answer(done: ProjectChanged) -> Response {
    let status = if done.created { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    (status, etag(done.revision), Body(done)).into_response()
}

/// Changes a project, or only looks what would come of it. It has no revision of its own, and so no condition.
async fn change(state: &ApiState, key: ProjectKey, change: ProjectChange, terms: Terms) -> Result<Response, ApiError> {
    if terms.if_match.is_some() {
        let title = "a project has no revision of its own: If-Match cannot be kept";
        return Err(Problem::new(ErrorCode::BadRequest, title).hint("leave the header out").into());
    }
    if terms.dry_run {
        let preview = state.control.preview_project(&key, change);
        return Ok(Body(preview.map_err(|error| tenants::refused(state, error))?).into_response());
    }
    let done = state.control.once(terms.once).project(key, change).await;
    done.map(answer).map_err(|error| tenants::refused(state, error))
}

/// Make a project what the document says, all of it or nothing; its namespace is created with it.
#[utoipa::path(put, operation_id = "putProject", path = "/v1/tenants/{tenant}/namespaces/{namespace}/projects/{name}", tag = "projects",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Key),
    request_body = ProjectSpec,
    responses((status = 200, body = ProjectChanged, description = "Dry run: nothing was changed"),
        (status = 201, body = ProjectChanged), (status = 202, body = ProjectChanged), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    Named(scope, name): Named,
    terms: Terms,
    Json(spec): Json<ProjectSpec>,
) -> Result<Response, ApiError> {
    caller.may_run(&spec.apps)?;
    let image = |(app, spec): (_, &hivemind_core::spec::v1::AppSpec)| {
        check_reference(&spec.image).err().map(|error| format!("{app}: image: {error}"))
    };
    let faults: Vec<_> = spec.apps.iter().filter_map(image).collect();
    if !faults.is_empty() {
        let object = ObjectName::Namespace(scope);
        return Err(tenants::refused(&state, ControlError::Invalid { object, faults }));
    }
    change(&state, ProjectKey { scope, name }, ProjectChange::Apply(Box::new(spec)), terms).await
}

/// How a project is removed.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveArgs {
    /// Also the volumes that it has made, with all that is in them. What somebody else uses, or has made, stays.
    #[serde(default)]
    volumes: bool,
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(default, rename = "dryRun", alias = "dry_run")]
    #[param(rename = "dryRun", value_type = Option<bool>)]
    dry_run: bool,
}

/// How a project is removed, of a request.
#[derive(Debug)]
pub(super) struct Removal {
    volumes: bool,
    terms: Terms,
}

impl<S: Send + Sync> FromRequestParts<S> for Removal {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Args(RemoveArgs { volumes, dry_run }) = Args::from_request_parts(parts, state).await?;
        Ok(Self { volumes, terms: Terms::new(parts, dry_run)? })
    }
}

/// Stop all instances of a project; when the last is gone its apps, its policies and its namespace go.
#[utoipa::path(delete, operation_id = "deleteProject", path = "/v1/tenants/{tenant}/namespaces/{namespace}/projects/{name}", tag = "projects",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), RemoveArgs, Key),
    responses((status = 200, body = ProjectChanged, description = "Dry run: nothing was changed"),
        (status = 202, body = ProjectChanged), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Named(scope, name): Named,
    Removal { volumes, terms }: Removal,
) -> Result<Response, ApiError> {
    change(&state, ProjectKey { scope, name }, ProjectChange::Remove { volumes }, terms).await
}
