//! Instances that stand still.

use axum::{Json as Body, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    extract::{Args, Named},
    instances::{find, pid_of},
    problem::ApiError,
    terms::DryRun,
};
use hivemind_core::model::{ContainerId, Desired, ErrorCode, Instance, InstanceId, Problem};
use hivemind_runtime::{Mark, RunState, RuntimeError};

/// Whether an instance stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Paused {
    /// The instance.
    pub instance: String,
    /// Its id.
    pub id: InstanceId,
    /// Whether its processes stand still now.
    pub paused: bool,
    /// Whether that is another than before.
    pub changed: bool,
}

/// Have all processes of an instance stand still. It gets no traffic, and its health is not asked for, until they go on. Being
/// stopped or removed has them go on.
#[utoipa::path(post, operation_id = "pauseInstance", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/pause", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), DryRun),
    responses((status = 200, body = Paused), (status = "4XX", body = Problem)))]
pub(super) async fn pause(
    State(state): State<ApiState>,
    named: Named,
    Args(DryRun { dry_run }): Args<DryRun>,
) -> Result<Body<Paused>, ApiError> {
    let instance = find(&state, &named)?;
    let before = is_paused(&state, &instance).await?;
    if instance.desired == Desired::Stop {
        let title = format!("{} is being stopped", instance.name());
        return Err(Problem::new(ErrorCode::NotRunning, title).into());
    }
    if !dry_run {
        for id in instance.containers() {
            match state.runtime.pause(&id).await {
                // A sidecar that does not run just now finds its instance paused when it is started again.
                Err(RuntimeError::NotRunning { .. }) if id.sidecar().is_some() => {}
                done => done?,
            }
        }
    }
    Ok(Body(Paused { instance: instance.name(), id: instance.id.clone(), paused: true, changed: !before }))
}

/// Have the processes of a paused instance go on.
#[utoipa::path(post, operation_id = "unpauseInstance", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/unpause", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), DryRun),
    responses((status = 200, body = Paused), (status = "4XX", body = Problem)))]
pub(super) async fn unpause(
    State(state): State<ApiState>,
    named: Named,
    Args(DryRun { dry_run }): Args<DryRun>,
) -> Result<Body<Paused>, ApiError> {
    let instance = find(&state, &named)?;
    let before = is_paused(&state, &instance).await?;
    if !dry_run {
        for id in instance.containers() {
            state.runtime.resume(&id).await?;
        }
    }
    Ok(Body(Paused { instance: instance.name(), id: instance.id.clone(), paused: false, changed: before }))
}

/// Whether the processes of an instance stand still; refused if none runs, or before its hooks of the start are done, whose time
/// would run on.
async fn is_paused(state: &ApiState, instance: &Instance) -> Result<bool, ApiError> {
    let id = ContainerId::from(&instance.id);
    pid_of(state, instance, &id).await?;
    let found = state.runtime.state(&id).await?;
    let hooks = !instance.spec.container.hooks.post_start.is_empty();
    if hooks && found.as_ref().is_some_and(|found| !found.marks.contains(&Mark::Begun)) {
        let title = format!("the post-start hook of {} still runs; try again when it has ended", instance.name());
        return Err(Problem::new(ErrorCode::NotRunning, title)
            .hint(format!("hivemind ps {}", instance.app.name))
            .into());
    }
    Ok(found.is_some_and(|found| matches!(found.run, RunState::Paused { .. })))
}
