//! What a command makes of the rows of secrets and configs. Pure.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ControlError, ObjectName,
    objects::{RowChange, check_scope},
    project::ProjectKey,
};
use hivemind_core::{
    model::{
        App, ClusterSnapshot, Content, ContentKey, ContentKind, ContentName, Desired, Hidden, Instance, Phase,
        RolloutState, Row, Scope, Timestamp,
    },
    spec::v1::{AppSpec, FileSpec, MAX_CONTENT, OnContent, PROJECT_LABEL, ProjectSpec, validate_labels},
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

/// Creates one, or gives it another content; then those that have it get new instances.
pub(super) fn put(snapshot: &ClusterSnapshot, new: NewContent, now: Timestamp) -> Result<Vec<RowChange>, ControlError> {
    let scope = new.key.scope.clone();
    let Some(content) = after(snapshot, new, now)? else { return Ok(Vec::new()) };
    let mut next = snapshot.clone();
    next.contents.insert((content.kind, content.key.clone()), Row { object: Arc::new(content.clone()), modified: 0 });
    let renewed = renewed(&next, &scope, std::slice::from_ref(&content));
    let renewed = renewed.into_iter().map(|app| RowChange::RenewApp(Box::new(app)));
    Ok(std::iter::once(RowChange::PutContent(content)).chain(renewed).collect())
}

/// The apps of a namespace that have one of these contents, which has just been changed, as they are to be. One that has
/// done its work does it again only when somebody asks for it.
pub(super) fn renewed(next: &ClusterSnapshot, scope: &Scope, changed: &[Content]) -> Vec<App> {
    let is_changed = |kind, name: &ContentName| changed.iter().any(|it| it.kind == kind && it.key.name == *name);
    let outdated = |app: &Arc<App>| {
        let mut all = of_newest(next, app).filter(|it| next.phase_of(&it.id) != Phase::Completed);
        all.any(|it| next.outdated_contents(it).iter().any(|(kind, name)| is_changed(*kind, name)))
    };
    let apps = next.apps.values().map(|row| &row.object).filter(|app| app.key.scope == *scope && !app.deleting);
    let outdated = apps.filter(|app| app.spec.update.contents == OnContent::Replace && outdated(app));
    outdated.map(|app| App { generation: app.generation + 1, ..(**app).clone() }).collect()
}

/// Whether an app that is deployed again is to have new instances for the contents that it has.
pub(super) fn outdated(snapshot: &ClusterSnapshot, app: &App) -> bool {
    app.spec.update.contents == OnContent::Replace
        && of_newest(snapshot, app).any(|instance| !snapshot.outdated_contents(instance).is_empty())
}

/// The instances of the newest generation that are to run. Those of former ones go anyway, unless the way from them has
/// failed: then they count as well.
fn of_newest<'a>(snapshot: &'a ClusterSnapshot, app: &'a App) -> impl Iterator<Item = &'a Arc<Instance>> {
    let held = snapshot.rollouts.get(&app.key).is_some_and(|row| row.object.state == RolloutState::Paused);
    let all = snapshot.instances_of(&app.key).filter(|instance| instance.desired == Desired::Run);
    all.filter(move |instance| held || instance.generation == app.generation)
}

/// The row that it comes to; `None` if nothing changes.
fn after(snapshot: &ClusterSnapshot, new: NewContent, now: Timestamp) -> Result<Option<Content>, ControlError> {
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
        Some(before) if before.data == data && before.labels == labels => return Ok(None),
        Some(before) if before.data == data => Content { labels, ..before.clone() },
        Some(_) if !replace => return Err(ControlError::Exists { object: object() }),
        Some(before) => Content { labels, data, version: before.version + 1, changed_at: now, ..before.clone() },
    };
    Ok(Some(content))
}

/// The rows of a project's secrets and configs that are new or changed. `next` has its namespace.
pub(super) fn of_project(
    next: &ClusterSnapshot,
    key: &ProjectKey,
    spec: &ProjectSpec,
    now: Timestamp,
) -> Result<Vec<Content>, Vec<String>> {
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
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
        let mut labels = content.labels.clone();
        labels.insert(PROJECT_LABEL.into(), key.name.clone());
        let new = NewContent { kind, key: full, labels, data: content.data.clone(), replace: true };
        match after(next, new, now) {
            Ok(row) => rows.extend(row),
            Err(ControlError::Invalid { faults: more, .. }) => {
                faults.extend(more.into_iter().map(|fault| format!("{kind} {name}: {fault}")));
            }
            Err(error) => faults.push(format!("{kind} {name}: {error}")),
        }
    }
    if faults.is_empty() { Ok(rows) } else { Err(faults) }
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
    let there = |kind, file: &FileSpec| {
        snapshot.contents.contains_key(&(kind, ContentKey::new(scope.clone(), file.name.clone())))
    };
    let absent = spec.contents().filter(|(kind, file)| !there(*kind, file));
    let fault = |(kind, FileSpec { name, .. }): (ContentKind, &FileSpec)| {
        format!("{kind}s: there is no {kind} {name} in {scope}; hivemind {kind} create {name} --file FILE makes it")
    };
    absent.map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::model::AppKey;

    fn new(content: &str, replace: bool) -> NewContent {
        let key = ContentKey::new(Scope::default(), "db".parse().expect("a name"));
        let data = Hidden(content.as_bytes().to_vec());
        NewContent { kind: ContentKind::Secret, key, labels: BTreeMap::new(), data, replace }
    }

    fn with(snapshot: &mut ClusterSnapshot, changes: Vec<RowChange>) {
        for change in changes {
            match change {
                RowChange::PutContent(content) => {
                    let key = (content.kind, content.key.clone());
                    snapshot.contents.insert(key, Row { object: Arc::new(content), modified: 1 });
                }
                RowChange::RenewApp(app) => {
                    snapshot.set_app(&app.key.clone(), Some(Row { object: Arc::new(*app), modified: 1 }));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn renewed_by(changes: &[RowChange]) -> Vec<String> {
        let app = |change: &RowChange| match change {
            RowChange::RenewApp(app) => Some(format!("{} {}", app.key.name, app.generation)),
            _ => None,
        };
        changes.iter().filter_map(app).collect()
    }

    /// An app of the secret `db` with one instance of its first generation, as `schedule` makes it now.
    fn with_app(snapshot: &mut ClusterSnapshot, name: &str, contents: OnContent) -> (App, Instance) {
        let scope = Scope::default();
        let mut spec = AppSpec::new("x");
        spec.secrets = vec!["db".parse().expect("a file")];
        spec.update.contents = contents;
        let key = AppKey::new(scope.clone(), name.parse().expect("a name"));
        let created_at = Timestamp::from_millis(5);
        let app = App { key: key.clone(), spec: spec.clone(), generation: 1, created_at, deleting: false };
        let instance = Instance {
            id: hivemind_core::model::InstanceId::from_bits(snapshot.instances.len() as u64),
            app: key.clone(),
            generation: 1,
            contents: snapshot.contents_of(&scope, &spec),
            spec,
            node: "node-1".parse().expect("a name"),
            addresses: hivemind_core::model::Addresses::default(),
            desired: Desired::Run,
            created_at,
        };
        snapshot.set_app(&key, Some(Row { object: Arc::new(app.clone()), modified: 1 }));
        set_instance(snapshot, &instance);
        (app, instance)
    }

    fn set_instance(snapshot: &mut ClusterSnapshot, instance: &Instance) {
        snapshot.set_instance(&instance.id, Some(Row { object: Arc::new(instance.clone()), modified: 1 }));
    }

    fn status(snapshot: &mut ClusterSnapshot, instance: &Instance, phase: Phase, version: Option<u64>) {
        let mut status =
            hivemind_core::model::InstanceStatus { phase, ..hivemind_core::model::InstanceStatus::default() };
        if let Some(version) = version {
            status.contents.set(ContentKind::Secret, "db".parse().expect("a name"), version);
        }
        let row = Row { object: Arc::new(status), modified: 1 };
        snapshot.instance_status.insert(instance.id.clone(), row);
    }

    #[test]
    fn who_has_a_content_gets_new_instances_with_another() {
        let mut snapshot = ClusterSnapshot::at(1);
        let now = Timestamp::default();
        let put_one = |snapshot: &mut ClusterSnapshot, text: &str| {
            let changes = put(snapshot, new(text, true), now).expect("taken");
            with(snapshot, changes.clone());
            renewed_by(&changes)
        };
        put_one(&mut snapshot, "one");
        let (_, web) = with_app(&mut snapshot, "web", OnContent::Replace);
        with_app(&mut snapshot, "keeps", OnContent::Keep);
        let (_, job) = with_app(&mut snapshot, "job", OnContent::Replace);
        status(&mut snapshot, &job, Phase::Completed, None);
        assert_eq!(put_one(&mut snapshot, "one"), [""; 0], "it is the same");
        assert_eq!(put_one(&mut snapshot, "two"), ["web 2"]);
        // The one of the former generation goes anyway; that of the next has the newest.
        assert_eq!(put_one(&mut snapshot, "three"), [""; 0]);
        let next = Instance { generation: 2, contents: snapshot.contents_of(&web.app.scope, &web.spec), ..web.clone() };
        set_instance(&mut snapshot, &next);
        assert!(snapshot.outdated_contents(&next).is_empty());
        assert_eq!(put_one(&mut snapshot, "four"), ["web 3"]);
        // It did not come up, and what was there was put back: whoever asks again tries again.
        let back = Instance { generation: 3, ..web.clone() };
        set_instance(&mut snapshot, &back);
        let app = Arc::clone(&snapshot.apps[&web.app].object);
        assert!(outdated(&snapshot, &app), "its content is that of version 1");
        status(&mut snapshot, &back, Phase::Ready, Some(4));
        assert!(!outdated(&snapshot, &app), "its process was started again, and has the newest");
        let job_app = Arc::clone(&snapshot.apps[&job.app].object);
        assert!(outdated(&snapshot, &job_app), "one that has done its work does it again when it is asked for");
    }

    #[test]
    fn instances_of_a_version_that_noted_nothing_are_told_by_their_age() {
        let mut snapshot = ClusterSnapshot::at(1);
        let made = put(&snapshot, new("one", true), Timestamp::from_millis(1)).expect("made");
        with(&mut snapshot, made);
        let (app, web) = with_app(&mut snapshot, "web", OnContent::Replace);
        set_instance(&mut snapshot, &Instance { contents: Default::default(), ..web });
        assert!(!outdated(&snapshot, &app), "it is younger than the content");
        let changes = put(&snapshot, new("two", true), Timestamp::from_millis(9)).expect("changed");
        assert_eq!(renewed_by(&changes), ["web 2"]);
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
