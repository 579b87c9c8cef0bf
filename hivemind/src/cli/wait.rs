//! `--wait`: shows how far a change is, and why it does not come to its end.

use std::{collections::BTreeMap, io::IsTerminal, time::Duration};

use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{Context, instance::of_app, output::addresses, parse::duration, update};
use crate::{
    api::{
        apps::Written,
        view::{AppState, AppView, InstanceView},
    },
    client::GetInstanceLogsArgs,
    model::{AppStatus, ErrorCode, Phase, Problem, Protocol},
};

/// How often to look.
const PERIOD: Duration = Duration::from_millis(50);
/// How often a process may end before it is said not to come up.
const CRASHES: u32 = 3;
/// Log lines that are shown of an instance that does not come up.
const LINES: u64 = 10;
/// Something may go soon and make room: this long it is waited for.
pub(super) const UNPLACED: Duration = Duration::from_secs(2);

/// Whether to wait, and how long.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Wait until it is done, and show how far it is; Ctrl-C stops the waiting, not the change
    #[arg(long, short)]
    pub(super) wait: bool,
    /// How long to wait, e.g. 90s or 5m
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME", requires = "wait")]
    pub(super) timeout: Duration,
}

/// A line that shows the state: rewritten on a terminal, printed at each change elsewhere. When it is dropped before
/// its end, the waiting was interrupted.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    last: String,
    /// What to say when the waiting is interrupted.
    interrupted: Option<String>,
}

impl Progress {
    fn new(context: &Context, app: &str) -> Self {
        let interrupted =
            format!("no longer waiting; the change of {app} goes on. See how far it is: hivemind ps {app}");
        Self::of(context, app, interrupted)
    }

    /// Of several apps; `interrupted` is said if the waiting is.
    pub(super) fn of(context: &Context, app: &str, interrupted: String) -> Self {
        let bar = (std::io::stderr().is_terminal() && !context.output.quiet).then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{bar:20}] {pos}/{len} {wide_msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(app.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, quiet: context.output.quiet, last: String::new(), interrupted: Some(interrupted) }
    }

    /// `key` is what must change for another line to be printed where there is no terminal.
    pub(super) fn show(&mut self, key: String, done: u32, all: u32, text: String) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(all.into());
                bar.set_position(done.into());
                bar.set_message(text);
            }
            None if key != self.last && !self.quiet => {
                eprintln!("{text}");
                self.last = key;
            }
            None => {}
        }
    }

    /// The waiting has come to its end.
    pub(super) fn end(mut self) {
        self.interrupted = None;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(text) = self.interrupted.take().filter(|_| !self.quiet) {
            eprintln!("{text}");
        }
    }
}

/// Waits until the app has all its instances Ready at its newest generation, or completed.
pub(super) async fn until_ready(
    context: &Context,
    app: &str,
    limit: Duration,
    written: &Written,
) -> Result<AppView, Problem> {
    let mut progress = Progress::new(context, app);
    let result = settle(context, app, limit, written.generation, &mut progress).await;
    progress.end();
    let view = result?;
    let how = match view.state {
        AppState::Completed => "has completed",
        AppState::Stopped => {
            context
                .output
                .say(&format!("{app} has no instances any more; hivemind app scale {app} --replicas 1 starts one"));
            return Ok(view);
        }
        _ => "is ready",
    };
    context.output.say(&format!("{app} {how}: {} of {}", view.status.ready, view.status.desired));
    for line in reached_at(context, app).await {
        context.output.say(&line);
    }
    Ok(view)
}

async fn settle(
    context: &Context,
    app: &str,
    limit: Duration,
    asked: u64,
    progress: &mut Progress,
) -> Result<AppView, Problem> {
    let begun = Instant::now();
    // What was seen of an instance that does not come up: when its update is taken back, it goes.
    let mut seen: Option<Problem> = None;
    loop {
        let view: AppView = context.client.get_app(&context.scope, app).await?;
        let instances = of_app(context, app).await?;
        let (key, text) = summary(&view, &instances);
        progress.show(key, view.status.ready, view.status.desired, text);
        if let Some(problem) = update::ended(&view, asked, seen.as_ref()) {
            return Err(problem);
        }
        if matches!(view.state, AppState::Ready | AppState::Stopped | AppState::Completed) {
            return Ok(view);
        }
        if let Some(failed) = instances.iter().find(|instance| lost(instance, view.generation)) {
            if !update::decides(&view) {
                return Err(failure(context, &view, failed, &instances).await);
            }
            if seen.is_none() {
                seen = Some(failure(context, &view, failed, &instances).await);
            }
        }
        let waited = begun.elapsed();
        if !view.unmet.is_empty() && (waited > UNPLACED || waited >= limit) {
            let title = format!("{app} is not what it should be: {} of {}", view.status.ready, view.status.desired);
            let problem = Problem::new(ErrorCode::Unschedulable, title).hint("hivemind node ls -o wide");
            return Err(view.unmet.iter().fold(problem, |problem, reason| problem.detail(reason.clone())));
        }
        if waited >= limit {
            return Err(timed_out(context, &view, limit, &instances).await);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// How many are Ready; while an app is changed, how many of them are of the new kind.
pub(super) fn count(status: &AppStatus) -> String {
    let AppStatus { desired, ready, serving, .. } = status;
    if ready == serving {
        return format!("{ready} of {desired} ready");
    }
    format!("{serving} of {desired} ready, {ready} of them as last deployed")
}

/// What to show: a key that changes with the phases, and the text.
fn summary(view: &AppView, instances: &[InstanceView]) -> (String, String) {
    let mut phases = BTreeMap::<Phase, (u32, &str)>::new();
    for instance in instances.iter().filter(|instance| instance.phase != Phase::Ready) {
        let (count, message) = phases.entry(instance.phase).or_default();
        *count += 1;
        *message = &instance.message;
    }
    let part = |(phase, (count, message)): (&Phase, &(u32, &str))| match message.is_empty() {
        true => format!("{count} {phase}"),
        false => format!("{count} {phase}: {message}"),
    };
    let parts: Vec<_> = view.waits.iter().cloned().chain(phases.iter().map(part)).collect();
    let head = format!("{}: {}", view.name, count(&view.status));
    let text = if parts.is_empty() { head.clone() } else { format!("{head}; {}", parts.join(", ")) };
    // How far a fetch is changes many times a second: no reason for another line.
    let steady = |c: char| !c.is_ascii_digit();
    let counts: Vec<_> = phases.iter().map(|(phase, (count, _))| format!("{count} {phase}")).collect();
    (
        format!(
            "{head} {} {}",
            counts.join(" "),
            text[head.len()..].chars().filter(|c| steady(*c)).collect::<String>()
        ),
        text,
    )
}

/// Whether waiting longer for this instance is of no use to the one who waits.
pub(super) fn lost(instance: &InstanceView, generation: u64) -> bool {
    use ErrorCode as Code;
    if instance.generation != generation {
        return false;
    }
    let hopeless = matches!(
        instance.code,
        Some(
            Code::ImageNotFound
                | Code::RegistryAuth
                | Code::RegistryDown
                | Code::ImagePlatform
                | Code::ImageCorrupt
                | Code::Invalid
                | Code::DiskFull
                | Code::MapFull
                | Code::PortTaken
                | Code::Unhealthy
        )
    );
    match instance.phase {
        Phase::Failed | Phase::Unhealthy => true,
        // The runtime refused to start it at all: the same will happen again.
        Phase::Backoff => {
            let restarts = instance.sidecars.iter().map(|it| it.status.restarts).fold(instance.restarts, u32::max);
            let ended =
                instance.last_exit.is_some() || instance.sidecars.iter().any(|it| it.status.last_exit.is_some());
            hopeless || restarts >= CRASHES || (instance.code.is_some() && !ended)
        }
        _ => false,
    }
}

pub(super) async fn timed_out(context: &Context, view: &AppView, limit: Duration, all: &[InstanceView]) -> Problem {
    let app = &view.name;
    let title = format!("{app} is not ready after {} s: {}; the change goes on", limit.as_secs(), count(&view.status));
    let mut problem = Problem::new(ErrorCode::TimedOut, title).hint(format!("hivemind app info {app}"));
    for instance in all.iter().filter(|instance| instance.phase != Phase::Ready) {
        problem = problem.detail(describe(instance));
        problem.details.extend(last_lines(context, instance).await);
    }
    problem
}

pub(super) async fn failure(context: &Context, view: &AppView, failed: &InstanceView, all: &[InstanceView]) -> Problem {
    let app = &view.name;
    let code = failed.code.unwrap_or(ErrorCode::StartFailed);
    let former: Vec<_> = all.iter().filter(|i| i.generation != view.generation && i.phase == Phase::Ready).collect();
    let what = if former.is_empty() { app.clone() } else { format!("what was deployed last of {app}") };
    let ready = format!("{} of {} ready", view.status.ready, view.status.desired);
    let mut problem = Problem::new(code, format!("{what} does not come up ({ready}): {}", failed.message));
    for instance in all.iter().filter(|i| i.phase != Phase::Ready && (i.id == failed.id || i.message != failed.message))
    {
        problem = problem.detail(describe(instance));
    }
    let lines = last_lines(context, failed).await;
    let logs = if lines.is_empty() { String::new() } else { format!("hivemind logs {app}   ") };
    problem.details.extend(lines);
    if failed.phase != Phase::Failed {
        problem = problem.detail("it is tried again, with growing pauses, until the app is changed or removed");
    }
    match former.first() {
        Some(old) => problem
            .detail(format!("{} instances of what was there before ({}) go on serving", former.len(), old.image))
            .hint(format!("{logs}hivemind explain {code}   hivemind rollback {app}   (puts back what was in place)")),
        None => problem.hint(format!("{logs}hivemind explain {code}   hivemind app rm {app}")),
    }
}

fn describe(instance: &InstanceView) -> String {
    let restarts = match instance.restarts {
        0 => String::new(),
        1 => " (started again once)".into(),
        n => format!(" (started again {n} times)"),
    };
    let message = if instance.message.is_empty() { String::new() } else { format!(": {}", instance.message) };
    format!("{} is {}{message}{restarts}", instance.name, instance.phase)
}

/// The last log lines of an instance, with a title; nothing if there are none.
pub(super) async fn last_lines(context: &Context, instance: &InstanceView) -> Vec<String> {
    // Where a sidecar is what has fallen, the message says so.
    let fallen = instance.sidecars.iter().find(|it| instance.message.contains(&format!("sidecar {}:", it.name)));
    let container = fallen.map(|it| it.name.to_string());
    let asked = GetInstanceLogsArgs { tail: Some(LINES), container, ..GetInstanceLogsArgs::default() };
    let lines = context.client.get_instance_logs(&context.scope, instance.id.as_str(), &asked).await;
    let Ok(lines) = lines else { return Vec::new() };
    let lines: Vec<_> = lines.filter_map(|line| std::future::ready(line.ok())).collect().await;
    if lines.is_empty() {
        return Vec::new();
    }
    let of = fallen.map(|it| format!("/{}", it.name)).unwrap_or_default();
    let title = format!("the last lines of {}{of}:", instance.name);
    std::iter::once(title).chain(lines.into_iter().map(|line| format!("  | {}", line.line))).collect()
}

/// Where the app is reached; nothing if it has no port.
pub(super) async fn reached_at(context: &Context, app: &str) -> Vec<String> {
    let Ok(service) = context.client.get_service(&context.scope, app).await else { return Vec::new() };
    let mut lines = Vec::new();
    if !service.ports.is_empty() {
        let ports: Vec<_> = service.ports.iter().map(|port| format!("{}/{}", port.port, port.protocol)).collect();
        let (names, ports) = (service.dns_names.join(", "), ports.join(" "));
        let at = match addresses(&service.addresses) {
            none if none.is_empty() => "each Ready one at its own address".to_owned(),
            virtual_ones => virtual_ones,
        };
        lines.push(format!("instances reach it as {names} (port {ports}, {at})"));
    }
    for port in &service.ports {
        let Some(published) = port.published else { continue };
        lines.push(match port.protocol {
            Protocol::Tcp => {
                format!("this machine and others reach it on port {published}: curl http://localhost:{published}/")
            }
            Protocol::Udp => format!("this machine and others reach it on port {published}/udp"),
        });
    }
    lines
}

/// Waits until nothing is left of the app.
pub(super) async fn until_gone(context: &Context, app: &str, limit: Duration) -> Result<(), Problem> {
    let mut progress = Progress::new(context, app);
    let end = Instant::now() + limit;
    let mut most = 0;
    let result = loop {
        match context.client.get_app(&context.scope, app).await {
            Err(problem) if problem.code == ErrorCode::NotFound => break Ok(()),
            Err(problem) => break Err(problem),
            Ok(view) => {
                most = most.max(view.status.total);
                let text = format!("{app}: {} instances left", view.status.total);
                progress.show(text.clone(), most - view.status.total, most, text);
            }
        }
        if Instant::now() >= end {
            let title = format!("{app} is not removed after {} s; it goes on", limit.as_secs());
            break Err(Problem::new(ErrorCode::TimedOut, title).hint(format!("hivemind ps {app}")));
        }
        tokio::time::sleep(PERIOD).await;
    };
    progress.end();
    result.map(|()| context.output.say(&format!("{app} is removed")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Addresses, Exit, InstanceId, Timestamp};

    /// An instance of the generation 2.
    fn instance(phase: Phase) -> InstanceView {
        InstanceView {
            id: InstanceId::from_bits(1),
            name: "web-1".into(),
            tenant: "default".parse().expect("a name"),
            namespace: "default".parse().expect("a name"),
            app: "web".into(),
            generation: 2,
            node: "here".parse().expect("a name"),
            image: "x".into(),
            image_digest: None,
            phase,
            message: String::new(),
            code: None,
            addresses: Addresses { v4: None, v6: None },
            restarts: 0,
            last_exit: None,
            exposed: Vec::new(),
            created_at: Timestamp::from_millis(0),
            started_at: None,
            tty: false,
            stdin_open: false,
            sidecars: Vec::new(),
            outdated: Vec::new(),
        }
    }

    fn ended() -> Option<Exit> {
        Some(Exit { code: 1, oom: false, at: Timestamp::from_millis(0), because: None })
    }

    #[test]
    fn only_the_newest_generation_ends_the_wait() {
        for phase in [Phase::Failed, Phase::Unhealthy] {
            assert!(lost(&instance(phase), 2), "{phase}");
            assert!(!lost(&instance(phase), 3), "{phase}: it is being replaced");
        }
        let hopeless = InstanceView { code: Some(ErrorCode::ImageNotFound), ..instance(Phase::Backoff) };
        assert!(lost(&hopeless, 2) && !lost(&hopeless, 3));
    }

    #[test]
    fn an_instance_is_lost_when_another_try_will_not_help() {
        let backoff = |restarts: u32, code: Option<ErrorCode>, last_exit: Option<Exit>| {
            lost(&InstanceView { restarts, code, last_exit, ..instance(Phase::Backoff) }, 2)
        };
        let failed = Some(ErrorCode::StartFailed);
        assert!(!backoff(CRASHES - 1, failed, ended()), "it may come up yet");
        assert!(backoff(CRASHES, failed, ended()));
        assert!(backoff(0, failed, None), "the runtime refused it");
        assert!(!backoff(0, None, None));
        assert!(backoff(0, Some(ErrorCode::RegistryAuth), ended()));
        for phase in [Phase::Pulling, Phase::Creating, Phase::Starting, Phase::Ready, Phase::Stopping] {
            let view = InstanceView { code: Some(ErrorCode::ImageNotFound), restarts: 9, ..instance(phase) };
            assert!(!lost(&view, 2), "{phase}");
        }
    }
}
