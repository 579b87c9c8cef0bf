//! Secrets and configs: small contents that instances get as files.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ContentKey, ContentName, Timestamp};

/// Which of the two. They differ in who may see them: a config is shown, a secret never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContentKind {
    /// Its content is never shown.
    Secret,
    /// Anybody who may read the namespace may see it.
    Config,
}

impl ContentKind {
    /// `secret`, `config`
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }
}

impl fmt::Display for ContentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Bytes that no message and no log shows. In rows and in the API they are base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Hidden(pub Vec<u8>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl Serialize for Hidden {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        // Without the decoder's words, which name bytes of it.
        let decoded = BASE64_STANDARD.decode(text).map_err(|_| serde::de::Error::custom("it is not base64"));
        decoded.map(Self)
    }
}

impl utoipa::PartialSchema for Hidden {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("base64"))
            .into()
    }
}

impl ToSchema for Hidden {}

/// A secret or a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Which.
    pub kind: ContentKind,
    /// Its full name.
    pub key: ContentKey,
    /// Labels for people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The content.
    pub data: Hidden,
    /// Grows by one with each change of the content; the first is 1.
    pub version: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its content was last changed.
    pub changed_at: Timestamp,
}

/// The versions of some secrets and configs of a namespace, by their names. A version says which content it was and nothing
/// of what was in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentVersions {
    /// Of secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub secrets: BTreeMap<ContentName, u64>,
    /// Of configs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub configs: BTreeMap<ContentName, u64>,
}

impl ContentVersions {
    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.configs.is_empty()
    }

    /// The version of one.
    pub fn get(&self, kind: ContentKind, name: &ContentName) -> Option<u64> {
        match kind {
            ContentKind::Secret => self.secrets.get(name).copied(),
            ContentKind::Config => self.configs.get(name).copied(),
        }
    }

    /// Takes in what another container of the same instance was started with: of what both have, the older counts.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in [(&mut self.secrets, &other.secrets), (&mut self.configs, &other.configs)] {
            for (name, version) in from {
                into.entry(name.clone()).and_modify(|known| *known = (*known).min(*version)).or_insert(*version);
            }
        }
    }

    /// Keeps what was known before of those that nothing is known of now.
    pub fn keep(&mut self, before: &Self) {
        for (into, from) in [(&mut self.secrets, &before.secrets), (&mut self.configs, &before.configs)] {
            for (name, version) in from {
                into.entry(name.clone()).or_insert(*version);
            }
        }
    }

    /// Notes the version of one.
    pub fn set(&mut self, kind: ContentKind, name: ContentName, version: u64) {
        match kind {
            ContentKind::Secret => self.secrets.insert(name, version),
            ContentKind::Config => self.configs.insert(name, version),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_shows_a_secret() {
        let secret = Content {
            kind: ContentKind::Secret,
            key: ContentKey::new(crate::model::Scope::default(), "db".parse().expect("a name")),
            labels: BTreeMap::new(),
            data: Hidden(b"hunter2".to_vec()),
            version: 1,
            created_at: Timestamp::default(),
            changed_at: Timestamp::default(),
        };
        assert!(!format!("{secret:?}").contains("hunter2") && format!("{secret:?}").contains("7 bytes"));
        let row = serde_json::to_string(&secret).expect("JSON");
        assert_eq!(serde_json::from_str::<Content>(&row).expect("reads"), secret);
        let error = serde_json::from_str::<Hidden>("\"hunter2!\"").expect_err("no base64").to_string();
        assert!(!error.contains("hunter"), "{error}");
    }
}
