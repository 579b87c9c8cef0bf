//! Floor 4: the command line. Every command is a request to the daemon's API and a way to show its answer; it decides
//! nothing itself. What was asked for goes to standard output, everything said to people to standard error.

mod app;
mod attach;
mod balance;
mod capture;
mod complete;
mod container;
mod content;
mod copy;
mod daemon;
mod dataplane;
mod dataplane_show;
mod deploy;
mod detach_keys;
mod difference;
mod doctor;
mod dry;
mod ending;
mod exec;
mod explain;
mod flows;
mod follow;
mod forward;
mod health;
mod history;
mod image;
mod instance;
mod limits;
mod list;
mod logs;
mod manual;
mod mounts;
mod operator;
mod output;
mod parse;
mod pause;
mod pcapng;
mod policy;
mod policy_tier;
mod policy_words;
mod project;
mod push;
#[cfg(test)]
mod reference;
mod settings;
mod show;
mod sidecar;
mod tenant;
mod terminal;
mod uninstall;
mod update;
mod usage;
mod verbs;
mod volume;
mod wait;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{
    CommandFactory, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use crate::{
    client::{Client, Target},
    model::{ErrorCode, NamespaceName, Problem, Scope, TenantName},
};
use list::Reach;
use output::{Format, Output};
use settings::Refused;

/// Shown beneath `hivemind --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind daemon --web-port 3000                       start the daemon of this machine
  hivemind app deploy --image nginx:latest --name web-app --service web.local --port 8080:80 --wait
  hivemind up --wait                                    what compose.yaml in this folder says
  hivemind ps                                           what runs
  hivemind logs -f web-app                              what it writes
  hivemind exec -it web-app -- sh                       a shell in it
  hivemind scale web-app=3                              three instances
  hivemind app rm web-app                               away with it
  hivemind namespace create prod                        another namespace; -n prod works in it

Exit codes:
  0 done            3 not found       6 nothing fits      9 daemon unreachable
  1 failed          4 conflict        7 rolled back     130 interrupted
  2 wrong usage     5 not allowed     8 timed out       exec, wait: the command's own, or 125, 126, 127 as Docker
Every error has a code: 'hivemind explain CODE' tells what it means and how to mend it.";

/// What commands of others are called here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("deploy", "app deploy --image IMAGE --name APP"),
    ("run", "app deploy --image IMAGE --name APP"),
    ("create", "app deploy --image IMAGE --name APP"),
    ("rm", "app rm APP"),
    ("undo", "rollback APP"),
    ("diff", "app diff --image IMAGE --name APP"),
    ("inspect", "app info APP"),
    ("describe", "app info APP"),
    ("ls", "app ls"),
    ("apps", "app ls"),
    ("get", "ps"),
    ("services", "service ls"),
    ("nodes", "node ls"),
    ("tenants", "tenant ls"),
    ("namespaces", "namespace ls"),
    ("policies", "policy ls"),
    ("netpol", "policy ls"),
    ("images", "image ls"),
    ("pull", "image pull IMAGE"),
    ("push", "image push IMAGE"),
    ("load", "image import FILE"),
    ("save", "image export IMAGE -f FILE"),
    ("rmi", "image rm IMAGE"),
    ("volumes", "volume ls"),
    ("apply", "policy apply -f FILE"),
];

#[derive(Parser, Debug)]
#[command(name = "hivemind", version, about = "Runs containers on your machines, with an eBPF data plane of its own")]
#[command(propagate_version = true, max_term_width = 110, after_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Tenant
    #[arg(short = 'T', long, global = true, env = "HIVEMIND_TENANT", default_value = "default", value_name = "NAME", add = complete::tenants())]
    tenant: TenantName,
    /// Namespace
    #[arg(short, long, global = true, env = "HIVEMIND_NAMESPACE", default_value = "default", value_name = "NAME", add = complete::namespaces())]
    namespace: NamespaceName,
    /// The daemon's socket, or tcp://HOST:PORT with a token
    #[arg(
        long,
        global = true,
        env = "HIVEMIND_SOCKET",
        default_value = "/run/hivemind/hivemind.sock",
        value_name = "PATH"
    )]
    socket: Target,
    /// File with the token for tcp://, the daemon's <state-dir>/api-token [or in HIVEMIND_TOKEN]
    #[arg(long, global = true, env = "HIVEMIND_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORM")]
    output: Format,
    /// Print only what was asked for
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Answer yes to every question
    #[arg(short, long, global = true, env = "HIVEMIND_YES")]
    yes: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon of this machine
    Daemon(Box<daemon::DaemonArgs>),
    /// Deploy, list, inspect, scale, restart and remove apps
    #[command(subcommand)]
    App(app::AppCommand),
    /// Bring up what a Compose file says: hivemind up --wait
    Up(Box<project::UpArgs>),
    /// Build the images of a project here, and send them to the node
    Build(Box<project::BuildArgs>),
    /// Show what 'up' would change, and change nothing
    Plan(Box<project::PlanArgs>),
    /// Stop all of a project and remove it
    Down(project::DownArgs),
    /// Print what the Compose files come to, merged and with variables put in
    Merged(project::ConfigArgs),
    /// Replace the instances of a project's services
    Restart(project::ServicesArgs),
    /// Stop a project's services and keep them
    Stop(project::ServicesArgs),
    /// Start a project's services that were stopped
    Start(project::ServicesArgs),
    /// List the instances
    Ps(instance::PsArgs),
    /// Show what instances have written
    Logs(logs::LogsArgs),
    /// Run a command in an instance
    Exec(exec::ExecArgs),
    /// Look on what the process of an instance writes, and write to its input
    Attach(attach::AttachArgs),
    #[command(flatten)]
    Verb(verbs::Verb),
    /// Change the number of instances: hivemind scale web=3
    Scale(app::ScaleManyArgs),
    /// Show the generations that an app had, and what became of them
    History(app::Named),
    /// Go back to what an app was before: hivemind rollback web --wait
    Rollback(history::RollBackArgs),
    /// List and inspect services
    #[command(subcommand)]
    Service(show::ServiceCommand),
    /// List, fetch, send, remove, import and export images
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Create, list, inspect and remove volumes
    #[command(subcommand, visible_alias = "vol")]
    Volume(volume::VolumeCommand),
    /// Create, list and remove secrets, which instances have as files
    #[command(subcommand)]
    Secret(content::SecretCommand),
    /// Create, list, show and remove configs, which instances have as files; check and show the daemon's configuration
    #[command(subcommand)]
    Config(content::ConfigCommand),
    /// Allow and deny traffic: apply, list, show and remove policies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Tell whether one may reach another, and which rule of which policy decides
    Why(why::WhyArgs),
    /// Show who talks with whom, what was dropped, and by which rule
    Flows(flows::FlowArgs),
    /// Show or write the packets of an instance, those that are dropped included
    Capture(capture::CaptureArgs),
    /// Create, list, label and remove namespaces
    #[command(subcommand, visible_alias = "ns")]
    Namespace(tenant::NamespaceCommand),
    /// Create, list and remove tenants
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// List and inspect nodes
    #[command(subcommand)]
    Node(show::NodeCommand),
    /// Show what has happened
    Events(show::EventArgs),
    /// Show what the data plane holds, check it, or remove it from the kernel
    #[command(subcommand)]
    Dataplane(dataplane::DataplaneCommand),
    /// Check whether this machine has what the daemon needs; needs no daemon
    Doctor(Box<doctor::DoctorArgs>),
    /// Tell what an error code means: hivemind explain E-NET-003
    Explain {
        /// The code; all of them without it
        #[arg(add = complete::codes())]
        code: Option<String>,
    },
    /// Print a completion script: source <(hivemind completion bash)
    Completion {
        /// The shell
        shell: complete::Shell,
    },
    /// Remove from this machine all that hivemind has made of it: instances, images, volumes, network, data plane, store
    Uninstall(Box<uninstall::UninstallArgs>),
    /// Write the man pages to a folder: hivemind manual /usr/local/share/man/man1
    Manual {
        /// The folder
        dir: PathBuf,
    },
    /// Show the versions of command line and daemon
    Version,
}

/// What commands share.
#[derive(Debug, Clone)]
struct Context {
    client: Client,
    scope: Scope,
    output: Output,
    /// Whether questions are answered with yes.
    yes: bool,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    complete::answer(Args::command);
    let words: Vec<_> = std::env::args_os().collect();
    let parsed = settings::read(Args::command, &words)
        .and_then(|(found, settings)| Ok((Args::from_arg_matches(&found).map_err(Refused::Usage)?, settings)));
    let (args, settings) = match parsed {
        Ok(parsed) => parsed,
        Err(Refused::Usage(error)) => return usage(&error),
        Err(Refused::Problem(problem)) => {
            Output { format: Format::Table, quiet: false }.problem(&problem);
            return ExitCode::from(problem.code.exit_code());
        }
    };
    let output = Output { format: args.global.output, quiet: args.global.quiet };
    // The daemon works on several threads; a command needs one.
    let runtime = match args.command {
        Command::Daemon(_) => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(args, output)).map_err(|problem| settings.locate(problem)),
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

/// Says what clap has to say: help and version, which are no errors, or what of the command line is wrong.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render();
    let text = if output::colours(&std::io::stderr()) { text.ansi().to_string() } else { text.to_string() };
    let code = ErrorCode::Invalid;
    eprint!("{}", text.replacen("error:", &format!("error[{code}]:"), 1));
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && let Some((_, command)) = ELSEWHERE.iter().find(|(other, _)| other == word)
    {
        eprintln!("try: hivemind {command}");
    }
    ExitCode::from(code.exit_code())
}

async fn dispatch(args: Args, output: Output) -> Result<ExitCode, Problem> {
    let global = args.global;
    if let Command::Daemon(daemon) = args.command {
        let Target::Unix(socket) = global.socket else {
            return Err(Problem::new(ErrorCode::Invalid, "--socket: the daemon needs a path")
                .hint("hivemind daemon --listen ADDRESS --web-port PORT   (for TCP)"));
        };
        return daemon.run(socket).await.map(|()| ExitCode::SUCCESS);
    }
    let scope = Scope { tenant: global.tenant, namespace: global.namespace };
    let target = global.socket.with_token(token(global.token_file.as_deref())?);
    let context = Context { client: Client::new(target.clone()), scope, output, yes: global.yes };
    // It ends with Ctrl-C by itself: what it has written is to be whole.
    if let Command::Capture(args) = &args.command {
        return capture::run(&context, args).await.map(|()| ExitCode::SUCCESS);
    }
    tokio::select! {
        result = command(args.command, &context, target) => result,
        () = interrupted() => Ok(ExitCode::from(output::INTERRUPTED)),
    }
}

/// Waits for Ctrl-C.
async fn interrupted() {
    // Without the handler Ctrl-C ends the process anyway.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The token for TCP, from the file or the environment; never from a flag, which others on the machine can read.
fn token(file: Option<&std::path::Path>) -> Result<Option<String>, Problem> {
    let text = match file {
        None => std::env::var("HIVEMIND_TOKEN").ok(),
        Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
            Problem::new(ErrorCode::Invalid, format!("--token-file: cannot read {}: {error}", file.display()))
        })?),
    };
    Ok(text.map(|text| text.trim().to_owned()).filter(|token| !token.is_empty()))
}

async fn command(command: Command, context: &Context, target: Target) -> Result<ExitCode, Problem> {
    match command {
        Command::Daemon(_) | Command::Capture(_) => {}
        Command::App(command) => return app::run(context, command).await.map(ExitCode::from),
        Command::Up(args) => project::up(context, &args).await?,
        Command::Build(args) => project::build(context, &args).await?,
        Command::Plan(args) => return project::plan(context, &args).await,
        Command::Down(args) => project::down(context, &args).await?,
        Command::Merged(args) => project::config(context, &args)?,
        Command::Restart(args) => project::restart(context, &args).await?,
        Command::Stop(args) => project::stop(context, &args).await?,
        Command::Start(args) => project::start(context, &args).await?,
        Command::Ps(args) => instance::ps(context, &args).await?,
        Command::Logs(args) => logs::run(context, &args).await?,
        Command::Exec(args) => return Ok(exec::run(context, args).await),
        Command::Attach(args) => return Ok(attach::run(context, args).await),
        Command::Verb(verb) => return verbs::run(context, verb).await,
        Command::Scale(args) => app::scale_many(context, &args).await?,
        Command::History(app) => history::history(context, &app).await?,
        Command::Rollback(args) => history::roll_back(context, &args).await?,
        Command::Service(command) => show::service(context, command).await?,
        Command::Image(command) => image::run(context, command).await?,
        Command::Volume(command) => volume::run(context, command).await?,
        Command::Secret(command) => content::secret(context, command).await?,
        Command::Config(command) => content::config(context, command).await?,
        Command::Policy(command) => policy::run(context, command).await?,
        Command::Why(args) => why::why(context, args).await?,
        Command::Flows(args) => flows::run(context, &args).await?,
        Command::Namespace(command) => tenant::namespace(context, command).await?,
        Command::Tenant(command) => tenant::tenant(context, command).await?,
        Command::Node(command) => show::node(context, command).await?,
        Command::Events(args) => show::events(context, &args).await?,
        Command::Dataplane(command) => dataplane::run(context, &target, &command).await?,
        Command::Doctor(args) => return doctor::run(context, target, *args).await,
        Command::Explain { code } => explain::run(context.output, code.as_deref())?,
        Command::Completion { shell } => complete::script(shell)?,
        Command::Uninstall(args) => return uninstall::run(context, target, *args).await,
        Command::Manual { dir } => manual::run(context.output, Args::command(), &dir)?,
        Command::Version => show::version(context).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
