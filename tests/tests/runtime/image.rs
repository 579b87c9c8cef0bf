//! Small images, made and pushed by hand: a busybox and a user database.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How a layer is packed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packed {
    Plain,
    Gzip,
    Zstd,
}

/// A pushed image.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) digest: String,
    pub(crate) size: usize,
    pub(crate) layers: Vec<String>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// One entry of a tar archive: `None` for a directory, `Err(target)` for a symbolic link.
fn entry(out: &mut Vec<u8>, path: &str, mode: u32, content: Option<Result<&[u8], &str>>) {
    let (kind, link, data): (u8, &str, &[u8]) = match content {
        None => (b'5', "", b""),
        Some(Err(target)) => (b'2', target, b""),
        Some(Ok(data)) => (b'0', "", data),
    };
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, path.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// The layer with busybox.
pub(crate) fn busybox() -> Result<Vec<u8>> {
    let busybox = std::fs::read(xtask::deb::program("busybox", "busybox-static")?)?;
    let mut tar = Vec::new();
    for dir in ["bin/", "etc/", "srv/"] {
        entry(&mut tar, dir, 0o755, None);
    }
    entry(&mut tar, "tmp/", 0o1777, None);
    entry(&mut tar, "bin/busybox", 0o755, Some(Ok(&busybox)));
    for name in ["sh", "cat", "echo", "sleep", "id", "env", "pwd", "seq", "dd", "head", "tr", "stty", "tail", "ls"] {
        entry(&mut tar, &format!("bin/{name}"), 0o777, Some(Err("busybox")));
    }
    entry(&mut tar, "etc/plain", 0o644, Some(Ok(b"not a program\n")));
    tar.resize(tar.len() + 1024, 0);
    Ok(tar)
}

/// A layer with one file more.
pub(crate) fn layer(path: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    entry(&mut tar, path, 0o644, Some(Ok(content)));
    tar.resize(tar.len() + 1024, 0);
    tar
}

pub(crate) fn users() -> Vec<u8> {
    layer("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n")
}

fn pack(tar: &[u8], packed: Packed) -> Result<(Vec<u8>, &'static str)> {
    let (program, media) = match packed {
        Packed::Plain => return Ok((tar.to_vec(), "application/vnd.oci.image.layer.v1.tar")),
        Packed::Gzip => ("gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        Packed::Zstd => ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
    };
    let mut child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("has one")?;
    let tar = tar.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&tar));
    let output = child.wait_with_output()?;
    writer.join().expect("does not panic")?;
    anyhow::ensure!(output.status.success(), "{program} failed");
    Ok((output.stdout, media))
}

/// A registry's address, and the Authorization header for pushing.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) authorization: Option<String>,
}

impl Target {
    /// Pushes an image for `architecture` whose configuration has `process`, as `tag` or by digest only.
    pub(crate) fn push(
        &self,
        repository: &str,
        tag: Option<&str>,
        layers: &[(Vec<u8>, Packed)],
        architecture: &str,
        process: Value,
    ) -> Result<Pushed> {
        let mut descriptors = Vec::new();
        let mut diffs = Vec::new();
        for (tar, packed) in layers {
            let (blob, media) = pack(tar, *packed)?;
            descriptors.push(json!({"mediaType": media, "digest": digest(&blob), "size": blob.len()}));
            diffs.push(digest(tar));
            self.push_blob(repository, &blob)?;
        }
        let config = json!({"os": "linux", "architecture": architecture, "config": process,
            "rootfs": {"type": "layers", "diff_ids": diffs}})
        .to_string();
        self.push_blob(repository, config.as_bytes())?;
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config.as_bytes()),
                "size": config.len()}})
        .to_string();
        let layers = descriptors.iter().filter_map(|d| d["digest"].as_str().map(str::to_owned)).collect();
        let digest = digest(manifest.as_bytes());
        self.push_manifest(repository, tag.unwrap_or(&digest), MANIFEST, &manifest)?;
        Ok(Pushed { digest, size: manifest.len(), layers })
    }

    /// Pushes an index of images by platform, `linux/amd64` or `linux/arm64/v8`.
    pub(crate) fn push_index(&self, repository: &str, tag: &str, images: &[(&str, &Pushed)]) -> Result<String> {
        let entries: Vec<Value> = images
            .iter()
            .map(|(platform, image)| {
                let parts: Vec<&str> = platform.split('/').collect();
                json!({"mediaType": MANIFEST, "digest": image.digest, "size": image.size,
                "platform": {"os": parts[0], "architecture": parts[1], "variant": parts.get(2)}})
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
        self.push_manifest(repository, tag, INDEX, &index)?;
        Ok(digest(index.as_bytes()))
    }

    fn push_blob(&self, repository: &str, blob: &[u8]) -> Result<()> {
        let (status, headers) = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[])?;
        anyhow::ensure!(status == 202, "upload refused with {status}");
        let line = headers.lines().find_map(|l| l.strip_prefix("Location: ")).context("has no location")?;
        let path = line.trim().split_once(&self.host).map_or(line, |(_, path)| path).trim();
        let path = format!("{path}&digest={}", digest(blob));
        let (status, _) = self.request("PUT", &path, "application/octet-stream", blob)?;
        anyhow::ensure!(status == 201, "blob refused with {status}");
        Ok(())
    }

    fn push_manifest(&self, repository: &str, reference: &str, media: &str, manifest: &str) -> Result<()> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let (status, answer) = self.request("PUT", &path, media, manifest.as_bytes())?;
        anyhow::ensure!(status == 201, "manifest refused with {status}: {answer}");
        Ok(())
    }

    /// One request on a connection of its own: status, and everything else.
    pub(crate) fn request(&self, method: &str, path: &str, media: &str, body: &[u8]) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.host)?;
        let auth = self.authorization.as_ref().map(|a| format!("Authorization: {a}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {media}\r\n{auth}\
             Content-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).context("is no HTTP")?;
        Ok((status, answer))
    }
}
