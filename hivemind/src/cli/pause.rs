//! `hivemind pause` and `hivemind unpause`

use clap::Args;

use super::{Context, complete, output::line, verbs::running};
use crate::{
    api::{pause::Paused, view::InstanceView},
    client::DryRunArgs,
    model::Problem,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  hivemind pause web-x7k2p             one instance
  hivemind pause web                   all running instances of web: nobody serves it then
  hivemind unpause web
A paused instance keeps its memory, files and connections, and is asked for nothing. It stays so when the daemon is
started again, not when the machine is. What is removed, replaced or stopped goes on first.";

#[derive(Args, Debug)]
pub(super) struct PauseArgs {
    /// Apps (all their running instances), or instances by name or id
    #[arg(required = true, value_name = "APP|INSTANCE", add = complete::targets())]
    targets: Vec<String>,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pausing {
    Pause,
    Unpause,
}

pub(super) async fn run(context: &Context, args: &PauseArgs, what: Pausing) -> Result<(), Problem> {
    // All are looked up first: a misspelt one must not leave half of the work done.
    let mut instances: Vec<InstanceView> = Vec::new();
    for target in &args.targets {
        for instance in running(context, target).await? {
            if instances.iter().all(|other| other.id != instance.id) {
                instances.push(instance);
            }
        }
    }
    let now = match what {
        Pausing::Pause => "stands still",
        Pausing::Unpause => "goes on",
    };
    let mut done: Vec<Paused> = Vec::new();
    let mut failed = Vec::new();
    for instance in instances {
        let (scope, id, how) = (&context.scope, instance.id.as_str(), DryRunArgs::default());
        let answer = match what {
            Pausing::Pause => context.client.pause_instance(scope, id, &how).await,
            Pausing::Unpause => context.client.unpause_instance(scope, id, &how).await,
        };
        match answer {
            Ok(one) => done.push(one),
            Err(problem) => failed.push(problem),
        }
    }
    if context.output.wants_document() {
        context.output.document(&done)?;
    } else {
        for one in &done {
            line(&one.instance);
            let text = if one.changed { now } else { "is so already" };
            context.output.say(&format!("{} {text}", one.instance));
        }
    }
    let mut failed = failed.into_iter();
    match failed.next() {
        None => Ok(()),
        Some(first) => Err(failed.fold(first, |all, other| all.detail(other.title))),
    }
}
