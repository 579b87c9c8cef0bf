//! Images in a file: an OCI image layout (image-spec 1.1, image-layout.md) or what `docker save` writes, as a tar archive. Or in
//! a folder: a layout.
//!
//! It is looked through once; afterwards its parts are read where they lie.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read, Seek as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    RuntimeError,
    manifest::{Descriptor, MANIFEST_TYPES, MAX_DOCUMENT, digest_of, hex},
    origin::Origin,
};

/// Bytes that are read at once.
const CHUNK: u64 = 1 << 20;
/// Files in an archive at most: a thousand images of a hundred layers.
const MAX_FILES: usize = 100_000;
/// Images in an archive at most.
const MAX_IMAGES: usize = 1_000;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Where something lies: in a file, its first byte there, and how many there are.
#[derive(Clone, Debug)]
struct Place {
    file: Lies,
    at: u64,
    size: u64,
}

#[derive(Clone, Debug)]
enum Lies {
    /// In the archive, among others.
    Among(Arc<File>),
    /// In a file of its own.
    Alone(Arc<Path>),
}

impl Place {
    fn open(&self) -> io::Result<Arc<File>> {
        match &self.file {
            Lies::Among(file) => Ok(Arc::clone(file)),
            Lies::Alone(path) => File::open(path).map(Arc::new),
        }
    }
}

/// An archive that has been looked through.
#[derive(Debug)]
pub(super) struct Archive {
    /// Blobs by digest.
    blobs: HashMap<String, Place>,
    /// Its images.
    pub(super) images: Vec<Archived>,
}

/// An image of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Archived {
    /// The names that the archive has for it.
    pub(super) names: Vec<String>,
    /// Its manifest, or its index.
    pub(super) top: Bytes,
}

/// One image of an archive under the name that it is to have.
pub(super) struct Packed<'a> {
    pub(super) archive: &'a Archive,
    pub(super) image: &'a Archived,
    pub(super) name: String,
}

/// An entry of `index.json`.
#[derive(Deserialize)]
struct Entry {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

/// An entry of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    /// Looks an archive through. The error says what is wrong with it.
    pub(super) fn read(file: File) -> Result<Self, String> {
        Self::of(&places(file)?)
    }

    /// Looks a folder with a layout through. The error says what is wrong with it.
    pub(super) fn read_folder(dir: &Path) -> Result<Self, String> {
        Self::of(&files_of(dir).map_err(|error| format!("{}: {error}", dir.display()))?)
    }

    fn of(files: &HashMap<String, Place>) -> Result<Self, String> {
        let mut archive = Self { blobs: HashMap::new(), images: Vec::new() };
        for (path, place) in files {
            if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                archive.blobs.insert(format!("sha256:{hex}"), place.clone());
            }
        }
        // What `docker save` writes today has both, and only the layout has the digests that a registry knows.
        if let Some(index) = files.get("index.json") {
            archive.add_layout(index)?;
        } else if let Some(manifest) = files.get("manifest.json") {
            archive.add_saved(manifest, files)?;
        } else if files.is_empty() {
            return Err("there is nothing in it".to_owned());
        } else {
            return Err("it has neither index.json (OCI) nor manifest.json (docker save)".to_owned());
        }
        if archive.images.is_empty() {
            return Err("there is no image in it".to_owned());
        }
        Ok(archive)
    }

    fn add_layout(&mut self, index: &Place) -> Result<(), String> {
        let index: Index = document("index.json", index)?;
        for Entry { descriptor, annotations } in index.manifests.into_iter().take(MAX_IMAGES) {
            if !MANIFEST_TYPES.contains(&descriptor.media_type.as_str()) {
                continue;
            }
            let Some(place) = self.blobs.get(&descriptor.digest) else {
                return Err(format!("it has no {}, which its index.json names", descriptor.digest));
            };
            // containerd and Docker write the whole name; `ref.name` is a tag alone with others.
            let whole = annotations.get("io.containerd.image.name");
            let short = annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
            let names = whole.or(short).into_iter().cloned().collect();
            self.images.push(Archived { names, top: small(&descriptor.digest, place)? });
        }
        Ok(())
    }

    /// Images of `docker save` before version 25: their layers are named by anything, and there is no manifest.
    fn add_saved(&mut self, manifest: &Place, files: &HashMap<String, Place>) -> Result<(), String> {
        let saved: Vec<Saved> = document("manifest.json", manifest)?;
        for Saved { config, repo_tags, layers } in saved.into_iter().take(MAX_IMAGES) {
            let find = |path: &String| {
                files
                    .get(path.trim_start_matches("./"))
                    .ok_or(format!("it has no {path}, which its manifest.json names"))
            };
            let config = self.add(find(&config)?, CONFIG)?;
            let layers = layers.iter().map(|path| {
                let place = find(path)?;
                let kind = compression(place).map_err(|error| format!("{path} cannot be read: {error}"))?;
                self.add(place, &format!("{LAYER}{kind}"))
            });
            let layers = layers.collect::<Result<Vec<_>, String>>()?;
            let manifest = serde_json::json!({
                "schemaVersion": 2, "mediaType": MANIFEST_TYPES[1], "config": config, "layers": layers,
            });
            self.images.push(Archived { names: repo_tags.unwrap_or_default(), top: manifest.to_string().into() });
        }
        Ok(())
    }

    /// Makes a blob of a file: reads it for its digest.
    fn add(&mut self, place: &Place, media_type: &str) -> Result<serde_json::Value, String> {
        let file = place.open().map_err(|error| error.to_string())?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK as usize];
        let mut done = 0;
        while done < place.size {
            let part = &mut buffer[..(place.size - done).min(CHUNK) as usize];
            file.read_exact_at(part, place.at + done).map_err(|error| error.to_string())?;
            hash.update(&*part);
            done += part.len() as u64;
        }
        let digest = format!("sha256:{}", hex(&hash.finalize()));
        self.blobs.insert(digest.clone(), place.clone());
        Ok(serde_json::json!({ "mediaType": media_type, "digest": digest, "size": place.size }))
    }

    /// Parts of a blob as they are read; `None` if it is not in it.
    pub(super) fn stream(&self, digest: &str) -> Option<BoxStream<'static, io::Result<Bytes>>> {
        let place = self.blobs.get(digest)?.clone();
        let parts = stream::try_unfold((None, 0), move |(file, done): (Option<Arc<File>>, u64)| {
            let place = place.clone();
            async move {
                let size = (place.size - done).min(CHUNK);
                if size == 0 {
                    return Ok(None);
                }
                let read = move || {
                    let file = file.map_or_else(|| place.open(), Ok)?;
                    let mut bytes = vec![0; size as usize];
                    file.read_exact_at(&mut bytes, place.at + done).map(|()| (bytes, file))
                };
                let (bytes, file) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
                Ok(Some((Bytes::from(bytes), (Some(file), done + size))))
            }
        });
        Some(parts.boxed())
    }

    /// The size of a blob; `None` if it is not in it.
    pub(super) fn size(&self, digest: &str) -> Option<u64> {
        self.blobs.get(digest).map(|place| place.size)
    }

    /// A blob that is held in memory; `None` if it is not in it.
    pub(super) fn small(&self, digest: &str) -> Result<Option<Bytes>, String> {
        self.blobs.get(digest).map(|place| small(digest, place)).transpose()
    }
}

/// What a layer's media type ends with, by its first bytes (RFC 1952, RFC 8878).
fn compression(place: &Place) -> io::Result<&'static str> {
    let mut magic = [0; 4];
    let magic = &mut magic[..place.size.min(4) as usize];
    place.open()?.read_exact_at(magic, place.at)?;
    Ok(match magic {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
        _ => "",
    })
}

fn document<T: serde::de::DeserializeOwned>(name: &str, place: &Place) -> Result<T, String> {
    serde_json::from_slice(&small(name, place)?).map_err(|error| format!("its {name} cannot be read: {error}"))
}

/// A part that is held in memory.
fn small(name: &str, place: &Place) -> Result<Bytes, String> {
    if place.size > MAX_DOCUMENT.unsigned_abs() {
        return Err(format!("its {name} of {} bytes is too large", place.size));
    }
    let mut bytes = vec![0; place.size as usize];
    let read = place.open().and_then(|file| file.read_exact_at(&mut bytes, place.at));
    read.map(|()| bytes.into()).map_err(|error| format!("{name}: {error}"))
}

/// The files of a layout in a folder: those that it is made of, and no others.
fn files_of(dir: &Path) -> io::Result<HashMap<String, Place>> {
    let mut found = HashMap::new();
    let mut add = |name: String, path: &Path| -> io::Result<()> {
        let file = std::fs::metadata(path)?;
        if file.is_file() {
            found.insert(name, Place { file: Lies::Alone(path.into()), at: 0, size: file.len() });
        }
        Ok(())
    };
    add("index.json".into(), &dir.join("index.json"))?;
    for entry in std::fs::read_dir(dir.join("blobs/sha256"))?.take(MAX_FILES) {
        let entry = entry?;
        add(format!("blobs/sha256/{}", entry.file_name().to_string_lossy()), &entry.path())?;
    }
    Ok(found)
}

/// The files of an archive by their paths, without `./` before them.
fn places(file: File) -> Result<HashMap<String, Place>, String> {
    let wrong = |error: io::Error| format!("it is no tar archive, or a damaged one: {error}");
    let whole = Arc::new(file.try_clone().map_err(wrong)?);
    let mut file = file;
    file.rewind().map_err(wrong)?;
    let mut magic = [0; 2];
    if file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b] {
        return Err("it is compressed; write gunzip < FILE | hivemind image import -".to_owned());
    }
    file.rewind().map_err(wrong)?;
    let mut archive = tar::Archive::new(file);
    let (mut found, mut links) = (HashMap::new(), Vec::new());
    for entry in archive.entries_with_seek().map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular => {
                let file = Lies::Among(Arc::clone(&whole));
                found.insert(path, Place { file, at: entry.raw_file_position(), size: entry.size() });
            }
            // `docker save` once wrote a layer that two images share as a link to the first.
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = entry.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
                links.extend(target.map(|target| (path, target)));
            }
            _ => {}
        }
        if found.len() + links.len() > MAX_FILES {
            return Err(format!("it has more than {MAX_FILES} files"));
        }
    }
    for (path, target) in links {
        let target = target.trim_start_matches("../").trim_start_matches("./").to_owned();
        if let Some(place) = found.get(&target).cloned() {
            found.insert(path, place);
        }
    }
    Ok(found)
}

#[async_trait::async_trait]
impl Origin for Packed<'_> {
    async fn top(&self) -> Result<(Bytes, String), RuntimeError> {
        Ok((self.image.top.clone(), digest_of(&self.image.top)))
    }

    async fn manifest(&self, digest: &str) -> Result<Bytes, RuntimeError> {
        let read = self.archive.small(digest).map_err(|why| self.corrupt(why))?;
        let bytes = read.ok_or_else(|| self.corrupt(format!("it has no {digest}")))?;
        match digest_of(&bytes) {
            actual if actual == digest => Ok(bytes),
            actual => Err(self.corrupt(format!("its manifest should be {digest} and is {actual}"))),
        }
    }

    async fn blob(
        &self,
        _place: usize,
        blob: &Descriptor,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError> {
        let lacks = || self.corrupt(format!("it has no {}", blob.digest));
        let parts = self.archive.stream(&blob.digest).ok_or_else(lacks)?;
        let name = self.name.clone();
        let unreadable = move |error: io::Error| RuntimeError::Corrupt {
            reference: name.clone(),
            why: format!("the archive cannot be read: {error}"),
        };
        Ok(parts.map_err(unreadable).boxed())
    }

    fn corrupt(&self, why: String) -> RuntimeError {
        RuntimeError::Corrupt { reference: self.name.clone(), why }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An archive of these files.
    fn archive(files: &[(&str, &[u8])]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        let mut tar = tar::Builder::new(&mut file);
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, *bytes).expect("added");
        }
        tar.into_inner().expect("whole").flush().expect("written");
        file
    }

    fn wrong(files: &[(&str, &[u8])]) -> String {
        Archive::read(archive(files)).expect_err("is wrong")
    }

    #[tokio::test]
    async fn what_docker_saves_becomes_an_image() {
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let gzip = [&[0x1f, 0x8b][..], &[7; 3_000_000]].concat();
        let manifest = br#"[{"Config":"c.json","RepoTags":["own:1","own:2"],"Layers":["a/layer.tar","./b.tar"]}]"#;
        let file =
            archive(&[("c.json", config), ("a/layer.tar", b"plain"), ("b.tar", &gzip), ("manifest.json", manifest)]);
        let archive = Archive::read(file).expect("is read");
        let [image] = &archive.images[..] else { panic!("one image: {:?}", archive.images) };
        assert_eq!(image.names, ["own:1", "own:2"]);
        let packed = Packed { archive: &archive, image, name: "own:1".into() };
        let (top, _) = packed.top().await.expect("a manifest");
        let crate::manifest::Document::Manifest(manifest) = crate::manifest::Document::parse(&top).expect("is valid")
        else {
            panic!("a manifest")
        };
        assert_eq!(manifest.config.digest, digest_of(config));
        let kinds: Vec<_> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        assert_eq!(kinds, [LAYER, &format!("{LAYER}+gzip")]);
        for (layer, bytes) in manifest.layers.iter().zip([&b"plain"[..], &gzip]) {
            let parts: Vec<_> = packed.blob(0, layer).await.expect("is there").collect().await;
            let read = parts.into_iter().map(|part| part.expect("is read")).collect::<Vec<_>>().concat();
            assert!(read == bytes && layer.digest == digest_of(bytes));
        }
    }

    #[tokio::test]
    async fn a_layout_keeps_its_digests_and_names() {
        let manifest = br#"{"schemaVersion":2,"x":1}"#;
        let digest = digest_of(manifest);
        let blob = format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
        let entry = |annotations: &str| {
            format!(
                r#"{{"mediaType":"{}","digest":"{digest}","size":{},"annotations":{annotations}}}"#,
                MANIFEST_TYPES[1],
                manifest.len()
            )
        };
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{}]}}"#,
            entry(r#"{"io.containerd.image.name":"docker.io/library/own:1","org.opencontainers.image.ref.name":"1"}"#),
            entry(r#"{"org.opencontainers.image.ref.name":"registry:5000/own:2"}"#),
            entry(r#"{"org.opencontainers.image.ref.name":"latest"}"#),
        );
        let archive = Archive::read(archive(&[("index.json", index.as_bytes()), (&blob, manifest)])).expect("is read");
        let names: Vec<_> = archive.images.iter().map(|image| image.names.concat()).collect();
        assert_eq!(names, ["docker.io/library/own:1", "registry:5000/own:2", ""]);
        let packed = Packed { archive: &archive, image: &archive.images[0], name: "own:1".into() };
        assert_eq!(packed.top().await.expect("there").1, digest);
        assert_eq!(packed.manifest(&digest).await.expect("there"), &manifest[..]);
        let other = digest_of(b"other");
        assert!(packed.manifest(&other).await.is_err());
    }

    #[test]
    fn what_is_no_image_says_why() {
        for (files, why) in [
            (&[("readme", &b"x"[..])][..], "neither index.json"),
            (&[("index.json", b"{")], "index.json cannot be read"),
            (&[("index.json", br#"{"manifests":[]}"#)], "no image in it"),
            (&[("manifest.json", br#"[{"Config":"c","Layers":[]}]"#)], "it has no c"),
        ] {
            let said = wrong(files);
            assert!(said.contains(why), "{said}");
        }
        for (bytes, why) in [(&[0x1f, 0x8b, 8][..], "compressed"), (&[b'x'; 600], "no tar archive")] {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(bytes).expect("written");
            let said = Archive::read(file).expect_err("is wrong");
            assert!(said.contains(why), "{said}");
        }
    }
}
