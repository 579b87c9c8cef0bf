//! Looking on what the process of an instance writes, and writing to its input, over a WebSocket with the messages of
//! [`super::exec`].

use axum::{
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::Response,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    ApiState,
    exec::{MESSAGE_LIMIT, carry},
    extract::{Args, Named},
    instances::{container_of, find},
    problem::ApiError,
    serve::Stop,
};
use hivemind_core::model::{ErrorCode, Problem, SidecarName};
use hivemind_runtime::{AttachSpec, TtySize};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AttachArgs {
    /// Whether standard input will be sent; refused if the process has none.
    #[serde(default)]
    stdin: bool,
    /// The terminal has so many rows, if the process has one.
    rows: Option<u16>,
    /// It has so many columns.
    cols: Option<u16>,
    /// To a sidecar of the instance, by its name; without it, to the app's own container.
    #[param(value_type = Option<String>)]
    container: Option<SidecarName>,
}

/// Attach to the process of an instance, over a WebSocket: what it writes from now on, and its input. The messages are those
/// of an exec, and 6: how many bytes of output were left out as JSON `{"bytes":4096}`, because they were not taken fast enough.
/// Several may be attached at once. Closing the connection leaves the process alone.
#[utoipa::path(get, operation_id = "attachToInstance", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/attach", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), AttachArgs),
    responses((status = 101, description = "The connection is a WebSocket now"), (status = "4XX", body = Problem)))]
pub(super) async fn attach(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    named: Named,
    Args(args): Args<AttachArgs>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| Problem::new(ErrorCode::BadRequest, error.body_text()))?;
    let instance = find(&state, &named)?;
    let container = container_of(&instance, args.container.as_ref())?;
    let beside = instance.spec.sidecars.iter().find(|it| Some(&it.name) == container.sidecar());
    let tty = beside.map_or(instance.spec.container.tty, |it| it.container.tty);
    let size = args.rows.zip(args.cols).filter(|_| tty);
    let size = size.map(|(rows, cols)| TtySize { rows, cols });
    let session = state.runtime.attach(&container, AttachSpec { stdin: args.stdin, size }).await?;
    Ok(upgrade.max_message_size(MESSAGE_LIMIT).max_frame_size(MESSAGE_LIMIT).on_upgrade(move |socket| async move {
        tokio::select! {
            () = carry(socket, session) => {}
            () = stop.stopped() => {}
        }
    }))
}
