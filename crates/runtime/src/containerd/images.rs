//! The images that containerd has: listed, forgotten, named, taken from archives and written into them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use containerd_client::services::v1::{DeleteImageRequest, GetImageRequest, Image as Record, ListImagesRequest};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use tokio::{
    io::AsyncWriteExt as _,
    sync::{broadcast, mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    ContainerdRuntime,
    client::found,
    containers::file_error,
    pull::{Puller, Stored},
    timestamp,
};
use crate::{
    Notice, PullProgress, Pushed, RuntimeError,
    archive::{Archive, Packed},
    images::{Content, Disk, ImageStore, Layer, StoredImage},
    manifest::{Descriptor, MANIFEST_TYPES, digest_of},
    registry, tarball,
};

/// A part of an archive that is written.
enum Part {
    /// It is here.
    Whole(String, Bytes),
    /// It is a blob in the content store.
    Blob(Descriptor),
}

/// Images about which it is known what they are made of, at most: some 2 MB.
const LOOKED: usize = 2_000;

/// What images are made of, by the digests of what their names stand for: what a digest names cannot change, and reading it
/// takes three calls. Kept for images that there are; only a part that somebody removes by hand would be missed.
#[derive(Debug, Default)]
pub(super) struct Looked(Mutex<HashMap<String, Arc<Content>>>);

impl Looked {
    fn get(&self, digest: &str) -> Option<Arc<Content>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn put(&self, digest: &str, content: &Arc<Content>) {
        let mut looked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Images that came and went without being listed.
        if looked.len() >= LOOKED {
            looked.clear();
        }
        looked.insert(digest.to_owned(), Arc::clone(content));
    }

    /// Forgets all but these.
    fn keep(&self, images: &[StoredImage]) {
        let there: BTreeSet<_> = images.iter().map(|image| image.digest.as_str()).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|digest, _| there.contains(digest.as_str()));
    }
}

impl Puller {
    async fn look(&self, record: Record) -> StoredImage {
        let target = record.target.unwrap_or_default();
        let created_at = timestamp(record.created_at.as_ref());
        let mut image = StoredImage { reference: record.name, digest: target.digest, created_at, content: None };
        if let Some(content) = self.looked.get(&image.digest) {
            image.content = Some(content);
            return image;
        }
        // One for other machines, or with a part that is missing, is listed all the same.
        if let Some(stored) = self.stored(&image.reference, &image.digest).await.ok().flatten() {
            let Stored { resolved, manifest, .. } = stored;
            let content = Arc::new(Content {
                platform: resolved.config.platform.to_string(),
                labels: resolved.config.labels(),
                manifest: digest_of(&manifest),
                layers: resolved.manifest.layers.into_iter().map(layer).collect(),
            });
            self.looked.put(&image.digest, &content);
            image.content = Some(content);
        }
        image
    }

    async fn record(&self, name: &str) -> Result<Option<Record>, RuntimeError> {
        let c = &self.client;
        let request = c.request(GetImageRequest { name: name.to_owned() });
        let found = found(c.call(c.images().get(request)).await);
        Ok(found.map_err(|s| c.error("look up the image", name, &s))?.and_then(|answer| answer.image))
    }
}

fn layer(blob: Descriptor) -> Layer {
    Layer { digest: blob.digest, size: blob.size.unsigned_abs() }
}

#[async_trait::async_trait]
impl ImageStore for ContainerdRuntime {
    async fn images(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        let c = &self.client;
        let listed = c.call(c.images().list(c.request(ListImagesRequest::default()))).await;
        let mut records = listed.map_err(|s| c.error("list", "images", &s))?.images;
        records.sort_by(|a, b| a.name.cmp(&b.name));
        let mut images = Vec::with_capacity(records.len());
        for record in records {
            images.push(self.puller.look(record).await);
        }
        self.puller.looked.keep(&images);
        Ok(images)
    }

    async fn image(&self, name: &str) -> Result<Option<StoredImage>, RuntimeError> {
        match self.puller.record(name).await? {
            Some(record) => Ok(Some(self.puller.look(record).await)),
            None => Ok(None),
        }
    }

    async fn config(&self, name: &str) -> Result<Option<serde_json::Value>, RuntimeError> {
        let target = self.puller.record(name).await?.and_then(|record| record.target);
        let Some(target) = target else { return Ok(None) };
        // As it is listed: one for other machines has no configuration here.
        let stored = self.puller.stored(name, &target.digest).await.ok().flatten();
        Ok(stored.and_then(|stored| serde_json::from_slice(&stored.config).ok()))
    }

    async fn remove_image(&self, name: &str) -> Result<bool, RuntimeError> {
        let c = &self.client;
        let _one = self.puller.locks.lock(name).await;
        let request = DeleteImageRequest { name: name.to_owned(), sync: true, ..Default::default() };
        let removed = found(c.call(c.images().delete(c.request(request))).await);
        removed.map(|removed| removed.is_some()).map_err(|s| c.error("remove the image", name, &s))
    }

    async fn tag_image(&self, name: &str, other: &str) -> Result<bool, RuntimeError> {
        let Some(target) = self.puller.record(name).await?.and_then(|record| record.target) else { return Ok(false) };
        let _one = self.puller.locks.lock(other).await;
        self.puller.point(other, target).await.map(|()| true)
    }

    async fn import(
        &self,
        archive: BoxStream<'static, io::Result<Bytes>>,
        name: Option<String>,
    ) -> Result<Vec<String>, RuntimeError> {
        let file = self.spool(archive).await?;
        let bad = |why: String| RuntimeError::BadArchive { why };
        let read = tokio::task::spawn_blocking(move || Archive::read(file)).await;
        let archive = read.map_err(|error| bad(error.to_string()))?.map_err(bad)?;
        let mut wanted = Vec::new();
        for image in &archive.images {
            let names = match &name {
                Some(_) if archive.images.len() > 1 => {
                    return Err(bad(format!("it has {} images; one name does not fit them", archive.images.len())));
                }
                Some(name) => vec![name.clone()],
                None => image.names.iter().map(|name| registry::complete_reference(name)).collect::<Result<_, _>>()?,
            };
            if names.is_empty() {
                return Err(bad("it has an image without a name; give it one with --name".to_owned()));
            }
            let own = digest_of(&image.top);
            if let Some(name) = names.iter().find(|name| name.split_once('@').is_some_and(|(_, digest)| digest != own))
            {
                return Err(bad(format!("it has an image under the name {name}, and that image is {own}")));
            }
            wanted.extend(names.into_iter().map(|name| Packed { archive: &archive, image, name }));
        }
        let mut taken = Vec::new();
        for packed in wanted {
            self.puller.take(&packed, &packed.name).await.map_err(|error| match error {
                // No registry is to blame.
                error @ RuntimeError::Corrupt { .. } => bad(error.to_string()),
                other => other,
            })?;
            taken.push(packed.name);
        }
        Ok(taken)
    }

    async fn push(
        &self,
        name: &str,
        to: &str,
        progress: watch::Sender<PullProgress>,
    ) -> Result<Option<Pushed>, RuntimeError> {
        let Some(record) = self.puller.record(name).await? else { return Ok(None) };
        let others = self.images().await?;
        self.puller.push(record, to, &others, &progress).await.map(Some)
    }

    async fn missing(&self, blobs: Vec<String>) -> Result<Vec<String>, RuntimeError> {
        let mut missing = Vec::new();
        for digest in blobs {
            if !self.client.has_blob(&digest).await? {
                missing.push(digest);
            }
        }
        Ok(missing)
    }

    fn notices(&self) -> broadcast::Receiver<Notice> {
        self.puller.registries.notices.listen()
    }

    async fn disk(&self) -> Result<Disk, RuntimeError> {
        let unknown = || RuntimeError::Containerd {
            action: "tell the folder of",
            id: self.snapshots.name.clone(),
            why: "it does not say".to_owned(),
        };
        let path = self.client.plugin_root(&self.snapshots.name).await.ok_or_else(unknown)?;
        let stat = nix::sys::statvfs::statvfs(&path)
            .map_err(|error| file_error("ask how full is", path.clone())(error.into()))?;
        // What root may write besides is no room for images.
        let (unit, free, used) = (stat.fragment_size(), stat.blocks_available(), stat.blocks() - stat.blocks_free());
        Ok(Disk { path, size: (used + free) * unit, free: free * unit })
    }

    async fn export(&self, names: Vec<String>) -> Result<BoxStream<'static, io::Result<Bytes>>, RuntimeError> {
        let mut images = Vec::new();
        for name in names {
            let target = self.puller.record(&name).await?.and_then(|record| record.target);
            let stored = match target {
                Some(target) => self.puller.stored(&name, &target.digest).await?,
                None => None,
            };
            images.push((stored.ok_or_else(|| RuntimeError::ImageAbsent { reference: name.clone() })?, name));
        }
        let (sender, receiver) = mpsc::channel(2);
        let client = self.client.clone();
        let parts = parts(images);
        // Ends with its reader.
        tokio::spawn(async move {
            for part in parts {
                let written = match part {
                    Part::Whole(path, bytes) => tarball::whole(&sender, &path, bytes).await,
                    Part::Blob(blob) => {
                        let content = client.stream_blob(&blob.digest).map_err(io::Error::other).boxed();
                        tarball::blob(&sender, &blob.digest, blob.size.unsigned_abs(), content).await
                    }
                };
                if let Err(error) = written {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            }
            let _ = sender.send(Ok(tarball::END)).await;
        });
        Ok(ReceiverStream::new(receiver).boxed())
    }
}

impl ContainerdRuntime {
    /// Writes what comes into a file that has no name, so that nothing is left of it, whatever happens.
    async fn spool(&self, mut archive: BoxStream<'static, io::Result<Bytes>>) -> Result<File, RuntimeError> {
        let dir = self.config.files_dir.clone();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull => {
                RuntimeError::DiskFull { path: dir.clone(), action: "keeping the archive".to_owned() }
            }
            _ => file_error("keep the archive in", dir.clone())(error),
        };
        tokio::fs::create_dir_all(&dir).await.map_err(failed)?;
        let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(&dir).map_err(failed)?);
        while let Some(part) = archive.next().await {
            let part =
                part.map_err(|error| RuntimeError::BadArchive { why: format!("it did not come whole: {error}") })?;
            file.write_all(&part).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        Ok(file.into_std().await)
    }
}

/// All parts of an archive: an OCI layout, and Docker's `manifest.json` beside it. Each blob is in it once.
fn parts(images: Vec<(Stored, String)>) -> Vec<Part> {
    let (mut index, mut saved) = (Vec::new(), Vec::new());
    let (mut documents, mut blobs) = (BTreeMap::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for (Stored { resolved, manifest, config }, name) in images {
        let digest = digest_of(&manifest);
        let media_type =
            serde_json::from_slice::<serde_json::Value>(&manifest).unwrap_or_default()["mediaType"].clone();
        let media_type = media_type.as_str().unwrap_or(MANIFEST_TYPES[1]).to_owned();
        let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        index.push(serde_json::json!({
            "mediaType": media_type, "digest": digest, "size": manifest.len(),
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
        }));
        saved.push(serde_json::json!({
            "Config": tarball::path(&resolved.manifest.config.digest),
            "RepoTags": if name.contains('@') { vec![] } else { vec![&name] },
            "Layers": resolved.manifest.layers.iter().map(|layer| tarball::path(&layer.digest)).collect::<Vec<_>>(),
        }));
        documents.insert(tarball::path(&digest), manifest);
        documents.insert(tarball::path(&resolved.manifest.config.digest), config);
        blobs.extend(resolved.manifest.layers.into_iter().filter(|layer| seen.insert(layer.digest.clone())));
    }
    let text = |value: serde_json::Value| Bytes::from(value.to_string());
    let mut parts = vec![
        Part::Whole("oci-layout".into(), text(serde_json::json!({"imageLayoutVersion": "1.0.0"}))),
        Part::Whole("index.json".into(), text(serde_json::json!({"schemaVersion": 2, "manifests": index}))),
        Part::Whole("manifest.json".into(), text(saved.into())),
    ];
    parts.extend(documents.into_iter().map(|(path, bytes)| Part::Whole(path, bytes)));
    parts.extend(blobs.into_iter().map(Part::Blob));
    parts
}
