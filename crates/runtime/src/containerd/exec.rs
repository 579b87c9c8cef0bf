//! Further processes in a running container, with their standard streams.
//!
//! The streams are pipes in the container's folder, which containerd's shim opens too. One task per exec moves the
//! bytes, passes on sizes, waits for the end and cleans up; it is owned by the runtime. When the receiver of the exit
//! code is dropped, nobody waits any more and the process is killed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::Duration,
};

use bytes::Bytes;
use containerd_client::{
    services::v1::{
        CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, KillRequest, ResizePtyRequest, StartRequest,
        WaitRequest,
    },
    tonic::{Code, Status},
};
use nix::sys::{signal::Signal, stat::Mode};
use prost_types::Any;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    ContainerdRuntime,
    client::Client,
    containers::file_error,
    tasks::{TaskStatus, reason},
};
use crate::{ExecIo, ExecSession, ExecSpec, RuntimeError, TtySize, oci, rootfs};
use hivemind_core::model::ContainerId;

const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// What the shell answers when a command cannot be run, and when there is none.
const CANNOT_RUN: u32 = 126;
const NOT_FOUND: u32 = 127;

/// Chunks of output under way.
const QUEUE: usize = 16;

/// Bytes read at once.
const READ_BYTES: usize = 32 << 10;

/// After the process has ended, output that is silent for so long is over: a child in the background may hold the
/// streams open for ever.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// How soon containerd is asked again for the end of a process.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How long the shim may take to open a pipe after it has said that the process runs, and how often it is looked.
const SHIM_OPENS: Duration = Duration::from_secs(5);
const SHIM_LOOK: Duration = Duration::from_millis(5);

impl ContainerdRuntime {
    pub(super) async fn start_exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        let process = self.process_of(id, &spec).await?;
        let exec = self.new_exec(id);
        let pipes = Pipes::make(self.files(id).join(&exec.exec_id), &spec)?;
        let (stdout, stderr) = (pipes.reader("stdout")?, pipes.reader("stderr")?);
        match exec.start(&spec, process.to_string(), Some(&pipes)).await {
            Ok(_) => {
                let (session, ends) = session();
                self.follow(run(exec, pipes, ends, spec.stdin, [stdout, stderr]));
                Ok(session)
            }
            Err(status) => {
                exec.delete().await;
                refused(&status).ok_or_else(|| self.exec_error(id, &status))
            }
        }
    }

    /// One that nobody waits for. What is left of it when it has ended is taken away; if there is no daemon then, it goes with
    /// the container.
    pub(super) async fn start_detached(&self, id: &ContainerId, spec: ExecSpec) -> Result<u32, RuntimeError> {
        let process = self.process_of(id, &spec).await?;
        let exec = self.new_exec(id);
        match exec.start(&spec, process.to_string(), None).await {
            Ok(pid) => {
                self.follow(async move {
                    exec.wait().await;
                    exec.delete().await;
                });
                Ok(pid)
            }
            Err(status) => {
                exec.delete().await;
                let why = reason(status.message()).to_owned();
                let cannot = refused(&status).is_some();
                Err(if cannot {
                    RuntimeError::Command { id: id.to_string(), why }
                } else {
                    self.exec_error(id, &status)
                })
            }
        }
    }

    /// Has a task of ours run on.
    pub(super) fn follow(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        while execs.try_join_next().is_some() {}
        execs.spawn(task);
    }

    fn new_exec(&self, id: &ContainerId) -> Exec {
        let exec_id = format!("exec-{:016x}", rand::random::<u64>());
        Exec { client: self.client.clone(), container: id.to_string(), exec_id }
    }

    fn exec_error(&self, id: &ContainerId, status: &Status) -> RuntimeError {
        match status.code() {
            Code::NotFound | Code::FailedPrecondition => RuntimeError::NotRunning { id: id.to_string() },
            _ => self.client.error("run a command in", id.as_str(), status),
        }
    }

    /// The pid of the container's own process, which runs.
    pub(super) async fn running(&self, id: &ContainerId) -> Result<u32, RuntimeError> {
        match self.task(id.as_str()).await?.map(|task| task.status) {
            Some(TaskStatus::Running { pid }) => Ok(pid),
            Some(TaskStatus::Paused { .. }) => Err(RuntimeError::Paused { id: id.to_string() }),
            None | Some(TaskStatus::Created | TaskStatus::Ended { .. }) => {
                Err(RuntimeError::NotRunning { id: id.to_string() })
            }
        }
    }

    /// OCI's specification of a further process.
    async fn process_of(&self, id: &ContainerId, spec: &ExecSpec) -> Result<serde_json::Value, RuntimeError> {
        let not_running = || RuntimeError::NotRunning { id: id.to_string() };
        let refuse = |why: String| RuntimeError::Command { id: id.to_string(), why };
        let broken = |why: String| RuntimeError::Start { id: id.to_string(), why };
        let pid = self.running(id).await?;
        let container = self.container(id.as_str()).await?.and_then(|c| c.spec).ok_or_else(not_running)?;
        let container = serde_json::from_slice(&container.value).map_err(|e| broken(e.to_string()))?;
        if spec.command.is_empty() {
            return Err(refuse("no command was given".to_owned()));
        }
        let user = match spec.user.as_deref() {
            None => None,
            Some(wanted) => {
                let users = rootfs::user_db_of_process(pid).await;
                let users = users.map_err(file_error("read the users of", format!("/proc/{pid}/root").into()))?;
                Some(users.resolve(Some(wanted)).map_err(refuse)?)
            }
        };
        Ok(oci::exec_process(&container, spec, user.as_ref()))
    }
}

/// A process of a container; its own has no name.
pub(super) struct Exec {
    pub(super) client: Client,
    pub(super) container: String,
    pub(super) exec_id: String,
}

impl Exec {
    /// Starts it, with pipes or with nothing to read and to write; its pid.
    async fn start(&self, spec: &ExecSpec, process: String, pipes: Option<&Pipes>) -> Result<u32, Status> {
        let c = &self.client;
        let path = |name: &str, wanted: bool| {
            let path = pipes.filter(|_| wanted).map(|pipes| pipes.dir.join(name).display().to_string());
            path.unwrap_or_default()
        };
        let request = ExecProcessRequest {
            container_id: self.container.clone(),
            exec_id: self.exec_id.clone(),
            stdin: path("stdin", spec.stdin),
            stdout: path("stdout", true),
            stderr: path("stderr", spec.tty.is_none()),
            terminal: spec.tty.is_some(),
            spec: Some(Any { type_url: PROCESS_TYPE.to_owned(), value: process.into_bytes() }),
        };
        c.call(c.tasks().exec(c.request(request))).await?;
        let request = StartRequest { container_id: self.container.clone(), exec_id: self.exec_id.clone() };
        let started = c.call(c.tasks().start(c.request(request))).await?;
        if let Some(size) = spec.tty {
            self.resize(size).await;
        }
        Ok(started.pid)
    }

    /// Too late is no harm: the process has ended.
    pub(super) async fn resize(&self, size: TtySize) {
        let c = &self.client;
        let request = ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.exec_id.clone(),
            width: size.cols.into(),
            height: size.rows.into(),
        };
        let _ = c.call(c.tasks().resize_pty(c.request(request))).await;
    }

    async fn close_stdin(&self) {
        let c = &self.client;
        let request =
            CloseIoRequest { container_id: self.container.clone(), exec_id: self.exec_id.clone(), stdin: true };
        let _ = c.call(c.tasks().close_io(c.request(request))).await;
    }

    async fn kill(&self) {
        let c = &self.client;
        let (container_id, exec_id) = (self.container.clone(), self.exec_id.clone());
        let request = KillRequest { container_id, exec_id, signal: Signal::SIGKILL as u32, all: false };
        let _ = c.call(c.tasks().kill(c.request(request))).await;
    }

    /// The exit code, also if containerd is started again meanwhile; 255 if the container is removed before it can tell.
    pub(super) async fn wait(&self) -> u32 {
        let c = &self.client;
        loop {
            let (container_id, exec_id) = (self.container.clone(), self.exec_id.clone());
            match c.tasks().wait(c.request(WaitRequest { container_id, exec_id })).await {
                Ok(ended) => return ended.into_inner().exit_status,
                Err(status) if status.code() == Code::NotFound => return 255,
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    async fn delete(&self) {
        let c = &self.client;
        let request = DeleteProcessRequest { container_id: self.container.clone(), exec_id: self.exec_id.clone() };
        let _ = c.call(c.tasks().delete_process(c.request(request))).await;
    }
}

/// Our ends of a session's channels.
pub(super) struct Ends {
    pub(super) stdin: mpsc::Receiver<Bytes>,
    pub(super) output: mpsc::Sender<ExecIo>,
    pub(super) resize: mpsc::Receiver<TtySize>,
    pub(super) exit: oneshot::Sender<u32>,
}

pub(super) fn session() -> (ExecSession, Ends) {
    let (stdin_tx, stdin) = mpsc::channel(QUEUE);
    let (output, output_rx) = mpsc::channel(QUEUE);
    let (resize_tx, resize) = mpsc::channel(1);
    let (exit, exit_rx) = oneshot::channel();
    let session = ExecSession { stdin: stdin_tx, output: output_rx, resize: resize_tx, exit: exit_rx };
    (session, Ends { stdin, output, resize, exit })
}

/// A session that is over already, if the message says that the command cannot be run.
fn refused(status: &Status) -> Option<ExecSession> {
    let why = reason(status.message());
    let missing = ["executable file not found", "no such file or directory"];
    let code = if missing.iter().any(|m| why.contains(m)) {
        NOT_FOUND
    } else if ["permission denied", "is a directory", "exec format error"].iter().any(|m| why.contains(m)) {
        CANNOT_RUN
    } else {
        return None;
    };
    let (session, ends) = session();
    // Neither can fail: both receivers are in `session`, and the queue is empty.
    let _ = ends.output.try_send(ExecIo::Stderr(Bytes::from(format!("{why}\n"))));
    let _ = ends.exit.send(code);
    Some(session)
}

async fn run(exec: Exec, pipes: Pipes, ends: Ends, stdin: bool, outputs: [Option<pipe::Receiver>; 2]) {
    let Ends { stdin: input, output, mut resize, mut exit } = ends;
    let (ended, watch_end) = watch::channel(false);
    let [stdout, stderr] = outputs;
    let reading = async {
        let out = read(stdout, output.clone(), ExecIo::Stdout, watch_end.clone());
        let err = read(stderr, output, ExecIo::Stderr, watch_end);
        tokio::join!(out, err);
    };
    let resizing = async {
        while let Some(size) = resize.recv().await {
            exec.resize(size).await;
        }
    };
    let waiting = async {
        let mut wait = std::pin::pin!(exec.wait());
        let code = tokio::select! {
            code = &mut wait => code,
            () = exit.closed() => {
                exec.kill().await;
                wait.await
            }
        };
        // If nobody waits for it, it was killed.
        let _ = exit.send(code);
    };
    let fed = async {
        // Without wanted input the receiver is dropped: what is sent all the same is refused.
        if stdin {
            feed(&exec, input, &pipes).await;
        }
    };
    let living = async {
        tokio::select! {
            () = waiting => {}
            // Input and sizes end with the process, not the other way round.
            () = async { tokio::join!(fed, resizing, std::future::pending::<()>()); } => {}
        }
        exec.delete().await;
        let _ = ended.send(true);
    };
    tokio::join!(reading, living);
    drop(pipes);
}

/// Passes input on. With a terminal it never ends.
async fn feed(exec: &Exec, mut input: mpsc::Receiver<Bytes>, pipes: &Pipes) {
    let mut stdin = pipes.writer("stdin").await;
    while let Some(to) = &mut stdin
        && let Some(bytes) = input.recv().await
    {
        if to.write_all(&bytes).await.is_err() {
            break;
        }
    }
    // Nobody reads any more; what still comes is refused.
    drop(input);
    if !pipes.stderr {
        // Closing a terminal's input would hang it up (SIGHUP); its end of input is a character.
        std::future::pending::<()>().await;
    }
    drop(stdin);
    exec.close_stdin().await;
}

async fn read(
    pipe: Option<pipe::Receiver>,
    output: mpsc::Sender<ExecIo>,
    kind: fn(Bytes) -> ExecIo,
    mut ended: watch::Receiver<bool>,
) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = async {
            tokio::select! {
                read = pipe.read(&mut buffer) => read,
                _ = async { let _ = ended.wait_for(|ended| *ended).await; tokio::time::sleep(LINGER).await } => Ok(0),
            }
        };
        match read.await {
            Ok(n) if n > 0 => {
                // Without a receiver it is read all the same, or the process would stand still.
                let _ = output.send(kind(Bytes::copy_from_slice(&buffer[..n]))).await;
            }
            _ => return,
        }
    }
}

/// The pipes of an exec; removed when dropped.
struct Pipes {
    dir: PathBuf,
    stderr: bool,
}

impl Pipes {
    fn make(dir: PathBuf, spec: &ExecSpec) -> Result<Self, RuntimeError> {
        let pipes = Self { stderr: spec.tty.is_none(), dir };
        let names = [("stdin", spec.stdin), ("stdout", true), ("stderr", pipes.stderr)];
        let make = || {
            std::fs::create_dir_all(&pipes.dir)?;
            for (name, _) in names.iter().filter(|(_, wanted)| *wanted) {
                nix::unistd::mkfifo(&pipes.dir.join(name), Mode::S_IRUSR | Mode::S_IWUSR)?;
            }
            Ok::<_, io::Error>(())
        };
        make().map_err(file_error("make pipes in", pipes.dir.clone()))?;
        Ok(pipes)
    }

    /// Opens before the process is started, so that the shim finds a reader.
    fn reader(&self, name: &str) -> Result<Option<pipe::Receiver>, RuntimeError> {
        if name == "stderr" && !self.stderr {
            return Ok(None);
        }
        let path = self.dir.join(name);
        pipe::OpenOptions::new().open_receiver(&path).map(Some).map_err(file_error("open", path))
    }

    /// Opens after the process was started. The shim opens its end in the background, so it may not be there yet;
    /// `None` if it does not come, as for a process that has closed its input.
    async fn writer(&self, name: &str) -> Option<pipe::Sender> {
        writer(&self.dir.join(name)).await
    }
}

/// The end of a pipe to write to, when somebody reads it.
pub(super) async fn writer(path: &Path) -> Option<pipe::Sender> {
    let begun = Instant::now();
    loop {
        match pipe::OpenOptions::new().open_sender(path) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) && begun.elapsed() < SHIM_OPENS => {
                tokio::time::sleep(SHIM_LOOK).await;
            }
            opened => return opened.ok(),
        }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // What is left goes with the container's folder.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
