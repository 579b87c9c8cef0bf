//! What goes with a project that is removed, and when. Pure.

use std::sync::Arc;

use super::{
    super::{ControlError, ObjectName, objects::owned, volumes},
    AppAction, AppChanged, Planned, ProjectKey, ProjectRow, apps_of, namespace_of, policies_of, write_namespace,
};
use hivemind_core::{
    model::{App, Cause, ClusterSnapshot, Row, Scope, Timestamp, Volume, VolumeKey},
    spec::v1::{PROJECT_LABEL, REMOVING_LABEL, REMOVING_VOLUMES},
};

/// What goes with the last app of a project that is being removed: its policies, and its namespace; and the volumes that are
/// to go then. The node removes what is in those, and the namespace goes with the last of them ([`goes_with_volume`]).
pub(in super::super) fn rows_of_removed(snapshot: &ClusterSnapshot, scope: &Scope) -> (Vec<Volume>, Vec<ObjectName>) {
    let namespace = snapshot.namespaces.get(scope).map(|row| &row.object);
    let Some(name) = namespace.and_then(|it| it.labels.get(PROJECT_LABEL).cloned()) else {
        return (Vec::new(), Vec::new());
    };
    let key = ProjectKey { scope: scope.clone(), name };
    let with_volumes = namespace.and_then(|it| it.labels.get(REMOVING_LABEL)).is_some_and(|it| it == REMOVING_VOLUMES);
    let volumes = volumes::of_removed(snapshot, &key).filter(|_| with_volumes).collect();
    let policies = policies_of(snapshot, &key);
    let contents = snapshot.contents.iter().filter(|((_, content), row)| {
        content.scope == key.scope && row.object.labels.get(PROJECT_LABEL) == Some(&key.name)
    });
    let contents = contents.map(|((kind, key), _)| ObjectName::Content(*kind, key.clone()));
    let policies = policies.map(|(key, _)| ObjectName::Policy(key.clone()));
    let mut gone: Vec<_> = policies.chain(contents).collect();
    // Volumes outlive their apps, and keep the namespace as all else that somebody has put there. What goes is its
    // policies, secrets and configs, and the last app if that is what they go with.
    let apps = snapshot.apps.keys().filter(|key| key.scope == *scope).count();
    if owned(snapshot, |of| of == scope).len() == gone.len() + apps {
        gone.push(ObjectName::Namespace(scope.clone()));
    }
    (volumes, gone)
}

/// The namespace of a project that is removed, if this volume is the last that is left of it.
pub(in super::super) fn goes_with_volume(snapshot: &ClusterSnapshot, volume: &VolumeKey) -> Option<ObjectName> {
    let namespace = snapshot.namespaces.get(&volume.scope)?;
    let removing = namespace.object.labels.contains_key(REMOVING_LABEL);
    let last = owned(snapshot, |of| *of == volume.scope).len() == 1;
    (removing && last).then(|| ObjectName::Namespace(volume.scope.clone()))
}

/// What `down` makes of a project.
pub(super) fn remove(
    snapshot: &ClusterSnapshot,
    key: &ProjectKey,
    with_volumes: bool,
    now: Timestamp,
    planned: &mut Planned,
) -> Result<(), ControlError> {
    let existing = snapshot.namespaces.get(&key.scope).map(|row| &row.object);
    if !existing.is_some_and(|it| it.labels.contains_key(PROJECT_LABEL)) {
        return Err(ControlError::NoProject { scope: key.scope.clone(), project: key.name.clone() });
    }
    for app in apps_of(snapshot, key) {
        let changed = AppChanged { action: AppAction::Removed, generation: app.generation };
        planned.outcome.apps.insert(app.key.name.clone(), changed);
        if !app.deleting {
            let removed = App { deleting: true, ..(**app).clone() };
            planned.rows.push(ProjectRow::App(Box::new(removed), Cause::Deployed));
        }
    }
    // Whoever has said it once need not say it again.
    let said = existing.and_then(|it| it.labels.get(REMOVING_LABEL)).is_some_and(|it| it == REMOVING_VOLUMES);
    let what = if with_volumes || said { REMOVING_VOLUMES } else { "yes" };
    let mut namespace = namespace_of(snapshot, key, now);
    namespace.labels.insert(REMOVING_LABEL.into(), what.into());
    let mut next = snapshot.clone();
    let row = Row { object: Arc::new(namespace.clone()), modified: snapshot.revision };
    next.namespaces.insert(key.scope.clone(), row);
    let (volumes, gone) = rows_of_removed(&next, &key.scope);
    planned.outcome.volumes_removed = volumes.iter().map(|volume| volume.key.name.clone()).collect();
    if planned.outcome.apps.is_empty() {
        // Nobody is left to wait for. Apps that are not the project's keep the namespace.
        let foreign = snapshot.apps.keys().any(|app| app.scope == key.scope);
        let goes = |object: &ObjectName| !(foreign && matches!(object, ObjectName::Namespace(_)));
        let all: Vec<_> = gone.into_iter().filter(goes).collect();
        if !all.iter().any(|object| matches!(object, ObjectName::Namespace(_))) && !volumes.is_empty() {
            write_namespace(snapshot, namespace, planned);
        }
        let going = volumes
            .into_iter()
            .filter(|volume| !snapshot.volumes.get(&volume.key).is_some_and(|row| row.object.deleting));
        planned.rows.extend(going.map(ProjectRow::Volume));
        planned.rows.extend(all.into_iter().map(ProjectRow::Delete));
    } else {
        write_namespace(snapshot, namespace, planned);
    }
    planned.outcome.created = false;
    Ok(())
}
