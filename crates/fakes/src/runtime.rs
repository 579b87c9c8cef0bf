//! A runtime without containers, for tests of what drives it; and one that fails.

mod faulty;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_stream::wrappers::BroadcastStream;

use hivemind_core::{
    model::{ContainerId, Timestamp},
    spec::v1::{PullPolicy, Resources},
};
use hivemind_runtime::{
    AttachSpec, ContainerSpec, ContainerState, ExecIo, ExecSession, ExecSpec, Image, LogLine, LogQuery, Mark,
    PullProgress, RunState, Runtime, RuntimeError, RuntimeEvent,
};

pub use faulty::{Fault, FaultyRuntime};

/// A change that was asked of the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `ensure_image`
    EnsureImage(String),
    /// `create`
    Create(ContainerId),
    /// `copy_out`, with the path.
    CopyOut(String),
    /// `start`
    Start(ContainerId),
    /// `pause`
    Pause(ContainerId),
    /// `resume`
    Resume(ContainerId),
    /// `kill`, with the signal.
    Kill(ContainerId, i32),
    /// `remove`
    Remove(ContainerId),
    /// `remove_logs`
    RemoveLogs(ContainerId),
    /// `exec`, with the command.
    Exec(ContainerId, Vec<String>),
}

/// Keeps containers in memory. Clones share it. A process that gets SIGKILL, or SIGTERM unless
/// [`FakeRuntime::ignore_term`], ends with 128 + n; otherwise it runs until [`FakeRuntime::exit`].
#[derive(Clone, Debug)]
pub struct FakeRuntime(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    calls: Vec<Call>,
    images: BTreeMap<String, Image>,
    containers: BTreeMap<ContainerId, (ContainerSpec, RunState)>,
    logs: BTreeMap<ContainerId, Vec<LogLine>>,
    exec_codes: VecDeque<u32>,
    /// So many execs are not answered.
    silent: u32,
    marks: BTreeSet<(ContainerId, Mark)>,
    ignores_term: BTreeSet<ContainerId>,
    next_pid: u32,
    events: broadcast::Sender<RuntimeEvent>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            calls: Vec::new(),
            images: BTreeMap::new(),
            containers: BTreeMap::new(),
            logs: BTreeMap::new(),
            exec_codes: VecDeque::new(),
            silent: 0,
            marks: BTreeSet::new(),
            ignores_term: BTreeSet::new(),
            next_pid: 1000,
            events: broadcast::channel(1024).0,
        })))
    }
}

impl FakeRuntime {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An image of that name, as `ensure_image` makes them up; change it and give it to
    /// [`FakeRuntime::add_image`].
    pub fn image(reference: &str) -> Image {
        Image {
            reference: reference.to_owned(),
            digest: format!("sha256:{}", "d".repeat(64)),
            chain_id: format!("sha256:{}", "c".repeat(64)),
            entrypoint: Vec::new(),
            cmd: vec!["/bin/serve".to_owned()],
            env: Vec::new(),
            user: None,
            workdir: None,
            stop_signal: None,
            exposed: Vec::new(),
            volumes: Vec::new(),
            health: None,
        }
    }

    /// A container with nothing special.
    pub fn container(id: impl Into<ContainerId>) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            image: Self::image("x"),
            hostname: String::new(),
            command: None,
            args: None,
            env: BTreeMap::new(),
            user: None,
            workdir: None,
            resources: Resources::default(),
            netns: PathBuf::new(),
            resolv_conf: String::new(),
            mounts: Vec::new(),
            addresses: Vec::new(),
            extra_hosts: Vec::new(),
            logging: Default::default(),
            options: Default::default(),
            labels: BTreeMap::new(),
        }
    }

    /// What `ensure_image` answers for its reference.
    pub fn add_image(&self, image: Image) {
        self.inner().images.insert(image.reference.clone(), image);
    }

    /// Every change asked for so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.inner().calls.clone()
    }

    /// Forgets the calls so far.
    pub fn clear_calls(&self) {
        self.inner().calls.clear();
    }

    /// The specification a container was made from.
    pub fn spec(&self, id: impl Into<ContainerId>) -> Option<ContainerSpec> {
        self.inner().containers.get(&id.into()).map(|(spec, _)| spec.clone())
    }

    /// The containers there are.
    pub fn containers(&self) -> Vec<ContainerId> {
        self.inner().containers.keys().cloned().collect()
    }

    /// Ends a running process; nothing if it does not run.
    pub fn exit(&self, id: impl Into<ContainerId>, code: u32, oom: bool) {
        self.inner().end(&id.into(), code, oom);
    }

    /// Lets a process outlive SIGTERM.
    pub fn ignore_term(&self, id: impl Into<ContainerId>) {
        self.inner().ignores_term.insert(id.into());
    }

    /// The exit codes of the next execs; 0 when there are none.
    pub fn script_exec(&self, codes: impl IntoIterator<Item = u32>) {
        self.inner().exec_codes.extend(codes);
    }

    /// Does not answer the next execs, as a runtime that is started again.
    pub fn silence(&self, execs: u32) {
        self.inner().silent = execs;
    }

    /// Ends every stream of events, as a lost connection does.
    pub fn break_events(&self) {
        self.inner().events = broadcast::channel(1024).0;
    }

    /// Adds a line to a log.
    pub fn log(&self, id: impl Into<ContainerId>, line: LogLine) {
        self.inner().logs.entry(id.into()).or_default().push(line);
    }
}

impl Inner {
    fn end(&mut self, id: &ContainerId, code: u32, oom: bool) {
        let Some((_, run)) = self.containers.get_mut(id).filter(|(_, run)| run.pid().is_some()) else { return };
        let at = Timestamp::from_millis(0);
        *run = RunState::Exited { code, oom, at };
        if oom {
            self.tell(RuntimeEvent::Oom { id: id.to_string() });
        }
        self.tell(RuntimeEvent::Exited { id: id.to_string(), code, at });
    }

    fn set_paused(&mut self, id: &ContainerId, paused: bool) -> Result<(), RuntimeError> {
        self.calls.push(if paused { Call::Pause(id.clone()) } else { Call::Resume(id.clone()) });
        let run = self.containers.get_mut(id).map(|(_, run)| run);
        match run.as_ref().and_then(|run| run.pid()).zip(run) {
            Some((pid, run)) if paused => *run = RunState::Paused { pid },
            Some((pid, run)) => *run = RunState::Running { pid },
            None if paused => return Err(RuntimeError::NotRunning { id: id.to_string() }),
            None => {}
        }
        self.tell(RuntimeEvent::Paused { id: id.to_string() });
        Ok(())
    }

    /// Without a subscriber an event is nobody's.
    fn tell(&self, event: RuntimeEvent) {
        let _ = self.events.send(event);
    }

    fn state(&self, id: &ContainerId, (spec, run): &(ContainerSpec, RunState)) -> ContainerState {
        let marks = self.marks.iter().filter(|(of, _)| of == id).map(|(_, mark)| *mark).collect();
        ContainerState { id: id.to_string(), run: run.clone(), labels: spec.labels.clone(), marks }
    }
}

#[async_trait::async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        Ok("fake".to_owned())
    }

    async fn ensure_image(
        &self,
        reference: &str,
        pull: PullPolicy,
        progress: watch::Sender<PullProgress>,
    ) -> Result<Image, RuntimeError> {
        let mut inner = self.inner();
        inner.calls.push(Call::EnsureImage(reference.to_owned()));
        let known = inner.images.get(reference).cloned();
        progress.send_modify(|p| p.step = "done");
        match (known, pull) {
            (Some(image), _) => Ok(image),
            (None, PullPolicy::Never) => Err(RuntimeError::ImageAbsent { reference: reference.to_owned() }),
            (None, _) => Ok(Self::image(reference)),
        }
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let mut inner = self.inner();
        inner.calls.push(Call::Create(spec.id.clone()));
        inner.containers.insert(spec.id.clone(), (spec.clone(), RunState::Created));
        Ok(())
    }

    async fn copy_out(&self, _: &Image, path: &str, _: &Path) -> Result<(), RuntimeError> {
        self.inner().calls.push(Call::CopyOut(path.to_owned()));
        Ok(())
    }

    async fn start(&self, id: &ContainerId) -> Result<u32, RuntimeError> {
        let mut inner = self.inner();
        inner.calls.push(Call::Start(id.clone()));
        inner.next_pid += 1;
        let pid = inner.next_pid;
        let refuse = |why: &str| RuntimeError::Start { id: id.to_string(), why: why.to_owned() };
        match inner.containers.get_mut(id).map(|(_, run)| run) {
            None => Err(refuse("there is no such container")),
            Some(RunState::Exited { .. }) => Err(refuse("it has ended, and must be created again")),
            Some(RunState::Running { pid } | RunState::Paused { pid }) => Ok(*pid),
            Some(run @ RunState::Created) => {
                *run = RunState::Running { pid };
                inner.marks.retain(|(of, _)| of != id);
                inner.tell(RuntimeEvent::Started { id: id.to_string() });
                Ok(pid)
            }
        }
    }

    async fn set_mark(&self, id: &ContainerId, mark: Mark) -> Result<(), RuntimeError> {
        self.inner().marks.insert((id.clone(), mark));
        Ok(())
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.inner().set_paused(id, true)
    }

    async fn resume(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.inner().set_paused(id, false)
    }

    async fn kill(&self, id: &ContainerId, signal: i32, _all: bool) -> Result<(), RuntimeError> {
        let mut inner = self.inner();
        inner.calls.push(Call::Kill(id.clone(), signal));
        let runs = matches!(inner.containers.get(id), Some((_, RunState::Running { .. })));
        let deadly = signal == libc::SIGKILL || (signal == libc::SIGTERM && runs && !inner.ignores_term.contains(id));
        if deadly {
            inner.end(id, 128 + signal.unsigned_abs(), false);
        }
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut inner = self.inner();
        inner.calls.push(Call::Remove(id.clone()));
        inner.end(id, 128 + libc::SIGKILL.unsigned_abs(), false);
        inner.containers.remove(id);
        Ok(())
    }

    async fn remove_logs(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut inner = self.inner();
        inner.calls.push(Call::RemoveLogs(id.clone()));
        inner.logs.retain(|of, _| of != id && (id.sidecar().is_some() || of.instance() != id.instance()));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ContainerState>, RuntimeError> {
        let inner = self.inner();
        Ok(inner.containers.iter().map(|(id, c)| inner.state(id, c)).collect())
    }

    async fn state(&self, id: &ContainerId) -> Result<Option<ContainerState>, RuntimeError> {
        let inner = self.inner();
        Ok(inner.containers.get(id).map(|c| inner.state(id, c)))
    }

    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
        let events = BroadcastStream::new(self.inner().events.subscribe());
        // A subscriber that fell behind has to list again: its stream ends.
        Ok(events.scan((), |(), event| std::future::ready(event.ok())).boxed())
    }

    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        let mut inner = self.inner();
        inner.calls.push(Call::Exec(id.clone(), spec.command));
        if !matches!(inner.containers.get(id), Some((_, RunState::Running { .. }))) {
            return Err(RuntimeError::NotRunning { id: id.to_string() });
        }
        if let Some(left) = inner.silent.checked_sub(1) {
            inner.silent = left;
            return Err(RuntimeError::Unavailable { socket: "/fake".into(), why: "silent".into() });
        }
        let code = inner.exec_codes.pop_front().unwrap_or(0);
        let (output, output_rx) = mpsc::channel(1);
        let (exit, exit_rx) = oneshot::channel();
        let _ = output.try_send(ExecIo::Stdout(Bytes::from_static(b"fake\n")));
        let _ = exit.send(code);
        Ok(ExecSession { stdin: mpsc::channel(16).0, output: output_rx, resize: mpsc::channel(1).0, exit: exit_rx })
    }

    async fn exec_detached(&self, id: &ContainerId, spec: ExecSpec) -> Result<u32, RuntimeError> {
        self.exec(id, spec).await.map(|_| 1)
    }

    async fn attach(&self, id: &ContainerId, _: AttachSpec) -> Result<ExecSession, RuntimeError> {
        self.exec(id, ExecSpec { command: vec!["attach".to_owned()], ..ExecSpec::default() }).await
    }

    async fn logs(
        &self,
        id: &ContainerId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine, RuntimeError>>, RuntimeError> {
        let mut lines = self.inner().logs.get(id).cloned().unwrap_or_default();
        lines.retain(|l| query.since.is_none_or(|since| l.at >= since));
        lines.retain(|l| query.after.is_none_or(|after| l.position.behind > after.behind));
        let skip = lines.len().saturating_sub(query.tail.unwrap_or(usize::MAX));
        Ok(stream::iter(lines.into_iter().skip(skip).map(Ok)).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::model::InstanceId;

    #[tokio::test]
    async fn faults_hit_before_or_after() {
        let fake = FakeRuntime::default();
        let faulty = FaultyRuntime::new(fake.clone(), |name| match name {
            "remove" => Fault::After,
            "kill" => Fault::Before,
            _ => Fault::None,
        });
        let id = ContainerId::from(InstanceId::from_bits(1));
        assert!(faulty.remove(&id).await.is_err() && faulty.kill(&id, 9, false).await.is_err());
        assert!(faulty.list().await.is_ok());
        assert_eq!(fake.calls(), [Call::Remove(id)]);
    }
}
