//! `hivemind cp`

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use clap::Args;
use futures::StreamExt;
use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::geteuid,
};

use super::{Context, complete, output, verbs::running};
use crate::{
    api::files::CopiedView,
    client::{GetFilesArgs, PutFilesArgs},
    model::{ErrorCode, InstanceId, Problem, SidecarName},
    runtime::tree::{self, Reading, TreeError},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  hivemind cp web:/etc/nginx .                  a folder of an instance of web, into this one
  hivemind cp site.html web-x7k2p:/srv/         a file, into a folder of the instance
  hivemind cp ./public/. web-x7k2p:/srv/www     what is in a folder, without the folder itself
  hivemind cp web:/var/log - | tar tv           as a tar stream
  tar c data | hivemind cp - web-x7k2p:/srv     and back
Modes and times are kept; owners too in the instance, and here for root. A link that is named is followed, links in folders
are copied as links. What a tar archive cannot carry (sockets, pipes, devices) is left out and named.";

#[derive(Args, Debug)]
pub(super) struct CopyArgs {
    /// From or to a sidecar of the instance, by its name [default: the app's own container]
    #[arg(short, long, value_name = "NAME")]
    container: Option<SidecarName>,
    /// What to copy: INSTANCE:PATH, a path, or - for a tar stream
    #[arg(value_name = "FROM", add = complete::targets())]
    from: String,
    /// Where to: a path, INSTANCE:PATH, or - for a tar stream
    #[arg(value_name = "TO", add = complete::targets())]
    to: String,
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Standard input or output.
    Stream,
    /// A path of this machine.
    Here(PathBuf),
    /// A path of an instance.
    There { target: String, path: String },
}

impl End {
    /// A colon makes it an instance's, unless it begins like a path.
    fn of(text: &str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            Some((target, path)) if !target.is_empty() && !target.contains('/') && !target.starts_with('.') => {
                Self::There { target: target.to_owned(), path: if path.is_empty() { "/" } else { path }.to_owned() }
            }
            _ => Self::Here(text.into()),
        }
    }
}

pub(super) async fn run(context: &Context, args: &CopyArgs) {
    if let Err(problem) = copy(context, args).await {
        context.output.problem(&problem);
        // Standard input may still be read, by a thread that would be waited for.
        std::process::exit(problem.code.exit_code().into());
    }
}

async fn copy(context: &Context, args: &CopyArgs) -> Result<(), Problem> {
    let copied = match (End::of(&args.from), End::of(&args.to)) {
        (End::There { target, path }, to @ (End::Here(_) | End::Stream)) => {
            fetch(context, args, &target, &path, to).await?
        }
        (from @ (End::Here(_) | End::Stream), End::There { target, path }) => {
            send(context, args, from, &target, &path).await?
        }
        (End::There { .. }, End::There { .. }) => {
            let title = "both are in instances; one must be here";
            return Err(Problem::new(ErrorCode::Invalid, title)
                .hint(format!("hivemind cp {} - | hivemind cp - {}", args.from, args.to)));
        }
        _ => {
            let title = "neither is in an instance; write one as INSTANCE:PATH";
            return Err(Problem::new(ErrorCode::Invalid, title).hint("hivemind cp --help"));
        }
    };
    let written_out = args.to == "-";
    if context.output.wants_document() && !written_out {
        context.output.document(&copied)?;
    } else {
        let number = copied.entries;
        context.output.say(&format!("{} → {}: {number} copied, {}", args.from, args.to, output::bytes(copied.bytes)));
    }
    for left in &copied.left_out {
        context.output.say(&format!("left out {left}"));
    }
    Ok(())
}

/// The instance whose files are meant. Of an app's it is the first one that runs.
async fn instance(context: &Context, target: &str) -> Result<InstanceId, Problem> {
    let mut instances = running(context, target).await?;
    Ok(instances.swap_remove(0).id)
}

async fn fetch(context: &Context, args: &CopyArgs, target: &str, path: &str, to: End) -> Result<CopiedView, Problem> {
    let place = match &to {
        End::Here(to) => Some(place(to)?),
        _ => None,
    };
    let instance = instance(context, target).await?;
    let asked = GetFilesArgs { container: args.container.as_ref().map(ToString::to_string) };
    let mut chunks = context.client.get_files(&context.scope, instance.as_str(), path, &asked).await?;
    let (sender, from) = Reading::new();
    let mut broken = None;
    let carried = async {
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|problem| {
                let error = io::Error::other(problem.title.clone());
                broken = Some(problem);
                error
            });
            if sender.send(chunk).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    let written = tokio::task::spawn_blocking(move || match place {
        Some((dir, name)) => tree::unpack(&dir, name.as_deref(), geteuid().is_root(), from),
        None => tree::survey(Tee { from, to: io::stdout().lock() }),
    });
    let (written, ()) = tokio::join!(written, carried);
    let written = written.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    match (written, broken) {
        (Ok(copied), _) => Ok(copied.into()),
        (Err(_), Some(problem)) => Err(problem),
        (Err(error), None) => Err(here(&error)),
    }
}

/// The folder here that something goes into, and the name that it gets, if not its own.
fn place(to: &Path) -> Result<(OwnedFd, Option<std::ffi::OsString>), Problem> {
    let failed = |path: &Path, error: io::Error| here(&TreeError { path: path.to_owned(), source: error });
    let (dir, name) = if to.is_dir() {
        (to.to_owned(), None)
    } else {
        let text = to.as_os_str().as_encoded_bytes();
        let Some(last) = to.file_name().filter(|_| !text.ends_with(b"/")) else {
            return Err(failed(to, io::ErrorKind::NotFound.into()));
        };
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (parent.to_owned(), Some(last.to_owned()))
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = open(&dir, flags, Mode::empty()).map_err(|error| failed(&dir, error.into()))?;
    Ok((opened, name))
}

async fn send(context: &Context, args: &CopyArgs, from: End, target: &str, path: &str) -> Result<CopiedView, Problem> {
    let stream = match &from {
        End::Here(path) => {
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            let failed = |error: nix::errno::Errno| here(&TreeError { path: path.clone(), source: error.into() });
            Some((open(path, flags, Mode::empty()).map_err(failed)?, tree::name_of(path)))
        }
        _ => None,
    };
    let instance = instance(context, target).await?;
    let streamed = stream.is_none();
    let (mut to, chunks) = tree::pipe();
    let written = tokio::task::spawn_blocking(move || {
        let done = match stream {
            Some((top, name)) => tree::pack(top, &name, &mut to),
            None => {
                let copied = io::copy(&mut io::stdin().lock(), &mut to).and_then(|_| to.flush());
                copied.map_err(|source| TreeError { path: "standard input".into(), source })
            }
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => {
                let shown = error.to_string();
                to.fail(io::Error::other(shown));
                Err(error)
            }
        }
    });
    let container = args.container.as_ref().map(ToString::to_string);
    let how = PutFilesArgs { folder: streamed, container };
    let answer = context.client.put_files(&context.scope, instance.as_str(), path, chunks, &how).await;
    // Standard input may go on for long: it is not waited for when the daemon has refused it.
    if answer.is_err() && streamed {
        return answer;
    }
    // The daemon's word goes first: that it takes no more is only a broken pipe here.
    match (answer, written.await) {
        (Ok(copied), _) => Ok(copied),
        (Err(_), Ok(Err(error))) if error.source.kind() != io::ErrorKind::BrokenPipe => Err(here(&error)),
        (Err(problem), _) => Err(problem),
    }
}

/// A fault of this machine's files.
fn here(TreeError { path, source }: &TreeError) -> Problem {
    let at = path.display();
    match source.kind() {
        io::ErrorKind::NotFound => Problem::new(ErrorCode::NotFound, format!("{at} does not exist here")),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Problem::new(ErrorCode::DiskFull, format!("no space left on {at}"))
        }
        _ => Problem::new(ErrorCode::FileRefused, format!("{at} cannot be copied: {source}")),
    }
}

/// What is read is written on.
struct Tee<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.to.write_all(&buffer[..read])?;
        if read == 0 {
            self.to.flush()?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_means_an_instance_unless_it_is_a_path() {
        let there = |target: &str, path: &str| End::There { target: target.into(), path: path.into() };
        for (text, end) in [
            ("web:/etc", there("web", "/etc")),
            ("web-x7k2p:etc", there("web-x7k2p", "etc")),
            ("web:", there("web", "/")),
            ("-", End::Stream),
            ("./web:1", End::Here("./web:1".into())),
            ("/a:b", End::Here("/a:b".into())),
            ("a/b:c", End::Here("a/b:c".into())),
            ("file", End::Here("file".into())),
            (":x", End::Here(":x".into())),
        ] {
            assert_eq!(End::of(text), end, "{text}");
        }
    }
}
