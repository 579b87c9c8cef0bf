//! What happens to the containers of our namespace.

use containerd_client::{
    events::{TaskExit, TaskOom, TaskPaused, TaskResumed, TaskStart},
    services::v1::{PublishRequest, SubscribeRequest},
    tonic::{Status, Streaming},
    types::Envelope,
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use prost_types::Any;

use super::{client::Client, timestamp};
use crate::{RuntimeError, RuntimeEvent};

/// An event of ours, published to see that the subscription works.
const MARK: &str = "/hivemind/subscribed";

/// How long the subscription gets per attempt to show that it works.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(20);

/// Subscribes. containerd sends nothing to a subscriber before the first event, not even that it is subscribed, so we
/// publish one ourselves until it arrives: from then on nothing is missed.
pub(super) async fn subscribe(
    client: &Client,
    namespace: &str,
) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
    let filter = |topic: &str| format!("namespace=={namespace},topic==\"{topic}\"");
    let filters =
        ["/tasks/exit", "/tasks/oom", "/tasks/start", "/tasks/paused", "/tasks/resumed", MARK].map(filter).to_vec();
    let mut events = client.events();
    let mut subscribing = std::pin::pin!(events.subscribe(client.request(SubscribeRequest { filters })));
    let failed = |s: Status| client.error("subscribe to", "events", &s);
    let stream = loop {
        match tokio::time::timeout(SETTLE, &mut subscribing).await {
            Ok(answer) => break answer.map_err(failed)?.into_inner(),
            Err(_) => publish_mark(client).await.map_err(failed)?,
        }
    };
    Ok(stream::unfold(stream, next).boxed())
}

async fn publish_mark(client: &Client) -> Result<(), Status> {
    let event = Any { type_url: "hivemind.Subscribed".to_owned(), value: Vec::new() };
    let request = client.request(PublishRequest { topic: MARK.to_owned(), event: Some(event) });
    client.call(client.events().publish(request)).await
}

async fn next(mut stream: Streaming<Envelope>) -> Option<(RuntimeEvent, Streaming<Envelope>)> {
    loop {
        match stream.message().await {
            Ok(Some(envelope)) => {
                if let Some(event) = translate(&envelope) {
                    return Some((event, stream));
                }
            }
            Ok(None) => return None,
            Err(status) => {
                tracing::debug!(%status, "the stream of containerd's events broke");
                return None;
            }
        }
    }
}

/// Only the first process of a container counts: events of execs carry another id.
fn translate(envelope: &Envelope) -> Option<RuntimeEvent> {
    let event = envelope.event.as_ref()?;
    match envelope.topic.as_str() {
        "/tasks/exit" => {
            let e: TaskExit = decode(event)?;
            let at = timestamp(e.exited_at.as_ref());
            (e.id == e.container_id).then_some(RuntimeEvent::Exited { id: e.container_id, code: e.exit_status, at })
        }
        "/tasks/oom" => Some(RuntimeEvent::Oom { id: decode::<TaskOom>(event)?.container_id }),
        "/tasks/start" => Some(RuntimeEvent::Started { id: decode::<TaskStart>(event)?.container_id }),
        "/tasks/paused" => Some(RuntimeEvent::Paused { id: decode::<TaskPaused>(event)?.container_id }),
        "/tasks/resumed" => Some(RuntimeEvent::Paused { id: decode::<TaskResumed>(event)?.container_id }),
        _ => None,
    }
}

fn decode<T: prost::Message + Default>(event: &Any) -> Option<T> {
    T::decode(event.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn only_the_first_process_counts() {
        let exit = |id: &str| {
            let e = TaskExit { container_id: "c".to_owned(), id: id.to_owned(), exit_status: 3, ..Default::default() };
            let event = Some(Any { type_url: "containerd.events.TaskExit".to_owned(), value: e.encode_to_vec() });
            translate(&Envelope { topic: "/tasks/exit".to_owned(), event, ..Default::default() })
        };
        let at = hivemind_core::model::Timestamp::from_millis(0);
        assert_eq!(exit("c"), Some(RuntimeEvent::Exited { id: "c".to_owned(), code: 3, at }));
        assert_eq!(exit("exec-1"), None);
    }
}
