//! What happened, and to whom.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppKey, AppName, Instance, NamespaceName, NodeName, Scope, TenantName, Timestamp};

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// As expected.
    Normal,
    /// Someone should look.
    Warning,
}

/// Something that happened, for people. Events never go into the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows by one with every event of this daemon's life.
    pub seq: u64,
    /// Where the stream goes on behind it: which life of the daemon, and the number.
    #[serde(default)]
    pub position: String,
    /// When.
    pub at: Timestamp,
    /// Normal or Warning.
    pub kind: EventKind,
    /// A CamelCase word for programs: `Pulled`, `Started`, `BackOff`.
    pub reason: String,
    /// What it is about: `app/web`, `instance/web-x7k2p`, `node/a`.
    pub object: String,
    /// The tenant whose it is; none: it is the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// The namespace it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<NamespaceName>,
    /// The app that it is, or is an instance of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// What happened, for people.
    pub message: String,
    /// Further facts for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An app.
    App(AppKey),
    /// An instance: its app, and its name.
    Instance(AppKey, String),
    /// What was left of something that nobody knows any more, by its number.
    Leftover(String),
    /// A node.
    Node(NodeName),
    /// Another object that has a row: its kind, where it is, and its name.
    Object {
        /// `policy`, `tenant` and so on.
        kind: &'static str,
        /// The tenant; none: it is the operator's.
        tenant: Option<TenantName>,
        /// The namespace, if it is in one.
        namespace: Option<NamespaceName>,
        /// Its last name.
        name: String,
    },
}

impl Subject {
    /// As [`Event::object`] has it.
    pub fn object(&self) -> String {
        match self {
            Self::App(key) => format!("app/{}", key.name),
            Self::Instance(_, name) => format!("instance/{name}"),
            Self::Leftover(id) => format!("leftover/{id}"),
            Self::Node(name) => format!("node/{name}"),
            Self::Object { kind, name, .. } => format!("{kind}/{name}"),
        }
    }

    /// The app that it is, or is an instance of.
    pub fn app(&self) -> Option<&AppName> {
        match self {
            Self::App(key) | Self::Instance(key, _) => Some(&key.name),
            Self::Leftover(_) | Self::Node(_) | Self::Object { .. } => None,
        }
    }

    /// The tenant and the namespace it is in.
    pub fn place(&self) -> (Option<&TenantName>, Option<&NamespaceName>) {
        match self {
            Self::App(AppKey { scope: Scope { tenant, namespace }, .. })
            | Self::Instance(AppKey { scope: Scope { tenant, namespace }, .. }, _) => (Some(tenant), Some(namespace)),
            Self::Object { tenant, namespace, .. } => (tenant.as_ref(), namespace.as_ref()),
            Self::Leftover(_) | Self::Node(_) => (None, None),
        }
    }
}

impl From<&Instance> for Subject {
    fn from(instance: &Instance) -> Self {
        Self::Instance(instance.app.clone(), instance.name())
    }
}
