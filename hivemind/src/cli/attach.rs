//! `hivemind attach`

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::Args;
use futures::{Stream, StreamExt};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::Instant,
};

use super::{
    Context, complete,
    detach_keys::{DetachKeys, Typed},
    exec::{BROKEN_PIPE, CHUNK, OWN_FAULT, forward, resizes, running, write},
    terminal::{self, RawTerminal},
};
use crate::{
    api::{
        ending::Kill,
        exec::{ExecEnd, ExecLost, channel},
        view::InstanceView,
    },
    client::{AttachToInstanceArgs, DryRunArgs, ExecMessage},
    model::{ErrorCode, Problem, SidecarName},
};

/// How long a daemon that has gone may take to be back, and how often it is asked.
const RETURN: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Shown beneath `hivemind attach --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind attach web-x7k2p                 what its process writes from now on; Ctrl-C goes to the process
  hivemind attach web --sig-proxy=false     Ctrl-C ends only this command
  hivemind attach shell                     a terminal, if the app has one; ctrl-p ctrl-q leaves it
What was written before is in the log: hivemind logs. Input goes to processes of apps that were deployed with
--interactive, and ends with this command only for this command. Several may be attached at once.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct AttachArgs {
    /// To a sidecar of the instance, by its name [default: the app's own container]
    #[arg(short, long, value_name = "NAME")]
    container: Option<SidecarName>,
    /// App (its first running instance), or instance by name or id
    #[arg(value_name = "APP|INSTANCE", add = complete::targets())]
    target: String,
    /// The keys that leave a terminal: letters, and ctrl- with a letter, @, ^, [, \, ] or _
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: DetachKeys,
    /// Send no input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals that this command gets on to the process, unless it has a terminal
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    sig_proxy: bool,
}

/// How an attachment has ended.
enum End {
    /// The process has, with this code.
    Exit(u32),
    /// Somebody has left it.
    Detached,
    /// The connection has.
    Lost,
}

/// Attaches; the process's exit code is ours.
pub(super) async fn run(context: &Context, args: AttachArgs) -> ExitCode {
    let code = match attach(context, &args).await {
        Ok(code) => u8::try_from(code).unwrap_or(OWN_FAULT),
        Err(problem) => {
            context.output.problem(&problem);
            OWN_FAULT
        }
    };
    // Reading standard input keeps a thread of the runtime until a key is pressed: end without it.
    std::process::exit(code.into())
}

async fn attach(context: &Context, args: &AttachArgs) -> Result<u32, Problem> {
    let instance = running(context, &args.target).await?;
    let (tty, stdin_open) = streams(&instance, args)?;
    let stdin = stdin_open && !args.no_stdin;
    let terminal = tty && stdin && std::io::stdin().is_terminal();
    let raw = terminal.then(RawTerminal::enter).flatten();
    let (typed, mut inbox) = mpsc::channel(16);
    let reading = async {
        if stdin {
            input(typed, terminal.then(|| args.detach_keys.clone())).await;
        }
        std::future::pending::<()>().await;
    };
    let attached = async {
        let mut lost = false;
        loop {
            let end = match once(context, args, &instance, stdin, terminal, &mut inbox).await {
                Ok(end) => end,
                // It ended while nobody was there.
                Err(problem) if lost => return Err(problem.hint(format!("hivemind logs {}", instance.name))),
                Err(problem) => return Err(problem),
            };
            match end {
                End::Exit(code) => return Ok(code),
                End::Detached => {
                    note(context, terminal, &format!("detached from {}, which goes on", instance.name));
                    return Ok(0);
                }
                End::Lost => {
                    lost = true;
                    note(context, terminal, "the daemon has gone; attaching anew as soon as it is back");
                    tokio::select! {
                        is_back = back(context, &instance) => is_back?,
                        () = left(terminal) => return Ok(0),
                    }
                    note(
                        context,
                        terminal,
                        &format!("attached anew; what was missed: hivemind logs {}", instance.name),
                    );
                }
            }
        }
    };
    let result = tokio::select! {
        result = attached => result,
        () = reading => Ok(0),
    };
    drop(raw);
    result
}

/// One connection.
async fn once(
    context: &Context,
    args: &AttachArgs,
    instance: &InstanceView,
    stdin: bool,
    terminal: bool,
    inbox: &mut mpsc::Receiver<Typed>,
) -> Result<End, Problem> {
    let (tty, _) = streams(instance, args)?;
    let size = (tty && std::io::stdout().is_terminal()).then(terminal::size);
    let (rows, cols) = (size.map(|size| size.rows.into()), size.map(|size| size.cols.into()));
    let container = args.container.as_ref().map(ToString::to_string);
    let asked = AttachToInstanceArgs { stdin, rows, cols, container };
    let (to_process, from_process) =
        context.client.attach_to_instance(&context.scope, instance.id.as_str(), &asked).await?;
    let (outgoing, messages) = mpsc::channel(16);
    let sending = async {
        while let Some(typed) = inbox.recv().await {
            match typed {
                Typed::Bytes(bytes) => drop(outgoing.send((channel::STDIN, bytes)).await),
                Typed::Detach => return,
            }
        }
        std::future::pending::<()>().await;
    };
    let sizes = async {
        if tty {
            resizes(outgoing.clone()).await;
        }
        std::future::pending::<()>().await;
    };
    let proxy = async {
        if args.sig_proxy && !terminal { pass_signals(context, args, instance).await } else { left(terminal).await }
    };
    tokio::select! {
        end = show(context, terminal, from_process) => Ok(end),
        () = forward(messages, to_process) => Ok(End::Lost),
        () = sending => Ok(End::Detached),
        () = sizes => Ok(End::Lost),
        () = proxy => Ok(End::Detached),
    }
}

/// Writes what comes, until the end of the process has come.
async fn show(
    context: &Context,
    terminal: bool,
    mut messages: impl Stream<Item = Result<ExecMessage, Problem>> + Unpin,
) -> End {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(Ok((kind, data))) = messages.next().await {
        let written = match kind {
            channel::STDOUT => write(&mut stdout, &data).await,
            channel::STDERR => write(&mut stderr, &data).await,
            channel::LOST => {
                let bytes = serde_json::from_slice::<ExecLost>(&data).map_or(0, |lost| lost.bytes);
                note(context, terminal, &format!("{bytes} bytes were left out: they came too fast; the log has them"));
                Ok(())
            }
            channel::EXIT => {
                return serde_json::from_slice::<ExecEnd>(&data).map_or(End::Lost, |end| End::Exit(end.code));
            }
            _ => Ok(()),
        };
        if written.is_err() {
            return End::Exit(BROKEN_PIPE);
        }
    }
    End::Lost
}

/// Sends what is typed. Its end is ours, not that of the process's input.
async fn input(to: mpsc::Sender<Typed>, mut keys: Option<DetachKeys>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        let bytes = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => &buffer[..n],
        };
        let typed = match &mut keys {
            Some(keys) => keys.take(bytes),
            None => vec![Typed::Bytes(Bytes::copy_from_slice(bytes))],
        };
        for one in typed {
            if to.send(one).await.is_err() {
                return;
            }
        }
    }
}

/// Whether the process has a terminal, and whether it has an input that can be written to.
fn streams(instance: &InstanceView, args: &AttachArgs) -> Result<(bool, bool), Problem> {
    let Some(name) = &args.container else { return Ok((instance.tty, instance.stdin_open)) };
    if let Some(it) = instance.sidecars.iter().find(|it| it.name == *name) {
        return Ok((it.tty, it.stdin_open));
    }
    if name.as_str() == instance.app {
        return Ok((instance.tty, instance.stdin_open));
    }
    Err(Problem::new(ErrorCode::NotFound, format!("{} has no container {name}", instance.name)))
}

/// Passes signals on; never returns.
async fn pass_signals(context: &Context, args: &AttachArgs, instance: &InstanceView) {
    use SignalKind as Kind;
    let kinds = [
        (Kind::interrupt(), "INT"),
        (Kind::terminate(), "TERM"),
        (Kind::hangup(), "HUP"),
        (Kind::quit(), "QUIT"),
        (Kind::user_defined1(), "USR1"),
        (Kind::user_defined2(), "USR2"),
    ];
    let passing = kinds.map(|(kind, name)| async move {
        let Ok(mut signals) = signal(kind) else { return };
        while signals.recv().await.is_some() {
            let kill = Kill { signal: name.to_owned(), container: args.container.clone() };
            let (scope, id) = (&context.scope, instance.id.as_str());
            if let Err(problem) = context.client.kill_instance(scope, id, &kill, &DryRunArgs::default()).await {
                context.output.problem(&problem);
            }
        }
    });
    futures::future::join_all(passing).await;
    std::future::pending().await
}

/// Waits for a signal that ends only us. In a terminal Ctrl-C is a key like any other.
async fn left(terminal: bool) {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let skipped = usize::from(terminal);
    let waits = kinds.into_iter().skip(skipped).filter_map(|kind| signal(kind).ok()).map(|mut signals| {
        Box::pin(async move {
            signals.recv().await;
        })
    });
    futures::future::select_all(waits).await;
}

/// Waits until the daemon answers and the instance's process runs.
async fn back(context: &Context, instance: &InstanceView) -> Result<(), Problem> {
    let end = Instant::now() + RETURN;
    loop {
        let now: Result<InstanceView, Problem> =
            context.client.get_instance(&context.scope, instance.id.as_str()).await;
        match now {
            Ok(now) if now.phase.has_process() => return Ok(()),
            Ok(now) => {
                let title = format!("{} is {} now", now.name, now.phase);
                return Err(Problem::new(ErrorCode::NotRunning, title).hint(format!("hivemind logs {}", now.name)));
            }
            Err(problem) if Instant::now() >= end || problem.code == ErrorCode::NotFound => return Err(problem),
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

/// Says something between the lines of the process. A raw terminal needs its own ends of lines.
fn note(context: &Context, terminal: bool, text: &str) {
    match terminal {
        true => eprint!("\r\n[{text}]\r\n"),
        false => context.output.say(text),
    }
}
