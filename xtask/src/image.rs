//! Images by own code: files of Debian packages and a few of our own become layers, the same bytes every time.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{deb, shell};

/// Something a registry stores by its digest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// `sha256:…`.
    pub digest: String,
    /// What it is.
    pub media_type: String,
    /// Itself.
    pub bytes: Vec<u8>,
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest.
    pub manifest: Blob,
    /// The configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
    architecture: String,
}

/// Images for several platforms under one name.
#[derive(Clone, Debug)]
pub struct Index {
    /// The index itself.
    pub manifest: Blob,
    /// What it lists.
    pub images: Vec<Image>,
}

/// One entry of a root file system.
#[derive(Clone, Debug)]
enum Entry {
    Dir(u32),
    File(u32, Vec<u8>),
    Link(String),
    Device(u32, u32),
    Capable(Vec<u8>),
}

/// `security.capability` of a file that may bind low ports: version 2, effective, number 10 (linux/capability.h).
const NET_BIND_SERVICE: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A root file system in the making.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<String, Entry>);

/// How layers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// Not at all.
    Plain,
}

/// How an image is run, and for what it is.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, which a user may replace.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `80/tcp`.
    pub ports: Vec<String>,
    /// Paths that are volumes.
    pub volumes: Vec<String>,
    /// User, or `user:group`.
    pub user: String,
    /// First signal of a stop.
    pub stop_signal: String,
    /// OCI's name of the architecture; this machine's if empty.
    pub architecture: String,
}

impl Blob {
    fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let sum = Sha256::digest(&bytes);
        let digest = sum.iter().fold(String::from("sha256:"), |text, byte| format!("{text}{byte:02x}"));
        Self { digest, media_type: media_type.to_owned(), bytes }
    }

    /// A document as a blob.
    pub fn json(media_type: &str, value: &Value) -> Self {
        Self::new(media_type, value.to_string().into_bytes())
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

impl Files {
    /// Adds a file; the folders above it come by themselves.
    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path, Entry::File(mode, bytes.into()))
    }

    /// Adds a folder.
    pub fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.add(path, Entry::Dir(mode))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) -> &mut Self {
        self.add(path, Entry::Link(to.to_owned()))
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> &mut Self {
        self.add(path, Entry::Device(major, minor))
    }

    /// Adds a program that may bind low ports (capabilities(7)).
    pub fn capable(&mut self, path: &str, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path, Entry::Capable(bytes.into()))
    }

    fn add(&mut self, path: &str, entry: Entry) -> &mut Self {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Entry::Dir(0o755));
        }
        self.0.insert(path.to_owned(), entry);
        self
    }

    /// Adds all files of a folder, as they lie there; `wanted` chooses by the path. `/bin`, `/lib` and the like become
    /// part of `/usr`, as on the machines the packages are made for.
    pub fn tree(&mut self, dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<&mut Self> {
        self.walk(dir, dir, wanted)?;
        Ok(self)
    }

    fn walk(&mut self, root: &Path, dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = entry?.path();
            let inner = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let top = inner.split('/').next().unwrap_or_default();
            let merged = if ["bin", "sbin", "lib", "lib64"].contains(&top) { format!("usr/{inner}") } else { inner };
            if !wanted(&merged) {
                continue;
            }
            let kind = fs::symlink_metadata(&path)?;
            if kind.is_symlink() {
                self.link(&merged, &fs::read_link(&path)?.to_string_lossy());
            } else if kind.is_dir() {
                self.walk(root, &path, wanted)?;
            } else {
                self.file(&merged, kind.permissions().mode() & 0o7777, fs::read(&path)?);
            }
        }
        Ok(())
    }

    /// The links that make `/bin` part of `/usr/bin`, and so on.
    pub fn merged_usr(&mut self) -> &mut Self {
        for dir in ["bin", "sbin", "lib", "lib64"] {
            self.dir(&format!("usr/{dir}"), 0o755).link(dir, &format!("usr/{dir}"));
        }
        self
    }

    /// As a layer, packed as it is said: owned by root, without times, in the order of the names.
    fn layer(&self, packing: Packing) -> Result<(Blob, String)> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_mtime(0);
            match entry {
                Entry::Dir(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File(mode, bytes) => {
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
                Entry::Device(major, minor) => {
                    header.set_entry_type(tar::EntryType::Char);
                    header.set_mode(0o660);
                    header.set_device_major(*major)?;
                    header.set_device_minor(*minor)?;
                    header.set_size(0);
                    tar.append_data(&mut header, path, std::io::empty())?;
                }
                Entry::Capable(bytes) => {
                    tar.append_pax_extensions([("SCHILY.xattr.security.capability", NET_BIND_SERVICE)])?;
                    header.set_mode(0o755);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
                Entry::Link(to) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, to)?;
                }
            }
        }
        let plain = tar.into_inner()?;
        let inner_digest = Blob::new("", plain.clone()).digest;
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let layer = match packing {
            Packing::Gzip => {
                // The fastest level: the registry is on loopback.
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&plain)?;
                Blob::new(&format!("{kind}+gzip"), gzip.finish()?)
            }
            Packing::Zstd => Blob::new(&format!("{kind}+zstd"), zstd(&plain)?),
            Packing::Plain => Blob::new(kind, plain),
        };
        Ok((layer, inner_digest))
    }
}

/// What the program `zstd` makes of bytes.
fn zstd(plain: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new(deb::program("zstd", "zstd")?);
    command.args(["-q", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run zstd")?;
    let mut input = child.stdin.take().context("zstd has no input")?;
    let output = std::thread::scope(|scope| {
        // It writes while it reads. If it ends early, its status says so.
        scope.spawn(move || {
            let _ = input.write_all(plain);
        });
        child.wait_with_output()
    })?;
    ensure!(output.status.success(), "zstd: {}", output.status);
    Ok(output.stdout)
}

/// This machine's architecture as images call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image {
    /// An image of one layer per entry of `layers`, lowest first.
    pub fn new(layers: &[&Files], config: &Config) -> Result<Self> {
        Self::packed(layers, config, Packing::Gzip)
    }

    /// The same with layers that are packed otherwise.
    pub fn packed(layers: &[&Files], config: &Config, packing: Packing) -> Result<Self> {
        let made = layers.iter().map(|files| files.layer(packing)).collect::<Result<Vec<_>>>()?;
        let (layers, inner): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        let ports: BTreeMap<_, _> = config.ports.iter().map(|port| (port.clone(), json!({}))).collect();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let env: Vec<_> = std::iter::once(path).chain(config.env.iter().cloned()).collect();
        let architecture =
            if config.architecture.is_empty() { architecture().to_owned() } else { config.architecture.clone() };
        let mut run = json!({
            "Entrypoint": config.entrypoint, "Cmd": config.command, "Env": env, "ExposedPorts": ports,
            "Volumes": config.volumes.iter().map(|path| (path.clone(), json!({}))).collect::<BTreeMap<_, _>>(),
            "User": config.user, "StopSignal": config.stop_signal,
        });
        if let Some(fields) = run.as_object_mut() {
            // As Docker writes them: what is not set is not there.
            let empty = |value: &Value| *value == json!([]) || *value == json!({}) || *value == json!("");
            fields.retain(|_, value| !empty(value));
        }
        // A line for each layer, with a time: builders count them, and buildah knows no layer again without.
        let made = json!({ "created_by": "xtask", "created": "1970-01-01T00:00:00Z" });
        let history = vec![made; inner.len()];
        let document = json!({
            "architecture": architecture,
            "os": "linux",
            "config": run,
            "history": history,
            "rootfs": { "type": "layers", "diff_ids": inner },
        });
        let config = Blob::json("application/vnd.oci.image.config.v1+json", &document);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::json("application/vnd.oci.image.manifest.v1+json", &manifest);
        Ok(Self { manifest, config, layers, architecture })
    }

    /// Bytes that a pull fetches.
    pub fn size(&self) -> usize {
        self.layers.iter().map(|layer| layer.bytes.len()).sum()
    }
}

impl Index {
    /// An index over images.
    pub fn new(images: Vec<Image>) -> Self {
        let listed = images.iter().map(|image| {
            let mut entry = image.manifest.descriptor();
            entry["platform"] = json!({ "os": "linux", "architecture": image.architecture });
            entry
        });
        let media_type = "application/vnd.oci.image.index.v1+json";
        let document = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": listed.collect::<Vec<_>>() });
        Self { manifest: Blob::json(media_type, &document), images }
    }
}

/// A root file system with Debian's static busybox and all its commands.
pub fn busybox() -> Result<Files> {
    let dir = deb::unpacked("busybox-static")?;
    let program = ["bin/busybox", "usr/bin/busybox"].iter().map(|path| dir.join(path)).find(|path| path.is_file());
    let program = program.context("the package busybox-static has no busybox")?;
    let mut files = Files::default();
    files.file("bin/busybox", 0o755, fs::read(&program)?);
    for command in shell::output(Command::new(&program).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        files.link(&format!("bin/{command}"), "busybox");
    }
    files
        .dir("tmp", 0o1777)
        .dir("root", 0o700)
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        .file("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n");
    Ok(files)
}

/// Starts the web server of [`web`]; a user's arguments are not looked at.
const SERVE: &str = "#!/bin/sh\n\
    mkdir -p /www\n\
    echo \"Hello from $(hostname)\" >/www/index.html\n\
    echo \"$(hostname) serves on port 80\"\n\
    exec httpd -f -vv -p 80 -h /www\n";

/// `ask 6 http://web.local/ 10`: looks the name up in one family, which busybox's wget cannot be told to, and gets the
/// page ten times, looking up each time.
const ASK: &str = r#"#!/bin/sh
[ "$1" = 6 ] && kind=aaaa || kind=a
name=${2#http://} name=${name%%/*} path=/${2#http://*/}
for _ in $(seq "${3:-1}"); do
    address=$(nslookup -type="$kind" "$name" | sed -n '/^Name:/,$ s/^Address: *//p' | head -n 1)
    [ -n "$address" ] || { echo "ask: $name has no IPv$1 address" >&2; exit 1; }
    [ "$1" = 6 ] && address="[$address]"
    wget -q -O - --header "Host: $name" "http://$address$path" || exit 1
done
"#;

/// A small web server that says which instance it is: busybox's httpd on port 80, IPv4 and IPv6.
pub fn web() -> Result<Image> {
    web_packed(Packing::Gzip)
}

/// The same with layers that are packed otherwise.
pub fn web_packed(packing: Packing) -> Result<Image> {
    let mut own = Files::default();
    own.file("serve", 0o755, SERVE).file("bin/ask", 0o755, ASK);
    let config = Config {
        entrypoint: vec!["/serve".into()],
        ports: vec!["80/tcp".into()],
        // busybox's programs do not handle SIGTERM, and the kernel spares process 1 what it does not handle.
        stop_signal: "SIGKILL".into(),
        ..Config::default()
    };
    Image::packed(&[&busybox()?, &own], &config, packing)
}

/// busybox, and a program of this machine with the libraries that it is linked with, as `/bin/<name>`. It is what is run.
pub fn of_program(program: &Path) -> Result<Image> {
    let name = program.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
    let mut own = Files::default();
    let dir = shell::cache("programs");
    fs::create_dir_all(&dir)?;
    let stripped = dir.join(format!("{name}-{}", std::process::id()));
    shell::output(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
    own.file(&format!("bin/{name}"), 0o755, fs::read(&stripped)?);
    fs::remove_file(&stripped)?;
    for library in shell::libraries(program)? {
        own.file(&library.strip_prefix("/")?.to_string_lossy(), 0o755, fs::read(&library)?);
    }
    let config =
        Config { entrypoint: vec![format!("/bin/{name}")], stop_signal: "SIGKILL".into(), ..Config::default() };
    Image::new(&[&busybox()?, &own], &config)
}

/// Debian's nginx, as people run it: with its default site, its log on the container's output.
pub fn nginx() -> Result<Image> {
    let mut files = busybox()?;
    files.merged_usr();
    let wanted = |path: &str| {
        ["usr/lib", "usr/lib64", "usr/sbin", "usr/share/nginx", "etc", "var"]
            .iter()
            .any(|start| path.starts_with(start) || start.starts_with(path))
            && !path.starts_with("usr/lib/systemd")
    };
    // busybox lies in /bin, which is a link here.
    let moved: Vec<_> = files.0.keys().filter(|path| path.starts_with("bin/")).cloned().collect();
    for path in moved {
        if let Some(entry) = files.0.remove(&path) {
            files.0.insert(format!("usr/{path}"), entry);
        }
    }
    let mut packages = deb::libraries("nginx")?;
    packages.push("nginx".into());
    for package in packages {
        files.tree(&deb::unpacked(&package)?, &wanted)?;
    }
    files
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\n")
        .file("etc/group", 0o644, "root:x:0:\nwww-data:x:33:\n")
        .dir("run", 0o755)
        .dir("var/log/nginx", 0o755)
        .dir("var/lib/nginx", 0o755)
        .dir("var/www/html", 0o755)
        .dir("etc/nginx/sites-enabled", 0o755)
        .file("var/www/html/index.html", 0o644, "<h1>Welcome to nginx</h1>\n")
        .file(
            "etc/nginx/sites-enabled/default",
            0o644,
            "server { listen 80 default_server; listen [::]:80 default_server; root /var/www/html; }\n",
        )
        .link("var/log/nginx/access.log", "/dev/stdout")
        .link("var/log/nginx/error.log", "/dev/stderr");
    let config = Config {
        entrypoint: vec!["/usr/sbin/nginx".into()],
        command: vec!["-g".into(), "daemon off;".into()],
        ports: vec!["80/tcp".into()],
        stop_signal: "SIGQUIT".into(),
        ..Config::default()
    };
    Image::new(&[&files], &config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_are_the_same_bytes() {
        let mut files = Files::default();
        files.file("a/b", 0o644, "text").link("c", "a/b");
        let make = || Image::new(&[&files], &Config::default()).unwrap().manifest.digest;
        assert_eq!(make(), make());
        let folder = files.0.get("a");
        assert!(matches!(folder, Some(Entry::Dir(0o755))), "folders above a file come by themselves");
    }

    #[test]
    fn an_index_names_the_platforms() {
        let config = Config { architecture: "s390x".into(), ..Config::default() };
        let index = Index::new(vec![Image::new(&[&Files::default()], &config).unwrap()]);
        let document: Value = serde_json::from_slice(&index.manifest.bytes).unwrap();
        assert_eq!(document["manifests"][0]["platform"]["architecture"], "s390x");
    }
}
