//! Sends images to registries: what is missing there, from the leaves to the root.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use containerd_client::services::v1::Image as Record;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::watch;

use super::pull::Puller;
use crate::{
    PullProgress, Pushed, RuntimeError, StoredImage,
    manifest::{Descriptor, Document, Manifest, digest_of, media_type},
    registry::{self, Delivery},
};

/// Blobs sent at once.
const PARALLEL: usize = 3;

/// A manifest that is on the node with everything that it names.
struct Whole {
    digest: String,
    bytes: Bytes,
    manifest: Manifest,
}

/// What an image's name is to stand for, and what is beneath it.
struct Plan {
    top: Bytes,
    /// What is sent before it, as it names it; not itself.
    beneath: Vec<Whole>,
    /// What names the blobs.
    blobs: Vec<Descriptor>,
    left_out: Vec<String>,
}

impl Puller {
    /// Sends the image `record` under the name `to`. `others` are all images of the node: what they have from the same
    /// registry need not be sent.
    pub(super) async fn push(
        &self,
        record: Record,
        to: &str,
        others: &[StoredImage],
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Pushed, RuntimeError> {
        let name = record.name;
        progress.send_modify(|p| p.step = "looking");
        let reference = registry::parse(to)?;
        let known = known(others, reference.registry(), reference.repository());
        let from: BTreeSet<_> = known.values().cloned().collect();
        let target = self.registries.target(&reference, &from.into_iter().collect::<Vec<_>>()).await?;

        let digest = record.target.unwrap_or_default().digest;
        let plan = self.plan(&name, &digest, &target).await?;
        let digest = digest_of(&plan.top);
        if let Some(wanted) = reference.digest().filter(|wanted| *wanted != digest) {
            let why = format!("what is sent would be {digest}, not {wanted}");
            return Err(RuntimeError::BadReference { reference: to.to_owned(), why });
        }
        let total = plan.blobs.iter().map(|blob| blob.size.unsigned_abs()).sum();
        progress.send_modify(|p| *p = PullProgress { done: 0, total, step: "sending" });
        let tell = |n: i64| progress.send_modify(|p| p.done = p.done.saturating_add_signed(n));
        let deliver = plan.blobs.iter().map(|blob| {
            let (target, known, tell) = (&target, &known, &tell);
            async move {
                let content = || self.client.stream_blob(&blob.digest);
                let from = known.get(blob.digest.as_str()).map(String::as_str);
                let delivery = target.deliver(blob, from, &content, tell).await?;
                Ok::<_, RuntimeError>((delivery, blob.size.unsigned_abs()))
            }
            .boxed()
        });
        let deliver: Vec<_> = deliver.collect();
        let delivered: Vec<_> = stream::iter(deliver).buffer_unordered(PARALLEL).try_collect().await?;
        progress.send_modify(|p| p.step = "naming");
        for Whole { digest, bytes, .. } in &plan.beneath {
            target.put_manifest(digest, &media_type(bytes), bytes).await?;
        }
        target.put_manifest(reference.tag().unwrap_or(&digest), &media_type(&plan.top), &plan.top).await?;

        let mut pushed = Pushed { reference: registry::full_name(&reference), digest, ..Pushed::default() };
        pushed.left_out = plan.left_out;
        for (delivery, size) in delivered {
            match delivery {
                Delivery::There => pushed.there += size,
                Delivery::Mounted => pushed.mounted += size,
                Delivery::Sent => pushed.sent += size,
            }
        }
        progress.send_modify(|p| p.step = "done");
        Ok(pushed)
    }

    /// An index is sent if every variant in it is here or there; otherwise the variant for this machine is, alone.
    async fn plan(&self, name: &str, digest: &str, target: &registry::Target) -> Result<Plan, RuntimeError> {
        let corrupt = |why| RuntimeError::Corrupt { reference: name.to_owned(), why };
        let missing = || RuntimeError::Incomplete { reference: name.to_owned(), why: format!("{digest} is missing") };
        let top = self.client.read_blob(digest).await?.ok_or_else(missing)?;
        let entries = match Document::parse(&top).map_err(corrupt)? {
            Document::Manifest(_) => {
                let whole = self.whole(digest).await.and_then(|whole| whole.ok_or_else(missing))?;
                return Ok(Plan { top, blobs: blobs([&whole]), beneath: vec![], left_out: vec![] });
            }
            Document::Index(entries) => entries,
        };
        let (mut here, mut left_out, mut complete) = (Vec::new(), Vec::new(), true);
        for entry in &entries {
            match self.whole(&entry.digest).await? {
                Some(whole) => here.push(whole),
                None if target.has_manifest(&entry.digest).await? => {}
                None => {
                    complete = false;
                    // Attestations are entries for the platform unknown/unknown.
                    let platform = entry.platform.as_ref().filter(|platform| platform.os != "unknown");
                    left_out.extend(platform.map(ToString::to_string));
                }
            }
        }
        if complete {
            return Ok(Plan { top, blobs: blobs(&here), beneath: here, left_out });
        }
        let chosen = self.choose(name, &entries)?;
        let whole = here.into_iter().find(|whole| whole.digest == chosen.digest);
        let missing = || RuntimeError::Incomplete {
            reference: name.to_owned(),
            why: format!("a part of {} is missing", chosen.digest),
        };
        let whole = whole.ok_or_else(missing)?;
        Ok(Plan { blobs: blobs([&whole]), top: whole.bytes, beneath: vec![], left_out })
    }

    /// A manifest, if it and all that it names are on the node.
    async fn whole(&self, digest: &str) -> Result<Option<Whole>, RuntimeError> {
        let Some(bytes) = self.client.read_blob(digest).await? else { return Ok(None) };
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) else { return Ok(None) };
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if !self.client.has_blob(&blob.digest).await? {
                return Ok(None);
            }
        }
        Ok(Some(Whole { digest: digest.to_owned(), bytes, manifest }))
    }
}

/// Every blob once: layers first, since the large ones take longest.
fn blobs<'a>(wholes: impl IntoIterator<Item = &'a Whole> + Clone) -> Vec<Descriptor> {
    let mut seen = BTreeSet::new();
    let layers = wholes.clone().into_iter().flat_map(|whole| &whole.manifest.layers);
    let configs = wholes.into_iter().map(|whole| &whole.manifest.config);
    layers.chain(configs).filter(|blob| seen.insert(blob.digest.as_str())).cloned().collect()
}

/// The repositories of a registry, but for one of them, in which layers are by the names of images: by the layers' digests.
fn known<'a>(images: &'a [StoredImage], registry: &str, but: &str) -> BTreeMap<&'a str, String> {
    let mut known = BTreeMap::new();
    for image in images {
        let Ok(reference) = registry::parse(&image.reference) else { continue };
        if reference.registry() != registry || reference.repository() == but {
            continue;
        }
        for layer in image.content.iter().flat_map(|content| &content.layers) {
            known.insert(layer.digest.as_str(), reference.repository().to_owned());
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Content, Layer};
    use hivemind_core::model::Timestamp;

    #[test]
    fn layers_are_known_by_the_names_of_images_of_the_same_registry() {
        let image = |name: &str, layers: &[&str]| StoredImage {
            reference: name.to_owned(),
            digest: String::new(),
            created_at: Timestamp::default(),
            content: Some(Arc::new(Content {
                platform: String::new(),
                manifest: String::new(),
                labels: std::collections::BTreeMap::new(),
                layers: layers.iter().map(|digest| Layer { digest: (*digest).to_owned(), size: 1 }).collect(),
            })),
        };
        let images = [
            image("r.io/base:1", &["a", "b"]),
            image("other.io/base:1", &["c"]),
            image("r.io/team/own:1", &["d"]),
            image("nginx", &["e"]),
        ];
        let found = known(&images, "r.io", "team/own");
        assert_eq!(found, [("a", "base".to_owned()), ("b", "base".to_owned())].into());
        assert_eq!(known(&images, "docker.io", "own").get("e").map(String::as_str), Some("library/nginx"));
    }
}
