//! What a change of a project makes of the rows of its apps, its policies and its namespace. Pure.
//!
//! A project has a namespace to itself: the label [`PROJECT_LABEL`] says whose it is. Everything is decided against the
//! state that the change makes, and all rows are written in one transaction, so that a project is never half of what
//! was asked for.

mod removal;

pub(super) use removal::{goes_with_volume, rows_of_removed};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ControlError, ObjectName,
    commands::{cause_of, deploy},
    contents,
    objects::{check_room, check_scope},
    volumes,
};
use hivemind_core::{
    model::{
        App, AppKey, AppName, Cause, ClusterSnapshot, Content, Namespace, NodeDesired, Policy, PolicyKey, PolicyName,
        Revision, Row, Scope, Timestamp, Volume, VolumeKey, VolumeName,
    },
    spec::v1::{
        POLICY_PREFIX, PROJECT_LABEL, PolicySpec, ProjectSpec, REMOVING_LABEL, VolumeSpec, validate_labels,
        validate_policy,
    },
};

/// A project: its namespace and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectKey {
    /// Tenant and namespace.
    pub scope: Scope,
    /// Its name; other than the namespace's it may have `_`.
    pub name: String,
}

/// A change of a project.
#[derive(Clone, Debug, PartialEq)]
pub enum ProjectChange {
    /// Makes it what the document says.
    Apply(Box<ProjectSpec>),
    /// Stops all its instances; when the last is gone its rows, policies and namespace go.
    Remove {
        /// And the volumes that it has made, with all that is in them.
        volumes: bool,
    },
}

/// What a change does with an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AppAction {
    /// It is new.
    Created,
    /// Its instances are replaced.
    Replaced,
    /// Only the number of its instances changes.
    Scaled,
    /// Something of it changes, and its instances stay.
    Changed,
    /// It is as asked for.
    Unchanged,
    /// It is removed.
    Removed,
    /// It is the project's, was not named, and stays.
    Orphan,
}

/// An app after a change of its project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppChanged {
    /// What was done, or would be.
    pub action: AppAction,
    /// Its generation after it.
    pub generation: u64,
}

/// What a change of a project did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectChanged {
    /// The revision that has it.
    pub revision: Revision,
    /// Whether the project is new.
    pub created: bool,
    /// Its apps.
    #[schema(value_type = BTreeMap<String, AppChanged>)]
    pub apps: BTreeMap<AppName, AppChanged>,
    /// Secrets and configs that are new or changed, as `secret db_password`.
    pub contents_put: BTreeSet<String>,
    /// Volumes that are new or changed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub volumes_put: BTreeSet<VolumeName>,
    /// Volumes that go, with all that is in them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub volumes_removed: BTreeSet<VolumeName>,
    /// Policies that are new or changed.
    #[schema(value_type = Vec<String>)]
    pub policies_put: BTreeSet<PolicyName>,
    /// Policies that go.
    #[schema(value_type = Vec<String>)]
    pub policies_removed: BTreeSet<PolicyName>,
}

/// A row that a change writes or deletes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ProjectRow {
    /// With how its generation comes about, if it is another one.
    App(Box<App>, Cause),
    Policy(Policy),
    Content(Content),
    Volume(Volume),
    Namespace(Namespace),
    Delete(ObjectName),
}

/// The rows that a change writes, and what is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Planned {
    pub(super) rows: Vec<ProjectRow>,
    /// What is asked for of volumes that come with the apps that name them.
    pub(super) volumes: BTreeMap<VolumeKey, VolumeSpec>,
    pub(super) outcome: ProjectChanged,
}

impl AppAction {
    /// Whether anything is not as it was.
    pub const fn is_change(self) -> bool {
        !matches!(self, Self::Unchanged | Self::Orphan)
    }

    /// The name of its event.
    pub(super) const fn event(self) -> &'static str {
        match self {
            Self::Removed => "Removed",
            Self::Scaled => "Scaled",
            _ => "Deployed",
        }
    }
}

impl fmt::Display for AppAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Scaled => "scaled",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Removed => "removed",
            Self::Orphan => "orphan",
        })
    }
}

/// The rows that a change writes.
pub(super) fn after(
    snapshot: &ClusterSnapshot,
    key: &ProjectKey,
    change: ProjectChange,
    now: Timestamp,
) -> Result<Planned, ControlError> {
    let namespace = snapshot.namespaces.get(&key.scope).map(|row| &row.object);
    if let Some(other) = namespace.and_then(|it| it.labels.get(PROJECT_LABEL)).filter(|other| **other != key.name) {
        return Err(ControlError::OtherProject { scope: key.scope.clone(), project: other.clone() });
    }
    let mut planned = Planned::default();
    planned.outcome.revision =
        namespace.and_then(|_| snapshot.namespaces.get(&key.scope)).map_or(0, |row| row.modified);
    match change {
        ProjectChange::Apply(spec) => apply(snapshot, key, *spec, now, &mut planned)?,
        ProjectChange::Remove { volumes } => removal::remove(snapshot, key, volumes, now, &mut planned)?,
    }
    Ok(planned)
}

fn apps_of<'a>(snapshot: &'a ClusterSnapshot, key: &'a ProjectKey) -> impl Iterator<Item = &'a Arc<App>> {
    let here = snapshot.apps.values().map(|row| &row.object).filter(|app| app.key.scope == key.scope);
    here.filter(|app| app.spec.labels.get(PROJECT_LABEL) == Some(&key.name))
}

/// The policies that select instances of the project by its name.
fn policies_of<'a>(
    snapshot: &'a ClusterSnapshot,
    key: &'a ProjectKey,
) -> impl Iterator<Item = (&'a PolicyKey, &'a Row<Policy>)> {
    let here = snapshot.policies.iter().filter(|(policy, _)| policy.scope == key.scope);
    here.filter(|(_, row)| row.object.spec.instances.labels.get(PROJECT_LABEL) == Some(&key.name))
}

fn apply(
    snapshot: &ClusterSnapshot,
    key: &ProjectKey,
    mut spec: ProjectSpec,
    now: Timestamp,
    planned: &mut Planned,
) -> Result<(), ControlError> {
    check_tenant(snapshot, key)?;
    let mut faults = checked(snapshot, key, &spec);
    // The state that the change makes, as far as it is known: without all that is changed or goes.
    let mut next = snapshot.clone();
    let namespace = namespace_of(snapshot, key, now);
    next.namespaces.insert(key.scope.clone(), Row { object: Arc::new(namespace.clone()), modified: snapshot.revision });
    let of = |name: &AppName| AppKey::new(key.scope.clone(), name.clone());
    let kept = |name: &AppName| spec.apps.contains_key(name) || spec.others.contains(name);
    let orphans: Vec<_> = apps_of(snapshot, key).filter(|app| !app.deleting && !kept(&app.key.name)).cloned().collect();
    for name in spec.apps.keys() {
        next.set_app(&of(name), None);
    }
    for orphan in orphans.iter().filter(|_| spec.remove_orphans) {
        next.set_app(&orphan.key, None);
    }
    let held = contents::of_project(&next, key, &spec, now).unwrap_or_else(|more| {
        faults.extend(more);
        Vec::new()
    });
    for content in &held {
        let row = Row { object: Arc::new(content.clone()), modified: snapshot.revision };
        next.contents.insert((content.kind, content.key.clone()), row);
    }
    let asked = volumes::of_project(snapshot, key, &spec).unwrap_or_else(|more| {
        faults.extend(more);
        volumes::OfProject::default()
    });
    let mut apps = BTreeMap::new();
    for (name, mut app) in std::mem::take(&mut spec.apps) {
        let app_key = of(&name);
        let existing = snapshot.apps.get(&app_key).map(|row| (*row.object).clone());
        let own = |app: &App| app.spec.labels.get(PROJECT_LABEL) == Some(&key.name);
        if existing.as_ref().is_some_and(|existing| !own(existing)) {
            return Err(ControlError::Taken { what: format!("the name {name}"), by: app_key });
        }
        app.labels.insert(PROJECT_LABEL.into(), key.name.clone());
        match deploy(&next, &app_key, app, existing, now) {
            Ok(app) => {
                next.set_app(&app_key, Some(Row { object: Arc::new(app.clone()), modified: snapshot.revision }));
                let before = snapshot.apps.get(&app_key);
                let cause = before.map_or(Cause::Deployed, |before| cause_of(&before.object, &app));
                apps.insert(name, (app, cause));
            }
            Err(ControlError::Invalid { faults: more, .. }) => {
                faults.extend(more.into_iter().map(|fault| format!("{name}: {fault}")));
            }
            Err(error) => return Err(error),
        }
    }
    if !faults.is_empty() {
        return Err(ControlError::Invalid { object: ObjectName::Namespace(key.scope.clone()), faults });
    }
    // What the document does not name may have the same secrets.
    for app in contents::renewed(&next, &key.scope, &held) {
        apps.entry(app.key.name.clone()).or_insert((app, Cause::Contents));
    }
    renew(snapshot, &spec.renew, &mut apps);
    policies(snapshot, key, &spec, now, &mut next, planned)?;
    write_namespace(snapshot, namespace, planned);
    for content in held {
        planned.outcome.contents_put.insert(format!("{} {}", content.kind, content.key.name));
        planned.rows.push(ProjectRow::Content(content));
    }
    let named = apps.values().flat_map(|(app, _)| app.spec.all_mounts().filter_map(|mount| mount.volume()));
    let is_new =
        |name: &&VolumeName| !snapshot.volumes.contains_key(&VolumeKey::new(key.scope.clone(), Clone::clone(*name)));
    planned.outcome.volumes_put.extend(named.filter(is_new).cloned());
    planned.volumes = asked.new;
    for volume in asked.changed {
        planned.outcome.volumes_put.insert(volume.key.name.clone());
        planned.rows.push(ProjectRow::Volume(volume));
    }
    for orphan in orphans {
        let action = if spec.remove_orphans { AppAction::Removed } else { AppAction::Orphan };
        let changed = AppChanged { action, generation: orphan.generation };
        planned.outcome.apps.insert(orphan.key.name.clone(), changed);
        if spec.remove_orphans {
            let removed = App { deleting: true, ..(*orphan).clone() };
            planned.rows.push(ProjectRow::App(Box::new(removed), Cause::Deployed));
        }
    }
    for (name, (app, cause)) in apps {
        let before = snapshot.apps.get(&app.key).map(|row| &*row.object);
        let action = action(before, &app);
        planned.outcome.apps.insert(name, AppChanged { action, generation: app.generation });
        if before != Some(&app) {
            planned.rows.push(ProjectRow::App(Box::new(app), cause));
        }
    }
    Ok(())
}

/// What can be said of the document without its apps' own faults.
fn checked(snapshot: &ClusterSnapshot, key: &ProjectKey, spec: &ProjectSpec) -> Vec<String> {
    let mut faults = validate_labels(&BTreeMap::from([(PROJECT_LABEL.to_owned(), key.name.clone())]));
    if key.name.is_empty() {
        faults.push("a project has a name".into());
    }
    for (name, policy) in &spec.policies {
        faults.extend(validate_policy(policy).into_iter().map(|fault| format!("policy {name}: {fault}")));
    }
    for (name, app) in &spec.apps {
        for first in app.depends_on.keys() {
            let there = || snapshot.apps.contains_key(&AppKey::new(key.scope.clone(), first.clone()));
            if !spec.apps.contains_key(first) && !there() {
                faults.push(format!("{name}: depends_on: there is no app {first} in the project"));
            }
        }
    }
    if let Some(name) = circle(spec) {
        faults.push(format!("{name}: depends_on: it waits for itself, over however many others"));
    }
    faults
}

/// An app that waits for itself: what is left when everything that waits for nothing is taken away, again and again.
fn circle(spec: &ProjectSpec) -> Option<&AppName> {
    let mut left: BTreeSet<&AppName> = spec.apps.keys().collect();
    loop {
        let waits = |name: &&AppName| spec.apps[*name].depends_on.keys().any(|first| left.contains(first));
        let next: BTreeSet<_> = left.iter().copied().filter(waits).collect();
        if next.len() == left.len() {
            return left.first().copied();
        }
        left = next;
    }
}

fn check_tenant(snapshot: &ClusterSnapshot, key: &ProjectKey) -> Result<(), ControlError> {
    check_scope(snapshot, &Scope::default_of(key.scope.tenant.clone()))
}

/// The namespace as the project's own; one that was being removed is wanted again.
fn namespace_of(snapshot: &ClusterSnapshot, key: &ProjectKey, now: Timestamp) -> Namespace {
    let existing = snapshot.namespaces.get(&key.scope).map(|row| (*row.object).clone());
    let fresh = || Namespace { scope: key.scope.clone(), labels: BTreeMap::new(), created_at: now };
    let mut namespace = existing.unwrap_or_else(fresh);
    namespace.labels.insert(PROJECT_LABEL.into(), key.name.clone());
    namespace.labels.remove(REMOVING_LABEL);
    namespace
}

fn write_namespace(snapshot: &ClusterSnapshot, namespace: Namespace, planned: &mut Planned) {
    let before = snapshot.namespaces.get(&namespace.scope).map(|row| &*row.object);
    planned.outcome.created = !before.is_some_and(|before| before.labels.contains_key(PROJECT_LABEL));
    if before != Some(&namespace) {
        planned.rows.push(ProjectRow::Namespace(namespace));
    }
}

/// Gives new instances to apps that are to have them, and to those that restart with one that gets new ones.
fn renew(snapshot: &ClusterSnapshot, renew: &BTreeSet<AppName>, apps: &mut BTreeMap<AppName, (App, Cause)>) {
    let before = |app: &App| snapshot.apps.get(&app.key).map(|row| &row.object).filter(|app| !app.deleting);
    let grown = |app: &App| before(app).is_some_and(|before| before.generation != app.generation);
    let mut pending: Vec<AppName> = renew.iter().filter(|name| apps.contains_key(*name)).cloned().collect();
    loop {
        for name in std::mem::take(&mut pending) {
            let app = apps.get_mut(&name).filter(|(app, _)| before(app).is_some() && !grown(app));
            let Some((app, _)) = app else { continue };
            app.generation += 1;
        }
        let grown_names: BTreeSet<_> = apps.iter().filter(|(_, (app, _))| grown(app)).map(|(name, _)| name).collect();
        let follows = |app: &App| {
            let restarts = app.spec.depends_on.iter().any(|(first, how)| how.restart && grown_names.contains(first));
            restarts && before(app).is_some() && !grown(app)
        };
        pending = apps.iter().filter(|(_, (app, _))| follows(app)).map(|(name, _)| name.clone()).collect();
        if pending.is_empty() {
            return;
        }
    }
}

/// The policies of the document, and those that go; all of them must fit into the nodes' tables.
fn policies(
    snapshot: &ClusterSnapshot,
    key: &ProjectKey,
    spec: &ProjectSpec,
    now: Timestamp,
    next: &mut ClusterSnapshot,
    planned: &mut Planned,
) -> Result<(), ControlError> {
    for (name, policy) in &spec.policies {
        let policy_key = PolicyKey::new(key.scope.clone(), name.clone());
        let before = snapshot.policies.get(&policy_key).map(|row| &row.object);
        let mut instances = policy.instances.clone();
        instances.labels.insert(PROJECT_LABEL.into(), key.name.clone());
        let wanted = PolicySpec { instances, ..policy.clone() };
        if before.is_some_and(|before| before.spec == wanted) {
            continue;
        }
        if before.is_some_and(|before| before.spec.instances.labels.get(PROJECT_LABEL) != Some(&key.name)) {
            let faults = vec![format!("policy {name} is there already, and is none of the project's")];
            return Err(ControlError::Invalid { object: ObjectName::Policy(policy_key), faults });
        }
        let created_at = before.map_or(now, |before| before.created_at);
        let policy = Policy { key: policy_key.clone(), spec: wanted, created_at };
        next.policies.insert(policy_key, Row { object: Arc::new(policy.clone()), modified: snapshot.revision });
        planned.outcome.policies_put.insert(name.clone());
        planned.rows.push(ProjectRow::Policy(policy));
    }
    // A policy goes with the service it is about: as long as that has instances, they stay closed.
    let stays = |name: &PolicyName| spec.policies.contains_key(name) || about_others(name, spec, snapshot, key);
    let gone: Vec<_> =
        policies_of(snapshot, key).map(|(policy, _)| policy.clone()).filter(|policy| !stays(&policy.name)).collect();
    for policy in gone {
        next.policies.remove(&policy);
        planned.outcome.policies_removed.insert(policy.name.clone());
        planned.rows.push(ProjectRow::Delete(ObjectName::Policy(policy)));
    }
    if planned.outcome.policies_put.is_empty() {
        return Ok(());
    }
    check_room(&NodeDesired::for_policies(next), || ObjectName::Namespace(key.scope.clone()))
}

/// Whether a policy has the name of an app that the document does not change and that still has rows.
fn about_others(name: &PolicyName, spec: &ProjectSpec, snapshot: &ClusterSnapshot, key: &ProjectKey) -> bool {
    let app = name.as_str().strip_prefix(POLICY_PREFIX).and_then(|name| name.parse::<AppName>().ok());
    let Some(app) = app else { return false };
    !spec.apps.contains_key(&app) && snapshot.apps.contains_key(&AppKey::new(key.scope.clone(), app))
}

fn action(before: Option<&App>, after: &App) -> AppAction {
    let Some(before) = before.filter(|before| !before.deleting) else { return AppAction::Created };
    let mut scaled = before.spec.clone();
    scaled.replicas = after.spec.replicas;
    match () {
        () if before.generation != after.generation => AppAction::Replaced,
        () if before.spec == after.spec => AppAction::Unchanged,
        () if scaled == after.spec => AppAction::Scaled,
        () => AppAction::Changed,
    }
}
