//! What a command makes of the rows of volumes. Pure.

use std::collections::BTreeMap;

use super::{
    ControlError, ObjectName,
    objects::{RowChange, check_scope},
    project::ProjectKey,
};
use hivemind_core::{
    model::{App, ClusterSnapshot, Row, Scope, Timestamp, Volume, VolumeId, VolumeKey, VolumeName},
    spec::v1::{AppSpec, PROJECT_LABEL, ProjectSpec, VolumeSpec, validate_volume},
};

/// Creates a volume, or makes it what `spec` says.
pub(super) fn put(
    snapshot: &ClusterSnapshot,
    key: VolumeKey,
    id: VolumeId,
    spec: VolumeSpec,
    now: Timestamp,
) -> Result<Vec<RowChange>, ControlError> {
    check_scope(snapshot, &key.scope)?;
    let faults = validate_volume(&spec);
    if !faults.is_empty() {
        return Err(ControlError::Invalid { object: ObjectName::Volume(key), faults });
    }
    let Some(before) = snapshot.volumes.get(&key).map(|row| &*row.object) else {
        return Ok(vec![RowChange::PutVolume(Volume { id, key, spec, created_at: now, deleting: false })]);
    };
    if before.deleting {
        return Err(ControlError::Leaving { object: ObjectName::Volume(key) });
    }
    let size = before.spec.resized(spec.size);
    let size = size.map_err(|fault| ControlError::Invalid { object: ObjectName::Volume(key), faults: vec![fault] })?;
    let after = Volume { spec: VolumeSpec { size, ..spec }, ..before.clone() };
    Ok(if after == *before { Vec::new() } else { vec![RowChange::PutVolume(after)] })
}

/// What a project's document says of its volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct OfProject {
    /// Those that are there and are changed.
    pub(super) changed: Vec<Volume>,
    /// Those that come with the first app that names them.
    pub(super) new: BTreeMap<VolumeKey, VolumeSpec>,
}

/// The volumes of a project's document; a line for each fault.
pub(super) fn of_project(
    snapshot: &ClusterSnapshot,
    key: &ProjectKey,
    spec: &ProjectSpec,
) -> Result<OfProject, Vec<String>> {
    let (mut of, mut faults) = (OfProject::default(), Vec::new());
    let full = |name: &VolumeName| VolumeKey::new(key.scope.clone(), name.clone());
    for name in spec.external_volumes.iter().filter(|name| !snapshot.volumes.contains_key(&full(name))) {
        faults.push(format!(
            "volumes: there is no volume {name} in {}, and it is not the project's to make; \
             hivemind volume create {name} -n {} makes it",
            key.scope, key.scope.namespace
        ));
    }
    for (name, wanted) in &spec.volumes {
        let mut fault = |text: String| faults.push(format!("volume {name}: {text}"));
        validate_volume(wanted).into_iter().for_each(&mut fault);
        let mut wanted = wanted.clone();
        wanted.labels.insert(PROJECT_LABEL.into(), key.name.clone());
        let Some(before) = snapshot.volumes.get(&full(name)).map(|row| &*row.object) else {
            of.new.insert(full(name), wanted);
            continue;
        };
        // One that somebody else has made keeps its labels, and outlives the project.
        if before.spec.labels.get(PROJECT_LABEL) != Some(&key.name) {
            wanted.labels.clone_from(&before.spec.labels);
        }
        match before.spec.resized(wanted.size) {
            Ok(size) => wanted.size = size,
            Err(text) => fault(text),
        }
        if wanted != before.spec && !before.deleting {
            of.changed.push(Volume { spec: wanted, ..before.clone() });
        }
    }
    if faults.is_empty() { Ok(of) } else { Err(faults) }
}

/// The volumes that a project has made and that go with it, as they are to be. What somebody else uses stays.
pub(super) fn of_removed<'a>(snapshot: &'a ClusterSnapshot, key: &'a ProjectKey) -> impl Iterator<Item = Volume> + 'a {
    let of = |row: &&Row<Volume>| {
        let volume = &row.object;
        volume.key.scope == key.scope && volume.spec.labels.get(PROJECT_LABEL) == Some(&key.name)
    };
    let foreign = |spec: &AppSpec| spec.labels.get(PROJECT_LABEL) != Some(&key.name);
    let used = move |volume: &Volume| {
        let names = |spec: &AppSpec| spec.all_mounts().any(|mount| mount.volume() == Some(&volume.key.name));
        let apps = snapshot.apps.values().map(|row| &row.object).filter(|app| app.key.scope == key.scope);
        let mut apps = apps.filter(|app| foreign(&app.spec));
        let instances = snapshot.instances.values().map(|row| &row.object).filter(|it| it.app.scope == key.scope);
        let mut instances = instances.filter(|it| foreign(&it.spec));
        apps.any(|app| names(&app.spec)) || instances.any(|it| names(&it.spec))
    };
    let going = snapshot.volumes.values().filter(of).map(|row| &row.object).filter(move |volume| !used(volume));
    going.map(|volume| Volume { deleting: true, ..(**volume).clone() })
}

/// Has the node remove a volume that nobody uses.
pub(super) fn remove(snapshot: &ClusterSnapshot, key: VolumeKey) -> Result<Vec<RowChange>, ControlError> {
    let object = || ObjectName::Volume(key.clone());
    let Some(row) = snapshot.volumes.get(&key) else { return Err(ControlError::NotFound { object: object() }) };
    let users = snapshot.users_of(&key);
    if !users.is_empty() {
        return Err(ControlError::Used { object: object(), by: users });
    }
    if row.object.deleting {
        return Ok(Vec::new());
    }
    Ok(vec![RowChange::PutVolume(Volume { deleting: true, ..(*row.object).clone() })])
}

/// Whether none of the volumes that an app is to have is being removed.
pub(super) fn check_staying(snapshot: &ClusterSnapshot, scope: &Scope, spec: &AppSpec) -> Result<(), ControlError> {
    let named = spec.all_mounts().filter_map(|mount| mount.volume());
    let keys = named.map(|name| VolumeKey::new(scope.clone(), name.clone()));
    let leaves = |key: &VolumeKey| snapshot.volumes.get(key).is_some_and(|row| row.object.deleting);
    match keys.into_iter().find(leaves) {
        Some(key) => Err(ControlError::Leaving { object: ObjectName::Volume(key) }),
        None => Ok(()),
    }
}

/// The volumes that an app names and that are not there yet: they come with it.
pub(super) fn missing(
    snapshot: &ClusterSnapshot,
    app: &App,
    mut random: impl FnMut() -> u64,
    now: Timestamp,
) -> Vec<Volume> {
    let mut missing: Vec<Volume> = Vec::new();
    if app.deleting {
        return missing;
    }
    for name in app.spec.all_mounts().filter_map(|mount| mount.volume()) {
        let key = VolumeKey::new(app.key.scope.clone(), name.clone());
        if !snapshot.volumes.contains_key(&key) && missing.iter().all(|volume| volume.key != key) {
            let id = VolumeId::from_bits(random());
            // What a project makes, it may take with it.
            let label = app.spec.labels.get_key_value(PROJECT_LABEL);
            let labels = label.map(|(label, name)| (label.clone(), name.clone())).into_iter().collect();
            let spec = VolumeSpec { labels, ..VolumeSpec::default() };
            missing.push(Volume { id, key, spec, created_at: now, deleting: false });
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use hivemind_core::{
        model::{AppKey, Row, Scope},
        spec::v1::AppSpec,
    };

    fn key(name: &str) -> VolumeKey {
        VolumeKey::new(Scope::default(), name.parse().expect("a name"))
    }

    fn app(mounts: &[&str]) -> App {
        let mut spec = AppSpec::new("x");
        spec.mounts = mounts.iter().map(|text| text.parse().expect("a mount")).collect();
        let key = AppKey::new(Scope::default(), "web".parse().expect("a name"));
        App { key, spec, generation: 1, created_at: Timestamp::default(), deleting: false }
    }

    /// A snapshot with these changes.
    fn with(snapshot: &mut ClusterSnapshot, changes: Vec<RowChange>) {
        for change in changes {
            let RowChange::PutVolume(volume) = change else { panic!("{change:?}") };
            snapshot.volumes.insert(volume.key.clone(), Row { object: Arc::new(volume), modified: 1 });
        }
    }

    #[test]
    fn a_volume_is_removed_only_when_nobody_uses_it_and_never_brought_back() {
        let mut snapshot = ClusterSnapshot::at(1);
        let now = Timestamp::default();
        let id = VolumeId::from_bits;
        let made = put(&snapshot, key("data"), id(1), VolumeSpec::default(), now).expect("made");
        with(&mut snapshot, made);
        let again = put(&snapshot, key("data"), id(2), VolumeSpec::default(), now).expect("there");
        assert!(again.is_empty(), "it has another id now: {again:?}");
        let limited = VolumeSpec { size: Some(hivemind_core::model::Bytes(64 << 20)), ..VolumeSpec::default() };
        let limited = put(&snapshot, key("data"), id(2), limited, now);
        assert!(matches!(limited, Err(ControlError::Invalid { .. })), "{limited:?}");
        let app = app(&["data:/a", "data:/b:ro"]);
        snapshot.set_app(&app.key, Some(Row { object: Arc::new(app.clone()), modified: 1 }));
        let refused = remove(&snapshot, key("data"));
        assert!(matches!(&refused, Err(ControlError::Used { by, .. }) if *by == ["app web"]), "{refused:?}");
        snapshot.set_app(&app.key, None);
        let removed = remove(&snapshot, key("data")).expect("removed");
        with(&mut snapshot, removed);
        assert!(remove(&snapshot, key("data")).expect("being removed").is_empty());
        let put = put(&snapshot, key("data"), id(3), VolumeSpec::default(), now);
        assert!(matches!(put, Err(ControlError::Leaving { .. })), "{put:?}");
        let used = check_staying(&snapshot, &app.key.scope, &app.spec);
        assert!(matches!(used, Err(ControlError::Leaving { .. })), "{used:?}");
    }

    #[test]
    fn an_app_brings_the_volumes_it_names_once() {
        let mut snapshot = ClusterSnapshot::at(1);
        let now = Timestamp::default();
        let made = put(&snapshot, key("there"), VolumeId::from_bits(1), VolumeSpec::default(), now).expect("made");
        with(&mut snapshot, made);
        let mut next = 1;
        let mut random = || {
            next += 1;
            next
        };
        let app = app(&["there:/a", "new:/b", "new:/c", "/anonymous", "/srv:/d"]);
        let made = missing(&snapshot, &app, &mut random, now);
        assert_eq!(made.iter().map(|volume| volume.key.name.as_str()).collect::<Vec<_>>(), ["new"]);
        let gone = App { deleting: true, ..app };
        assert_eq!(missing(&snapshot, &gone, random, now), []);
    }
}
