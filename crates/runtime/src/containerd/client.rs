//! The connection to containerd: namespace, leases and errors of every call.
//!
//! The channel connects when it is first used and again after it broke. Nothing here retries: the caller's loop does.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use containerd_client::{
    services::v1::{
        CreateRequest, DeleteRequest, PluginsRequest, containers_client::ContainersClient,
        content_client::ContentClient, diff_client::DiffClient, events_client::EventsClient,
        images_client::ImagesClient, introspection_client::IntrospectionClient, leases_client::LeasesClient,
        namespaces_client::NamespacesClient, snapshots::snapshots_client::SnapshotsClient, tasks_client::TasksClient,
        version_client::VersionClient,
    },
    tonic::{
        Code, Request, Response, Status,
        metadata::{Ascii, MetadataValue},
        transport::{Channel, Endpoint, Uri},
    },
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::RuntimeError;
use hivemind_core::model::chain;

/// containerd answers everything but unpacking and waiting within this; a stuck one must not stick us.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A container with its specification takes some 10 kB, and lists are one message.
const MAX_MESSAGE: usize = 64 << 20;

/// A connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    socket: PathBuf,
}

impl Client {
    /// Makes the client without connecting. Must be called in a tokio runtime.
    pub(super) fn new(socket: &Path, namespace: &str) -> Result<Self, RuntimeError> {
        let unusable = |why: String| RuntimeError::Unavailable { socket: socket.to_owned(), why };
        let namespace = namespace.parse().map_err(|_| unusable(format!("{namespace:?} is no namespace")))?;
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used, but has to be one.
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector);
        Ok(Self { channel, namespace, socket: socket.to_owned() })
    }

    /// `message`, for our namespace.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// `message`, for our namespace; what it makes is kept from the garbage collector by `lease`.
    pub(super) fn leased<T>(&self, message: T, lease: &Lease) -> Request<T> {
        let mut request = self.request(message);
        request.metadata_mut().insert("containerd-lease", lease.0.clone());
        request
    }

    /// What a failed call means.
    pub(super) fn error(&self, action: &'static str, id: &str, status: &Status) -> RuntimeError {
        // A status that was not sent by containerd has the transport's error as its source.
        if let Some(source) = std::error::Error::source(status) {
            return RuntimeError::Unavailable { socket: self.socket.clone(), why: chain(source) };
        }
        let why = status.message().to_owned();
        if status.code() == Code::DeadlineExceeded {
            return RuntimeError::Unavailable { socket: self.socket.clone(), why };
        }
        if why.contains("no space left on device") {
            return RuntimeError::DiskFull {
                path: PathBuf::from("containerd's root"),
                action: format!("{action} {id}"),
            };
        }
        RuntimeError::Containerd { action, id: id.to_owned(), why }
    }

    /// Awaits an answer, within the time every call has.
    pub(super) async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        hivemind_core::lifecycle::killpoint::before("a call of containerd");
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
        }
    }

    /// Takes the lease `id` for `hours`, after which the garbage collector may remove what only it holds. One that a
    /// killed predecessor left under this id is given back, so that attempts do not pile up.
    pub(super) async fn lease(&self, id: &str, hours: u32) -> Result<Lease, RuntimeError> {
        let failed = |s: &Status| self.error("take the lease", id, s);
        let lease = id.parse().map(Lease).map_err(|_| failed(&Status::internal("bad id")))?;
        let old = self.request(DeleteRequest { id: id.to_owned(), sync: false });
        found(self.call(self.leases().delete(old)).await).map_err(|s| failed(&s))?;
        let until = hivemind_core::lifecycle::clock::now().as_millis() + i64::from(hours) * 3_600_000;
        let until = hivemind_core::model::Timestamp::from_millis(until).to_string();
        let labels = [("containerd.io/gc.expire".to_owned(), until)].into();
        let request = self.request(CreateRequest { id: id.to_owned(), labels });
        self.call(self.leases().create(request)).await.map_err(|s| failed(&s))?;
        Ok(lease)
    }

    /// Gives a lease back; with `sync`, what only it held is removed before this returns.
    pub(super) async fn release(&self, lease: Lease, sync: bool) {
        let id = lease.0.to_str().unwrap_or_default().to_owned();
        let request = self.request(DeleteRequest { id: id.clone(), sync });
        if let Err(status) = self.call(self.leases().delete(request)).await {
            tracing::debug!(lease = id, %status, "lease not released; it will expire");
        }
    }

    /// The directory in which a plugin keeps its data.
    pub(super) async fn plugin_root(&self, plugin: &str) -> Option<PathBuf> {
        let filters = vec![format!("id=={plugin}")];
        let mut client = IntrospectionClient::new(self.channel.clone());
        let answer = self.call(client.plugins(self.request(PluginsRequest { filters }))).await.ok()?;
        answer.plugins.into_iter().find_map(|p| p.exports.get("root").map(PathBuf::from))
    }

    pub(super) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
    pub(super) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }
    pub(super) fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }
    pub(super) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }
    pub(super) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone())
    }
    pub(super) fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }
    pub(super) fn namespaces(&self) -> NamespacesClient<Channel> {
        NamespacesClient::new(self.channel.clone())
    }
    pub(super) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }
    pub(super) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
    pub(super) fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }
}

/// Keeps what is made under it from the garbage collector.
#[derive(Clone, Debug)]
pub(super) struct Lease(MetadataValue<Ascii>);

impl Lease {
    pub(super) fn id(&self) -> String {
        self.0.to_str().unwrap_or_default().to_owned()
    }
}

/// `None` where there is nothing.
pub(super) fn found<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(s) if s.code() == Code::NotFound => Ok(None),
        Err(s) => Err(s),
    }
}
