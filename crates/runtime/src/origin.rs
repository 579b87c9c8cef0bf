//! Where an image comes from: a registry and its mirrors, or an archive.

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

    /// The places that its blobs may come from, by number, best first; at least one.
    fn places(&self) -> Vec<usize> {
        vec![0]
    }

    /// A blob as it comes from a place.
    async fn blob(
        &self,
        place: usize,
        blob: &Descriptor,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError>;

    /// What a place gave was not what it should be, or nothing came; another one is asked.
    fn failed(&self, _place: usize, _error: &RuntimeError) {}

    /// It is not what it should be.
    fn corrupt(&self, why: String) -> RuntimeError;
}
