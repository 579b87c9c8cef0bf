//! `hivemind kill` and `hivemind wait`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use futures::StreamExt;

use super::{
    Context, complete,
    instance::{Meant, resolve},
    output::line,
    parse::duration,
    verbs::running,
};
use crate::{
    api::ending::{Kill, Killed, Until},
    client::{DryRunArgs, WaitForInstanceArgs},
    model::{ErrorCode, Problem, SidecarName, signal_number},
    spec::v1::RestartPolicy,
};

/// Exit code for a fault of ours, as of `exec`: those below may be the process's.
const OWN_FAULT: u8 = 125;

pub(super) const KILL_EXAMPLES: &str = "\
Examples:
  hivemind kill web                    SIGKILL to all instances of web; their restart policy brings them back
  hivemind kill --signal HUP web       have it read its configuration again
  hivemind kill -s TERM web-x7k2p      one instance
To have it stay away: hivemind app scale web --replicas 0";

pub(super) const WAIT_EXAMPLES: &str = "\
Examples:
  hivemind wait web-x7k2p              until its process ends; prints its exit code and ends with it
  hivemind wait --ready web-x7k2p      until it is ready
  hivemind wait --gone web-x7k2p       until nothing is left of it
  code=$(hivemind wait --timeout 10m job-x7k2p)
Exit codes: the process's own; 125 if it is not known. With --ready and --gone those of all commands.";

#[derive(Args, Debug)]
pub(super) struct KillArgs {
    /// The signal: KILL, SIGHUP, 15, …
    #[arg(short, long, default_value = "KILL", value_parser = signal, value_name = "SIGNAL")]
    signal: String,
    /// To a sidecar of the instance, by its name [default: the app's own container]
    #[arg(short, long, value_name = "NAME")]
    container: Option<SidecarName>,
    /// Apps (all their running instances), or instances by name or id
    #[arg(required = true, value_name = "APP|INSTANCE", add = complete::targets())]
    targets: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct WaitArgs {
    /// Until it is ready
    #[arg(long, conflicts_with = "gone")]
    ready: bool,
    /// Until nothing is left of it
    #[arg(long)]
    gone: bool,
    /// How long to wait at most, e.g. 90s or 5m
    #[arg(long, value_parser = duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Instance by name or id, or an app with one instance
    #[arg(value_name = "INSTANCE", add = complete::targets())]
    target: String,
}

/// A signal in any form that the API takes, as it was written.
fn signal(text: &str) -> Result<String, String> {
    let wrong = || format!("there is no signal {text:?}; write e.g. TERM, SIGHUP or 9");
    let upper = text.to_ascii_uppercase();
    signal_number(&upper).map(|_| upper).ok_or_else(wrong)
}

pub(super) async fn kill(context: &Context, args: &KillArgs) -> Result<(), Problem> {
    // All are looked up first: a misspelt one must not leave half of the work done.
    let mut instances = Vec::new();
    for target in &args.targets {
        instances.extend(running(context, target).await?);
    }
    let mut killed: Vec<Killed> = Vec::new();
    let mut failed = Vec::new();
    for instance in instances {
        if killed.iter().any(|other| other.id == instance.id) {
            continue;
        }
        let kill = Kill { signal: args.signal.clone(), container: args.container.clone() };
        let (scope, id) = (&context.scope, instance.id.as_str());
        match context.client.kill_instance(scope, id, &kill, &DryRunArgs::default()).await {
            Ok(done) => killed.push(done),
            Err(problem) => failed.push(problem),
        }
    }
    if context.output.wants_document() {
        context.output.document(&killed)?;
    } else {
        killed.iter().for_each(|one| line(&one.instance));
        for one in &killed {
            let then = match one.restart {
                RestartPolicy::Always => "if its process ends, it is started again (restart policy always)",
                RestartPolicy::OnFailure => {
                    "if its process ends with another code than 0, it is started again (restart policy on-failure)"
                }
                RestartPolicy::Never => "if its process ends, it stays so (restart policy never)",
            };
            context.output.say(&format!("{} was sent signal {}; {then}", one.instance, one.signal));
        }
    }
    let mut failed = failed.into_iter();
    match failed.next() {
        None => Ok(()),
        Some(first) => Err(failed.fold(first, |all, other| all.detail(other.title))),
    }
}

pub(super) async fn wait(context: &Context, args: &WaitArgs) -> Result<ExitCode, Problem> {
    let for_end = !args.ready && !args.gone;
    match waited(context, args).await {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(problem) if for_end => {
            context.output.problem(&problem);
            Ok(ExitCode::from(OWN_FAULT))
        }
        Err(problem) => Err(problem),
    }
}

async fn waited(context: &Context, args: &WaitArgs) -> Result<u8, Problem> {
    let word = &args.target;
    let instance = match resolve(context, word).await {
        Ok(Meant::Instance(instance)) => instance.id,
        Ok(Meant::App(instances)) => match &instances[..] {
            [] if args.gone => return Ok(0),
            [one] => one.id.clone(),
            several => {
                let title = format!("{word} has {} instances; name the one to wait for", several.len());
                let problem = Problem::new(ErrorCode::Invalid, title).hint(format!("hivemind ps {word}"));
                return Err(several.iter().fold(problem, |problem, one| problem.detail(one.name.clone())));
            }
        },
        // It may have gone before anybody could wait.
        Err(problem) if args.gone && problem.code == ErrorCode::NotFound => {
            context.output.say(&format!("{word} does not exist"));
            return Ok(0);
        }
        Err(problem) => return Err(problem),
    };
    let (until, end) = match (args.ready, args.gone) {
        (true, _) => ("ready", Until::Ready),
        (_, true) => ("gone", Until::Gone),
        _ => ("ended", Until::Ended),
    };
    let asked = async {
        let how = WaitForInstanceArgs { until: Some(end) };
        let mut lines = context.client.wait_for_instance(&context.scope, instance.as_str(), &how).await?;
        let cut = || Problem::new(ErrorCode::Unreachable, "the daemon has stopped; nobody knows what came of it");
        lines.next().await.ok_or_else(cut)?
    };
    let waited = match args.timeout {
        None => asked.await?,
        Some(limit) => tokio::time::timeout(limit, asked).await.map_err(|_| {
            let title = format!("{word} is not {until} after {} s", limit.as_secs_f32());
            Problem::new(ErrorCode::TimedOut, title).hint(format!("hivemind ps {word}"))
        })??,
    };
    if context.output.wants_document() {
        context.output.document(&waited)?;
    }
    if !waited.reached {
        let title = format!("{} is {} and will not be {until}", waited.instance, waited.phase);
        return Err(Problem::new(ErrorCode::NotRunning, title).hint(format!("hivemind logs {word}")));
    }
    if until != "ended" {
        context.output.say(&format!("{} is {until}", waited.instance));
        return Ok(0);
    }
    let Some(exit) = waited.exit else {
        let title = format!("{} is gone; how its process ended was not seen", waited.instance);
        return Err(Problem::new(ErrorCode::NotFound, title));
    };
    if !context.output.wants_document() {
        line(&exit.code.to_string());
    }
    if exit.oom {
        context.output.say(&format!("{} reached its limit of memory", waited.instance));
    }
    Ok(u8::try_from(exit.code).unwrap_or(OWN_FAULT))
}
