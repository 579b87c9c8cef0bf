//! containerd's snapshots: unpacked layers, and the writable file systems of containers.

use containerd_client::{
    services::v1::{
        AddResourceRequest, ApplyRequest, Resource,
        snapshots::{
            CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
            ViewSnapshotRequest,
        },
    },
    tonic::Code,
    types,
};

use super::client::{Client, Lease, found};
use crate::{RuntimeError, manifest::Descriptor};

/// The snapshots of one snapshotter.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    pub client: Client,
    /// `overlayfs`.
    pub name: String,
}

impl Snapshots {
    /// Whether there is a snapshot `key`.
    pub(super) async fn exists(&self, key: &str) -> Result<bool, RuntimeError> {
        let c = &self.client;
        let request = c.request(StatSnapshotRequest { snapshotter: self.name.clone(), key: key.to_owned() });
        let stat = found(c.call(c.snapshots().stat(request)).await);
        stat.map(|s| s.is_some()).map_err(|s| c.error("look up the snapshot", key, &s))
    }

    /// Makes `chain` from `parent` and the layer `blob`, whose content must have the digest `diff`. What fails leaves
    /// nothing but what the lease holds.
    pub(super) async fn unpack(
        &self,
        chain: &str,
        parent: &str,
        blob: &Descriptor,
        diff: &str,
        lease: &Lease,
    ) -> Result<Unpacked, RuntimeError> {
        let c = &self.client;
        // First held, then looked for: so it cannot vanish in between.
        let resource = Resource { id: chain.to_owned(), r#type: format!("snapshots/{}", self.name) };
        let hold = c.request(AddResourceRequest { id: lease.id(), resource: Some(resource) });
        c.call(c.leases().add_resource(hold)).await.map_err(|s| c.error("hold the snapshot", chain, &s))?;
        if self.exists(chain).await? {
            return Ok(Unpacked::Yes);
        }
        let key = format!("hivemind-unpack-{:016x}-{chain}", rand::random::<u64>());
        let mounts = self.prepare(&key, parent, Some(lease)).await?;
        let result = self.apply(&key, chain, blob, diff, mounts, lease).await;
        if !matches!(result, Ok(Unpacked::Yes)) {
            self.remove(&key).await?;
        }
        result
    }

    async fn apply(
        &self,
        key: &str,
        chain: &str,
        blob: &Descriptor,
        diff: &str,
        mounts: Vec<types::Mount>,
        lease: &Lease,
    ) -> Result<Unpacked, RuntimeError> {
        let c = &self.client;
        let descriptor = types::Descriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: blob.size,
            annotations: Default::default(),
        };
        let request = ApplyRequest { diff: Some(descriptor), mounts, ..Default::default() };
        // As long as it takes: a large layer on a slow disk takes minutes.
        let applied = match c.diff().apply(c.leased(request, lease)).await {
            Ok(applied) => applied.into_inner().applied.unwrap_or_default(),
            Err(s) if s.code() == Code::NotFound => return Ok(Unpacked::BlobMissing),
            Err(s) => return Err(c.error("unpack", &blob.digest, &s)),
        };
        if applied.digest != diff {
            return Ok(Unpacked::Mismatch(applied.digest));
        }
        let request = CommitSnapshotRequest {
            snapshotter: self.name.clone(),
            name: chain.to_owned(),
            key: key.to_owned(),
            labels: Default::default(),
        };
        match c.call(c.snapshots().commit(c.leased(request, lease))).await {
            Ok(()) => Ok(Unpacked::Yes),
            // Somebody else was quicker.
            Err(s) if s.code() == Code::AlreadyExists => self.remove(key).await.map(|()| Unpacked::Yes),
            Err(s) => Err(c.error("commit the snapshot", chain, &s)),
        }
    }

    /// Makes the writable snapshot `key` on `parent`, anew if there is one already.
    pub(super) async fn prepare(
        &self,
        key: &str,
        parent: &str,
        lease: Option<&Lease>,
    ) -> Result<Vec<types::Mount>, RuntimeError> {
        let c = &self.client;
        for last in [false, true] {
            let request = PrepareSnapshotRequest {
                snapshotter: self.name.clone(),
                key: key.to_owned(),
                parent: parent.to_owned(),
                labels: Default::default(),
            };
            let request = lease.map_or_else(|| c.request(request.clone()), |l| c.leased(request.clone(), l));
            match c.call(c.snapshots().prepare(request)).await {
                Ok(prepared) => return Ok(prepared.mounts),
                Err(s) if s.code() == Code::AlreadyExists && !last => self.remove(key).await?,
                Err(s) => return Err(c.error("make the file system of", key, &s)),
            }
        }
        Ok(Vec::new())
    }

    /// A read-only view `key` of the image `parent`, anew if there is one already.
    pub(super) async fn view(&self, key: &str, parent: &str) -> Result<Vec<types::Mount>, RuntimeError> {
        let c = &self.client;
        for last in [false, true] {
            let request = c.request(ViewSnapshotRequest {
                snapshotter: self.name.clone(),
                key: key.to_owned(),
                parent: parent.to_owned(),
                labels: Default::default(),
            });
            match c.call(c.snapshots().view(request)).await {
                Ok(view) => return Ok(view.mounts),
                Err(s) if s.code() == Code::AlreadyExists && !last => self.remove(key).await?,
                Err(s) => return Err(c.error("look into", parent, &s)),
            }
        }
        Ok(Vec::new())
    }

    /// How to mount the snapshot `key`.
    pub(super) async fn mounts(&self, key: &str) -> Result<Vec<types::Mount>, RuntimeError> {
        let c = &self.client;
        let request = c.request(MountsRequest { snapshotter: self.name.clone(), key: key.to_owned() });
        let mounts = c.call(c.snapshots().mounts(request)).await;
        mounts.map(|m| m.mounts).map_err(|s| c.error("find the file system of", key, &s))
    }

    /// Removes the snapshot `key`; ok if there is none.
    pub(super) async fn remove(&self, key: &str) -> Result<(), RuntimeError> {
        let c = &self.client;
        let request = c.request(RemoveSnapshotRequest { snapshotter: self.name.clone(), key: key.to_owned() });
        let removed = found(c.call(c.snapshots().remove(request)).await);
        removed.map(|_| ()).map_err(|s| c.error("remove the file system of", key, &s))
    }
}

/// What became of a layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unpacked {
    /// Its snapshot is there.
    Yes,
    /// The content store does not have the blob.
    BlobMissing,
    /// Its content has this digest instead.
    Mismatch(String),
}
