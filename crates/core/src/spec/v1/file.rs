//! Secrets and configs as files of an instance.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{ContentKind, ContentName, Hidden};

/// The longest content of a secret or a config, in bytes; Docker's for secrets.
pub const MAX_CONTENT: usize = 500 * 1024;

/// What a secret or a config is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContentSpec {
    /// Its content, in base64.
    pub data: Hidden,
    /// All its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A secret or a config as a file. As text: `db_password`, `site.conf:/etc/nginx/nginx.conf`,
/// `source=key,target=/k,uid=33,mode=0400`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// The name of the secret or the config.
    pub name: ContentName,
    /// Where it is; `/run/secrets/<name>` of a secret, and `/<name>` of a config, if nothing is said. What is not absolute is
    /// meant from there on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The user it belongs to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// The group it belongs to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Who may read it.
    #[serde(default)]
    pub mode: FileMode,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The rights of a file, written in octal: `0440`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Default for FileMode {
    /// For every user of the container, as Docker does.
    fn default() -> Self {
        Self(0o444)
    }
}

impl FromStr for FileMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o7777);
        mode.map(Self).ok_or_else(|| format!("the mode {text:?} is not octal; write e.g. 0440"))
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for FileMode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // A bare number would leave open in which base it is meant.
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for FileMode {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        let text = utoipa::openapi::schema::Type::String;
        utoipa::openapi::ObjectBuilder::new().schema_type(text).examples(["0444"]).into()
    }
}

impl ToSchema for FileMode {}

impl FileSpec {
    /// The path in the instance.
    pub fn path(&self, kind: ContentKind) -> String {
        let folder = match kind {
            ContentKind::Secret => "/run/secrets/",
            ContentKind::Config => "/",
        };
        match &self.target {
            None => format!("{folder}{}", self.name),
            Some(path) if path.starts_with('/') => path.clone(),
            Some(path) => format!("{folder}{path}"),
        }
    }
}

impl FromStr for FileSpec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: String| format!("{text:?}: {why}");
        let name = |name: &str| name.parse::<ContentName>().map_err(|error| refuse(error.to_string()));
        let new = |name| Self { name, target: None, uid: 0, gid: 0, mode: FileMode::default() };
        if !text.contains('=') {
            let (source, target) = text.split_once(':').map_or((text, None), |(source, target)| (source, Some(target)));
            return Ok(Self { target: target.map(str::to_owned), ..new(name(source)?) });
        }
        let mut source = None;
        let (mut target, mut uid, mut gid, mut mode) = (None, 0, 0, FileMode::default());
        for field in text.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| refuse(format!("{field:?} has no value")))?;
            let number = || value.parse().map_err(|_| refuse(format!("{key} is a number, not {value:?}")));
            match key {
                "source" | "src" => source = Some(name(value)?),
                "target" | "destination" | "dst" => target = Some(value.to_owned()),
                "uid" => uid = number()?,
                "gid" => gid = number()?,
                "mode" => mode = value.parse().map_err(refuse)?,
                other => {
                    return Err(refuse(format!("{other:?} is not known; known are source, target, uid, gid, mode")));
                }
            }
        }
        let source = source.ok_or_else(|| refuse("has no source".into()))?;
        Ok(Self { target, uid, gid, mode, ..new(source) })
    }
}

/// `db_password:/run/secrets/db_password`, as far as something is said.
impl fmt::Display for FileSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        self.target.as_ref().map_or(Ok(()), |target| write!(f, ":{target}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_forms_are_understood() {
        for (text, path, ids) in [
            ("db_password", "/run/secrets/db_password", (0, 0, 0o444)),
            ("key:tls.key", "/run/secrets/tls.key", (0, 0, 0o444)),
            ("key:/etc/key", "/etc/key", (0, 0, 0o444)),
            ("source=key,target=/k,uid=33,gid=34,mode=0400", "/k", (33, 34, 0o400)),
        ] {
            let file: FileSpec = text.parse().expect(text);
            assert_eq!((file.path(ContentKind::Secret).as_str(), (file.uid, file.gid, file.mode.0)), (path, ids));
            let json = serde_json::to_string(&file).expect("JSON");
            assert_eq!(serde_json::from_str::<FileSpec>(&json).expect("reads"), file, "{json}");
        }
        assert_eq!("site".parse::<FileSpec>().expect("a file").path(ContentKind::Config), "/site");
        for text in
            ["", "a/b", "source=a,mode=9", "source=a,uid=root", "target=/x", "source=a,colour=red", "source=a,x"]
        {
            assert!(text.parse::<FileSpec>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<FileMode>("444").is_err(), "in which base?");
    }
}
