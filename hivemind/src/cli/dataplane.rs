//! `hivemind dataplane`: the data plane in the kernel. Only what unloads it needs no daemon.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Context, dataplane_show};
use crate::{
    api,
    client::Target,
    dataplane::{DataplaneError, bpf},
    model::{ErrorCode, Problem},
};

#[derive(Subcommand, Debug)]
pub(super) enum DataplaneCommand {
    /// Show the rows of a table as the kernel has them, with names; without one, which tables there are
    Dump {
        /// The table, as services or flows
        table: Option<String>,
    },
    /// Compare tables, attachments and pins with what should be; ends with 1 if anything differs
    Check,
    /// Have the kernel measure for some seconds how often and how long each of our programs runs
    Stats {
        /// For how long
        #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
        seconds: u64,
    },
    /// Remove the data plane from the kernel: programs, links and tables. As root, when the daemon has stopped
    Unload(UnloadArgs),
}

#[derive(Args, Debug)]
pub(super) struct UnloadArgs {
    /// Also while the daemon runs or instances do: they go on without policies, and services end
    #[arg(long)]
    force: bool,
    /// The data plane's folder in the BPF file system
    #[arg(long, env = "HIVEMIND_BPF_ROOT", default_value = "/sys/fs/bpf/hivemind", value_name = "PATH")]
    bpf_root: PathBuf,
}

pub(super) async fn run(context: &Context, target: &Target, command: &DataplaneCommand) -> Result<(), Problem> {
    match command {
        DataplaneCommand::Dump { table } => dataplane_show::dump(context, table.as_deref()).await,
        DataplaneCommand::Stats { seconds } => dataplane_show::stats(context, *seconds).await,
        DataplaneCommand::Check => dataplane_show::check(context).await,
        DataplaneCommand::Unload(args) => unload(context, target, args),
    }
}

fn unload(context: &Context, target: &Target, args: &UnloadArgs) -> Result<(), Problem> {
    let root = args.bpf_root.display();
    if !args.force {
        let Target::Unix(socket) = target else {
            return Err(Problem::new(
                ErrorCode::Invalid,
                "the data plane of another machine is not unloaded from here",
            )
            .hint("hivemind dataplane unload   (there, as root)"));
        };
        api::ensure_alone(socket).map_err(|problem| {
            Problem::new(problem.code, format!("the daemon at {} uses the data plane", socket.display()))
                .hint("systemctl stop hivemind && hivemind dataplane unload")
        })?;
        let attached = bpf::attached(&args.bpf_root).map_err(problem)?;
        if attached > 0 {
            let title = format!("{attached} instances of this node are attached to the data plane at {root}");
            return Err(Problem::new(ErrorCode::Taken, title)
                .detail("they would go on without policies, and reach no service")
                .hint("remove their apps first; or, all the same: hivemind dataplane unload --force"));
        }
    }
    let removed = bpf::unload(&args.bpf_root).map_err(problem)?;
    context.output.say(&if removed == 0 {
        format!("there is no data plane at {root}")
    } else {
        format!("the data plane at {root} is gone: {removed} pins, and what was attached")
    });
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn problem(error: DataplaneError) -> Problem {
    let problem = Problem::new(error.code(), error.to_string());
    if nix::unistd::geteuid().is_root() { problem } else { problem.hint("run it with sudo") }
}
