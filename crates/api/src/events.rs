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

use super::{ApiState, changes::History, extract::Args, list::FieldSelector, problem::ApiError, serve::Stop};
use hivemind_core::{
    lifecycle::clock,
    model::{ErrorCode, Event, EventKind, Problem, Revision},
};
use hivemind_observe::{EventPosition, Events, EventsGone, Missed};

/// The media type of streams of JSON documents, one on a line.
pub(super) const NDJSON: &str = "application/x-ndjson";

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventArgs {
    /// Only events behind this: the `position` of one, or its `seq`.
    after: Option<String>,
    /// Also the events to come.
    #[serde(default)]
    follow: bool,
    /// Only events that have such fields: `app=web,kind!=normal`.
    #[serde(rename = "fieldSelector")]
    #[param(rename = "fieldSelector")]
    field_selector: Option<String>,
    /// At most so many, the oldest first.
    #[param(minimum = 1)]
    limit: Option<u32>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
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

/// What happened, a JSON document for each event. The ring keeps the last 10,000. To go on after a broken connection, ask
/// again with the `position` of the last event: if what came behind it is not kept any more, or the daemon was started again, that is
/// 410. What a reader is too slow for is said by an event with the reason `Missed`.
#[utoipa::path(get, operation_id = "listEvents", path = "/v1/events", tag = "events", params(EventArgs),
    responses((status = 200, body = Event, content_type = "application/x-ndjson"), (status = "4XX", body = Problem)))]
pub(super) async fn events(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    Args(args): Args<EventArgs>,
) -> Result<Response, ApiError> {
    let (after, fields) = args.check(&state.events)?;
    let left = args.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let tail = Tail { newest: state.events.newest(), events: state.events, fields, follow: args.follow, after, left };
    let chunks = stream::unfold(tail, |mut tail| async move {
        let batch = tail.next().await?;
        Some((Ok::<_, std::convert::Infallible>(lines(&batch)), tail))
    });
    Ok(ndjson(chunks, stop))
}

impl EventArgs {
    /// Where to begin, and which are wanted.
    fn check(&self, events: &Events) -> Result<(u64, FieldSelector), Problem> {
        let mut faults = Vec::new();
        let position = self.after.as_deref().unwrap_or("0");
        let position = position.parse::<EventPosition>().unwrap_or_else(|()| {
            faults.push(format!(
                "after: {position:?} is no position; take that of the last event that you have, as it is"
            ));
            EventPosition::default()
        });
        let fields = FieldSelector::parse::<Event>(self.field_selector.as_deref().unwrap_or_default());
        let fields = fields.unwrap_or_else(|found| {
            faults.extend(found.into_iter().map(|fault| format!("fieldSelector: {fault}")));
            FieldSelector::default()
        });
        if self.limit == Some(0) {
            faults.push("limit: write a number from 1, or leave it out".into());
        }
        if !faults.is_empty() {
            let mut problem = Problem::new(ErrorCode::BadRequest, "these events cannot be told");
            problem.details = faults;
            return Err(problem);
        }
        let after = events.resume(position).map_err(|gone| {
            let (title, detail) = match gone {
                EventsGone::Restarted => (
                    "the daemon was started again since: events are kept in memory".to_owned(),
                    "what happened just before its end is not known; all that happened since is still there",
                ),
                EventsGone::Overwritten(missed) => {
                    (format!("{missed} events behind the position were overwritten"), "the newest 10,000 are kept")
                }
            };
            Problem::new(ErrorCode::Expired, title).detail(detail).hint("ask again without after")
        })?;
        Ok((after, fields))
    }
}

/// A reader of events.
struct Tail {
    events: Events,
    newest: watch::Receiver<u64>,
    fields: FieldSelector,
    follow: bool,
    /// The number of the last one that was read.
    after: u64,
    /// How many more are wanted.
    left: usize,
}

impl Tail {
    /// The next ones that are wanted; `None` when there will be no more.
    async fn next(&mut self) -> Option<Vec<Event>> {
        while self.left > 0 {
            let (mut batch, Missed(missed)) = self.events.after(self.after);
            let (first, before) = (batch.first().map(|event| event.seq), self.after);
            if let Some(last) = batch.last() {
                self.after = last.seq;
            }
            batch.retain(|event| self.fields.matches(event));
            batch.truncate(self.left);
            self.left -= batch.len();
            if let Some(first) = first.filter(|_| missed > 0 && before > 0) {
                batch.insert(0, missed_event(&self.events, first - 1, missed));
            }
            if !batch.is_empty() {
                return Some(batch);
            }
            let after = self.after;
            let more = first.is_some() || self.follow && self.newest.wait_for(|newest| *newest > after).await.is_ok();
            if !more {
                return None;
            }
        }
        None
    }
}

/// So many events were overwritten before they were read.
fn missed_event(events: &Events, seq: u64, missed: u64) -> Event {
    Event {
        seq,
        position: events.position(seq).to_string(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::model::Subject;

    fn told(names: &[&str]) -> Events {
        let events = Events::default();
        for name in names {
            events.emit(EventKind::Normal, name, &Subject::Leftover("a".into()), String::new());
        }
        events
    }

    fn tail(events: &Events, fields: &str, follow: bool, after: u64, left: usize) -> Tail {
        let fields = FieldSelector::parse::<Event>(fields).expect("a selector");
        Tail { newest: events.newest(), events: events.clone(), fields, follow, after, left }
    }

    async fn all(mut tail: Tail) -> Vec<String> {
        let mut reasons = Vec::new();
        while let Some(batch) = tail.next().await {
            reasons.extend(batch.into_iter().map(|event| event.reason));
        }
        reasons
    }

    #[tokio::test]
    async fn events_are_narrowed_and_cut() {
        let events = told(&["A", "B", "A", "C"]);
        for (fields, after, left, expected) in [
            ("", 0, 9, vec!["A", "B", "A", "C"]),
            ("", 2, 9, vec!["A", "C"]),
            ("", 0, 2, vec!["A", "B"]),
            ("reason=A", 0, 9, vec!["A", "A"]),
            ("reason!=A", 0, 1, vec!["B"]),
            ("reason=D", 0, 9, vec![]),
            ("reason=A,kind=warning", 0, 9, vec![]),
        ] {
            assert_eq!(all(tail(&events, fields, false, after, left)).await, expected, "{fields} {after} {left}");
        }
    }

    #[tokio::test]
    async fn who_follows_waits_for_what_is_wanted() {
        let events = told(&["A", "B"]);
        let mut tail = tail(&events, "reason=B", true, 0, 2);
        let next = async |tail: &mut Tail| tail.next().await.map(|batch| batch[0].seq);
        assert_eq!(next(&mut tail).await, Some(2));
        let more = events.clone();
        let told = async move {
            tokio::task::yield_now().await;
            for name in ["A", "B", "B"] {
                more.emit(EventKind::Normal, name, &Subject::Leftover("a".into()), String::new());
            }
        };
        let (found, ()) = tokio::join!(next(&mut tail), told);
        assert_eq!((found, next(&mut tail).await), (Some(4), None), "no more than two are wanted");
    }

    #[test]
    fn what_is_wrong_is_named_and_what_is_gone_is_said() {
        let events = told(&["A"]);
        let ask = |after: &str, fields: &str| {
            let (after, field_selector) = (Some(after.to_owned()), Some(fields.to_owned()));
            EventArgs { after, field_selector, ..EventArgs::default() }.check(&events)
        };
        assert_eq!(ask("0", "").map(|(after, _)| after), Ok(0));
        assert_eq!(ask("x", "color=red").expect_err("wrong").details.len(), 2);
        let position = told(&["A"]).after(0).0[0].position.clone();
        let gone = ask(&position, "").expect_err("of another life");
        assert_eq!((gone.code, gone.hint.as_deref()), (ErrorCode::Expired, Some("ask again without after")));
    }
}
