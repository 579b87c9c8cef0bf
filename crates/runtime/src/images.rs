//! The images of the node as people see and change them.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{broadcast, watch};

use super::{Notice, PullProgress, RuntimeError};
use hivemind_core::model::Timestamp;

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
    pub content: Option<Arc<Content>>,
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
    /// The labels that it was built with.
    pub labels: BTreeMap<String, String>,
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

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A folder on it.
    pub path: PathBuf,
    /// Bytes of it.
    pub size: u64,
    /// Bytes that can still be written.
    pub free: u64,
}

impl Disk {
    /// How full it is, hundredths, rounded down.
    pub fn percent(&self) -> u64 {
        let used = self.size.saturating_sub(self.free);
        (u128::from(used) * 100 / u128::from(self.size.max(1))) as u64
    }

    /// Whether more than so many hundredths of it are written.
    pub fn is_fuller_than(&self, hundredths: u8) -> bool {
        let used = u128::from(self.size.saturating_sub(self.free));
        used * 100 > u128::from(self.size) * u128::from(hundredths)
    }
}

/// What was sent to a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// The name that it has there.
    pub reference: String,
    /// What that name stands for now.
    pub digest: String,
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that the registry took from another repository of its own.
    pub mounted: u64,
    /// Bytes that it had.
    pub there: u64,
    /// Variants that are on neither side, and so not in what was sent, e.g. `linux/arm64`. What the name stands for is the
    /// variant for this machine alone then.
    pub left_out: Vec<String>,
}

/// Keeps images. Names are full ones ([`super::complete_reference`]).
#[async_trait::async_trait]
pub trait ImageStore: Send + Sync + std::fmt::Debug {
    /// All images, by name.
    async fn images(&self) -> Result<Vec<StoredImage>, RuntimeError>;

    /// One image.
    async fn image(&self, name: &str) -> Result<Option<StoredImage>, RuntimeError>;

    /// An image's configuration as it was built: environment, command, history. `None`: there is no such image, or a part of it
    /// is missing.
    async fn config(&self, name: &str) -> Result<Option<serde_json::Value>, RuntimeError>;

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

    /// Sends an image to the registry in its name, or in `to`: what is missing there, manifests last. Progress counts bytes
    /// that are there. `None`: there is no such image.
    async fn push(
        &self,
        name: &str,
        to: &str,
        progress: watch::Sender<PullProgress>,
    ) -> Result<Option<Pushed>, RuntimeError>;

    /// Those of these blobs (`sha256:…`) that are not there.
    async fn missing(&self, blobs: Vec<String>) -> Result<Vec<String>, RuntimeError>;

    /// What goes wrong with registries from now on.
    fn notices(&self) -> broadcast::Receiver<Notice>;

    /// The disk that images are on.
    async fn disk(&self) -> Result<Disk, RuntimeError>;

    /// An archive of these images, of both forms at once, as it is read by Docker, Podman and containerd.
    async fn export(&self, names: Vec<String>) -> Result<BoxStream<'static, io::Result<Bytes>>, RuntimeError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_as_full_as_what_cannot_be_written() {
        let disk = |size, free| Disk { path: "/".into(), size, free };
        assert_eq!((disk(1000, 145).percent(), disk(0, 0).percent(), disk(10, 20).percent()), (85, 0, 0));
        assert!(disk(1000, 149).is_fuller_than(85) && !disk(1000, 150).is_fuller_than(85));
        assert!(!disk(1000, 0).is_fuller_than(100) && disk(u64::MAX, 1).is_fuller_than(99));
    }
}
