//! A runtime that fails.

use std::path::{Path, PathBuf};

use futures::stream::BoxStream;
use tokio::sync::watch;

use hivemind_core::{model::ContainerId, spec::v1::PullPolicy};
use hivemind_runtime::{
    AttachSpec, ContainerSpec, ContainerState, ExecSession, ExecSpec, Image, LogLine, LogQuery, Mark, PullProgress,
    Runtime, RuntimeError, RuntimeEvent,
};

/// Fails the calls that `should_fail` picks, which it is told by name; passes on the others. A failed change may have
/// been made all the same, as with a real runtime whose answer was lost.
pub struct FaultyRuntime<R> {
    inner: R,
    should_fail: Box<dyn Fn(&'static str) -> Fault + Send + Sync>,
}

impl<R: std::fmt::Debug> std::fmt::Debug for FaultyRuntime<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyRuntime").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not.
    None,
    /// Before anything was done.
    Before,
    /// After it was done: the answer is lost.
    After,
    /// Before anything was done, and there is no answer: whoever asks is not there any more.
    Never,
}

impl<R: Runtime> FaultyRuntime<R> {
    /// `inner`, with faults.
    pub fn new(inner: R, should_fail: impl Fn(&'static str) -> Fault + Send + Sync + 'static) -> Self {
        Self { inner, should_fail: Box::new(should_fail) }
    }

    async fn pass<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        let gone = || RuntimeError::Unavailable { socket: PathBuf::from("/faulty"), why: format!("{name} failed") };
        match (self.should_fail)(name) {
            Fault::None => call.await,
            Fault::Before => Err(gone()),
            Fault::After => call.await.and_then(|_| Err(gone())),
            Fault::Never => std::future::pending().await,
        }
    }
}

#[async_trait::async_trait]
impl<R: Runtime> Runtime for FaultyRuntime<R> {
    async fn version(&self) -> Result<String, RuntimeError> {
        self.pass("version", self.inner.version()).await
    }
    async fn ensure_image(
        &self,
        reference: &str,
        pull: PullPolicy,
        progress: watch::Sender<PullProgress>,
    ) -> Result<Image, RuntimeError> {
        self.pass("ensure_image", self.inner.ensure_image(reference, pull, progress)).await
    }
    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        self.pass("create", self.inner.create(spec)).await
    }
    async fn copy_out(&self, image: &Image, path: &str, into: &Path) -> Result<(), RuntimeError> {
        self.pass("copy_out", self.inner.copy_out(image, path, into)).await
    }
    async fn start(&self, id: &ContainerId) -> Result<u32, RuntimeError> {
        self.pass("start", self.inner.start(id)).await
    }
    async fn set_mark(&self, id: &ContainerId, mark: Mark) -> Result<(), RuntimeError> {
        self.pass("set_mark", self.inner.set_mark(id, mark)).await
    }
    async fn pause(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.pass("pause", self.inner.pause(id)).await
    }
    async fn resume(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.pass("resume", self.inner.resume(id)).await
    }
    async fn kill(&self, id: &ContainerId, signal: i32, all: bool) -> Result<(), RuntimeError> {
        self.pass("kill", self.inner.kill(id, signal, all)).await
    }
    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.pass("remove", self.inner.remove(id)).await
    }
    async fn remove_logs(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.pass("remove_logs", self.inner.remove_logs(id)).await
    }
    async fn list(&self) -> Result<Vec<ContainerState>, RuntimeError> {
        self.pass("list", self.inner.list()).await
    }
    async fn state(&self, id: &ContainerId) -> Result<Option<ContainerState>, RuntimeError> {
        self.pass("state", self.inner.state(id)).await
    }
    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
        self.pass("events", self.inner.events()).await
    }
    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        self.pass("exec", self.inner.exec(id, spec)).await
    }
    async fn exec_detached(&self, id: &ContainerId, spec: ExecSpec) -> Result<u32, RuntimeError> {
        self.pass("exec_detached", self.inner.exec_detached(id, spec)).await
    }
    async fn attach(&self, id: &ContainerId, spec: AttachSpec) -> Result<ExecSession, RuntimeError> {
        self.pass("attach", self.inner.attach(id, spec)).await
    }
    async fn logs(
        &self,
        id: &ContainerId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine, RuntimeError>>, RuntimeError> {
        self.pass("logs", self.inner.logs(id, query)).await
    }
}
