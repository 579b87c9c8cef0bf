//! Tasks: containerd's word for a container's first process.

use std::{collections::HashMap, fmt::Write as _, path::Path, time::Duration};

use containerd_client::{
    services::v1::{
        CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, ListTasksRequest, PauseTaskRequest,
        ResumeTaskRequest, StartRequest, WaitRequest,
    },
    tonic::{Code, Status},
    types::v1,
};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::{ContainerdRuntime, client::found, containers::file_error, shims, timestamp};
use crate::{RuntimeError, logs};
use hivemind_core::model::{ContainerId, Timestamp};

/// How long a killed process may take to vanish. It does so at once unless the kernel is stuck in its I/O.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long containerd may clean up after a creation that was broken off, and how often we look.
const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(15);
const LEFTOVER_PAUSE: Duration = Duration::from_millis(50);

/// Attempts at removing a task: between looking and deleting it may change.
const REMOVE_ATTEMPTS: u32 = 3;

/// How often a shim that does not answer is asked. containerd gives it 2 s each time (`io.containerd.timeout.task.state`).
const STATE_ATTEMPTS: u32 = 5;

/// A task as it is now.
#[derive(Debug)]
pub(super) struct Task {
    pub status: TaskStatus,
}

#[derive(Debug)]
pub(super) enum TaskStatus {
    Created,
    Running { pid: u32 },
    Paused { pid: u32 },
    Ended { code: u32, at: Timestamp },
}

impl Task {
    /// `None` if the shim did not answer containerd, because it is stopped or the machine has too much else to do: then
    /// nothing is known of the process.
    fn known(p: &v1::Process) -> Option<Self> {
        let status = match p.status() {
            v1::Status::Unknown => return None,
            v1::Status::Created => TaskStatus::Created,
            v1::Status::Stopped => TaskStatus::Ended { code: p.exit_status, at: timestamp(p.exited_at.as_ref()) },
            // One that is about to stand still tells so when it does.
            v1::Status::Running | v1::Status::Pausing => TaskStatus::Running { pid: p.pid },
            v1::Status::Paused => TaskStatus::Paused { pid: p.pid },
        };
        Some(Self { status })
    }
}

impl ContainerdRuntime {
    /// How a task is. A shim that does not answer is asked again: who took its process for none would start a second one.
    ///
    /// # Errors
    /// `Silent` if it does not answer in the end.
    pub(super) async fn task(&self, id: &str) -> Result<Option<Task>, RuntimeError> {
        for _ in 0..STATE_ATTEMPTS {
            let Some(process) = self.process(id).await? else { return Ok(None) };
            if let Some(task) = Task::known(&process) {
                return Ok(Some(task));
            }
            tracing::warn!(container = id, "its shim does not answer containerd");
        }
        Err(RuntimeError::Silent { id: id.to_owned() })
    }

    async fn process(&self, id: &str) -> Result<Option<v1::Process>, RuntimeError> {
        let c = &self.client;
        let request = c.request(GetRequest { container_id: id.to_owned(), exec_id: String::new() });
        let answer = found(c.call(c.tasks().get(request)).await);
        Ok(answer.map_err(|s| c.error("look up", id, &s))?.and_then(|a| a.process))
    }

    /// All tasks of which anything is known, by container.
    pub(super) async fn tasks(&self) -> Result<HashMap<String, Task>, RuntimeError> {
        let c = &self.client;
        let answer = c.call(c.tasks().list(c.request(ListTasksRequest::default()))).await;
        let tasks = answer.map_err(|s| c.error("list", "tasks", &s))?.tasks;
        Ok(tasks.into_iter().filter_map(|p| Some((p.id.clone(), Task::known(&p)?))).collect())
    }

    pub(super) async fn start_task(&self, id: &ContainerId) -> Result<u32, RuntimeError> {
        let name = id.as_str();
        let refuse = |why: &str| RuntimeError::Start { id: name.to_owned(), why: why.to_owned() };
        match self.task(name).await?.map(|t| t.status) {
            Some(TaskStatus::Running { pid } | TaskStatus::Paused { pid }) => return Ok(pid),
            Some(TaskStatus::Ended { .. }) => return Err(refuse("it has ended, and must be created again")),
            // A predecessor of ours was killed before it could start it.
            Some(TaskStatus::Created) => {}
            None => self.create_task(id).await?,
        }
        self.remove_marks(id).await?;
        let c = &self.client;
        let request = c.request(StartRequest { container_id: name.to_owned(), exec_id: String::new() });
        match c.call(c.tasks().start(request)).await {
            Ok(started) => Ok(started.pid),
            Err(status) => {
                self.remove_task(name).await?;
                Err(self.start_error(name, &status))
            }
        }
    }

    async fn create_task(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let name = id.as_str();
        let dir = self.log_files(id);
        tokio::fs::create_dir_all(&dir).await.map_err(file_error("make", dir.clone()))?;
        let io = binary_uri(&self.config.log_writer, &dir);
        let terminal = self.has_terminal(name).await?;
        let input = dir.join(logs::INPUT);
        // Without a terminal it is mounted, since there the shim has the input from nowhere.
        let stdin = if terminal && input.exists() { input.display().to_string() } else { String::new() };
        let c = &self.client;
        let deadline = Instant::now() + LEFTOVER_TIMEOUT;
        loop {
            let request = CreateTaskRequest {
                container_id: name.to_owned(),
                rootfs: self.snapshots.mounts(name).await?,
                stdin: stdin.clone(),
                stdout: io.clone(),
                // A terminal has one output.
                stderr: if terminal { String::new() } else { io.clone() },
                terminal,
                ..Default::default()
            };
            match c.call(c.tasks().create(c.request(request))).await {
                Ok(_) => return Ok(()),
                Err(s) if is_leftover(&s) && Instant::now() < deadline => {
                    self.remove_task(name).await?;
                    shims::clear_leftovers(&self.config.namespace, name).await;
                    tokio::time::sleep(LEFTOVER_PAUSE).await;
                }
                Err(s) => return Err(self.start_error(name, &s)),
            }
        }
    }

    /// Whether the container's process has a terminal.
    async fn has_terminal(&self, id: &str) -> Result<bool, RuntimeError> {
        let spec = self.container(id).await?.and_then(|container| container.spec);
        let spec = spec.and_then(|spec| serde_json::from_slice::<serde_json::Value>(&spec.value).ok());
        Ok(spec.is_some_and(|spec| spec["process"]["terminal"] == true))
    }

    /// What the runtime says when it cannot start a process, without the words of the layers between.
    fn start_error(&self, id: &str, status: &Status) -> RuntimeError {
        match self.client.error("start", id, status) {
            RuntimeError::Containerd { id, why, .. } => RuntimeError::Start { id, why: reason(&why).to_owned() },
            other => other,
        }
    }

    /// Has the processes stand still, by the cgroup's freezer.
    pub(super) async fn pause_task(&self, id: &str) -> Result<(), RuntimeError> {
        let not_running = || RuntimeError::NotRunning { id: id.to_owned() };
        match self.task(id).await?.map(|task| task.status) {
            Some(TaskStatus::Paused { .. }) => return Ok(()),
            Some(TaskStatus::Running { .. }) => {}
            None | Some(TaskStatus::Created | TaskStatus::Ended { .. }) => return Err(not_running()),
        }
        let c = &self.client;
        let request = c.request(PauseTaskRequest { container_id: id.to_owned() });
        match found(c.call(c.tasks().pause(request)).await) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(not_running()),
            Err(s) => Err(c.error("pause", id, &s)),
        }
    }

    /// Has the processes go on; ok if they do, or there are none.
    pub(super) async fn resume_task(&self, id: &str) -> Result<(), RuntimeError> {
        if !self.is_paused(id).await? {
            return Ok(());
        }
        let c = &self.client;
        let request = c.request(ResumeTaskRequest { container_id: id.to_owned() });
        match found(c.call(c.tasks().resume(request)).await) {
            Ok(_) => Ok(()),
            // It may have been killed meanwhile.
            Err(s) if self.is_paused(id).await? => Err(c.error("resume", id, &s)),
            Err(_) => Ok(()),
        }
    }

    async fn is_paused(&self, id: &str) -> Result<bool, RuntimeError> {
        Ok(matches!(self.task(id).await?.map(|task| task.status), Some(TaskStatus::Paused { .. })))
    }

    /// Sends a signal; ok if there is no process any more.
    pub(super) async fn kill_task(&self, id: &str, signal: i32, all: bool) -> Result<(), RuntimeError> {
        self.signal_task(id, signal, all).await?;
        // What stands still does not die everywhere: a freezer of cgroup v1 keeps the signal back.
        if signal == Signal::SIGKILL as i32 { self.resume_task(id).await } else { Ok(()) }
    }

    async fn signal_task(&self, id: &str, signal: i32, all: bool) -> Result<(), RuntimeError> {
        let c = &self.client;
        let signal = signal.unsigned_abs();
        let request = KillRequest { container_id: id.to_owned(), exec_id: String::new(), signal, all };
        match found(c.call(c.tasks().kill(c.request(request))).await) {
            Ok(_) => Ok(()),
            Err(s) if ["already finished", "not running"].iter().any(|w| s.message().contains(w)) => Ok(()),
            Err(s) => Err(c.error("send a signal to", id, &s)),
        }
    }

    /// Kills the process and deletes the task, which also ends its log writer; ok if there is none.
    pub(super) async fn remove_task(&self, id: &str) -> Result<(), RuntimeError> {
        let c = &self.client;
        let failed = |s: &Status| c.error("remove the process of", id, s);
        for attempt in 1.. {
            match self.process(id).await?.map(|process| Task::known(&process)) {
                None => return Ok(()),
                Some(Some(Task { status: TaskStatus::Ended { .. } })) => {}
                // Also one of which nothing is known.
                Some(_) => {
                    // The first process of a pid namespace takes all others with it.
                    self.kill_task(id, Signal::SIGKILL as i32, false).await?;
                    let request = c.request(WaitRequest { container_id: id.to_owned(), exec_id: String::new() });
                    if let Ok(waited) = tokio::time::timeout(KILL_TIMEOUT, c.tasks().wait(request)).await {
                        found(waited).map_err(|s| failed(&s))?;
                    }
                }
            }
            let request = c.request(DeleteTaskRequest { container_id: id.to_owned() });
            match found(c.call(c.tasks().delete(request)).await) {
                Ok(_) => return Ok(()),
                Err(s) if attempt >= REMOVE_ATTEMPTS || s.code() != Code::FailedPrecondition => return Err(failed(&s)),
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Whether a creation failed because of an earlier one that was broken off: containerd is still cleaning up after it,
/// and finds its folder where there should be none, or loses the new one.
fn is_leftover(status: &Status) -> bool {
    let why = status.message();
    let folder = ["file exists", "no such file or directory"].iter().any(|w| why.contains(w));
    // runc's own record of the container: "container with given ID already exists".
    let known = why.contains("container with") && why.contains("already exists");
    status.code() == Code::AlreadyExists || known || (why.contains("failed to start shim") && folder)
}

/// The part of runc's message that says what is wrong.
pub(super) fn reason(message: &str) -> &str {
    let message = message.strip_suffix(": unknown").unwrap_or(message);
    let layers = ["unable to start container process: ", "runc create failed: ", "OCI runtime create failed: "];
    layers.iter().find_map(|l| message.split_once(l)).map_or(message, |(_, rest)| rest)
}

/// containerd starts the path's program with the query's keys and values as arguments.
fn binary_uri(program: &Path, dir: &Path) -> String {
    let encode = |path: &Path| {
        let mut text = String::new();
        for b in path.as_os_str().as_encoded_bytes() {
            match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => text.push(char::from(*b)),
                other => write!(text, "%{other:02X}").unwrap_or_default(),
            }
        }
        text
    };
    format!("binary://{}?log-writer={}", encode(program), encode(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_is_encoded() {
        let uri = binary_uri(Path::new("/usr/bin/hive mind"), Path::new("/l/a&b?c"));
        assert_eq!(uri, "binary:///usr/bin/hive%20mind?log-writer=/l/a%26b%3Fc");
    }

    #[test]
    fn reason_is_what_people_need() {
        let long = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
                    container process: exec: \"nope\": executable file not found in $PATH: unknown";
        assert_eq!(reason(long), "exec: \"nope\": executable file not found in $PATH");
        assert_eq!(reason("other"), "other");
    }
}
