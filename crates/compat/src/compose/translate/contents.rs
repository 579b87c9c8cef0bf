//! Secrets and configs: what the project's files hold, and where services have them.

use std::collections::BTreeMap;

use super::{
    super::model::{Secret, Service, service::Grant},
    Work,
};
use hivemind_core::{
    model::{ContentKind, ContentName},
    spec::v1::{AppSpec, ContentSpec, FileMode, FileSpec},
};

/// The section of a kind.
const fn section(kind: ContentKind) -> &'static str {
    match kind {
        ContentKind::Secret => "secrets",
        ContentKind::Config => "configs",
    }
}

impl Work<'_> {
    pub(super) fn files(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        spec.secrets = self.granted(name, ContentKind::Secret, &service.secrets);
        spec.configs = self.granted(name, ContentKind::Config, &service.configs);
    }

    /// What the project has of a kind, where a service has it in its instances: what only builds see is of no use to the
    /// node. What is `external` is there already.
    pub(super) fn contents(&mut self, kind: ContentKind) -> BTreeMap<ContentName, ContentSpec> {
        let declared = match kind {
            ContentKind::Secret => &self.project.secrets,
            ContentKind::Config => &self.project.configs,
        };
        let has = |service: &Service, key: &str| {
            let grants = match kind {
                ContentKind::Secret => &service.secrets,
                ContentKind::Config => &service.configs,
            };
            grants.iter().any(|grant| grant.source == key)
        };
        let granted = |key: &str| self.project.services.values().any(|service| has(service, key));
        let held = declared.iter().filter(|(key, one)| one.external != Some(true) && granted(key));
        let held = held.filter_map(|(key, one)| Some((key, one, one.data.clone()?)));
        let made = held.filter_map(|(key, one, data)| {
            // One of no good name was told where it is granted.
            Some((key.parse().ok()?, ContentSpec { data, labels: one.labels.clone() }))
        });
        made.collect()
    }

    fn granted(&mut self, service: &str, kind: ContentKind, grants: &[Grant]) -> Vec<FileSpec> {
        let mut files = Vec::new();
        for (at, grant) in grants.iter().enumerate() {
            let index = at.to_string();
            let steps = ["services", service, section(kind), &index];
            let declared = match kind {
                ContentKind::Secret => self.project.secrets.get(&grant.source),
                ContentKind::Config => self.project.configs.get(&grant.source),
            };
            let Some(declared) = declared else { continue };
            match of_namespace(&grant.source, declared).parse::<ContentName>() {
                Ok(name) => files.push(FileSpec {
                    // Without a word it has the name that the files have for it, also where the namespace has another.
                    target: Some(grant.target.clone().unwrap_or_else(|| grant.source.clone())),
                    uid: self.number(&steps, "uid", grant.uid.as_deref()),
                    gid: self.number(&steps, "gid", grant.gid.as_deref()),
                    mode: grant.mode.map_or_else(FileMode::default, |mode| FileMode(mode.0)),
                    name,
                }),
                Err(error) => self.fault(&steps, error.to_string()),
            }
        }
        files
    }

    fn number(&mut self, steps: &[&str], key: &str, text: Option<&str>) -> u32 {
        let Some(text) = text else { return 0 };
        text.parse().unwrap_or_else(|_| {
            self.fault(&[steps, &[key]].concat(), format!("{text:?} is no number of a user or group"));
            0
        })
    }
}

/// The name in the project's namespace: what the project makes has the name that its files have for it.
fn of_namespace<'a>(key: &'a str, declared: &'a Secret) -> &'a str {
    if declared.external == Some(true) { declared.name.as_deref().unwrap_or(key) } else { key }
}
