//! Where an image comes from: a registry, or an archive.

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::{RuntimeError, manifest::Descriptor};

/// One image where it lies. What comes from it is checked against its digests by whoever takes it.
#[async_trait::async_trait]
pub(super) trait Origin: Sync {
    /// Its manifest or index, and the digest of that.
    async fn top(&self) -> Result<(Bytes, String), RuntimeError>;

    /// The manifest of this digest.
    async fn manifest(&self, digest: &str) -> Result<Bytes, RuntimeError>;

    /// A blob as it comes.
    async fn blob(&self, blob: &Descriptor) -> Result<BoxStream<'static, io::Result<Bytes>>, RuntimeError>;

    /// It is not what it should be.
    fn corrupt(&self, why: String) -> RuntimeError;

    /// What the failure of a blob that was coming means.
    fn blob_error(&self, error: io::Error) -> RuntimeError;
}
