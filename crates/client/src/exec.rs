//! The client's end of an exec.

use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};
use http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

use super::{Client, gone, problem_of, target::Io};
use hivemind_core::model::{ErrorCode, Problem};

/// A message: its channel ([`hivemind_api::exec::channel`]) and what it carries.
pub type ExecMessage = (u8, Bytes);

impl Client {
    /// Opens an exec: what to send, and what comes. A refusal is the problem that the daemon gave.
    pub async fn exec(
        &self,
        path: &str,
    ) -> Result<
        (
            impl Sink<ExecMessage, Error = Problem> + Unpin + Send + use<>,
            impl Stream<Item = Result<ExecMessage, Problem>> + Unpin + Send + use<>,
        ),
        Problem,
    > {
        let io: Box<dyn Io> = self.target.connect().await?;
        let invalid = |error: &dyn std::fmt::Display| Problem::new(ErrorCode::Invalid, error.to_string());
        let mut request =
            format!("ws://{}{path}", self.target.host()).into_client_request().map_err(|error| invalid(&error))?;
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
        Ok((sink, source))
    }
}
