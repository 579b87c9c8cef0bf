//! What an app waits for before its first instance of a generation is made: the apps that come first.

use hivemind_core::{
    model::{App, AppKey, ClusterSnapshot, Phase},
    spec::v1::{Condition, Dependency},
};

/// A line for each app that comes first and is not yet as it must be. Empty: nothing is waited for.
pub(super) fn waits(snapshot: &ClusterSnapshot, app: &App) -> Vec<String> {
    let of = |(name, dependency): (_, &Dependency)| {
        let key = AppKey::new(app.key.scope.clone(), Clone::clone(name));
        waits_for(snapshot, &key, dependency.condition)
    };
    app.spec.depends_on.iter().filter_map(of).collect()
}

fn waits_for(snapshot: &ClusterSnapshot, key: &AppKey, condition: Condition) -> Option<String> {
    let name = &key.name;
    let Some(first) = snapshot.apps.get(key).map(|row| &row.object).filter(|first| !first.deleting) else {
        return Some(format!("waits for {name}, which is not there"));
    };
    let newest = snapshot.instances_of(key).filter(|instance| instance.generation == first.generation);
    let statuses: Vec<_> = newest.map(|instance| snapshot.status_of(&instance.id)).collect();
    let done = statuses.iter().filter(|status| match condition {
        Condition::Started => status.started_at.is_some(),
        Condition::Healthy => status.phase == Phase::Ready,
        Condition::Completed => status.phase == Phase::Completed,
    });
    let (done, wanted) = (done.count(), first.spec.replicas as usize);
    if done >= wanted {
        return None;
    }
    // What will not come by itself is named with its reason.
    let failed = statuses.iter().find(|status| matches!(status.phase, Phase::Failed | Phase::Unhealthy));
    let why = match failed {
        Some(status) if status.message.is_empty() => format!(", which is {}", status.phase),
        Some(status) => format!(", which is {}: {}", status.phase, status.message),
        None => String::new(),
    };
    let what = match condition {
        Condition::Started => "to be started",
        Condition::Healthy => "to be ready",
        Condition::Completed => "to complete",
    };
    Some(format!("waits for {name} {what}{why}"))
}
