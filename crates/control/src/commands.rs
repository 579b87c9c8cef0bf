//! What a command makes of an app's row. Pure.

use super::{
    AppChange, ControlError, IfMatch, ObjectName, contents,
    objects::{check_scope, check_unchanged},
    volumes,
};
use hivemind_core::{
    model::{App, AppKey, Cause, ClusterSnapshot, Past, Service, ServiceKey, ServiceName, Timestamp},
    spec::v1::{AppSpec, validate_app},
};
use hivemind_schedule::history::{self, NoTarget};

/// The row after the command, and how its generation comes about; `None` if nothing changes.
pub(super) fn app_after(
    snapshot: &ClusterSnapshot,
    key: &AppKey,
    change: AppChange,
    if_match: IfMatch,
    now: Timestamp,
) -> Result<Option<(App, Cause)>, ControlError> {
    let row = snapshot.apps.get(key);
    check_unchanged(snapshot, &ObjectName::App(key.clone()), if_match)?;
    let existing = row.map(|row| (*row.object).clone());
    let not_found = || ControlError::NotFound { object: ObjectName::App(key.clone()) };
    let mut cause = Cause::Deployed;
    let after = match change {
        AppChange::Deploy(spec) => {
            let app = deploy(snapshot, key, *spec, existing.clone(), now)?;
            cause = existing.as_ref().map_or(cause, |existing| cause_of(existing, &app));
            app
        }
        AppChange::Scale(replicas) => {
            let mut app = existing.clone().filter(|app| !app.deleting).ok_or_else(not_found)?;
            app.spec.replicas = replicas;
            check(key, &app.spec)?;
            app
        }
        AppChange::Restart => {
            let mut app = existing.clone().filter(|app| !app.deleting).ok_or_else(not_found)?;
            app.generation += 1;
            cause = Cause::Restarted;
            app
        }
        AppChange::RollBack(to) => {
            let app = existing.clone().filter(|app| !app.deleting).ok_or_else(not_found)?;
            let past = history::target(snapshot, &app, to)
                .map_err(|NoTarget { asked, kept }| ControlError::NoPast { app: key.clone(), asked, kept })?;
            cause = Cause::RolledBack(past.generation);
            back(snapshot, app, &past)?
        }
        AppChange::Remove => App { deleting: true, ..existing.clone().ok_or_else(not_found)? },
    };
    Ok((existing.as_ref() != Some(&after)).then_some((after, cause)))
}

/// How the generation comes about of an app that is deployed again.
pub(super) fn cause_of(before: &App, after: &App) -> Cause {
    let renewed = before.generation != after.generation && !before.deleting;
    if renewed && !before.spec.needs_new_instances(&after.spec) { Cause::Contents } else { Cause::Deployed }
}

/// The app as it was at a former generation, with as many instances as it has now. It is a generation of its own, also
/// if nothing differs.
pub(super) fn back(snapshot: &ClusterSnapshot, app: App, past: &Past) -> Result<App, ControlError> {
    let spec = AppSpec { replicas: app.spec.replicas, ..past.spec.clone() };
    let generation = app.generation + 1;
    Ok(App { generation, ..deploy(snapshot, &app.key.clone(), spec, Some(app), Timestamp::default())? })
}

fn check(key: &AppKey, spec: &AppSpec) -> Result<(), ControlError> {
    let faults = validate_app(spec);
    if faults.is_empty() { Ok(()) } else { Err(ControlError::Invalid { object: ObjectName::App(key.clone()), faults }) }
}

/// Whether the names of the app's services are free: its own, and those of the further ones.
fn check_services(snapshot: &ClusterSnapshot, key: &AppKey, spec: &AppSpec) -> Result<(), ControlError> {
    let serving = |name: &ServiceName| {
        let by = snapshot.app_serving(&ServiceKey::new(key.scope.clone(), name.clone()));
        by.filter(|by| *by != key).cloned()
    };
    if let Some((name, by)) =
        key.name.as_str().parse().ok().and_then(|own: ServiceName| Some((own.to_string(), serving(&own)?)))
    {
        return Err(ControlError::Taken { what: format!("service name {name}"), by });
    }
    for name in spec.more_services.keys() {
        let app = name.as_str().parse().ok().map(|name| AppKey::new(key.scope.clone(), name));
        if app.as_ref() == Some(key) {
            let faults = vec![format!("more_services.{name}: is the app's own service; give it another name")];
            return Err(ControlError::Invalid { object: ObjectName::App(key.clone()), faults });
        }
        let app = app.filter(|app| snapshot.apps.contains_key(app));
        if let Some(by) = app.or_else(|| serving(name)) {
            return Err(ControlError::Taken { what: format!("service name {name}"), by });
        }
    }
    Ok(())
}

/// The row of an app that is to be so. `snapshot` says what others have; `existing` is the app's row.
pub(super) fn deploy(
    snapshot: &ClusterSnapshot,
    key: &AppKey,
    spec: AppSpec,
    existing: Option<App>,
    now: Timestamp,
) -> Result<App, ControlError> {
    if existing.is_none() {
        // An app that is there already stays as it is, whether or not its namespace was ever created: there was a time
        // when none had to be.
        check_scope(snapshot, &key.scope)?;
    }
    let mut faults = validate_app(&spec);
    faults.extend(contents::missing(snapshot, &key.scope, &spec));
    if !faults.is_empty() {
        return Err(ControlError::Invalid { object: ObjectName::App(key.clone()), faults });
    }
    volumes::check_staying(snapshot, &key.scope, &spec)?;
    let other = |by: Option<&AppKey>| by.filter(|by| *by != key).cloned();
    check_services(snapshot, key, &spec)?;
    for name in spec.all_dns_names() {
        if let Some(by) = other(snapshot.app_named(name)) {
            return Err(ControlError::Taken { what: format!("DNS name {name}"), by });
        }
    }
    for port in &spec.ports {
        let Some(published) = port.published else { continue };
        // Instances of a former generation may still serve a port that their app's row does not name any more.
        let serves = |service: &std::sync::Arc<Service>| {
            service.ports.iter().any(|of| of.published == Some(published) && of.protocol == port.protocol)
        };
        let service = snapshot.services.values().map(|row| &row.object).filter(|service| service.app != *key);
        let still = service.filter(|service| serves(service)).map(|service| &service.app).next();
        if let Some(by) = other(snapshot.app_publishing(published, port.protocol).or(still)) {
            let what = format!("published port {published}/{}", port.protocol);
            return Err(ControlError::Taken { what, by });
        }
    }
    Ok(match existing {
        Some(app) => {
            // Deploying what is being removed brings it back, with new instances.
            let renewed = app.deleting || app.spec.needs_new_instances(&spec);
            let renewed = renewed || contents::outdated(snapshot, &App { spec: spec.clone(), ..app.clone() });
            App { generation: app.generation + u64::from(renewed), spec, deleting: false, ..app }
        }
        None => App { key: key.clone(), spec, generation: 1, created_at: now, deleting: false },
    })
}
