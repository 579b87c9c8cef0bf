//! What goes to the runtime and comes from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use tokio::sync::{mpsc, oneshot};

use super::LogPosition;
use hivemind_core::{
    model::{ContainerId, PortProto, Timestamp},
    spec::v1::{Check, ContainerSpec as Options, LogSpec, Resources},
};

/// An image on the node: everything that `create` needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The full reference, e.g. `docker.io/library/nginx:latest`.
    pub reference: String,
    /// The digest of the manifest (or index) that the reference named.
    pub digest: String,
    /// The chain id of its unpacked snapshot.
    pub chain_id: String,
    /// ENTRYPOINT.
    pub entrypoint: Vec<String>,
    /// CMD.
    pub cmd: Vec<String>,
    /// ENV, as `NAME=value`.
    pub env: Vec<String>,
    /// USER.
    pub user: Option<String>,
    /// WORKDIR.
    pub workdir: Option<String>,
    /// STOPSIGNAL.
    pub stop_signal: Option<String>,
    /// EXPOSE.
    pub exposed: Vec<PortProto>,
    /// VOLUME: paths whose content is to outlive a container.
    pub volumes: Vec<String>,
    /// HEALTHCHECK.
    pub health: Option<ImageHealth>,
}

/// An image's HEALTHCHECK, as Docker writes it into the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageHealth {
    /// The check.
    pub check: Check,
    /// Milliseconds between checks; `None` is the default.
    pub interval_ms: Option<u32>,
    /// Milliseconds a check may take.
    pub timeout_ms: Option<u32>,
    /// Milliseconds after the start during which failures do not count.
    pub start_period_ms: Option<u32>,
    /// Failures in a row.
    pub retries: Option<u32>,
}

/// How far a fetch is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes of layers fetched.
    pub done: u64,
    /// Bytes of layers in all; 0 until known.
    pub total: u64,
    /// What is being done: `resolving`, `fetching`, `unpacking`, `done`.
    pub step: &'static str,
}

/// A container to make.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    /// Its id.
    pub id: ContainerId,
    /// Its image.
    pub image: Image,
    /// The host name in it.
    pub hostname: String,
    /// Replaces the image's entrypoint (and then its CMD too, as Docker does).
    pub command: Option<Vec<String>>,
    /// Replaces the image's CMD.
    pub args: Option<Vec<String>>,
    /// Added to the image's environment; wins over it.
    pub env: BTreeMap<String, String>,
    /// Replaces the image's user.
    pub user: Option<String>,
    /// Replaces the image's working directory.
    pub workdir: Option<String>,
    /// Limits.
    pub resources: Resources,
    /// The network namespace to join, a path.
    pub netns: PathBuf,
    /// Content of the container's `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// What is mounted into it besides the kernel's own; lower ones first.
    pub mounts: Vec<Mount>,
    /// The addresses for `/etc/hosts`.
    pub addresses: Vec<IpAddr>,
    /// More lines of it.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// How much of its log is kept.
    pub logging: LogSpec,
    /// What else was said of it; its host name is [`ContainerSpec::hostname`] in any case.
    pub options: Options,
    /// Labels kept with the container, to find whose it is after a restart.
    pub labels: BTreeMap<String, String>,
}

/// A file or a folder of the node in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its path on the node.
    pub source: PathBuf,
    /// Its path in the container.
    pub target: String,
    /// Whether the container may only read it, and all that is mounted beneath it.
    pub read_only: bool,
}

/// Whether a container's process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Made, never started.
    Created,
    /// Running with this pid.
    Running {
        /// The process id in the host's pid namespace.
        pid: u32,
    },
    /// It runs, but all processes of the container stand still.
    Paused {
        /// The process id in the host's pid namespace.
        pid: u32,
    },
    /// Ended.
    Exited {
        /// 128 + n for signal n.
        code: u32,
        /// Whether its memory limit ended it.
        oom: bool,
        /// When.
        at: Timestamp,
    },
}

impl RunState {
    /// The number of the process in the host's pid namespace, if there is one.
    pub const fn pid(&self) -> Option<u32> {
        match self {
            Self::Running { pid } | Self::Paused { pid } => Some(*pid),
            Self::Created | Self::Exited { .. } => None,
        }
    }
}

/// A container as the runtime sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Its id, as text: containers that others made in our namespace may have any.
    pub id: String,
    /// Its process.
    pub run: RunState,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What was noted of its process.
    pub marks: BTreeSet<Mark>,
}

/// What is noted of a container's process for who looks at it later, another daemon as well. It is forgotten when another
/// process starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// What is to be run after its begin was run.
    Begun,
    /// Its startup probe has passed.
    Started,
}

impl Mark {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Begun, Self::Started];

    /// The name of the file that says so.
    pub(super) const fn file(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Started => "started",
        }
    }
}

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Its first process ended.
    Exited {
        /// The container.
        id: String,
        /// 128 + n for signal n.
        code: u32,
        /// When.
        at: Timestamp,
    },
    /// The kernel killed a process of it for its memory limit.
    Oom {
        /// The container.
        id: String,
    },
    /// Its first process started.
    Started {
        /// The container.
        id: String,
    },
    /// Its processes stand still from now on, or go on.
    Paused {
        /// The container.
        id: String,
    },
}

/// A further process to run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// The command and its arguments; not empty.
    pub command: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<String>,
    /// Replaces the container's user.
    pub user: Option<String>,
    /// Replaces the working directory.
    pub workdir: Option<String>,
    /// With a terminal of this size.
    pub tty: Option<TtySize>,
    /// Whether something will be written to its standard input.
    pub stdin: bool,
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtySize {
    /// Rows of characters.
    pub rows: u16,
    /// Characters in a row.
    pub cols: u16,
}

/// A chunk of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecIo {
    /// Standard output (and error, with a terminal).
    Stdout(bytes::Bytes),
    /// Standard error.
    Stderr(bytes::Bytes),
    /// So many bytes of both were left out, because they were not taken fast enough.
    Lost(u64),
}

/// A running exec: dropping it kills the process. Or somebody who looks on: dropping it changes nothing.
#[derive(Debug)]
pub struct ExecSession {
    /// Its input; dropping the sender closes it, but not that of a terminal.
    pub stdin: mpsc::Sender<bytes::Bytes>,
    /// Its output; ends when both streams have ended.
    pub output: mpsc::Receiver<ExecIo>,
    /// Changes of the terminal's size.
    pub resize: mpsc::Sender<TtySize>,
    /// Its exit code: 126 if the command cannot be run, 127 if it does not exist, 128 + n for signal n.
    pub exit: oneshot::Receiver<u32>,
}

/// What one who looks on wants of a container's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachSpec {
    /// Whether something will be written to its input. It is refused if nobody reads it.
    pub stdin: bool,
    /// The size of the terminal, if it has one.
    pub size: Option<TtySize>,
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read from the container.
    pub at: Timestamp,
    /// Standard output or error.
    pub stream: LogStream,
    /// The line without its end, as bytes: containers write what they like.
    pub line: bytes::Bytes,
    /// Where the log goes on behind it.
    pub position: LogPosition,
}

/// Which lines of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only the last so many; `None` is all.
    pub tail: Option<usize>,
    /// Also those to come.
    pub follow: bool,
    /// Only those at or after this moment.
    pub since: Option<Timestamp>,
    /// Only those behind this line.
    pub after: Option<LogPosition>,
}
