//! Brings images onto the node. containerd before 2.0 cannot fetch, so this does: resolve, fetch, unpack, name.
//!
//! Everything is written under a lease. A pull that is killed leaves blobs which only its lease holds: the next pull
//! of the same image finds them, and when the lease expires the garbage collector takes them.

use std::sync::atomic::{AtomicU64, Ordering};

use containerd_client::{
    services::v1::{CreateImageRequest, GetImageRequest, Image as Record, UpdateImageRequest},
    tonic::{Code, Status},
    types,
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
};

use super::{
    client::{Client, Lease, found},
    content::{Labels, WriteFailure},
    images::Looked,
    locks::Locks,
    snapshots::{Snapshots, Unpacked},
};
use crate::{
    Image, PullProgress, RuntimeError,
    manifest::{Descriptor, Document, ImageConfig, MAX_DOCUMENT, Machine, Manifest, digest_of, media_type},
    origin::Origin,
    registry::{self, Registries},
};
use hivemind_core::spec::v1::PullPolicy;

/// Layers fetched at once.
const PARALLEL: usize = 3;

/// How long a killed pull's blobs are kept, hours. Longer than any pull takes.
const LEASE_HOURS: u32 = 24;

/// Fetches images.
#[derive(Debug)]
pub(super) struct Puller {
    pub client: Client,
    pub snapshots: Snapshots,
    pub registries: Registries,
    /// What images are made of.
    pub looked: Looked,
    /// One pull of an image, one writer of a blob, one unpacker of a snapshot at a time: by name.
    pub locks: Locks,
}

/// One variant of an image, read but perhaps not unpacked.
pub(super) struct Resolved {
    pub(super) manifest: Manifest,
    pub(super) config: ImageConfig,
    digest: String,
}

/// The same with its documents as they are stored.
pub(super) struct Stored {
    pub(super) resolved: Resolved,
    /// The manifest for this machine.
    pub(super) manifest: bytes::Bytes,
    /// Its configuration.
    pub(super) config: bytes::Bytes,
}

/// A lease during a fetch. Who breaks the fetch off before anything came leaves nothing: the lease is given back.
struct Held<'a> {
    client: &'a Client,
    /// It is being taken. That is not broken off: containerd could take it after it was given back.
    taking: Option<JoinHandle<Result<Lease, RuntimeError>>>,
    lease: Option<Lease>,
    progress: &'a watch::Sender<PullProgress>,
    /// The fetch has come to its end, good or bad.
    settled: bool,
}

impl<'a> Held<'a> {
    fn new(client: &'a Client, progress: &'a watch::Sender<PullProgress>) -> Self {
        Self { client, taking: None, lease: None, progress, settled: false }
    }

    async fn take(&mut self, id: String) -> Result<Lease, RuntimeError> {
        let (client, name) = (self.client.clone(), id.clone());
        let taking = self.taking.insert(tokio::spawn(async move { client.lease(&id, LEASE_HOURS).await }));
        let taken = taking.await;
        self.taking = None;
        let ended = |error: JoinError| self.client.error("take the lease", &name, &Status::aborted(error.to_string()));
        let lease = taken.map_err(ended)??;
        self.lease = Some(lease.clone());
        Ok(lease)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.settled && self.progress.borrow().done == 0 {
            let (client, taking, mut lease) = (self.client.clone(), self.taking.take(), self.lease.take());
            // Two calls, which have limits of their own; without them the lease goes when it expires.
            drop(tokio::spawn(async move {
                if let Some(taking) = taking {
                    lease = taking.await.ok().and_then(Result::ok);
                }
                if let Some(lease) = lease {
                    client.release(lease, false).await;
                }
            }));
        }
    }
}

impl Puller {
    pub(super) async fn ensure(
        &self,
        reference: &str,
        pull: PullPolicy,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Image, RuntimeError> {
        let parsed = registry::parse(reference)?;
        let name = registry::full_name(&parsed);
        let step = |step| progress.send_modify(|p| p.step = step);
        step("resolving");
        let _one = self.locks.lock(&name).await;
        if pull != PullPolicy::Always
            && let Some(image) = self.local(&name, &step).await?
        {
            step("done");
            return Ok(image);
        }
        if pull == PullPolicy::Never {
            return Err(RuntimeError::ImageAbsent { reference: name });
        }
        let source = self.registries.source(parsed).await?;
        let mut held = Held::new(&self.client, progress);
        let lease = held.take(lease_id(&name)).await?;
        let fetched = self.fetch(&source, &name, &lease, progress).await;
        held.settled = true;
        match &fetched {
            // Kept, if there is anything: the next attempt goes on from it.
            Err(
                RuntimeError::RegistryUnreachable { .. }
                | RuntimeError::RegistryRefused { .. }
                | RuntimeError::Unavailable { .. },
            ) if progress.borrow().done > 0 => {}
            // Room is needed now.
            Err(RuntimeError::DiskFull { .. }) => self.client.release(lease, true).await,
            _ => self.client.release(lease, false).await,
        }
        let fetched = self.name_full_disk(fetched).await?;
        step("done");
        Ok(fetched)
    }

    /// Takes an image that is somewhere else under this name, and unpacks it.
    pub(super) async fn take(&self, origin: &impl Origin, name: &str) -> Result<Image, RuntimeError> {
        let _one = self.locks.lock(name).await;
        let lease = self.client.lease(&lease_id(name), LEASE_HOURS).await?;
        let taken = self.fetch(origin, name, &lease, &watch::Sender::default()).await;
        // What came of one that is damaged is of no use.
        self.client.release(lease, taken.is_err()).await;
        self.name_full_disk(taken).await
    }

    /// containerd says that a disk is full, not which.
    async fn name_full_disk<T>(&self, result: Result<T, RuntimeError>) -> Result<T, RuntimeError> {
        match result {
            Err(RuntimeError::DiskFull { path, action }) => {
                let path = self.client.plugin_root(&self.snapshots.name).await.unwrap_or(path);
                Err(RuntimeError::DiskFull { path, action })
            }
            other => other,
        }
    }

    /// The image if the node has it, unpacked now if need be; `None` if a part is missing.
    async fn local(&self, name: &str, step: &impl Fn(&'static str)) -> Result<Option<Image>, RuntimeError> {
        let request = self.client.request(GetImageRequest { name: name.to_owned() });
        let found = found(self.client.call(self.client.images().get(request)).await);
        let record = found.map_err(|s| self.client.error("look up the image", name, &s))?.and_then(|r| r.image);
        let Some(target) = record.and_then(|r| r.target) else { return Ok(None) };
        let Some(resolved) = self.read(name, &target.digest).await? else { return Ok(None) };
        let image = resolved.config.image(name.to_owned(), resolved.digest.clone());
        if self.snapshots.exists(&image.chain_id).await? {
            return Ok(Some(image));
        }
        step("unpacking");
        let lease = self.client.lease(&lease_id(name), LEASE_HOURS).await?;
        let unpacked = self.unpack(name, &resolved, &lease).await;
        self.client.release(lease, false).await;
        let complete = self.name_full_disk(unpacked).await?;
        Ok(complete.then_some(image))
    }

    /// Reads manifest and configuration from the content store.
    async fn read(&self, name: &str, digest: &str) -> Result<Option<Resolved>, RuntimeError> {
        Ok(self.stored(name, digest).await?.map(|stored| stored.resolved))
    }

    /// The same, with the documents themselves.
    pub(super) async fn stored(&self, name: &str, digest: &str) -> Result<Option<Stored>, RuntimeError> {
        let corrupt = |why| RuntimeError::Corrupt { reference: name.to_owned(), why };
        let Some(mut exact) = self.client.read_blob(digest).await? else { return Ok(None) };
        let manifest = match Document::parse(&exact).map_err(corrupt)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(entries) => {
                let chosen = self.choose(name, &entries)?;
                let Some(bytes) = self.client.read_blob(&chosen.digest).await? else { return Ok(None) };
                exact = bytes;
                as_manifest(Document::parse(&exact).map_err(corrupt)?).map_err(corrupt)?
            }
        };
        let Some(bytes) = self.client.read_blob(&manifest.config.digest).await? else { return Ok(None) };
        let config = ImageConfig::parse(&bytes).map_err(corrupt)?;
        let resolved = Resolved { manifest, config, digest: digest.to_owned() };
        Ok(Some(Stored { resolved, manifest: exact, config: bytes }))
    }

    pub(super) fn choose<'a>(&self, name: &str, entries: &'a [Descriptor]) -> Result<&'a Descriptor, RuntimeError> {
        let machine = Machine::here();
        machine.choose(entries).map_err(|available| no_platform(name, &machine, available))
    }

    async fn fetch(
        &self,
        source: &impl Origin,
        name: &str,
        lease: &Lease,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Image, RuntimeError> {
        let (top, digest) = source.top().await?;
        let (manifest, manifest_bytes, index) = match Document::parse(&top).map_err(|e| source.corrupt(e))? {
            Document::Manifest(manifest) => (manifest, top.clone(), None),
            Document::Index(entries) => {
                let chosen = self.choose(name, &entries)?.clone();
                let bytes = source.manifest(&chosen.digest).await?;
                let document = Document::parse(&bytes).map_err(|e| source.corrupt(e))?;
                (as_manifest(document).map_err(|e| source.corrupt(e))?, bytes, Some(chosen))
            }
        };
        let total = manifest.layers.iter().map(|l| l.size.unsigned_abs()).sum();
        progress.send_modify(|p| *p = PullProgress { done: 0, total, step: "fetching" });

        let config = self.fetch_config(source, &manifest, lease).await?;
        if index.is_none() {
            check_platform(name, &config)?;
        }
        if config.diff_ids().len() != manifest.layers.len() || manifest.layers.is_empty() {
            let (diffs, layers) = (config.diff_ids().len(), manifest.layers.len());
            return Err(
                source.corrupt(format!("its configuration tells of {diffs} layers and its manifest of {layers}"))
            );
        }
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for layer in &manifest.layers {
            layers.push(self.fetch_layer(source, layer, lease, progress).boxed());
        }
        stream::iter(layers).buffer_unordered(PARALLEL).try_collect::<()>().await?;

        // From the leaves to the root: whatever is there is whole.
        self.store_document(source, &manifest_bytes, manifest_labels(&manifest), lease).await?;
        if let Some(chosen) = index {
            let labels = [("containerd.io/gc.ref.content.m.0".to_owned(), chosen.digest)].into();
            self.store_document(source, &top, labels, lease).await?;
        }
        progress.send_modify(|p| p.step = "unpacking");
        let resolved = Resolved { manifest, config, digest: digest.clone() };
        if !self.unpack(name, &resolved, lease).await? {
            return Err(source.corrupt("a layer vanished while it was unpacked".to_owned()));
        }
        self.name(name, &top, &digest).await?;
        Ok(resolved.config.image(name.to_owned(), digest))
    }

    async fn fetch_config(
        &self,
        source: &impl Origin,
        manifest: &Manifest,
        lease: &Lease,
    ) -> Result<ImageConfig, RuntimeError> {
        let blob = &manifest.config;
        let mut bytes = match self.client.read_blob(&blob.digest).await? {
            Some(bytes) => bytes,
            None => self.read_from(source, blob).await?,
        };
        let config = ImageConfig::parse(&bytes).map_err(|e| source.corrupt(e))?;
        let chain = config.chain_ids().pop().unwrap_or_default();
        let labels = [(format!("containerd.io/gc.ref.snapshot.{}", self.snapshots.name), chain)].into();
        self.store(source, blob, &mut bytes, labels, lease).await?;
        Ok(config)
    }

    /// A blob that is held in memory, from the first place that has it as it should be.
    async fn read_from(&self, source: &impl Origin, blob: &Descriptor) -> Result<bytes::Bytes, RuntimeError> {
        let mut places = source.places().into_iter().peekable();
        while let Some(place) = places.next() {
            let read = async {
                let mut parts = source.blob(place, blob).await?;
                let mut all = bytes::BytesMut::new();
                while let Some(part) = parts.try_next().await? {
                    all.extend_from_slice(&part);
                    if all.len() as i64 > blob.size.min(MAX_DOCUMENT) {
                        return Err(source.corrupt(format!("{} is longer than {} bytes", blob.digest, blob.size)));
                    }
                }
                match digest_of(&all) {
                    actual if actual == blob.digest => Ok(all.freeze()),
                    actual => Err(source.corrupt(format!("its {} is {actual}", blob.digest))),
                }
            };
            match read.await {
                Err(error) if error.is_of_source() && places.peek().is_some() => source.failed(place, &error),
                read => return read,
            }
        }
        Err(source.corrupt("there is nowhere to fetch it from".to_owned()))
    }

    async fn store_document(
        &self,
        source: &impl Origin,
        bytes: &bytes::Bytes,
        labels: Labels,
        lease: &Lease,
    ) -> Result<(), RuntimeError> {
        let digest = digest_of(bytes);
        let size = bytes.len() as i64;
        let blob = Descriptor { media_type: String::new(), digest, size, urls: None, platform: None };
        self.store(source, &blob, &mut bytes.clone(), labels, lease).await
    }

    async fn store(
        &self,
        source: &impl Origin,
        blob: &Descriptor,
        bytes: &mut bytes::Bytes,
        labels: Labels,
        lease: &Lease,
    ) -> Result<(), RuntimeError> {
        let _one = self.locks.lock(&blob.digest).await;
        let Some(writer) = self.client.open_blob(blob, &labels, lease).await? else { return Ok(()) };
        let content = stream::iter([Ok::<_, RuntimeError>(std::mem::take(bytes))]);
        let written = self.client.fill_blob(writer, blob, &labels, content, |_| {}).await;
        written.map_err(|failure| match failure {
            WriteFailure::Store(e) | WriteFailure::Source(e) => e,
            WriteFailure::Mismatch(why) => source.corrupt(why),
        })
    }

    /// Brings a layer into the content store, from the first place that has it as it should be.
    async fn fetch_layer(
        &self,
        source: &impl Origin,
        blob: &Descriptor,
        lease: &Lease,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), RuntimeError> {
        let _one = self.locks.lock(&blob.digest).await;
        let mut places = source.places().into_iter().peekable();
        while let Some(place) = places.next() {
            let come = AtomicU64::new(0);
            let tell = |n: u64| {
                come.fetch_add(n, Ordering::Relaxed);
                progress.send_modify(|p| p.done += n);
            };
            match self.fetch_layer_from(source, place, blob, lease, tell).await {
                Err(error) if error.is_of_source() && places.peek().is_some() => {
                    // It comes again from somewhere else.
                    progress.send_modify(|p| p.done -= come.load(Ordering::Relaxed));
                    source.failed(place, &error);
                }
                fetched => return fetched,
            }
        }
        Err(source.corrupt("there is nowhere to fetch it from".to_owned()))
    }

    async fn fetch_layer_from(
        &self,
        source: &impl Origin,
        place: usize,
        blob: &Descriptor,
        lease: &Lease,
        progress: impl Fn(u64),
    ) -> Result<(), RuntimeError> {
        let labels = Labels::new();
        let Some(writer) = self.client.open_blob(blob, &labels, lease).await? else {
            progress(blob.size.unsigned_abs());
            return Ok(());
        };
        let content = source.blob(place, blob).await?;
        let written = self.client.fill_blob(writer, blob, &labels, content, progress).await;
        written.map_err(|failure| match failure {
            WriteFailure::Store(e) | WriteFailure::Source(e) => e,
            WriteFailure::Mismatch(why) => source.corrupt(why),
        })
    }

    /// Makes the snapshots of all layers. `false` if a layer is not in the content store.
    async fn unpack(&self, name: &str, image: &Resolved, lease: &Lease) -> Result<bool, RuntimeError> {
        let mut parent = String::new();
        let layers = image.manifest.layers.iter().zip(image.config.diff_ids());
        for ((blob, diff), chain) in layers.zip(image.config.chain_ids()) {
            let _one = self.locks.lock(&chain).await;
            match self.snapshots.unpack(&chain, &parent, blob, diff, lease).await? {
                Unpacked::Yes => parent = chain,
                Unpacked::BlobMissing => return Ok(false),
                Unpacked::Mismatch(actual) => {
                    let why = format!("the layer {} unpacks to {actual} instead of {diff}", blob.digest);
                    return Err(RuntimeError::Corrupt { reference: name.to_owned(), why });
                }
            }
        }
        Ok(true)
    }

    /// Gives the image its name, which holds everything from now on.
    async fn name(&self, name: &str, top: &[u8], digest: &str) -> Result<(), RuntimeError> {
        let media_type = media_type(top);
        let size = top.len() as i64;
        let target = types::Descriptor { media_type, digest: digest.to_owned(), size, annotations: Default::default() };
        self.point(name, target).await
    }

    /// Makes the name stand for this, whatever it stood for.
    pub(super) async fn point(&self, name: &str, target: types::Descriptor) -> Result<(), RuntimeError> {
        let image = Some(Record { name: name.to_owned(), target: Some(target), ..Default::default() });
        let c = &self.client;
        let request = c.request(CreateImageRequest { image: image.clone(), ..Default::default() });
        let failed = |s| c.error("name the image", name, &s);
        match c.call(c.images().create(request)).await {
            Err(s) if s.code() == Code::AlreadyExists => {
                let request = c.request(UpdateImageRequest { image, ..Default::default() });
                c.call(c.images().update(request)).await.map(|_| ()).map_err(failed)
            }
            other => other.map(|_| ()).map_err(failed),
        }
    }
}

/// One lease per image: its lock says that nobody else uses it.
fn lease_id(name: &str) -> String {
    format!("hivemind-{}", digest_of(name.as_bytes()).trim_start_matches("sha256:"))
}

fn as_manifest(document: Document) -> Result<Manifest, String> {
    match document {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => Err("its index names another index".to_owned()),
    }
}

fn manifest_labels(manifest: &Manifest) -> Labels {
    let config = ("containerd.io/gc.ref.content.config".to_owned(), manifest.config.digest.clone());
    let layer = |(n, l): (usize, &Descriptor)| (format!("containerd.io/gc.ref.content.l.{n}"), l.digest.clone());
    std::iter::once(config).chain(manifest.layers.iter().enumerate().map(layer)).collect()
}

/// An image without an index says only in its configuration what it is for.
fn check_platform(name: &str, config: &ImageConfig) -> Result<(), RuntimeError> {
    let machine = Machine::here();
    let p = &config.platform;
    if p.os == "linux" && p.architecture == machine.architecture {
        return Ok(());
    }
    Err(no_platform(name, &machine, vec![p.to_string()]))
}

fn no_platform(name: &str, machine: &Machine, available: Vec<String>) -> RuntimeError {
    let wanted = format!("linux/{}", machine.architecture);
    RuntimeError::NoPlatform { reference: name.to_owned(), wanted, available }
}
