//! The verbs on instances that hands know from elsewhere: `kill`, `wait`, `pause`, `top`, `stats`, `cp`, `port-forward`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    Context, copy, ending, forward,
    instance::{Meant, resolve},
    pause::{self, Pausing},
    usage,
};
use crate::{
    api::view::InstanceView,
    model::{ErrorCode, Phase, Problem},
};

#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Send a signal to instances; what ends by it is started again as its restart policy says
    #[command(after_help = ending::KILL_EXAMPLES)]
    Kill(ending::KillArgs),
    /// Wait until the process of an instance ends, print its exit code and end with it
    #[command(after_help = ending::WAIT_EXAMPLES)]
    Wait(ending::WaitArgs),
    /// Have all processes of instances stand still; they get no traffic until they go on
    #[command(after_help = pause::EXAMPLES)]
    Pause(pause::PauseArgs),
    /// Have the processes of paused instances go on
    #[command(visible_alias = "resume")]
    Unpause(pause::PauseArgs),
    /// Show the processes of instances
    #[command(after_help = usage::TOP_EXAMPLES)]
    Top(usage::TopArgs),
    /// Show CPU, memory, traffic and block I/O of instances, each second
    #[command(after_help = usage::STATS_EXAMPLES)]
    Stats(usage::StatsArgs),
    /// Copy files and folders into an instance and out of it
    #[command(after_help = copy::EXAMPLES)]
    Cp(copy::CopyArgs),
    /// Make ports of instances ports of this machine
    #[command(after_help = forward::EXAMPLES)]
    PortForward(forward::ForwardArgs),
}

pub(super) async fn run(context: &Context, verb: Verb) -> Result<ExitCode, Problem> {
    match verb {
        Verb::Kill(args) => ending::kill(context, &args).await?,
        Verb::Wait(args) => return ending::wait(context, &args).await,
        Verb::Pause(args) => pause::run(context, &args, Pausing::Pause).await?,
        Verb::Unpause(args) => pause::run(context, &args, Pausing::Unpause).await?,
        Verb::Top(args) => usage::top(context, &args).await?,
        Verb::Stats(args) => usage::stats(context, &args).await?,
        Verb::Cp(args) => copy::run(context, &args).await,
        Verb::PortForward(args) => forward::run(context, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// All running instances that a word means; a problem that says how they are if there is none.
pub(super) async fn running(context: &Context, word: &str) -> Result<Vec<InstanceView>, Problem> {
    let mut found = match resolve(context, word).await? {
        Meant::App(instances) => instances,
        Meant::Instance(instance) => vec![*instance],
    };
    let phases: Vec<_> = found.iter().map(|instance| format!("{} is {}", instance.name, instance.phase)).collect();
    found.retain(|instance| instance.phase.has_process() || matches!(instance.phase, Phase::Paused | Phase::Stopping));
    if found.is_empty() {
        let mut problem = Problem::new(ErrorCode::NotRunning, format!("no instance of {word} is running"));
        problem.details = phases;
        return Err(problem.hint(format!("hivemind logs {word}")));
    }
    Ok(found)
}
