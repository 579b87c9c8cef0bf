//! Streams of what happens: events for people, changes for programs.

use std::collections::BTreeMap;

use axum::{
    body::{Body as HttpBody, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use futures::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    extract::Args,
    view::{AppView, InstanceView, NodeView, ServiceView},
};
use crate::{
    model::ClusterSnapshot,
    model::{Event, Revision},
};

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

fn ndjson(chunks: impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static) -> Response {
    ([("content-type", "application/x-ndjson")], HttpBody::from_stream(chunks)).into_response()
}

fn lines<T: Serialize>(items: &[T]) -> Bytes {
    let mut text = Vec::new();
    for item in items {
        text.extend(serde_json::to_vec(item).unwrap_or_default());
        text.push(b'\n');
    }
    text.into()
}

/// What happened, a JSON document for each event.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventArgs),
    responses((status = 200, body = Event, content_type = "application/x-ndjson")))]
pub(super) async fn events(State(state): State<ApiState>, Args(args): Args<EventArgs>) -> Response {
    let newest = state.events.newest();
    let chunks = stream::unfold(Some((state.events, newest, args.after)), move |step| async move {
        let (events, mut newest, after) = step?;
        loop {
            let (batch, _missed) = events.after(after);
            if let Some(last) = batch.last().map(|event| event.seq) {
                return Some((Ok(lines(&batch)), args.follow.then_some((events, newest, last))));
            }
            if !args.follow || newest.wait_for(|newest| *newest > after).await.is_err() {
                return None;
            }
        }
    });
    ndjson(chunks)
}

/// A change of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Watching after this revision continues behind this change.
    pub revision: Revision,
    /// `app`, `instance`, `service`, `node`, or `bookmark` (nothing but the revision).
    pub kind: String,
    /// `tenant/namespace/name`, or the id or name.
    pub key: String,
    /// The object; absent if it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<serde_json::Value>,
}

/// Every change from now on, after everything there is. A line with kind `bookmark` ends each revision.
#[utoipa::path(get, path = "/v1/watch", tag = "events",
    responses((status = 200, body = Change, content_type = "application/x-ndjson")))]
pub(super) async fn watch(State(state): State<ApiState>) -> Response {
    let snapshots = state.control.subscribe();
    let chunks = stream::unfold((snapshots, BTreeMap::new(), true), |(mut snapshots, before, first)| async move {
        if !first && snapshots.changed().await.is_err() {
            return None;
        }
        let snapshot = snapshots.borrow_and_update().clone();
        let now = documents(&snapshot);
        let changes = differences(&before, &now, snapshot.revision);
        Some((Ok(lines(&changes)), (snapshots, now, false)))
    });
    ndjson(chunks)
}

type Documents = BTreeMap<(&'static str, String), serde_json::Value>;

fn documents(snapshot: &ClusterSnapshot) -> Documents {
    let value = |view: serde_json::Result<serde_json::Value>| view.unwrap_or_default();
    let mut all = Documents::new();
    for (key, row) in &snapshot.apps {
        all.insert(("app", key.to_string()), value(serde_json::to_value(AppView::new(snapshot, row))));
    }
    for (id, row) in &snapshot.instances {
        all.insert(("instance", id.to_string()), value(serde_json::to_value(InstanceView::new(snapshot, &row.object))));
    }
    for (key, row) in &snapshot.services {
        let view = ServiceView::new(snapshot, &row.object, None);
        all.insert(("service", key.to_string()), value(serde_json::to_value(view)));
    }
    for (name, row) in &snapshot.nodes {
        all.insert(("node", name.to_string()), value(serde_json::to_value(NodeView::new(snapshot, &row.object))));
    }
    all
}

fn differences(before: &Documents, now: &Documents, revision: Revision) -> Vec<Change> {
    let change = |(kind, key): &(&'static str, String), object: Option<&serde_json::Value>| Change {
        revision,
        kind: (*kind).into(),
        key: key.clone(),
        object: object.cloned(),
    };
    let gone = before.keys().filter(|key| !now.contains_key(*key)).map(|key| change(key, None));
    let new = now.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let mut changes: Vec<_> = gone.chain(new.map(|(key, value)| change(key, Some(value)))).collect();
    changes.push(Change { revision, kind: "bookmark".into(), key: String::new(), object: None });
    changes
}
