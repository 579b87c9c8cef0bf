//! Streams of what happens: events for people, changes for programs.

use axum::{
    body::{Body as HttpBody, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::IntoParams;

use super::{ApiState, changes::History, extract::Args, serve::Stop};
use crate::{
    lifecycle::clock,
    model::{Event, EventKind, Revision},
    observe::Missed,
};

/// The media type of streams of JSON documents, one on a line.
pub(super) const NDJSON: &str = "application/x-ndjson";

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct EventArgs {
    /// Only events after this number.
    #[serde(default)]
    after: u64,
    /// Also the events to come.
    #[serde(default)]
    follow: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchArgs {
    /// Only changes after this revision; everything there is without it.
    #[serde(default)]
    revision: Revision,
}

/// A stream of JSON lines that ends when the daemon stops.
pub(super) fn ndjson<E: Into<axum::BoxError> + 'static>(
    chunks: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    stop: Stop,
) -> Response {
    let chunks = chunks.take_until(stop.stopped());
    ([("content-type", NDJSON)], HttpBody::from_stream(chunks)).into_response()
}

/// JSON documents, each with its line's end.
pub(super) fn lines<T: Serialize>(items: &[T]) -> Bytes {
    let mut text = Vec::new();
    for item in items {
        // A document that cannot be written would be a line of its own without content; ours all can.
        text.extend(serde_json::to_vec(item).unwrap_or_default());
        text.push(b'\n');
    }
    text.into()
}

/// What happened, a JSON document for each event. The ring keeps the last 10,000; what was overwritten before it was
/// read is said by an event with the reason `Missed`.
#[utoipa::path(get, operation_id = "listEvents", path = "/v1/events", tag = "events", params(EventArgs),
    responses((status = 200, body = Event, content_type = "application/x-ndjson")))]
pub(super) async fn events(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    Args(args): Args<EventArgs>,
) -> Response {
    let newest = state.events.newest();
    // A number from before the daemon's last start means nothing now.
    let after = if args.after > *newest.borrow() { 0 } else { args.after };
    let chunks = stream::unfold(Some((state.events, newest, after)), move |step| async move {
        let (events, mut newest, after) = step?;
        loop {
            let (mut batch, Missed(missed)) = events.after(after);
            if let (Some(first), Some(last)) = (batch.first(), batch.last()) {
                let (first, last) = (first.seq, last.seq);
                if missed > 0 && after > 0 {
                    batch.insert(0, missed_event(first - 1, missed));
                }
                return Some((
                    Ok::<_, std::convert::Infallible>(lines(&batch)),
                    args.follow.then_some((events, newest, last)),
                ));
            }
            if !args.follow || newest.wait_for(|newest| *newest > after).await.is_err() {
                return None;
            }
        }
    });
    ndjson(chunks, stop)
}

fn missed_event(seq: u64, missed: u64) -> Event {
    Event {
        seq,
        at: clock::now(),
        kind: EventKind::Warning,
        reason: "Missed".into(),
        object: "events".into(),
        tenant: None,
        namespace: None,
        app: None,
        message: format!("{missed} events were overwritten before they were read"),
        fields: std::collections::BTreeMap::from([("missed".into(), missed.to_string())]),
    }
}

/// Changes of tenants, namespaces, policies (also those of tiers), apps, instances, services and nodes: what changed after the given revision, or everything there is, then
/// each change as it happens, and a bookmark after each revision. To go on after a broken connection, ask again with
/// the revision of the last line.
#[utoipa::path(get, operation_id = "watch", path = "/v1/watch", tag = "events", params(WatchArgs),
    responses((status = 200, body = super::changes::Change, content_type = "application/x-ndjson")))]
pub(super) async fn watch(
    State(history): State<watch::Receiver<History>>,
    State(stop): State<Stop>,
    Args(args): Args<WatchArgs>,
) -> Response {
    let chunks = stream::unfold((history, args.revision, true), |(mut history, since, first)| async move {
        if !first && history.changed().await.is_err() {
            return None;
        }
        let now = history.borrow_and_update().clone();
        Some((Ok::<_, std::convert::Infallible>(lines(&now.after(since))), (history, now.revision(), false)))
    });
    ndjson(chunks, stop)
}
