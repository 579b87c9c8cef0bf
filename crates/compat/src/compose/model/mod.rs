//! The typed model: what a project is once everything is loaded, in long forms, with what the product honours.

pub mod deploy;
mod read;
pub mod service;

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, de::DeserializeOwned};

pub use read::{Mode, Size};
use read::{leaf, settings};
pub use service::Service;

use super::{
    fault::{Findings, child},
    value::{Data, Entry, Node, Place},
};
use hivemind_core::model::Hidden;

/// A project: what a load comes to.
#[derive(Clone, PartialEq, Debug)]
pub struct Project {
    /// Its name: small letters, digits, `_`, `-`.
    pub name: String,
    /// Its folder, absolute.
    pub dir: PathBuf,
    /// Services that are enabled.
    pub services: BTreeMap<String, Service>,
    /// Services that no active profile enables, or that were not asked for.
    pub disabled: BTreeMap<String, Service>,
    /// Networks, `default` too where a service is in it.
    pub networks: BTreeMap<String, Network>,
    /// Volumes.
    pub volumes: BTreeMap<String, Volume>,
    /// Secrets.
    pub secrets: BTreeMap<String, Secret>,
    /// Configs.
    pub configs: BTreeMap<String, Config>,
    /// The document that all this was read from, with places, and with keys that are not honoured.
    pub document: Node,
}

impl Project {
    /// Where a key stands: `["services", "web", "ports", "0"]`. Of what is not there, the nearest key above it.
    pub fn place(&self, path: &[&str]) -> &Place {
        let (mut node, mut place) = (&self.document, &self.document.place);
        for step in path {
            match &node.data {
                Data::Map(map) => {
                    let Some(entry) = map.get(*step) else { break };
                    (node, place) = (&entry.value, &entry.key);
                }
                Data::List(list) => {
                    let Some(item) = step.parse().ok().and_then(|at: usize| list.get(at)) else { break };
                    (node, place) = (item, &item.place);
                }
                _ => break,
            }
        }
        place
    }
}

/// A network.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Its name beyond the project; a load fills it in.
    pub name: Option<String>,
    /// The driver.
    pub driver: Option<String>,
    /// The driver's options.
    #[serde(deserialize_with = "settings")]
    pub driver_opts: BTreeMap<String, String>,
    /// Whether something else makes it.
    #[serde(deserialize_with = "leaf")]
    pub external: Option<bool>,
    /// Whether it has no way to the outside.
    #[serde(deserialize_with = "leaf")]
    pub internal: Option<bool>,
    /// Labels.
    #[serde(deserialize_with = "settings")]
    pub labels: BTreeMap<String, String>,
}

/// A volume.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Its name beyond the project; a load fills it in.
    pub name: Option<String>,
    /// The driver.
    pub driver: Option<String>,
    /// The driver's options.
    #[serde(deserialize_with = "settings")]
    pub driver_opts: BTreeMap<String, String>,
    /// Whether something else makes it.
    #[serde(deserialize_with = "leaf")]
    pub external: Option<bool>,
    /// Labels.
    #[serde(deserialize_with = "settings")]
    pub labels: BTreeMap<String, String>,
}

/// A secret.
#[derive(Clone, Default, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Secret {
    /// Its name beyond the project; a load fills it in.
    pub name: Option<String>,
    /// The variable that has its text.
    pub environment: Option<String>,
    /// The file that has it, absolute.
    pub file: Option<String>,
    /// Its text, if it stands in the document.
    pub content: Option<String>,
    /// What it holds, whatever it comes from: a load fills it in where a service that is enabled has it.
    #[serde(skip)]
    pub data: Option<Hidden>,
    /// Whether something else makes it.
    #[serde(deserialize_with = "leaf")]
    pub external: Option<bool>,
    /// Labels.
    #[serde(deserialize_with = "settings")]
    pub labels: BTreeMap<String, String>,
}

/// A config: the same, but not secret.
pub type Config = Secret;

/// Reads all values of a section. The schema has seen them: what fails here is a fault of this program, and is said as
/// one.
pub(super) fn section<T: DeserializeOwned + Default>(
    document: &Node,
    key: &str,
    found: &mut Findings,
) -> BTreeMap<String, T> {
    let mut section = BTreeMap::new();
    for (name, Entry { key: place, value }) in document.get(key).and_then(Node::map).into_iter().flatten() {
        let read = match &value.data {
            Data::Null => Ok(T::default()),
            _ => serde_json::from_value(value.to_json()),
        };
        match read {
            Ok(read) => {
                section.insert(name.clone(), read);
            }
            Err(error) => {
                let message =
                    format!("the schema allows this, and the model cannot read it ({error}): please report it");
                found.fault(place, child(key, name), message);
            }
        }
    }
    section
}
