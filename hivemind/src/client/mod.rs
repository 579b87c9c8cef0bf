//! Floor 4: the client of the API, over the daemon's Unix socket. Every fault is a [`Problem`].

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt, stream};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;
use tokio_tungstenite::{WebSocketStream, tungstenite};

use crate::model::{ErrorCode, Problem};

/// A message of an exec: a channel (`api::instances::channel`) and its bytes.
pub type ExecMessage = (u8, Bytes);

/// The client. Each request has a connection of its own: they are local and cheap.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// GET with a JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.json(Method::GET, path, None::<&()>).await
    }

    /// A request with a JSON body, and a JSON answer.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Problem> {
        self.json(method, path, Some(body)).await
    }

    /// A request without a body, and a JSON answer.
    pub async fn call<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, Problem> {
        self.json(method, path, None::<&()>).await
    }

    /// GET with an answer of one JSON document on each line, as they come.
    pub async fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<T, Problem>> + Unpin + use<T>, Problem> {
        let body = self.request(Method::GET, path, Bytes::new()).await?.into_data_stream();
        let lines = stream::unfold((body, Vec::new()), |(mut body, mut rest): (_, Vec<u8>)| async move {
            loop {
                if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let item = serde_json::from_slice(&line).map_err(|error| unreadable(&error.to_string()));
                    return Some((item, (body, rest)));
                }
                match body.next().await {
                    Some(Ok(chunk)) => rest.extend_from_slice(&chunk),
                    Some(Err(error)) => {
                        let gone = format!("the daemon ended the stream: {error}");
                        return Some((Err(Problem::new(ErrorCode::Unreachable, gone)), (body, Vec::new())));
                    }
                    None => return None,
                }
            }
        });
        Ok(Box::pin(lines))
    }

    /// Opens an exec: what to send, and what comes.
    pub async fn exec(
        &self,
        path: &str,
    ) -> Result<
        (
            impl futures::Sink<ExecMessage, Error = Problem> + Unpin + Send + use<>,
            impl Stream<Item = Result<ExecMessage, Problem>> + Unpin + Send + use<>,
        ),
        Problem,
    > {
        let stream = self.connect().await?;
        let request = format!("ws://localhost{path}");
        let socket: WebSocketStream<UnixStream> = match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => socket,
            Err(tungstenite::Error::Http(response)) => {
                let body = response.into_body().unwrap_or_default();
                return Err(problem_of(&body));
            }
            Err(error) => return Err(Problem::new(ErrorCode::Unreachable, format!("exec: {error}"))),
        };
        let (sink, source) = socket.split();
        let lost = |error: tungstenite::Error| Problem::new(ErrorCode::Unreachable, format!("exec: {error}"));
        let sink = sink.sink_map_err(lost).with(|(channel, data): ExecMessage| {
            let mut message = Vec::with_capacity(data.len() + 1);
            message.push(channel);
            message.extend_from_slice(&data);
            std::future::ready(Ok::<_, Problem>(tungstenite::Message::Binary(message.into())))
        });
        let source = source.filter_map(move |message| {
            std::future::ready(match message {
                Ok(tungstenite::Message::Binary(data)) if !data.is_empty() => Some(Ok((data[0], data.slice(1..)))),
                Ok(_) => None,
                Err(error) => Some(Err(lost(error))),
            })
        });
        Ok((sink, source))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Problem> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| unreadable(&error.to_string()))?.into(),
            None => Bytes::new(),
        };
        let answer = self.request(method, path, body).await?;
        let bytes = answer.collect().await.map_err(|error| unreadable(&error.to_string()))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| unreadable(&error.to_string()))
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Incoming, Problem> {
        let stream = self.connect().await?;
        let gone = |error: &dyn std::fmt::Display| {
            Problem::new(ErrorCode::Unreachable, format!("the daemon ended the connection: {error}"))
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
        // The connection carries this one request and ends with its answer.
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| gone(&error))?;
        drop(driver);
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let bytes = answer.into_body().collect().await.map_err(|error| gone(&error))?.to_bytes();
        Err(problem_of(&bytes))
    }

    async fn connect(&self) -> Result<UnixStream, Problem> {
        UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&self.socket, &error))
    }
}

fn unreachable(socket: &Path, error: &std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            let title = format!("the daemon's socket {} is for root only", socket.display());
            Problem::new(ErrorCode::Forbidden, title).hint("run the command with sudo")
        }
        _ => {
            let title = format!("no hivemind daemon answers on {}: {error}", socket.display());
            Problem::new(ErrorCode::Unreachable, title).hint("hivemind daemon   (or name its socket with --socket)")
        }
    }
}

fn unreadable(why: &str) -> Problem {
    Problem::new(ErrorCode::Internal, format!("the daemon's answer cannot be read: {why}"))
        .hint("hivemind version   (shows whether daemon and command line are of the same version)")
}

fn problem_of(body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| unreadable(&String::from_utf8_lossy(body)))
}
