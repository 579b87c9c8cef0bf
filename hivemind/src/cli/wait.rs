//! `--wait`: shows how far a change is, and why it does not come to its end.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::Context;
use crate::{
    api::view::{AppState, AppView, InstanceView},
    model::{ErrorCode, Phase, Problem},
};

/// How often to look.
const PERIOD: Duration = Duration::from_millis(150);
/// How often a process may end before it is said not to come up.
const CRASHES: u32 = 3;
/// Log lines that are shown of an instance that does not come up.
const LINES: usize = 10;

/// A line that shows the state: rewritten on a terminal, printed at each change elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    last: String,
}

impl Progress {
    fn new(context: &Context) -> Self {
        let bar = (std::io::stderr().is_terminal() && !context.output.quiet).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::default_spinner());
            bar
        });
        Self { bar, quiet: context.output.quiet, last: String::new() }
    }

    fn show(&mut self, text: String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            None if text != self.last && !self.quiet => {
                eprintln!("{text}");
                self.last = text;
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waits until the app has all its instances Ready at its newest generation.
pub(super) async fn until_ready(context: &Context, app: &str, limit: Duration) -> Result<(), Problem> {
    let mut progress = Progress::new(context);
    let end = tokio::time::Instant::now() + limit;
    loop {
        let view: AppView = context.client.get(&context.path(&format!("apps/{app}"))).await?;
        let instances = instances_of(context, app).await?;
        let mut text = format!("{app}: {} of {} ready", view.status.ready, view.status.desired);
        if let Some(busy) = instances.iter().find(|instance| instance.phase != Phase::Ready) {
            let message = if busy.message.is_empty() { String::new() } else { format!(", {}", busy.message) };
            text = format!("{text} ({}: {}{message})", busy.name, busy.phase);
        }
        progress.show(text);
        if matches!(view.state, AppState::Ready | AppState::Stopped | AppState::Completed) {
            drop(progress);
            context.output.say(&format!("{app} is ready: {} of {}", view.status.ready, view.status.desired));
            return Ok(());
        }
        if let Some(failed) = instances.iter().find(|instance| lost(instance, view.generation)) {
            drop(progress);
            return Err(failure(context, app, failed, &instances).await);
        }
        if tokio::time::Instant::now() >= end {
            drop(progress);
            let title = format!(
                "{app} is not ready after {} s: {} of {}",
                limit.as_secs(),
                view.status.ready,
                view.status.desired
            );
            let mut problem = Problem::new(ErrorCode::TimedOut, title).hint(format!("hivemind app info {app}"));
            for instance in instances.iter().filter(|instance| instance.phase != Phase::Ready) {
                problem = problem.detail(line(instance));
                problem.details.extend(last_lines(context, instance).await);
            }
            if instances.is_empty() {
                problem = problem.detail("no instance could be placed: see hivemind events");
            }
            return Err(problem);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Waits until nothing is left of the app.
pub(super) async fn until_gone(context: &Context, app: &str, limit: Duration) -> Result<(), Problem> {
    let mut progress = Progress::new(context);
    let end = tokio::time::Instant::now() + limit;
    loop {
        match context.client.get::<AppView>(&context.path(&format!("apps/{app}"))).await {
            Err(problem) if problem.code == ErrorCode::NotFound => {
                drop(progress);
                context.output.say(&format!("{app} is removed"));
                return Ok(());
            }
            Err(problem) => return Err(problem),
            Ok(view) => progress.show(format!("{app}: {} instances left", view.status.total)),
        }
        if tokio::time::Instant::now() >= end {
            let title = format!("{app} is not removed after {} s; it goes on", limit.as_secs());
            return Err(Problem::new(ErrorCode::TimedOut, title).hint("hivemind ps"));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn instances_of(context: &Context, app: &str) -> Result<Vec<InstanceView>, Problem> {
    let all: Vec<InstanceView> = context.client.get(&context.path("instances")).await?;
    Ok(all.into_iter().filter(|instance| instance.app == app).collect())
}

/// Whether waiting longer for this instance is of no use to the one who waits.
fn lost(instance: &InstanceView, generation: u64) -> bool {
    if instance.generation != generation {
        return false;
    }
    let hopeless = matches!(
        instance.code,
        Some(
            ErrorCode::ImageNotFound
                | ErrorCode::RegistryAuth
                | ErrorCode::RegistryDown
                | ErrorCode::ImagePlatform
                | ErrorCode::ImageCorrupt
                | ErrorCode::Invalid
                | ErrorCode::DiskFull
                | ErrorCode::MapFull
        )
    );
    match instance.phase {
        Phase::Failed => true,
        // The runtime refused to start it at all: the same will happen again.
        Phase::Backoff => {
            hopeless || instance.restarts >= CRASHES || (instance.code.is_some() && instance.last_exit.is_none())
        }
        Phase::Unhealthy => true,
        _ => false,
    }
}

fn line(instance: &InstanceView) -> String {
    format!("{}: {}: {}", instance.name, instance.phase, instance.message)
}

async fn failure(context: &Context, app: &str, failed: &InstanceView, all: &[InstanceView]) -> Problem {
    let code = failed.code.unwrap_or(ErrorCode::StartFailed);
    let ready = all.iter().filter(|instance| instance.phase == Phase::Ready).count();
    let title = format!("{app} does not come up: {ready} of {} ready; {}", all.len(), failed.message);
    let mut problem = Problem::new(code, title);
    for instance in all.iter().filter(|instance| instance.phase != Phase::Ready) {
        problem = problem.detail(line(instance));
    }
    problem.details.extend(last_lines(context, failed).await);
    problem.hint(format!("hivemind logs {app}   hivemind explain {code}"))
}

/// The last log lines of an instance, with a title; nothing if there are none.
async fn last_lines(context: &Context, instance: &InstanceView) -> Vec<String> {
    use futures::StreamExt;
    let path = context.path(&format!("instances/{}/logs?tail={LINES}", instance.id));
    let Ok(lines) = context.client.lines::<crate::api::instances::LogLineView>(&path).await else { return Vec::new() };
    let lines: Vec<_> = lines.filter_map(|line| std::future::ready(line.ok())).collect().await;
    if lines.is_empty() {
        return Vec::new();
    }
    let title = format!("last lines of {}:", instance.name);
    std::iter::once(title).chain(lines.into_iter().map(|line| format!("  {}", line.line))).collect()
}
