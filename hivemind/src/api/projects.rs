//! Projects: apps of one namespace that are changed together.

use axum::{
    Json as Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    ApiState,
    apps::{PutArgs, etag},
    extract::{Args, Json, Named},
    problem::ApiError,
    tenants,
};
pub use crate::control::{AppAction, AppChanged, ProjectChanged};
use crate::{
    control::{ControlError, ObjectName, ProjectChange, ProjectKey},
    model::Problem,
    runtime::check_reference,
    spec::v1::ProjectSpec,
};

fn answer(done: ProjectChanged) -> Response {
    let status = if done.created { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    (status, etag(done.revision), Body(done)).into_response()
}

/// Make a project what the document says, all of it or nothing; its namespace is created with it.
#[utoipa::path(put, operation_id = "putProject", path = "/v1/tenants/{tenant}/namespaces/{namespace}/projects/{name}", tag = "projects",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), PutArgs),
    request_body = ProjectSpec,
    responses((status = 200, body = ProjectChanged, description = "Dry run: nothing was changed"),
        (status = 201, body = ProjectChanged), (status = 202, body = ProjectChanged), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    Named(scope, name): Named,
    Args(args): Args<PutArgs>,
    Json(spec): Json<ProjectSpec>,
) -> Result<Response, ApiError> {
    let image = |(app, spec): (_, &crate::spec::v1::AppSpec)| {
        check_reference(&spec.image).err().map(|error| format!("{app}: image: {error}"))
    };
    let faults: Vec<_> = spec.apps.iter().filter_map(image).collect();
    if !faults.is_empty() {
        let object = ObjectName::Namespace(scope);
        return Err(tenants::refused(&state, ControlError::Invalid { object, faults }));
    }
    let (key, change) = (ProjectKey { scope, name }, ProjectChange::Apply(Box::new(spec)));
    if args.dry_run {
        let preview = state.control.preview_project(&key, change);
        return Ok(Body(preview.map_err(|error| tenants::refused(&state, error))?).into_response());
    }
    let done = state.control.project(key, change).await;
    done.map(answer).map_err(|error| tenants::refused(&state, error))
}

/// How a project is removed.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveArgs {
    /// Also the volumes that it has made, with all that is in them. What somebody else uses, or has made, stays.
    #[serde(default)]
    volumes: bool,
}

/// Stop all instances of a project; when the last is gone its apps, its policies and its namespace go.
#[utoipa::path(delete, operation_id = "deleteProject", path = "/v1/tenants/{tenant}/namespaces/{namespace}/projects/{name}", tag = "projects",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), RemoveArgs),
    responses((status = 202, body = ProjectChanged), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Named(scope, name): Named,
    Args(RemoveArgs { volumes }): Args<RemoveArgs>,
) -> Result<Response, ApiError> {
    let done = state.control.project(ProjectKey { scope, name }, ProjectChange::Remove { volumes }).await;
    done.map(answer).map_err(|error| tenants::refused(&state, error))
}
