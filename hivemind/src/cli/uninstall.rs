//! `hivemind uninstall`: the opposite of all that a daemon has made of this machine.

use std::process::ExitCode;

use clap::Args;

use super::{Context, daemon, terminal};
use crate::{
    client::Target,
    daemon::{Uninstalled, uninstall},
    model::{ErrorCode, Problem},
};

/// Shown beneath `hivemind uninstall --help`.
pub(super) const NOTES: &str = "\
All data is gone with it: volumes, secrets, logs, the store. The program, its service and /etc/hivemind are the package's
(apt-get purge hivemind does all of it). The daemon must have stopped; it needs root, and containerd for what that keeps.";

/// The daemon's flags: what is removed is what a daemon with these flags has made.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    daemon: daemon::DaemonArgs,
}

pub(super) async fn run(context: &Context, socket: Target, args: UninstallArgs) -> Result<ExitCode, Problem> {
    let Target::Unix(socket) = socket else {
        return Err(Problem::new(ErrorCode::Invalid, "another machine is not uninstalled from here")
            .hint("hivemind uninstall   (there, as root)"));
    };
    let config = args.daemon.config(socket)?;
    config.validate()?;
    let question = format!(
        "Remove all instances and images of hivemind, its network and data plane, and {} with all volumes?",
        config.state_dir.display()
    );
    if !context.yes && !terminal::confirmed(&question) {
        return Err(Problem::new(ErrorCode::Invalid, "nothing was removed").hint("hivemind uninstall --yes"));
    }
    let Uninstalled { removed, left } = uninstall(&config).await?;
    for line in removed {
        context.output.say(&line);
    }
    for line in &left {
        eprintln!("left: {line}");
    }
    if left.is_empty() {
        context.output.say("nothing of hivemind is left on this machine but the program");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
