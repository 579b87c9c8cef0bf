//! Instances: list, logs, exec.

use std::sync::Arc;

use axum::{
    Json as Body,
    body::{Body as HttpBody, Bytes},
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    apps::not_found,
    extract::{Args, InScope, Named},
    problem::ApiError,
    view::InstanceView,
};
use crate::{
    model::{ErrorCode, Instance, Problem, Timestamp},
    runtime::{ExecIo, ExecSession, ExecSpec, LogQuery, LogStream, TtySize},
};

/// First byte of every binary message of an exec.
pub mod channel {
    /// To the process: standard input.
    pub const STDIN: u8 = 0;
    /// From the process: standard output.
    pub const STDOUT: u8 = 1;
    /// From the process: standard error.
    pub const STDERR: u8 = 2;
    /// From the process, last: its exit code, as decimal text.
    pub const EXIT: u8 = 3;
    /// To the process: the terminal's size, as `rows cols`.
    pub const RESIZE: u8 = 4;
    /// To the process: no more standard input.
    pub const STDIN_END: u8 = 5;
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLineView {
    /// When it was written.
    pub at: Timestamp,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line; bytes that are not UTF-8 are replaced.
    pub line: String,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct LogArgs {
    /// Only the last so many lines.
    tail: Option<usize>,
    /// Also the lines to come.
    #[serde(default)]
    follow: bool,
    /// Only lines at or after this moment, RFC 3339.
    since: Option<Timestamp>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecArgs {
    /// The command and its arguments, as a JSON list.
    command: String,
    /// Variables, as a JSON list of `NAME=value`.
    env: Option<String>,
    /// The user.
    user: Option<String>,
    /// The working directory.
    workdir: Option<String>,
    /// With a terminal of so many rows.
    rows: Option<u16>,
    /// With a terminal of so many columns.
    cols: Option<u16>,
    /// Whether standard input will be sent.
    #[serde(default)]
    stdin: bool,
}

/// The instances of a namespace.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path)),
    responses((status = 200, body = [InstanceView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(state): State<ApiState>, InScope(scope): InScope) -> Body<Vec<InstanceView>> {
    let snapshot = state.control.snapshot();
    let here = snapshot.instances.values().map(|row| &row.object).filter(|instance| instance.app.scope == scope);
    let mut views: Vec<_> = here.map(|instance| InstanceView::new(&snapshot, instance)).collect();
    views.sort_by(|a, b| (&a.app, a.created_at, &a.id).cmp(&(&b.app, b.created_at, &b.id)));
    Body(views)
}

/// The instance of that name, id, or beginning of an id that no other has.
fn find(state: &ApiState, named: &Named) -> Result<Arc<Instance>, ApiError> {
    let Named(scope, name) = named;
    let snapshot = state.control.snapshot();
    let here = || snapshot.instances.values().map(|row| &row.object).filter(|instance| instance.app.scope == *scope);
    let exact = here().find(|instance| instance.name() == *name || instance.id.as_str() == name);
    let mut begins = here().filter(|instance| name.len() >= 3 && instance.id.as_str().starts_with(name.as_str()));
    let found = exact.or_else(|| begins.next().filter(|_| begins.next().is_none()));
    let names: Vec<_> = here().map(|instance| instance.name()).collect();
    found.cloned().ok_or_else(|| not_found("instance", name, names.iter().map(String::as_str)))
}

/// An instance.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id")),
    responses((status = 200, body = InstanceView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, named: Named) -> Result<Body<InstanceView>, ApiError> {
    let instance = find(&state, &named)?;
    Ok(Body(InstanceView::new(&state.control.snapshot(), &instance)))
}

/// The log of an instance, a JSON document for each line.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/logs", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), LogArgs),
    responses((status = 200, body = LogLineView, content_type = "application/x-ndjson"), (status = "4XX", body = Problem)))]
pub(super) async fn logs(
    State(state): State<ApiState>,
    named: Named,
    Args(args): Args<LogArgs>,
) -> Result<Response, ApiError> {
    let instance = find(&state, &named)?;
    let query = LogQuery { tail: args.tail, follow: args.follow, since: args.since };
    let lines = state.runtime.logs(&instance.id, query).await?;
    let chunks = lines.map(|line| {
        line.map(|line| {
            let stream = match line.stream {
                LogStream::Stdout => "stdout",
                LogStream::Stderr => "stderr",
            };
            let text = String::from_utf8_lossy(&line.line).into_owned();
            let view = LogLineView { at: line.at, stream: stream.into(), line: text };
            let mut json = serde_json::to_vec(&view).unwrap_or_default();
            json.push(b'\n');
            Bytes::from(json)
        })
    });
    Ok(([("content-type", "application/x-ndjson")], HttpBody::from_stream(chunks)).into_response())
}

/// Run a command in an instance, over a WebSocket. Binary messages begin with a byte that names the channel:
/// 0 input, 1 output, 2 error output, 3 exit code (last), 4 terminal size `rows cols`, 5 end of input.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/exec", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), ExecArgs),
    responses((status = 101), (status = "4XX", body = Problem)))]
pub(super) async fn exec(
    State(state): State<ApiState>,
    named: Named,
    Args(args): Args<ExecArgs>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let bad = |why: String| ApiError::from(Problem::new(ErrorCode::BadRequest, why));
    let upgrade = upgrade.map_err(|error| bad(error.body_text()))?;
    let words = |text: &str| serde_json::from_str::<Vec<String>>(text);
    let command = words(&args.command).map_err(|error| bad(format!("command: {error}")))?;
    if command.is_empty() {
        return Err(bad("command: is empty".into()));
    }
    let env = args.env.as_deref().map_or(Ok(Vec::new()), words).map_err(|error| bad(format!("env: {error}")))?;
    let tty = args.rows.zip(args.cols).map(|(rows, cols)| TtySize { rows, cols });
    let instance = find(&state, &named)?;
    let spec = ExecSpec { command, env, user: args.user, workdir: args.workdir, tty, stdin: args.stdin };
    let session = state.runtime.exec(&instance.id, spec).await?;
    Ok(upgrade.on_upgrade(move |socket| pump(socket, session)))
}

/// Carries messages until the process has ended or the other side has gone; then the session is dropped, which ends
/// the process.
async fn pump(mut socket: WebSocket, session: ExecSession) {
    let ExecSession { stdin, mut output, resize, exit } = session;
    let mut stdin = Some(stdin);
    loop {
        tokio::select! {
            chunk = output.recv() => {
                let (kind, data) = match chunk {
                    Some(ExecIo::Stdout(data)) => (channel::STDOUT, data),
                    Some(ExecIo::Stderr(data)) => (channel::STDERR, data),
                    None => break,
                };
                if socket.send(framed(kind, &data)).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(data))) => match data.split_first() {
                    Some((&channel::STDIN, rest)) => if let Some(stdin) = &stdin {
                        // An error means that the process has closed its input: it may still write.
                        let _ = stdin.send(data.slice_ref(rest)).await;
                    },
                    Some((&channel::STDIN_END, _)) => stdin = None,
                    Some((&channel::RESIZE, rest)) => if let Some(size) = size(rest) {
                        let _ = resize.send(size).await;
                    },
                    _ => {}
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    // Without an exit code the process was lost: 125, as for a fault of ours.
    let code = exit.await.unwrap_or(125);
    let _ = socket.send(framed(channel::EXIT, code.to_string().as_bytes())).await;
    let _ = socket.send(Message::Close(None)).await;
}

fn framed(kind: u8, data: &[u8]) -> Message {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(kind);
    message.extend_from_slice(data);
    Message::Binary(message.into())
}

/// `rows cols`.
fn size(text: &[u8]) -> Option<TtySize> {
    let (rows, cols) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some(TtySize { rows: rows.parse().ok()?, cols: cols.parse().ok()? })
}
