//! `hivemind exec`

use std::{io::IsTerminal, os::fd::AsFd, process::ExitCode};

use bytes::Bytes;
use clap::Args;
use futures::{SinkExt, StreamExt};
use nix::sys::termios::{self, SetArg, Termios};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
};

use super::{
    Context,
    instance::{escape, resolve},
};
use crate::{
    api::exec::{ExecEnd, ExecSize, channel},
    model::{ErrorCode, Phase, Problem},
};

/// Exit code for a fault of ours, as Docker gives it.
const OWN_FAULT: u8 = 125;

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
    /// User, or user:group
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory
    #[arg(short, long)]
    workdir: Option<String>,
    /// App (its first running instance), or instance by name or id
    target: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The terminal in raw mode; restored when dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}

pub(super) async fn run(context: &Context, args: ExecArgs) -> Result<ExitCode, Problem> {
    match exec(context, args).await {
        Ok(code) => Ok(ExitCode::from(code)),
        // Codes 1 to 124 are the command's.
        Err(problem) => {
            context.output.problem(&problem);
            Ok(ExitCode::from(OWN_FAULT))
        }
    }
}

async fn exec(context: &Context, args: ExecArgs) -> Result<u8, Problem> {
    let instances = resolve(context, &args.target).await?;
    let running = |phase| matches!(phase, Phase::Ready | Phase::Starting | Phase::Unhealthy);
    let Some(instance) = instances.iter().find(|instance| running(instance.phase)) else {
        let title = format!("no instance of {} is running", args.target);
        return Err(Problem::new(ErrorCode::NotRunning, title).hint("hivemind ps"));
    };
    if args.tty && !std::io::stdin().is_terminal() {
        return Err(Problem::new(ErrorCode::Invalid, "-t needs a terminal as standard input").hint("leave out -t"));
    }
    let json = |words: &[String]| escape(&serde_json::to_string(words).unwrap_or_default());
    let mut path = format!("instances/{}/exec?command={}&stdin={}", instance.id, json(&args.command), args.interactive);
    if !args.env.is_empty() {
        path += &format!("&env={}", json(&args.env));
    }
    for (name, value) in [("user", &args.user), ("workdir", &args.workdir)] {
        if let Some(value) = value {
            path += &format!("&{name}={}", escape(value));
        }
    }
    let size = args.tty.then(terminal_size);
    if let Some((rows, cols)) = size {
        path += &format!("&rows={rows}&cols={cols}");
    }
    let (mut send, mut receive) = context.client.exec(&context.path(&path)).await?;
    let raw = args.tty.then(RawTerminal::enter).flatten();
    let (to_daemon, mut outgoing) = tokio::sync::mpsc::channel(16);
    let mut tasks = tokio::task::JoinSet::new();
    if args.interactive {
        tasks.spawn(input(to_daemon.clone()));
    }
    if args.tty {
        tasks.spawn(resizes(to_daemon.clone()));
    }
    drop(to_daemon);
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut sending = true;
    let code = loop {
        tokio::select! {
            message = receive.next() => {
                let (kind, data) = match message {
                    Some(message) => message?,
                    None => return Err(Problem::new(ErrorCode::Unreachable, "the daemon ended the connection")),
                };
                let written = match kind {
                    channel::STDOUT => write(&mut stdout, &data).await,
                    channel::STDERR => write(&mut stderr, &data).await,
                    channel::EXIT => break serde_json::from_slice::<ExecEnd>(&data).ok().map(|end| end.code),
                    _ => Ok(()),
                };
                if written.is_err() {
                    // Nobody reads any more: end as a command would.
                    break Some(141);
                }
            }
            message = outgoing.recv(), if sending => match message {
                Some(message) => send.send(message).await?,
                None => sending = false,
            },
        }
    };
    tasks.abort_all();
    drop(raw);
    // Reading standard input blocks a thread of the runtime until a key is pressed: end without waiting for it.
    let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(OWN_FAULT);
    std::process::exit(code.into());
}

async fn write(to: &mut (impl tokio::io::AsyncWrite + Unpin), data: &[u8]) -> std::io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

async fn input(to: tokio::sync::mpsc::Sender<(u8, Bytes)>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 << 10];
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

async fn resizes(to: tokio::sync::mpsc::Sender<(u8, Bytes)>) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    while changed.recv().await.is_some() {
        let (rows, cols) = terminal_size();
        let size = serde_json::to_vec(&ExecSize { rows, cols }).unwrap_or_default();
        if to.send((channel::RESIZE, size.into())).await.is_err() {
            return;
        }
    }
}

/// Rows and columns of the terminal; 24 by 80 if it does not say.
fn terminal_size() -> (u16, u16) {
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a `winsize` to the valid, exclusive pointer, and nothing else (ioctl_tty(2)).
    let result = unsafe { nix::libc::ioctl(0, nix::libc::TIOCGWINSZ, &raw mut size) };
    if result == 0 && size.ws_row > 0 { (size.ws_row, size.ws_col) } else { (24, 80) }
}
