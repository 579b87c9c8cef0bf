//! Floor 4: the command line. Every command is a request to the daemon's API and a way to show its answer.

mod app;
mod daemon;
mod doctor;
mod exec;
mod instance;
mod logs;
mod output;
mod show;
mod wait;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    client::Client,
    model::{ErrorCode, NamespaceName, Problem, Scope, TenantName},
};
use output::{Format, Output};

#[derive(Parser, Debug)]
#[command(name = "hivemind", version, about = "Containers for several tenants, with a data plane of their own")]
#[command(propagate_version = true, max_term_width = 120)]
struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args, Debug, Clone)]
struct Global {
    /// Tenant
    #[arg(short = 'T', long, global = true, env = "HIVEMIND_TENANT", default_value = "default", value_name = "NAME")]
    tenant: TenantName,
    /// Namespace
    #[arg(short, long, global = true, env = "HIVEMIND_NAMESPACE", default_value = "default", value_name = "NAME")]
    namespace: NamespaceName,
    /// The daemon's socket
    #[arg(
        long,
        global = true,
        env = "HIVEMIND_SOCKET",
        default_value = "/run/hivemind/hivemind.sock",
        value_name = "PATH"
    )]
    socket: PathBuf,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Print only what was asked for
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon on this machine
    Daemon(Box<daemon::DaemonArgs>),
    /// Deploy, list, inspect, scale, restart and remove apps
    #[command(subcommand)]
    App(app::AppCommand),
    /// List the instances
    Ps(instance::PsArgs),
    /// Show what instances wrote
    Logs(logs::LogsArgs),
    /// Run a command in an instance
    Exec(exec::ExecArgs),
    /// Change the number of instances: hivemind scale web=3
    Scale {
        /// APP=NUMBER
        #[arg(value_parser = app::assignment, required = true)]
        apps: Vec<(String, u32)>,
    },
    /// List and inspect services
    #[command(subcommand)]
    Service(show::ServiceCommand),
    /// List and inspect nodes
    #[command(subcommand)]
    Node(show::NodeCommand),
    /// Show what happened
    Events(show::EventArgs),
    /// Check whether this machine has what the daemon needs
    Doctor(doctor::DoctorArgs),
    /// Explain an error code: hivemind explain E-NET-003
    Explain {
        /// The code; all codes without it
        code: Option<String>,
    },
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Show the version
    Version,
}

/// What commands share.
#[derive(Debug, Clone)]
struct Context {
    client: Client,
    scope: Scope,
    output: Output,
}

impl Context {
    /// A path in the scope.
    fn path(&self, rest: &str) -> String {
        format!("/v1/tenants/{}/namespaces/{}/{rest}", self.scope.tenant, self.scope.namespace)
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors; clap prints them to standard output.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let output = Output { format: args.global.output, quiet: args.global.quiet };
    // The daemon works on several threads; a command needs one.
    let runtime = match args.command {
        Command::Daemon(_) => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(args, output)),
        Err(error) => Err(Problem::new(ErrorCode::Internal, format!("cannot start: {error}"))),
    };
    match result {
        Ok(code) => code,
        Err(problem) => {
            output.problem(&problem);
            ExitCode::from(problem.code.exit_code())
        }
    }
}

async fn dispatch(args: Args, output: Output) -> Result<ExitCode, Problem> {
    let global = args.global;
    if let Command::Daemon(daemon) = args.command {
        return daemon.run(global.socket).await.map(|()| ExitCode::SUCCESS);
    }
    let scope = Scope { tenant: global.tenant, namespace: global.namespace };
    let context = Context { client: Client::new(global.socket), scope, output };
    let interrupted = async {
        // Without the handler Ctrl-C ends the process anyway.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let waits = matches!(args.command, Command::App(_));
    tokio::select! {
        result = command(args.command, context) => result,
        () = interrupted => {
            if waits {
                eprintln!("interrupted; the change goes on. See how far it is: hivemind ps");
            }
            Ok(ExitCode::from(130))
        }
    }
}

async fn command(command: Command, context: Context) -> Result<ExitCode, Problem> {
    match command {
        Command::Daemon(_) => {}
        Command::App(command) => app::run(&context, command).await?,
        Command::Ps(args) => instance::ps(&context, &args).await?,
        Command::Logs(args) => logs::run(&context, &args).await?,
        Command::Exec(args) => return exec::run(&context, args).await,
        Command::Scale { apps } => app::scale_many(&context, &apps).await?,
        Command::Service(command) => show::service(&context, command).await?,
        Command::Node(command) => show::node(&context, command).await?,
        Command::Events(args) => show::events(&context, &args).await?,
        Command::Doctor(args) => return doctor::run(&context, &args).await,
        Command::Explain { code } => explain(code.as_deref())?,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "hivemind", &mut std::io::stdout());
        }
        Command::Version => show::version(&context).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(code: Option<&str>) -> Result<(), Problem> {
    let Some(text) = code else {
        for code in ErrorCode::ALL {
            println!("{code}  {}", code.explain().split(". ").next().unwrap_or_default());
        }
        return Ok(());
    };
    let wanted = text.to_ascii_uppercase();
    match ErrorCode::ALL.iter().find(|code| code.as_str() == wanted) {
        Some(code) => {
            println!("{code}: {}\nexit code {}, HTTP status {}", code.explain(), code.exit_code(), code.status());
            Ok(())
        }
        None => {
            Err(Problem::new(ErrorCode::NotFound, format!("there is no error code {text}")).hint("hivemind explain"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_documents_commands_are_understood_word_for_word() {
        for line in [
            "hivemind daemon --web-port 3000",
            "hivemind app deploy --image nginx:latest --name web-app --service web.local",
            "hivemind app deploy --image a --name b --service c.local --port 9090:9090",
            "hivemind app scale --name web-app --replicas 3",
            "hivemind app info --name web-app",
            "hivemind app info web-app",
            "hivemind scale web=3",
            "hivemind ps -o json",
            "hivemind exec -it web -- sh -c 'ls'",
            "hivemind -n prod -T acme logs -f --tail 10 web",
        ] {
            let words = line.split(' ');
            assert!(Args::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_input_is_refused() {
        for line in [
            "hivemind",
            "hivemind app deploy",
            "hivemind app scale web --replicas many",
            "hivemind app deploy --image a --name Web",
            "hivemind app deploy --image a --name web --port 0:80",
            "hivemind app deploy --image a --name web --memory lots",
            "hivemind daemon --web-port 70000",
            "hivemind scale web",
            "hivemind ps -o xml",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
