//! The client's end of a WebSocket: what is typed into an instance, and what comes of it.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Sink, SinkExt, StreamExt, stream::BoxStream};
use http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

use super::{Client, asked::Asked, gone, problem_of, target::Io};
use hivemind_core::model::{ErrorCode, Problem};

/// A message: its channel ([`hivemind_api::exec::channel`]) and what it carries.
pub type ExecMessage = (u8, Bytes);

/// Both directions of a WebSocket: what to send, and what comes.
pub type Channels =
    (Pin<Box<dyn Sink<ExecMessage, Error = Problem> + Send>>, BoxStream<'static, Result<ExecMessage, Problem>>);

impl Client {
    /// Opens a WebSocket. A refusal is the problem that the daemon gave.
    pub(super) async fn channels(&self, asked: Asked) -> Result<Channels, Problem> {
        let io: Box<dyn Io> = self.target.connect().await?;
        let invalid = |error: &dyn std::fmt::Display| Problem::new(ErrorCode::Invalid, error.to_string());
        let mut request = format!("ws://{}{}", self.target.host(), asked.path)
            .into_client_request()
            .map_err(|error| invalid(&error))?;
        if let Some(token) = self.target.token() {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| invalid(&error))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let socket = match tokio_tungstenite::client_async(request, io).await {
            Ok((socket, _)) => socket,
            Err(tungstenite::Error::Http(response)) => {
                return Err(problem_of(&response.into_body().unwrap_or_default()));
            }
            Err(error) => return Err(gone(&error)),
        };
        let (sink, source) = socket.split();
        let lost = |error: tungstenite::Error| gone(&error);
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
        Ok((Box::pin(sink), source.boxed()))
    }
}
