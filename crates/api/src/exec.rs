//! A command in an instance, over a WebSocket.
//!
//! Every message is binary, and its first byte names a channel:
//!
//! | byte | to the | carries |
//! |---|---|---|
//! | 0 | process | standard input |
//! | 1 | client | standard output (and error output, with a terminal) |
//! | 2 | client | error output |
//! | 3 | client | how it ended, as JSON; the last message: `{"code":0}` |
//! | 4 | process | the terminal's new size, as JSON: `{"rows":24,"cols":80}` |
//! | 5 | process | nothing: there is no more standard input |
//! | 6 | client | how many bytes of output were left out, as JSON: `{"bytes":4096}` (only when attached) |
//!
//! Closing the connection ends a process that was begun with it, and leaves alone one that was attached to (`attach`).

use std::time::Duration;

use axum::{
    Json as Body,
    body::Bytes,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures::{SinkExt, Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    extract::{Args, Json, Named, NoArgs},
    instances::{container_of, find},
    problem::ApiError,
    serve::Stop,
};
use hivemind_core::model::{ErrorCode, Problem, SidecarName};
use hivemind_runtime::{ExecIo, ExecSession, ExecSpec, TtySize};

/// First byte of every message.
pub mod channel {
    /// Standard input.
    pub const STDIN: u8 = 0;
    /// Standard output.
    pub const STDOUT: u8 = 1;
    /// Error output.
    pub const STDERR: u8 = 2;
    /// How it ended: an [`super::ExecEnd`].
    pub const EXIT: u8 = 3;
    /// The terminal's size: an [`super::ExecSize`].
    pub const RESIZE: u8 = 4;
    /// No more standard input.
    pub const STDIN_END: u8 = 5;
    /// Output that was left out: an [`super::ExecLost`].
    pub const LOST: u8 = 6;
}

/// The longest message: input comes in chunks of kilobytes.
pub(super) const MESSAGE_LIMIT: usize = 1 << 20;
/// The exit code when the process was lost, as Docker gives it for a fault of its own.
const LOST: u32 = 125;

/// How long a client may take to read the last message and close.
const FAREWELL: Duration = Duration::from_secs(5);

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecEnd {
    /// Its exit code; 126 if the command cannot be run, 127 if it does not exist, 128 + n for signal n.
    pub code: u32,
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecSize {
    /// Rows of characters.
    pub rows: u16,
    /// Characters in a row.
    pub cols: u16,
}

/// Output that who is attached did not take fast enough. The log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecLost {
    /// How much it was.
    pub bytes: u64,
}

/// A command that nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetachedExec {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Variables, as `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// The user; that of the instance by default.
    #[serde(default)]
    pub user: Option<String>,
    /// The working directory.
    #[serde(default)]
    pub workdir: Option<String>,
    /// In a sidecar of the instance, by its name; without it, in the app's own container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub container: Option<SidecarName>,
}

/// It runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecStarted {
    /// The instance.
    pub instance: String,
    /// The process's number on the node.
    pub pid: u32,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExecArgs {
    /// The command and its arguments, as a JSON list of strings.
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
    /// In a sidecar of the instance, by its name; without it, in the app's own container.
    #[param(value_type = Option<String>)]
    container: Option<SidecarName>,
}

fn checked(spec: ExecSpec) -> Result<ExecSpec, Problem> {
    let refuse = |title: String| Err(Problem::new(ErrorCode::BadRequest, title));
    if spec.command.is_empty() {
        return refuse("command: is empty".to_owned());
    }
    let names = spec.user.iter().chain(&spec.workdir);
    if spec.command.iter().chain(&spec.env).chain(names).any(|word| word.contains('\0')) {
        return refuse("command, env, user, workdir: contain a NUL character".to_owned());
    }
    match spec.workdir.as_ref().filter(|dir| !dir.starts_with('/')) {
        Some(dir) => refuse(format!("workdir: {dir:?} is not absolute; begin with '/'")),
        None => Ok(spec),
    }
}

impl ExecArgs {
    fn spec(self) -> Result<ExecSpec, Problem> {
        let words = |name: &str, text: &str| {
            serde_json::from_str::<Vec<String>>(text)
                .map_err(|error| Problem::new(ErrorCode::BadRequest, format!("{name}: {error}")))
        };
        let command = words("command", &self.command)?;
        let env = self.env.as_deref().map_or(Ok(Vec::new()), |text| words("env", text))?;
        let tty = self.rows.zip(self.cols).map(|(rows, cols)| TtySize { rows, cols });
        checked(ExecSpec { command, env, user: self.user, workdir: self.workdir, tty, stdin: self.stdin })
    }
}

/// Run a command in an instance, over a WebSocket. The first byte of every message, which is binary, names a channel:
/// 0 input, 1 output, 2 error output, 3 how it ended as JSON `{"code":0}` (the last message), 4 the terminal's new
/// size as JSON `{"rows":24,"cols":80}`, 5 end of input.
#[utoipa::path(get, operation_id = "execInInstance", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/exec", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), ExecArgs),
    responses((status = 101, description = "The connection is a WebSocket now"), (status = "4XX", body = Problem)))]
pub(super) async fn exec(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    named: Named,
    Args(args): Args<ExecArgs>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| Problem::new(ErrorCode::BadRequest, error.body_text()))?;
    let name = args.container.clone();
    let spec = args.spec()?;
    let container = container_of(&*find(&state, &named)?, name.as_ref())?;
    // Before the upgrade, so that a refusal is an ordinary answer. Without an upgrade the session is dropped again.
    let session = state.runtime.exec(&container, spec).await?;
    Ok(upgrade.max_message_size(MESSAGE_LIMIT).max_frame_size(MESSAGE_LIMIT).on_upgrade(move |socket| async move {
        tokio::select! {
            () = carry(socket, session) => {}
            () = stop.stopped() => {}
        }
    }))
}

/// Run a command in an instance that nobody waits for: it has no input, and its output goes nowhere.
#[utoipa::path(post, operation_id = "execDetached", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/exec", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id")),
    request_body = DetachedExec,
    responses((status = 200, body = ExecStarted), (status = "4XX", body = Problem)))]
pub(super) async fn exec_detached(
    State(state): State<ApiState>,
    named: Named,
    Args(NoArgs {}): Args<NoArgs>,
    Json(exec): Json<DetachedExec>,
) -> Result<Body<ExecStarted>, ApiError> {
    let DetachedExec { command, env, user, workdir, container } = exec;
    let spec = checked(ExecSpec { command, env, user, workdir, tty: None, stdin: false })?;
    let instance = find(&state, &named)?;
    let container = container_of(&instance, container.as_ref())?;
    let pid = state.runtime.exec_detached(&container, spec).await?;
    Ok(Body(ExecStarted { instance: instance.name(), pid }))
}

/// Carries messages until the process has ended or the other side has gone; then the session is dropped, which ends
/// a process that was begun with it. Both directions go on by themselves: a process that does not read must not keep its output back.
pub(super) async fn carry(socket: WebSocket, session: ExecSession) {
    let ExecSession { stdin, mut output, resize, exit } = session;
    let (mut sender, receiver) = socket.split();
    let outward = async {
        while let Some(chunk) = output.recv().await {
            let (channel, data) = match chunk {
                ExecIo::Stdout(data) => (channel::STDOUT, data),
                ExecIo::Stderr(data) => (channel::STDERR, data),
                ExecIo::Lost(bytes) => {
                    (channel::LOST, serde_json::to_vec(&ExecLost { bytes }).unwrap_or_default().into())
                }
            };
            sender.send(framed(channel, &data)).await?;
        }
        let end = ExecEnd { code: exit.await.unwrap_or(LOST) };
        sender.send(framed(channel::EXIT, &serde_json::to_vec(&end).unwrap_or_default())).await?;
        sender.send(Message::Close(None)).await
    };
    let mut inward = std::pin::pin!(inward(receiver, stdin, resize));
    tokio::select! {
        ended = outward => {
            // A client that is still sending would be reset by a socket closed over unread input, and never read how
            // the command ended. An error means that nobody listens any more.
            if ended.is_ok() {
                let _ = tokio::time::timeout(FAREWELL, inward).await;
            }
        }
        () = &mut inward => {}
    }
}

/// Ends when the client has closed the connection.
async fn inward(
    mut messages: impl Stream<Item = Result<Message, axum::Error>> + Unpin,
    stdin: mpsc::Sender<Bytes>,
    resize: mpsc::Sender<TtySize>,
) {
    let mut stdin = Some(stdin);
    while let Some(Ok(message)) = messages.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Close(_) => return,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => continue,
        };
        match data.split_first() {
            Some((&channel::STDIN, rest)) => {
                // An error means that the process has closed its input: it may still write.
                if let Some(to) = &stdin
                    && to.send(data.slice_ref(rest)).await.is_err()
                {
                    stdin = None;
                }
            }
            Some((&channel::STDIN_END, _)) => stdin = None,
            Some((&channel::RESIZE, rest)) => {
                if let Ok(ExecSize { rows, cols }) = serde_json::from_slice(rest) {
                    // An error means that the process has ended.
                    let _ = resize.send(TtySize { rows, cols }).await;
                }
            }
            _ => {}
        }
    }
}

fn framed(channel: u8, data: &[u8]) -> Message {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    Message::Binary(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(command: &str) -> ExecArgs {
        let command = command.to_owned();
        ExecArgs {
            command,
            env: None,
            user: None,
            workdir: None,
            rows: None,
            cols: None,
            stdin: false,
            container: None,
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for command in ["", "ls", "[]", "[1]", "{}", "[\"a\\u0000b\"]"] {
            assert!(args(command).spec().is_err(), "{command}");
        }
        let env = ExecArgs { env: Some("A=1".into()), ..args("[\"ls\"]") };
        assert!(env.spec().is_err());
        for (dir, fits) in [("/tmp", true), ("", false), ("tmp", false), ("/\0", false)] {
            let args = ExecArgs { workdir: Some(dir.into()), ..args("[\"ls\"]") };
            assert_eq!(args.spec().is_ok(), fits, "{dir:?}");
        }
    }

    #[test]
    fn a_terminal_needs_rows_and_columns() {
        let half = ExecArgs { rows: Some(24), ..args("[\"sh\"]") };
        assert_eq!(half.spec().expect("valid").tty, None);
        let whole = ExecArgs { rows: Some(24), cols: Some(80), ..args("[\"sh\"]") };
        assert_eq!(whole.spec().expect("valid").tty, Some(TtySize { rows: 24, cols: 80 }));
    }

    #[tokio::test]
    async fn input_is_taken_apart_by_channel() {
        let (stdin, mut reads) = mpsc::channel(1);
        let (resize, mut sizes) = mpsc::channel(4);
        let input = |channel: u8, data: &[u8]| Ok::<_, axum::Error>(framed(channel, data));
        let messages = futures::stream::iter([
            input(channel::STDIN, b"one"),
            input(9, b"unknown"),
            Ok(Message::Text("text".into())),
            input(channel::RESIZE, b"{\"rows\":5,\"cols\":6}"),
            input(channel::RESIZE, b"nonsense"),
            input(channel::STDIN_END, b""),
            input(channel::STDIN, b"after the end"),
        ]);
        inward(messages, stdin, resize).await;
        assert_eq!(reads.recv().await, Some(Bytes::from_static(b"one")));
        assert_eq!(reads.recv().await, None, "closed by the end of input");
        assert_eq!(sizes.recv().await, Some(TtySize { rows: 5, cols: 6 }));
        assert_eq!(sizes.recv().await, None);
    }
}
