//! The images of the node as people see and change them.

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::RuntimeError;
use crate::model::Timestamp;

/// An image that the node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Its full name, e.g. `docker.io/library/nginx:latest`.
    pub reference: String,
    /// The digest of the manifest (or index) that the name stands for.
    pub digest: String,
    /// When it came under this name for the first time.
    pub created_at: Timestamp,
    /// What of it is for this machine; `None` if parts of it are missing.
    pub content: Option<Content>,
}

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// `linux/amd64`
    pub platform: String,
    /// The digest of its manifest for this platform.
    pub manifest: String,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// Its configuration as it was built: environment, command, history.
    pub config: serde_json::Value,
}

/// A layer as it was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its digest.
    pub digest: String,
    /// Its bytes, compressed.
    pub size: u64,
}

impl StoredImage {
    /// Bytes of its layers as they were fetched; layers that images share count for each. 0 if parts are missing.
    pub fn size(&self) -> u64 {
        self.content.iter().flat_map(|content| &content.layers).map(|layer| layer.size).sum()
    }
}

/// Keeps images. Names are full ones ([`super::complete_reference`]).
#[async_trait::async_trait]
pub trait ImageStore: Send + Sync + std::fmt::Debug {
    /// All images, by name.
    async fn images(&self) -> Result<Vec<StoredImage>, RuntimeError>;

    /// One image.
    async fn image(&self, name: &str) -> Result<Option<StoredImage>, RuntimeError>;

    /// Forgets a name; what no other name has and no container uses is removed before this returns. False: there is no
    /// such image.
    async fn remove_image(&self, name: &str) -> Result<bool, RuntimeError>;

    /// Gives an image another name besides. False: there is no such image.
    async fn tag_image(&self, name: &str, other: &str) -> Result<bool, RuntimeError>;

    /// Takes the images of an archive (OCI or `docker save`) under the names it has for them, or under `name`. It is
    /// looked through as a whole before anything is taken.
    async fn import(
        &self,
        archive: BoxStream<'static, io::Result<Bytes>>,
        name: Option<String>,
    ) -> Result<Vec<String>, RuntimeError>;

    /// An archive of these images, of both forms at once, as it is read by Docker, Podman and containerd.
    async fn export(&self, names: Vec<String>) -> Result<BoxStream<'static, io::Result<Bytes>>, RuntimeError>;
}
