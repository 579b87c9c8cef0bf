//! Made of the API's description by `cargo xtask docs`: events.

use crate::documents::*;

/// What else can be asked of [`Client::list_events`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ListEventsArgs {
    /// Only events behind this: the `position` of one, or its `seq`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Also the events to come.
    #[serde(skip_serializing_if = "Not::not")]
    pub follow: bool,
    /// Only events that have such fields: `app=web,kind!=normal`.
    #[serde(rename = "fieldSelector", skip_serializing_if = "Option::is_none")]
    pub field_selector: Option<String>,
    /// At most so many, the oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// What else can be asked of [`Client::watch`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WatchArgs {
    /// Only changes after this revision; everything there is without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

impl Client {
    /// What happened, a JSON document for each event. The ring keeps the last 10,000. To go on after a broken
    /// connection, ask again with the `position` of the last event: if what came behind it is not kept any more, or the
    /// daemon was started again, that is 410. What a reader is too slow for is said by an event with the reason
    /// `Missed`.
    ///
    /// `GET /v1/events`
    pub async fn list_events(&self, args: &ListEventsArgs) -> Result<Lines<Event>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/events", &[]).query(args)?;
        self.lines(asked).await
    }

    /// Changes of tenants, namespaces, policies (also those of tiers), apps, instances, services and nodes: what
    /// changed after the given revision, or everything there is, then each change as it happens, and a bookmark after
    /// each revision. To go on after a broken connection, ask again with the revision of the last line.
    ///
    /// `GET /v1/watch`
    pub async fn watch(&self, args: &WatchArgs) -> Result<Lines<Change>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/watch", &[]).query(args)?;
        self.lines(asked).await
    }
}
