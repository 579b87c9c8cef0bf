//! What an instance finds in its file system besides its image: volumes, and folders of the node.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::VolumeName;

/// The most mounts that an app may have.
pub const MAX_MOUNTS: usize = 64;

/// A mount. As text: `data:/var/lib/data`, `/srv/site:/www:ro`, `/cache`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// The path in the instance; absolute.
    pub target: String,
    /// What is there.
    pub source: MountSource,
    /// Whether the instance may only read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum MountSource {
    /// A volume of the namespace, made if there is none of that name. Without a name, one of each instance's own, which
    /// goes with the instance.
    Volume {
        /// Its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<VolumeName>,
        /// Only this folder of it, relative to its root; made if it is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subpath: Option<String>,
        /// Do not fill it, at its first use, with what the image has at the target.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        nocopy: bool,
    },
    /// A file or a folder of the node. For the operator only.
    Bind {
        /// Its path on the node; absolute.
        path: String,
        /// Make a folder there if there is nothing.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        create: bool,
    },
}

impl MountSpec {
    /// The volume it names.
    pub fn volume(&self) -> Option<&VolumeName> {
        match &self.source {
            MountSource::Volume { name, .. } => name.as_ref(),
            MountSource::Bind { .. } => None,
        }
    }

    /// Reads Docker's `--mount`: `type=volume,source=data,target=/var/lib/data,readonly`.
    pub fn from_pairs(text: &str) -> Result<Self, String> {
        let refuse = |why: String| format!("mount {text:?}: {why}");
        let (mut kind, mut source, mut target, mut subpath) = ("volume", None, None, None);
        let (mut read_only, mut nocopy, mut create) = (false, false, false);
        for field in text.split(',') {
            let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
            let wanted =
                || value.filter(|value| !value.is_empty()).ok_or_else(|| refuse(format!("{key} has no value")));
            let flag = || match value {
                None | Some("true" | "1") => Ok(true),
                Some("false" | "0") => Ok(false),
                Some(other) => Err(refuse(format!("{key} is true or false, not {other:?}"))),
            };
            match key {
                "type" => kind = wanted()?,
                "source" | "src" => source = Some(wanted()?),
                "target" | "destination" | "dst" => target = Some(wanted()?.to_owned()),
                "readonly" | "ro" => read_only = flag()?,
                "volume-nocopy" => nocopy = flag()?,
                "volume-subpath" => subpath = Some(wanted()?.to_owned()),
                "bind-create-src" => create = flag()?,
                "bind-propagation" if matches!(value, Some("private" | "rprivate")) => {}
                "bind-propagation" => return Err(refuse("mounts are always private to the instance".into())),
                "tmpfs-size" | "tmpfs-mode" => return Err(refuse("use --tmpfs".into())),
                "" => return Err(refuse("has an empty field".into())),
                other => {
                    return Err(refuse(format!(
                        "{other:?} is not known; known are type, source, target, readonly, volume-subpath, volume-nocopy and \
                     bind-create-src"
                    )));
                }
            }
        }
        let target = target.ok_or_else(|| refuse("has no target; write target=/path".into()))?;
        let source = match kind {
            "volume" if create => return Err(refuse("bind-create-src is for type=bind".into())),
            "volume" => {
                let name = source.map(VolumeName::from_str).transpose().map_err(|error| refuse(error.to_string()))?;
                MountSource::Volume { name, subpath, nocopy }
            }
            "bind" if nocopy || subpath.is_some() => {
                return Err(refuse("volume-nocopy and volume-subpath are for type=volume".into()));
            }
            "bind" => {
                let path = source.ok_or_else(|| refuse("has no source; write source=/path".into()))?.to_owned();
                MountSource::Bind { path, create }
            }
            "tmpfs" => return Err(refuse("use --tmpfs".into())),
            other => return Err(refuse(format!("has the type {other:?}; write volume or bind"))),
        };
        Ok(Self { target, source, read_only })
    }
}

impl FromStr for MountSpec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| {
            format!("volume {text:?} {why}; write NAME:/path, NAME:/path:ro, /path/on/the/node:/path, or /path alone")
        };
        let parts: Vec<_> = text.split(':').collect();
        let (source, target, options) = match parts[..] {
            [target] => (None, target, ""),
            [source, target] => (Some(source), target, ""),
            [source, target, options] => (Some(source), target, options),
            _ => return Err(refuse("has too many parts")),
        };
        if !target.starts_with('/') {
            return Err(refuse("has no absolute path in the instance"));
        }
        let (mut read_only, mut no_copy) = (false, false);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" | "readonly" => read_only = true,
                "nocopy" => no_copy = true,
                // [`without_effect`] tells.
                "rw" | "private" | "rprivate" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
                other => return Err(refuse(&format!("has the option {other:?}, which is not known"))),
            }
        }
        let source = match source {
            None => MountSource::Volume { name: None, subpath: None, nocopy: no_copy },
            Some(path) if path.starts_with('/') => MountSource::Bind { path: path.to_owned(), create: false },
            Some(name) => {
                let name = Some(name.parse().map_err(|error| refuse(&format!("is no volume: {error}")))?);
                MountSource::Volume { name, subpath: None, nocopy: no_copy }
            }
        };
        if no_copy && matches!(source, MountSource::Bind { .. }) {
            return Err(refuse("has nocopy, which is for volumes"));
        }
        Ok(Self { target: target.to_owned(), source, read_only })
    }
}

/// The options of a mount written as text that are taken, and have no effect here.
pub fn without_effect(text: &str) -> Vec<&str> {
    let options = text.splitn(3, ':').nth(2).unwrap_or_default();
    options.split(',').filter(|option| matches!(*option, "z" | "Z" | "cached" | "delegated" | "consistent")).collect()
}

/// `data:/var/lib/data:ro`
impl fmt::Display for MountSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            MountSource::Volume { name: Some(name), subpath: None, .. } => write!(f, "{name}:")?,
            MountSource::Volume { name: Some(name), subpath: Some(path), .. } => write!(f, "{name}/{path}:")?,
            MountSource::Volume { name: None, .. } => {}
            MountSource::Bind { path, .. } => write!(f, "{path}:")?,
        }
        write!(f, "{}{}", self.target, if self.read_only { ":ro" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_forms_are_understood() {
        for (text, shown) in [
            ("data:/var/lib/data", "data:/var/lib/data"),
            ("db_data:/d:ro", "db_data:/d:ro"),
            ("data:/d:rw,z", "data:/d"),
            ("data:/d:ro,nocopy", "data:/d:ro"),
            ("/srv/site:/www:ro", "/srv/site:/www:ro"),
            ("/cache", "/cache"),
        ] {
            let mount: MountSpec = text.parse().expect(text);
            assert_eq!(mount.to_string(), shown);
            let json = serde_json::to_string(&mount).expect("JSON");
            assert_eq!(serde_json::from_str::<MountSpec>(&json).expect("reads"), mount, "{json}");
        }
        for (text, word) in [
            ("data", "absolute"),
            ("data:d", "absolute"),
            ("a:/b:ro:x", "too many"),
            ("a:/b:slave", "\"slave\""),
            ("../a:/b", "no volume"),
            (":/b", "no volume"),
            ("/a:/b:nocopy", "for volumes"),
        ] {
            let said = text.parse::<MountSpec>().expect_err(text);
            assert!(said.contains(word) && said.contains("write NAME:/path"), "{text}: {said}");
        }
        assert_eq!(without_effect("data:/d:ro,z,cached"), ["z", "cached"]);
        assert_eq!(without_effect("data:/d"), Vec::<&str>::new());
    }

    #[test]
    fn dockers_long_form_is_understood() {
        for (text, shown) in [
            ("type=volume,source=data,target=/d", "data:/d"),
            ("type=volume,src=data,dst=/d,readonly,volume-subpath=a/b", "data/a/b:/d:ro"),
            ("source=data,destination=/d,ro=false", "data:/d"),
            ("target=/cache", "/cache"),
            ("type=bind,source=/srv,target=/d,bind-propagation=rprivate", "/srv:/d"),
        ] {
            assert_eq!(MountSpec::from_pairs(text).expect(text).to_string(), shown);
        }
        for (text, word) in [
            ("type=volume,source=data", "target"),
            ("type=bind,target=/d", "source"),
            ("type=bind,source=/a,target=/d,bind-propagation=shared", "private"),
            ("type=bind,source=/a,target=/d,volume-nocopy", "type=volume"),
            ("type=nfs,target=/d", "nfs"),
            ("target=/d,colour=red", "colour"),
            ("target=/d,readonly=maybe", "maybe"),
            ("target=", "no value"),
            ("type=tmpfs,target=/d", "--tmpfs"),
        ] {
            let said = MountSpec::from_pairs(text).expect_err(text);
            assert!(said.contains(word), "{text}: {said}");
        }
    }
}
