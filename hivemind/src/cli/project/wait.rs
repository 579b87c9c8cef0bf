//! Waiting for all of a project.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    super::{
        Context,
        wait::{Progress, UNPLACED, count, failure, lost, reached_at, timed_out},
    },
    Read,
};
use crate::{
    api::{
        projects::ProjectChanged,
        view::{AppState, AppView, InstanceView},
        volumes::VolumeView,
    },
    client::ListArgs,
    model::{ErrorCode, Problem},
    spec::v1::PROJECT_LABEL,
};

/// How often to look.
const PERIOD: Duration = Duration::from_millis(50);

fn is_there(app: &AppView) -> bool {
    matches!(app.state, AppState::Ready | AppState::Stopped | AppState::Completed)
}

/// Waits until every service is Ready, or has completed.
pub(super) async fn until_up(read: &Read, limit: Duration) -> Result<(), Problem> {
    let (context, project) = (&read.context, &read.loaded.project.name);
    let again = format!(
        "no longer waiting; {project} goes on by itself. See how far it is: hivemind app ls -n {}",
        context.scope.namespace
    );
    let mut progress = Progress::of(context, project, again);
    let result = up(read, limit, &mut progress).await;
    progress.end();
    let apps = result?;
    let completed = apps.iter().filter(|app| app.state == AppState::Completed).count();
    let done = if completed > 0 { format!(", {completed} of them completed") } else { String::new() };
    context.output.say(&format!("{project} is ready: {} services{done}", apps.len()));
    for app in apps.iter().filter(|app| app.spec.ports.iter().any(|port| port.published.is_some())) {
        for line in reached_at(context, &app.name).await.into_iter().filter(|line| line.starts_with("this machine")) {
            context.output.say(&format!("{}: {line}", app.name));
        }
    }
    Ok(())
}

async fn up(read: &Read, limit: Duration, progress: &mut Progress) -> Result<Vec<AppView>, Problem> {
    let context = &read.context;
    let begun = Instant::now();
    loop {
        let mut apps: Vec<AppView> = context.client.list_apps(&context.scope, &ListArgs::default()).await?;
        apps.retain(|app| read.made.apps.keys().any(|name| name.as_str() == app.name));
        let instances: Vec<InstanceView> = context.client.list_instances(&context.scope, &ListArgs::default()).await?;
        let ready = apps.iter().filter(|app| is_there(app)).count();
        if ready == apps.len() {
            return Ok(apps);
        }
        show(progress, read, &apps, ready);
        let waited = begun.elapsed();
        for app in apps.iter().filter(|app| !is_there(app)) {
            let own: Vec<_> = instances.iter().filter(|instance| instance.app == app.name).cloned().collect();
            if let Some(failed) = own.iter().find(|instance| lost(instance, app.generation)) {
                return Err(failure(context, app, failed, &own).await);
            }
            if !app.unmet.is_empty() && (waited > UNPLACED || waited >= limit) {
                let title = format!("{} is not what it should be: {}", app.name, count(&app.status));
                let problem = Problem::new(ErrorCode::Unschedulable, title).hint("hivemind node ls -o wide");
                return Err(app.unmet.iter().fold(problem, |problem, reason| problem.detail(reason.clone())));
            }
            if waited >= limit {
                let problem = timed_out(context, app, limit, &own).await;
                return Err(app.waits.iter().fold(problem, |problem, line| problem.detail(line.clone())));
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn show(progress: &mut Progress, read: &Read, apps: &[AppView], ready: usize) {
    let of = |app: &AppView| match app.waits.first() {
        Some(line) => format!("{} {line}", app.name),
        None => format!("{} {}", app.name, app.state),
    };
    let others: Vec<_> = apps.iter().filter(|app| !is_there(app)).map(of).collect();
    let text = format!("{}: {ready} of {} services ready; {}", read.loaded.project.name, apps.len(), others.join(", "));
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    progress.show(text.clone(), number(ready), number(apps.len()), text);
}

/// Waits until nothing of the project is left.
pub(super) async fn until_down(
    context: &Context,
    project: &str,
    done: &ProjectChanged,
    limit: Duration,
) -> Result<(), Problem> {
    let again = format!(
        "no longer waiting; {project} goes on being removed by itself: hivemind app ls -n {}",
        context.scope.namespace
    );
    let mut progress = Progress::of(context, project, again);
    let end = Instant::now() + limit;
    let all = u32::try_from(done.apps.len()).unwrap_or(u32::MAX);
    let result = loop {
        let mut left: Vec<AppView> = match context.client.list_apps(&context.scope, &ListArgs::default()).await {
            Ok(left) => left,
            Err(problem) => break Err(problem),
        };
        left.retain(|app| app.spec.labels.get(PROJECT_LABEL).is_some_and(|of| of == project));
        let volumes = match left.is_empty() {
            true => volumes_left(context, done).await,
            false => Ok(Vec::new()),
        };
        let volumes = match volumes {
            Ok(volumes) => volumes,
            Err(problem) => break Err(problem),
        };
        if left.is_empty() && volumes.is_empty() {
            break Ok(());
        }
        let names: Vec<_> =
            left.iter().map(|app| app.name.as_str()).chain(volumes.iter().map(String::as_str)).collect();
        let text = format!("{project}: {} still being removed", names.join(", "));
        let gone = all.saturating_sub(u32::try_from(left.len()).unwrap_or(u32::MAX));
        progress.show(text.clone(), gone, all, text);
        if Instant::now() >= end {
            let title = format!("{project} is not removed after {} s; it goes on", limit.as_secs());
            let hint = format!("hivemind ps -n {}", context.scope.namespace);
            break Err(Problem::new(ErrorCode::TimedOut, title).hint(hint));
        }
        tokio::time::sleep(PERIOD).await;
    };
    progress.end();
    let volumes = match done.volumes_removed.len() {
        0 => String::new(),
        1 => ", 1 volume".into(),
        several => format!(", {several} volumes"),
    };
    result.map(|()| context.output.say(&format!("{project} is removed: {} services{volumes}", done.apps.len())))
}

/// The volumes that go with the project and are still there; none if its namespace has gone.
async fn volumes_left(context: &Context, done: &ProjectChanged) -> Result<Vec<String>, Problem> {
    if done.volumes_removed.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<VolumeView> = match context.client.list_volumes(&context.scope, &ListArgs::default()).await {
        Err(problem) if problem.code == ErrorCode::NotFound => return Ok(Vec::new()),
        all => all?,
    };
    let goes = |volume: &&VolumeView| done.volumes_removed.iter().any(|name| name.as_str() == volume.name);
    Ok(all.iter().filter(goes).map(|volume| format!("volume {}", volume.name)).collect())
}
