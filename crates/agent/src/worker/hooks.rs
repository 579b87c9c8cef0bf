//! What is run in a container besides its process.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{Because, Fault, Worker};
use hivemind_core::{
    model::{ContainerId, ErrorCode, EventKind, Instance, Phase},
    spec::v1::HookSpec,
};
use hivemind_runtime::{ExecIo, ExecSpec, Mark, Runtime, RuntimeError};

/// Bytes of a hook's output that are kept, to say why it failed.
const KEPT: usize = 4096;
/// The most characters of it that are said.
const SAID: usize = 200;

/// Why a hook failed.
enum Failed {
    /// By itself, or for want of time.
    Hook(String),
    /// The runtime does not answer, which says nothing of it.
    Runtime(RuntimeError),
}

impl Worker {
    /// Runs what is to be run after the process has begun. When it fails, the process is to be ended. Safe to cancel and
    /// to repeat: what was not noted as done is done again.
    pub(super) async fn post_start(&mut self, instance: &Instance) -> Result<(), Fault> {
        let runtime = Arc::clone(&self.shared.runtime);
        self.say(instance, Phase::Starting, "its post-start hook runs".into(), None);
        for hook in &instance.spec.container.hooks.post_start {
            let why = match run(&*runtime, &self.id, hook, None).await {
                Ok(()) => continue,
                Err(Failed::Runtime(error)) => return Err(error.into()),
                Err(Failed::Hook(why)) => why,
            };
            // A hook ends with its container, whose own end says more.
            let state = runtime.state(&self.id).await?;
            if state.is_some_and(|state| state.run.pid().is_some()) {
                let message = format!("post-start hook failed: {why}");
                let text = format!("{}: {message}", self.name(instance));
                self.event(EventKind::Warning, "PostStartFailed", instance, text);
                self.ended_because = Some(Because { message, code: ErrorCode::StartFailed, well: None });
                self.seen.unhealthy = true;
            }
            return Ok(());
        }
        runtime.set_mark(&self.id, Mark::Begun).await?;
        Ok(())
    }

    /// Runs what is to be run before the stop signal, for as long as the stop may take. When it fails, the stop goes on.
    pub(super) async fn pre_stop(&mut self, instance: &Instance) {
        let begun = Instant::now();
        let end = begun + Duration::from_secs(instance.spec.stop.grace_seconds.into());
        let runtime = Arc::clone(&self.shared.runtime);
        for hook in &instance.spec.container.hooks.pre_stop {
            let why = match run(&*runtime, &self.id, hook, Some(end)).await {
                Ok(()) => continue,
                Err(Failed::Hook(why)) => why,
                Err(Failed::Runtime(error)) => error.to_string(),
            };
            let text = format!("{}: pre-stop hook failed: {why}; the stop goes on", self.name(instance));
            self.event(EventKind::Warning, "PreStopFailed", instance, text);
        }
        self.seen.pre_stop = Some(begun);
    }
}

/// Runs a hook to its end, but not beyond `end`.
async fn run(runtime: &dyn Runtime, id: &ContainerId, hook: &HookSpec, end: Option<Instant>) -> Result<(), Failed> {
    let own = Instant::now() + Duration::from_secs(hook.timeout_seconds.into());
    let limit = end.map_or(own, |end| end.min(own));
    let late = if limit < own { "within the time of the stop" } else { "in its time" };
    let program = hook.command.first().map(String::as_str).unwrap_or_default();
    let late = || Err(Failed::Hook(format!("{program} did not end {late}")));
    timeout_at(limit, exec(runtime, id, hook)).await.unwrap_or_else(|_| late())
}

async fn exec(runtime: &dyn Runtime, id: &ContainerId, hook: &HookSpec) -> Result<(), Failed> {
    let spec = ExecSpec {
        command: hook.command.clone(),
        env: hook.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        user: hook.user.clone(),
        workdir: hook.workdir.clone(),
        tty: None,
        stdin: false,
    };
    let mut session = match runtime.exec(id, spec).await {
        Ok(session) => session,
        Err(error) if error.code() == ErrorCode::NoContainerd => return Err(Failed::Runtime(error)),
        Err(error) => return Err(Failed::Hook(error.to_string())),
    };
    // It is drained to its end, so that the hook does not stand still; its last line tells why it failed.
    let mut last = Vec::new();
    while let Some(ExecIo::Stdout(data) | ExecIo::Stderr(data)) = session.output.recv().await {
        last.extend_from_slice(&data);
        let beyond = last.len().saturating_sub(KEPT);
        last.drain(..beyond);
    }
    match session.exit.await {
        Ok(0) => Ok(()),
        Ok(code) => {
            let text = String::from_utf8_lossy(&last);
            let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            let line: String = line.trim().chars().take(SAID).collect();
            let program = hook.command.first().map(String::as_str).unwrap_or_default();
            let said = if line.is_empty() { String::new() } else { format!(": {line}") };
            Err(Failed::Hook(format!("{program} ended with {code}{said}")))
        }
        Err(_) => Err(Failed::Hook("it was lost".into())),
    }
}
