//! Images that lie with whoever types: what is sent of them to a node that has some of it already.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::Path,
};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    archive::Archive,
    manifest::{Document, digest_of, media_type},
    registry, tarball,
};

/// Images in an archive or in a folder.
#[derive(Debug)]
pub struct Offer {
    archive: Archive,
    /// Manifests, indexes and configurations, by digest: they are small, and always sent.
    documents: BTreeMap<String, Bytes>,
    /// Layers by digest, with their sizes.
    layers: BTreeMap<String, u64>,
    /// What `index.json` has for each name.
    entries: Vec<serde_json::Value>,
}

impl Offer {
    /// Looks through an archive: an OCI layout, or what `docker save` writes. `name` is for the one image in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_file(file: File, name: Option<&str>) -> Result<Self, String> {
        Self::of(Archive::read(file)?, name)
    }

    /// Looks through a folder with an OCI layout. `name` is for the one image in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_folder(dir: &Path, name: Option<&str>) -> Result<Self, String> {
        Self::of(Archive::read_folder(dir)?, name)
    }

    fn of(archive: Archive, name: Option<&str>) -> Result<Self, String> {
        if name.is_some() && archive.images.len() > 1 {
            return Err(format!("it has {} images; one name does not fit them", archive.images.len()));
        }
        let (mut documents, mut layers, mut entries) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for image in &archive.images {
            let names: Vec<_> = match name {
                Some(name) => vec![name.to_owned()],
                None => image.names.clone(),
            };
            if names.is_empty() {
                return Err("it has an image without a name; name it".to_owned());
            }
            for name in names {
                entries.push(entry(&image.top, &name)?);
            }
            let mut next = vec![image.top.clone()];
            while let Some(document) = next.pop() {
                let digest = digest_of(&document);
                if documents.contains_key(&digest) {
                    continue;
                }
                match Document::parse(&document)? {
                    // Variants that are not in it are for other machines; if not, the node says so.
                    Document::Index(variants) => {
                        for variant in variants {
                            next.extend(archive.small(&variant.digest)?);
                        }
                    }
                    Document::Manifest(manifest) => {
                        if let Some(config) = archive.small(&manifest.config.digest)? {
                            documents.insert(manifest.config.digest, config);
                        }
                        let sized = |digest: String| archive.size(&digest).map(|size| (digest, size));
                        layers.extend(manifest.layers.into_iter().filter_map(|layer| sized(layer.digest)));
                    }
                }
                documents.insert(digest, document);
            }
        }
        Ok(Self { archive, documents, layers, entries })
    }

    /// The digest of the one image in it; `None` if there are several.
    pub fn digest(&self) -> Option<String> {
        let [image] = &self.archive.images[..] else { return None };
        Some(digest_of(&image.top))
    }

    /// The same image under further names.
    ///
    /// # Errors
    /// A name that is none, or that there is more than one image.
    pub fn also(mut self, names: &[String]) -> Result<Self, String> {
        let [image] = &self.archive.images[..] else {
            return Err(format!("it has {} images; names for one do not fit them", self.archive.images.len()));
        };
        for name in names {
            let entry = entry(&image.top, name)?;
            if !self.entries.contains(&entry) {
                self.entries.push(entry);
            }
        }
        Ok(self)
    }

    /// The layers' digests.
    pub fn layers(&self) -> Vec<String> {
        self.layers.keys().cloned().collect()
    }

    /// Bytes of those of these layers that are in it.
    pub fn size(&self, layers: &BTreeSet<String>) -> u64 {
        self.layers.iter().filter(|(digest, _)| layers.contains(*digest)).map(|(_, size)| size).sum()
    }

    /// An archive (an OCI layout) of the images with only these layers. Must be called in a tokio runtime.
    pub fn archive(&self, layers: &BTreeSet<String>) -> BoxStream<'static, io::Result<Bytes>> {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": self.entries});
        let mut wholes = vec![
            ("oci-layout".to_owned(), Bytes::from_static(br#"{"imageLayoutVersion": "1.0.0"}"#)),
            ("index.json".to_owned(), Bytes::from(index.to_string())),
        ];
        wholes.extend(self.documents.iter().map(|(digest, bytes)| (tarball::path(digest), bytes.clone())));
        let wanted = self.layers.iter().filter(|(digest, _)| layers.contains(*digest));
        let blobs: Vec<_> =
            wanted.filter_map(|(digest, size)| Some((digest.clone(), *size, self.archive.stream(digest)?))).collect();
        let (sender, receiver) = mpsc::channel(2);
        // Ends with its reader.
        tokio::spawn(async move {
            let write = async {
                for (path, bytes) in wholes {
                    tarball::whole(&sender, &path, bytes).await?;
                }
                for (digest, size, content) in blobs {
                    tarball::blob(&sender, &digest, size, content).await?;
                }
                Ok::<_, io::Error>(tarball::END)
            };
            let _ = sender.send(write.await).await;
        });
        ReceiverStream::new(receiver).boxed()
    }
}

/// What `index.json` has for an image under a name.
fn entry(top: &[u8], name: &str) -> Result<serde_json::Value, String> {
    let name = registry::complete_reference(name).map_err(|error| error.to_string())?;
    Ok(serde_json::json!({
        "mediaType": media_type(top), "digest": digest_of(top), "size": top.len(),
        "annotations": {"io.containerd.image.name": name},
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What an archive's bytes hold, by path.
    fn files(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().expect("a tar archive");
        let read = entries.map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes).expect("is read");
            (entry.path().expect("a path").display().to_string(), bytes)
        });
        read.collect()
    }

    /// A layout in a folder: an image of two layers.
    fn layout(dir: &Path) -> [String; 2] {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("made");
        let put = |bytes: &[u8]| {
            let digest = digest_of(bytes);
            std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).expect("written");
            (digest, bytes.len())
        };
        let layers = [put(b"one"), put(&[7; 3_000_000])];
        let (config, size) = put(b"{}");
        let kind = "application/vnd.oci.image";
        let listed = layers.clone().map(|(digest, size)| {
            serde_json::json!({"mediaType": format!("{kind}.layer.v1.tar"), "digest": digest, "size": size})
        });
        let manifest = serde_json::json!({
            "schemaVersion": 2, "layers": listed,
            "config": {"mediaType": format!("{kind}.config.v1+json"), "digest": config, "size": size},
        });
        let (digest, size) = put(manifest.to_string().as_bytes());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"mediaType": format!("{kind}.manifest.v1+json"), "digest": digest, "size": size},
        ]});
        std::fs::write(dir.join("index.json"), index.to_string()).expect("written");
        layers.map(|(digest, _)| digest)
    }

    async fn sent(offer: &Offer, layers: &[&String]) -> Vec<u8> {
        let layers = layers.iter().map(|layer| (*layer).clone()).collect();
        let parts: Vec<_> = offer.archive(&layers).collect().await;
        parts.into_iter().map(|part| part.expect("is read")).collect::<Vec<_>>().concat()
    }

    #[tokio::test]
    async fn only_the_layers_that_are_asked_for_are_sent() {
        let dir = tempfile::tempdir().expect("a folder");
        let [one, two] = layout(dir.path());
        assert!(Offer::of_folder(dir.path(), None).expect_err("no name").contains("without a name"));
        let offer = Offer::of_folder(dir.path(), Some("own:1")).expect("is read");
        assert_eq!(offer.layers().into_iter().collect::<BTreeSet<_>>(), [one.clone(), two.clone()].into());
        assert_eq!(offer.size(&[two.clone()].into()), 3_000_000);
        let part = files(&sent(&offer, &[&two]).await);
        assert!(part.contains_key(&tarball::path(&two)) && !part.contains_key(&tarball::path(&one)));
        assert!(String::from_utf8_lossy(&part["index.json"]).contains("docker.io/library/own:1"));

        // An image has several names, each once.
        let digest = offer.digest().expect("one image");
        let names = ["own:1".to_owned(), "own:2".into(), format!("own:1@{digest}")];
        let named = Offer::of_folder(dir.path(), Some("own:1")).and_then(|offer| offer.also(&names)).expect("names");
        let index = files(&sent(&named, &[]).await)["index.json"].clone();
        let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
        let listed = index["manifests"].as_array().expect("a list");
        let named: Vec<_> =
            listed.iter().filter_map(|one| one["annotations"]["io.containerd.image.name"].as_str()).collect();
        let whole = names.map(|name| format!("docker.io/library/{name}"));
        assert!(named == whole && listed.iter().all(|one| one["digest"] == *digest), "{index}");

        // What is sent whole is an archive by itself, and the same again.
        let whole = sent(&offer, &[&one, &two]).await;
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&whole).expect("written");
        let again = Offer::of_file(file, None).expect("is read");
        assert_eq!(files(&sent(&again, &[&one, &two]).await), files(&whole));
    }

    #[test]
    fn a_folder_without_a_layout_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let said = Offer::of_folder(dir.path(), Some("own:1")).expect_err("there is nothing");
        assert!(said.contains(&dir.path().display().to_string()), "{said}");
    }
}
