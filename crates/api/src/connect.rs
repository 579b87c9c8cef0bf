//! A TCP connection to a port of an instance, over a WebSocket.
//!
//! Every message is binary, and its first byte names a channel, as with exec: 0 is data to the instance, 1 data from it, 5
//! says that the client sends no more, 6 that the instance sends no more. When both have said so, or the connection
//! breaks, the WebSocket is closed.

use std::io;

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures::{Sink, SinkExt, Stream, StreamExt};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use utoipa::IntoParams;

use super::{
    ApiState,
    exec::channel,
    extract::{Args, Named},
    instances::{find, pid_of},
    problem::ApiError,
    serve::Stop,
};
use hivemind_core::model::{ErrorCode, Problem};
use hivemind_net::linux::reach;

/// The channel that says that the instance sends no more.
pub const OUTPUT_END: u8 = 6;
/// The longest message.
const MESSAGE_LIMIT: usize = 1 << 20;
/// Data is carried in chunks of this size.
const CHUNK: usize = 16 << 10;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConnectArgs {
    /// The port, 1 to 65535.
    port: u16,
}

/// Connect to a TCP port of an instance, also to one that listens on its loopback alone, over a WebSocket. The first byte of
/// every message, which is binary, names a channel: 0 data to the instance, 1 data from it, 5 the client sends no more,
/// 6 the instance sends no more.
#[utoipa::path(get, operation_id = "connectToInstance", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/connect", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), ConnectArgs),
    responses((status = 101, description = "The connection is a WebSocket now"), (status = "4XX", body = Problem)))]
pub(super) async fn connect(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    named: Named,
    Args(args): Args<ConnectArgs>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| Problem::new(ErrorCode::BadRequest, error.body_text()))?;
    if args.port == 0 {
        return Err(Problem::new(ErrorCode::BadRequest, "port: 0 is no port").into());
    }
    let instance = find(&state, &named)?;
    let pid = pid_of(&state, &instance, &(&instance.id).into()).await?;
    let failed = |error: &dyn std::fmt::Display| {
        let title = format!("cannot connect to port {} of {}: {error}", args.port, instance.name());
        Problem::new(ErrorCode::NotRunning, title).hint(format!("hivemind logs {}", instance.name()))
    };
    // Before the upgrade, so that a refusal is an ordinary answer.
    let opened = reach::connect(pid, instance.addresses, args.port).await.map_err(|error| failed(&error))?;
    let stream = opened.and_then(|stream| {
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    });
    let stream = stream.map_err(|error| failed(&error))?;
    Ok(upgrade.max_message_size(MESSAGE_LIMIT).max_frame_size(MESSAGE_LIMIT).on_upgrade(move |socket| async move {
        tokio::select! {
            () = carry(socket, stream) => {}
            () = stop.stopped() => {}
        }
    }))
}

/// Carries data until both sides have said that they send no more, or one has gone.
async fn carry(socket: WebSocket, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut sender, receiver) = socket.split();
    let (read, write) = stream.into_split();
    // An error means that one of them has gone: dropping both tells the other.
    let _ = tokio::try_join!(outward(read, &mut sender), inward(receiver, write));
    let _ = sender.send(Message::Close(None)).await;
}

async fn outward(mut from: OwnedReadHalf, to: &mut (impl Sink<Message> + Unpin)) -> Result<(), io::Error> {
    let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
    loop {
        let mut message = Vec::with_capacity(CHUNK + 1);
        message.push(channel::STDOUT);
        let read = from.read_buf(&mut message).await?;
        if read == 0 {
            message[0] = OUTPUT_END;
        }
        to.send(Message::Binary(message.into())).await.map_err(|_| broken())?;
        if read == 0 {
            return Ok(());
        }
    }
}

async fn inward(
    mut from: impl Stream<Item = Result<Message, axum::Error>> + Unpin,
    mut to: OwnedWriteHalf,
) -> Result<(), io::Error> {
    let mut open = true;
    while let Some(message) = from.next().await {
        match message.map_err(io::Error::other)? {
            Message::Binary(data) => match data.split_first() {
                Some((&channel::STDIN, rest)) if open => to.write_all(rest).await?,
                Some((&channel::STDIN_END, _)) => {
                    to.shutdown().await?;
                    open = false;
                }
                _ => {}
            },
            Message::Close(_) => break,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    // It has gone: the instance's answer would reach nobody.
    Err(io::ErrorKind::ConnectionReset.into())
}
