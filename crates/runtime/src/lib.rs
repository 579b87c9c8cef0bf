//! Floor 2, seam: what runs containers. The real one is containerd (the only place that names
//! `containerd_client`, and `registry` the libraries for registries).

mod archive;
mod cgroup;
mod containerd;
mod devices;
mod error;
mod images;
mod init;
mod inside;
mod logs;
mod manifest;
mod oci;
mod offer;
mod origin;
mod registry;
mod rootfs;
mod tarball;
pub mod tree;
mod types;
mod usage;
mod user;

pub use containerd::{ContainerdRuntime, RuntimeConfig};
pub use error::RuntimeError;
pub use images::{Content, Disk, ImageStore, Layer, Pushed, StoredImage};
pub use inside::Inside;
pub use logs::{LogPosition, NoPosition, log_writer};
pub use manifest::is_digest;
pub use offer::Offer;
pub use registry::{Mirror, Notice, Retry, check_reference, complete_reference};
pub use types::{
    AttachSpec, ContainerSpec, ContainerState, ExecIo, ExecSession, ExecSpec, Image, ImageHealth, LogLine, LogQuery,
    LogStream, Mark, Mount, PullProgress, RunState, RuntimeEvent, TtySize,
};
pub use usage::{Process, Usage, processes, usage};

use futures::stream::BoxStream;
use tokio::sync::watch;

use hivemind_core::model::ContainerId;

/// Runs containers. Every call is idempotent and names its container; a call that is repeated after
/// `kill -9` finds or finishes what the first one began.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// The runtime's version, or why it does not answer.
    async fn version(&self) -> Result<String, RuntimeError>;

    /// Makes sure that the image is on the node, complete and unpacked: looks it up, and fetches it unless it is
    /// there and `pull` does not say `always`; `never` refuses to fetch. Progress is published while it fetches.
    /// Two calls for the same image at once fetch it once.
    async fn ensure_image(
        &self,
        reference: &str,
        pull: hivemind_core::spec::v1::PullPolicy,
        progress: watch::Sender<PullProgress>,
    ) -> Result<Image, RuntimeError>;

    /// Makes the container with its file system, without starting it. An existing one of the same id is kept if it
    /// was made from an equal spec and has not run yet, else it is removed and made again.
    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError>;

    /// Copies what the image has in the folder `path`, and the folder's own rights, into the folder `into`: owners,
    /// modes, times, links and attributes are kept. Nothing if the image has nothing there. What is in `into` stays.
    async fn copy_out(&self, image: &Image, path: &str, into: &std::path::Path) -> Result<(), RuntimeError>;

    /// Starts the container's process and returns its pid. If it runs already, that pid.
    async fn start(&self, id: &ContainerId) -> Result<u32, RuntimeError>;

    /// Notes something of the process: [`ContainerState::marks`], until another one starts.
    async fn set_mark(&self, id: &ContainerId, mark: Mark) -> Result<(), RuntimeError>;

    /// Has all processes of the container stand still. Ok if they do already; refused if none runs.
    async fn pause(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Has the processes of a paused container go on. Ok if they run, or there are none.
    async fn resume(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Sends a signal to the process; with `all`, to every process of the container. Ok if there is none any more. A paused one
    /// gets it when it goes on; SIGKILL has it go on.
    async fn kill(&self, id: &ContainerId, signal: i32, all: bool) -> Result<(), RuntimeError>;

    /// Removes process (killing it), container, file system and runtime files. Ok if there is nothing.
    /// The log stays until [`Runtime::remove_logs`].
    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Removes the log files of a container; of an app's own, also those of its instance's sidecars. Ok if there are none.
    async fn remove_logs(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Every container in hivemind's containerd namespace, whoever made it, running or not.
    async fn list(&self) -> Result<Vec<ContainerState>, RuntimeError>;

    /// The state of one container; `None` if there is none.
    async fn state(&self, id: &ContainerId) -> Result<Option<ContainerState>, RuntimeError>;

    /// What happens from now on. The stream ends when the connection breaks; the caller lists again and resubscribes.
    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError>;

    /// Runs a further process in a running container.
    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession, RuntimeError>;

    /// The same without anybody who waits for it: the process has no input, and its output goes nowhere. Its pid.
    async fn exec_detached(&self, id: &ContainerId, spec: ExecSpec) -> Result<u32, RuntimeError>;

    /// Looks on what the container's own process writes from now on, and writes to its input. Several may do so at once.
    async fn attach(&self, id: &ContainerId, spec: AttachSpec) -> Result<ExecSession, RuntimeError>;

    /// The log's lines, oldest first; with `follow`, also those to come until the container is removed.
    async fn logs(
        &self,
        id: &ContainerId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine, RuntimeError>>, RuntimeError>;
}
