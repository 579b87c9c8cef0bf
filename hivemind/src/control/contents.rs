//! What a command makes of the rows of secrets and configs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ControlError, ObjectName,
    objects::{RowChange, check_scope},
    project::ProjectKey,
};
use crate::{
    model::{AppName, ClusterSnapshot, Content, ContentKey, ContentKind, Hidden, Scope, Timestamp},
    spec::v1::{AppSpec, FileSpec, MAX_CONTENT, PROJECT_LABEL, ProjectSpec, validate_labels},
};

/// A secret or a config that is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewContent {
    /// Which.
    pub kind: ContentKind,
    /// Its full name.
    pub key: ContentKey,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// Its content.
    pub data: Hidden,
    /// Whether one that is there may get another content.
    pub replace: bool,
}

/// Creates one, or gives it another content.
pub(super) fn put(snapshot: &ClusterSnapshot, new: NewContent, now: Timestamp) -> Result<Vec<RowChange>, ControlError> {
    let NewContent { kind, key, labels, data, replace } = new;
    check_scope(snapshot, &key.scope)?;
    let mut faults: Vec<_> = validate_labels(&labels).into_iter().map(|fault| format!("labels: {fault}")).collect();
    if data.0.len() > MAX_CONTENT {
        faults.push(format!("data: {} bytes are more than {MAX_CONTENT}, the most there may be", data.0.len()));
    }
    let object = || ObjectName::Content(kind, key.clone());
    if !faults.is_empty() {
        return Err(ControlError::Invalid { object: object(), faults });
    }
    let content = match snapshot.contents.get(&(kind, key.clone())).map(|row| &*row.object) {
        None => Content { kind, key, labels, data, version: 1, created_at: now, changed_at: now },
        Some(before) if before.data == data && before.labels == labels => return Ok(Vec::new()),
        Some(before) if before.data == data => Content { labels, ..before.clone() },
        Some(_) if !replace => return Err(ControlError::Exists { object: object() }),
        Some(before) => Content { labels, data, version: before.version + 1, changed_at: now, ..before.clone() },
    };
    Ok(vec![RowChange::PutContent(content)])
}

/// What a project makes of its secrets and configs.
#[derive(Debug, Default)]
pub(super) struct OfProject {
    /// The rows that are new or changed.
    pub(super) put: Vec<Content>,
    /// The apps that have one whose content is another now.
    pub(super) stale: BTreeSet<AppName>,
}

/// The secrets and configs of a project's document. `next` has its namespace.
pub(super) fn of_project(
    next: &ClusterSnapshot,
    key: &ProjectKey,
    spec: &ProjectSpec,
    now: Timestamp,
) -> Result<OfProject, Vec<String>> {
    let (mut of, mut faults) = (OfProject::default(), Vec::new());
    let mut other = BTreeSet::new();
    let secrets = spec.secrets.iter().map(|(name, it)| (ContentKind::Secret, name, it));
    let configs = spec.configs.iter().map(|(name, it)| (ContentKind::Config, name, it));
    for (kind, name, content) in secrets.chain(configs) {
        let full = ContentKey::new(key.scope.clone(), name.clone());
        let before = next.contents.get(&(kind, full.clone())).map(|row| &row.object);
        if before.is_some_and(|before| before.labels.get(PROJECT_LABEL) != Some(&key.name)) {
            faults.push(format!(
                "{kind} {name} is there already, and is none of the project's: remove it, or name it as external"
            ));
            continue;
        }
        if before.is_some_and(|before| before.data != content.data) {
            other.insert((kind, name));
        }
        let mut labels = content.labels.clone();
        labels.insert(PROJECT_LABEL.into(), key.name.clone());
        let new = NewContent { kind, key: full, labels, data: content.data.clone(), replace: true };
        match put(next, new, now) {
            Ok(changes) => of.put.extend(changes.into_iter().filter_map(|change| match change {
                RowChange::PutContent(content) => Some(content),
                _ => None,
            })),
            Err(ControlError::Invalid { faults: more, .. }) => {
                faults.extend(more.into_iter().map(|fault| format!("{kind} {name}: {fault}")));
            }
            Err(error) => faults.push(format!("{kind} {name}: {error}")),
        }
    }
    let has = |kind, files: &[FileSpec]| files.iter().any(|file| other.contains(&(kind, &file.name)));
    let stale = spec
        .apps
        .iter()
        .filter(|(_, app)| has(ContentKind::Secret, &app.secrets) || has(ContentKind::Config, &app.configs));
    let stale = stale.map(|(name, _)| name.clone()).collect();
    if faults.is_empty() { Ok(OfProject { stale, ..of }) } else { Err(faults) }
}

/// Removes one that nobody uses.
pub(super) fn remove(
    snapshot: &ClusterSnapshot,
    kind: ContentKind,
    key: ContentKey,
) -> Result<Vec<RowChange>, ControlError> {
    let users = snapshot.users_of_content(kind, &key);
    let object = ObjectName::Content(kind, key);
    if users.is_empty() { Ok(vec![RowChange::Delete(object)]) } else { Err(ControlError::Used { object, by: users }) }
}

/// A fault for each secret and config that an app names and that is not there.
pub(super) fn missing(snapshot: &ClusterSnapshot, scope: &Scope, spec: &AppSpec) -> Vec<String> {
    let of = |kind| match kind {
        ContentKind::Secret => spec.secrets.iter(),
        ContentKind::Config => spec.configs.iter(),
    };
    let kinds = [ContentKind::Secret, ContentKind::Config];
    let named = kinds.into_iter().flat_map(|kind| of(kind).map(move |file| (kind, &file.name)));
    let there = |kind, name: &crate::model::ContentName| {
        snapshot.contents.contains_key(&(kind, ContentKey::new(scope.clone(), name.clone())))
    };
    let absent = named.filter(|(kind, name)| !there(*kind, name));
    let fault = |(kind, name)| {
        format!("{kind}s: there is no {kind} {name} in {scope}; hivemind {kind} create {name} --file FILE makes it")
    };
    absent.map(fault).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{App, AppKey, Row};

    fn new(content: &str, replace: bool) -> NewContent {
        let key = ContentKey::new(Scope::default(), "db".parse().expect("a name"));
        let data = Hidden(content.as_bytes().to_vec());
        NewContent { kind: ContentKind::Secret, key, labels: BTreeMap::new(), data, replace }
    }

    fn with(snapshot: &mut ClusterSnapshot, changes: Vec<RowChange>) {
        for change in changes {
            let RowChange::PutContent(content) = change else { panic!("{change:?}") };
            let key = (content.kind, content.key.clone());
            snapshot.contents.insert(key, Row { object: Arc::new(content), modified: 1 });
        }
    }

    #[test]
    fn another_content_is_a_new_version_and_comes_only_when_asked_for() {
        let mut snapshot = ClusterSnapshot::at(1);
        let now = Timestamp::default();
        let first = put(&snapshot, new("one", false), now).expect("made");
        with(&mut snapshot, first);
        assert!(put(&snapshot, new("one", false), now).expect("the same").is_empty());
        let other = put(&snapshot, new("two", false), now);
        assert!(matches!(other, Err(ControlError::Exists { .. })), "{other:?}");
        let second = put(&snapshot, new("two", true), now).expect("replaced");
        with(&mut snapshot, second);
        assert_eq!(snapshot.contents.values().map(|row| row.object.version).collect::<Vec<_>>(), [2]);
        let long = put(&snapshot, new(&"x".repeat(MAX_CONTENT + 1), true), now);
        assert!(matches!(long, Err(ControlError::Invalid { .. })), "{long:?}");
    }

    #[test]
    fn what_an_app_names_is_there_and_stays() {
        let mut snapshot = ClusterSnapshot::at(1);
        let now = Timestamp::default();
        let mut spec = AppSpec::new("x");
        spec.secrets = vec!["db".parse().expect("a file")];
        spec.configs = vec!["db".parse().expect("a file")];
        let scope = Scope::default();
        assert_eq!(missing(&snapshot, &scope, &spec).len(), 2);
        let made = put(&snapshot, new("one", false), now).expect("made");
        with(&mut snapshot, made);
        let faults = missing(&snapshot, &scope, &spec);
        assert!(faults.len() == 1 && faults[0].starts_with("configs: there is no config db"), "{faults:?}");
        let key = AppKey::new(scope.clone(), "web".parse().expect("a name"));
        let app = App { key: key.clone(), spec, generation: 1, created_at: now, deleting: false };
        snapshot.set_app(&key, Some(Row { object: Arc::new(app), modified: 1 }));
        let name = ContentKey::new(scope, "db".parse().expect("a name"));
        let refused = remove(&snapshot, ContentKind::Secret, name.clone());
        assert!(matches!(&refused, Err(ControlError::Used { by, .. }) if *by == ["app web"]), "{refused:?}");
        snapshot.set_app(&key, None);
        assert_eq!(remove(&snapshot, ContentKind::Secret, name).expect("removed").len(), 1);
    }
}
