//! `hivemind exec`

use std::{io::IsTerminal, process::ExitCode};

use bytes::Bytes;
use clap::Args;
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    Context, complete,
    instance::{Meant, resolve},
    terminal::{self, RawTerminal},
};
use crate::{
    api::{
        exec::{DetachedExec, ExecEnd, ExecStarted, channel},
        view::InstanceView,
    },
    client::{ExecInInstanceArgs, ExecMessage},
    model::{ErrorCode, Phase, Problem, SidecarName},
};

/// Exit code for a fault of ours, as Docker gives it.
pub(super) const OWN_FAULT: u8 = 125;
/// Exit code when nobody reads our output any more: 128 + SIGPIPE.
pub(super) const BROKEN_PIPE: u32 = 141;
/// Input is sent in chunks of this size.
pub(super) const CHUNK: usize = 16 << 10;

#[derive(Args, Debug)]
pub(super) struct ExecArgs {
    /// Send standard input
    #[arg(short, long)]
    interactive: bool,
    /// With a terminal
    #[arg(short, long)]
    tty: bool,
    /// Environment variable; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Do not wait for it: it has no input, and its output goes nowhere
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// User, or user:group
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// In a sidecar of the instance, by its name [default: the app's own container]
    #[arg(short, long, value_name = "NAME")]
    container: Option<SidecarName>,
    /// App (its first running instance), or instance by name or id
    #[arg(value_name = "APP|INSTANCE", add = complete::targets())]
    target: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the command; its exit code is ours. Codes 1 to 124 are the command's, so faults of ours have one of their own.
pub(super) async fn run(context: &Context, args: ExecArgs) -> ExitCode {
    match exec(context, &args).await {
        Ok(code) => {
            // Reading standard input keeps a thread of the runtime until a key is pressed: end without it. What was
            // written is flushed, and the terminal is restored.
            std::process::exit(u8::try_from(code).unwrap_or(OWN_FAULT).into())
        }
        Err(problem) => {
            context.output.problem(&problem);
            // As above: standard input may still be read.
            std::process::exit(OWN_FAULT.into())
        }
    }
}

async fn exec(context: &Context, args: &ExecArgs) -> Result<u32, Problem> {
    if args.tty && !std::io::stdin().is_terminal() {
        return Err(Problem::new(ErrorCode::Invalid, "-t needs a terminal as standard input").hint("leave out -t"));
    }
    let instance = running(context, &args.target).await?;
    if args.detach {
        return detached(context, &instance, args).await;
    }
    let (command, asked) = (json(&args.command), asked(args));
    let (to_process, from_process) =
        context.client.exec_in_instance(&context.scope, instance.id.as_str(), &command, &asked).await?;
    let raw = args.tty.then(RawTerminal::enter).flatten();
    let (outgoing, inbox) = mpsc::channel(16);
    let sending = async {
        tokio::join!(
            async {
                if args.interactive {
                    input(outgoing.clone()).await;
                }
            },
            async {
                if args.tty {
                    resizes(outgoing.clone()).await;
                }
            },
        );
        // Nothing more is sent, but the answer is yet to come.
        std::future::pending::<()>().await;
    };
    // All at once: a process that does not read must not keep its output back.
    let result = tokio::select! {
        code = show(from_process) => code,
        () = forward(inbox, to_process) => Ok(OWN_FAULT.into()),
        () = sending => Ok(OWN_FAULT.into()),
        signal = ended() => Ok(128 + signal),
    };
    drop(raw);
    result
}

async fn detached(context: &Context, instance: &InstanceView, args: &ExecArgs) -> Result<u32, Problem> {
    let (command, env) = (args.command.clone(), args.env.clone());
    let body = DetachedExec {
        command,
        env,
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        container: args.container.clone(),
    };
    let started: ExecStarted = context.client.exec_detached(&context.scope, instance.id.as_str(), &body).await?;
    if context.output.wants_document() {
        context.output.document(&started)?;
    } else {
        context.output.say(&format!("it runs in {}, as process {} of the node", started.instance, started.pid));
    }
    Ok(0)
}

/// The instance that a word means, running.
pub(super) async fn running(context: &Context, word: &str) -> Result<InstanceView, Problem> {
    let runs = |instance: &InstanceView| instance.phase.has_process();
    let mut found = match resolve(context, word).await? {
        Meant::App(instances) => instances,
        Meant::Instance(instance) => vec![*instance],
    };
    // A Ready one before one that is only starting.
    found.sort_by_key(|instance| instance.phase != Phase::Ready);
    let phases: Vec<_> = found.iter().map(|instance| format!("{} is {}", instance.name, instance.phase)).collect();
    let paused = found.iter().any(|instance| instance.phase == Phase::Paused);
    found.into_iter().find(runs).ok_or_else(|| {
        let mut problem = Problem::new(ErrorCode::NotRunning, format!("no instance of {word} is running"));
        problem.details = phases;
        problem.hint(format!("hivemind {} {word}", if paused { "unpause" } else { "logs" }))
    })
}

/// Words as they travel in a query.
fn json(words: &[String]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}

fn asked(args: &ExecArgs) -> ExecInInstanceArgs {
    let size = args.tty.then(terminal::size);
    ExecInInstanceArgs {
        env: (!args.env.is_empty()).then(|| json(&args.env)),
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        rows: size.map(|size| size.rows.into()),
        cols: size.map(|size| size.cols.into()),
        stdin: args.interactive,
        container: args.container.as_ref().map(ToString::to_string),
    }
}

/// Writes what comes, until the exit code has come.
async fn show(mut messages: impl Stream<Item = Result<ExecMessage, Problem>> + Unpin) -> Result<u32, Problem> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(message) = messages.next().await {
        let (kind, data) = message?;
        let written = match kind {
            channel::STDOUT => write(&mut stdout, &data).await,
            channel::STDERR => write(&mut stderr, &data).await,
            channel::EXIT => {
                let end: Result<ExecEnd, _> = serde_json::from_slice(&data);
                return end.map(|end| end.code).map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()));
            }
            _ => Ok(()),
        };
        if written.is_err() {
            return Ok(BROKEN_PIPE);
        }
    }
    Err(Problem::new(ErrorCode::Unreachable, "the daemon ended the connection; the command was ended with it"))
}

pub(super) async fn write(to: &mut (impl tokio::io::AsyncWrite + Unpin), data: &[u8]) -> std::io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

/// Sends what is put into the inbox; never returns. What cannot be sent is no fault by itself: the command may have
/// ended without reading it, and what is received tells.
pub(super) async fn forward(
    mut inbox: mpsc::Receiver<ExecMessage>,
    mut to: impl Sink<ExecMessage, Error = Problem> + Unpin,
) {
    while let Some(message) = inbox.recv().await {
        if to.send(message).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

async fn input(to: mpsc::Sender<ExecMessage>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if to.send((channel::STDIN, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = to.send((channel::STDIN_END, Bytes::new())).await;
}

pub(super) async fn resizes(to: mpsc::Sender<ExecMessage>) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    while changed.recv().await.is_some() {
        let size = serde_json::to_vec(&terminal::size()).unwrap_or_default();
        if to.send((channel::RESIZE, size.into())).await.is_err() {
            return;
        }
    }
}

/// Waits for a signal that would end us and leave the terminal as it is; its number.
async fn ended() -> u32 {
    let (Ok(mut term), Ok(mut hup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => 15,
        _ = hup.recv() => 1,
    }
}
