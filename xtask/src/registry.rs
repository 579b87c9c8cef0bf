//! A real registry, Debian's docker-registry, on a sandbox's loopback; and pushing to it.

use std::{
    fs,
    net::TcpStream,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    deb,
    image::{Blob, Image, Index},
    sandbox::Sandbox,
    wait,
};

/// It is ready in a tenth of a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The one user of a registry that asks for credentials.
pub const USER: &str = "demo";
/// Its password.
pub const PASSWORD: &str = "secret";
/// `USER:PASSWORD`, with bcrypt as the registry wants it.
pub const HTPASSWD: &str = "demo:$2y$05$axUWe1hOblx/E.bTJkDmnOILwkdwYX5CST2fUIiZ8ALMsceDiayVi\n";
/// The header of the two.
const BASIC: &str = "Basic ZGVtbzpzZWNyZXQ=";

/// Whom a registry serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Who has [`USER`]'s [`PASSWORD`].
    Password,
}

/// A running registry. It ends with its sandbox.
#[derive(Debug)]
pub struct Registry {
    host: String,
    port: u16,
    access: Access,
    child: Child,
}

impl Registry {
    /// Starts one on a port of the sandbox's loopback and waits until it answers.
    pub fn start(sandbox: &Sandbox, port: u16, access: Access) -> Result<Self> {
        let program = deb::program("docker-registry", "docker-registry")?;
        let dir = sandbox.dir().join(format!("registry-{port}"));
        fs::create_dir_all(&dir)?;
        let path = dir.display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn}}\n\
             storage: {{filesystem: {{rootdirectory: '{path}/data'}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n"
        );
        if access == Access::Password {
            fs::write(dir.join("htpasswd"), HTPASSWD)?;
            config += &format!("auth: {{htpasswd: {{realm: hivemind, path: '{path}/htpasswd'}}}}\n");
        }
        fs::write(dir.join("config.yml"), config)?;
        let log = fs::File::create(dir.join("log"))?;
        let mut command = sandbox.command(program);
        command.arg("serve").arg(dir.join("config.yml")).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().context("cannot start docker-registry")?;
        let registry = Self { host: format!("127.0.0.1:{port}"), port, access, child };
        sandbox
            .on_network(|| wait::until("the registry", PATIENCE, || registry.call("GET", "/v2/", "", &[]).map(drop)))?;
        Ok(registry)
    }

    /// Starts another on the same images, which only serves: `http` are more lines of its section `http`, `more` more
    /// sections. Waits until it listens.
    pub fn beside(&self, sandbox: &Sandbox, port: u16, http: &str, more: &str) -> Result<Self> {
        let program = deb::program("docker-registry", "docker-registry")?;
        let images = sandbox.dir().join(format!("registry-{}/data", self.port));
        let dir = sandbox.dir().join(format!("registry-{port}"));
        fs::create_dir_all(&dir)?;
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\n\
             http:\n  addr: '127.0.0.1:{port}'\n{http}\n{more}\n",
            images.display()
        );
        fs::write(dir.join("config.yml"), config)?;
        let log = fs::File::create(dir.join("log"))?;
        let mut command = sandbox.command(program);
        command.arg("serve").arg(dir.join("config.yml")).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().context("cannot start docker-registry")?;
        let registry = Self { host: format!("127.0.0.1:{port}"), port, access: Access::Open, child };
        let listens = || wait::until("the registry", PATIENCE, || Ok(TcpStream::connect(("127.0.0.1", port))?));
        let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        sandbox.on_network(listens).with_context(log)?;
        Ok(registry)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as it begins an image's name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Ends it, as a registry that is down.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).context("cannot kill the registry").map(drop)
    }

    /// Pushes an image; returns its name with the registry's host.
    pub fn push(&self, sandbox: &Sandbox, image: &Image, name: &str, tag: &str) -> Result<String> {
        sandbox.on_network(|| {
            self.push_blobs(image, name)?;
            self.put_manifest(&image.manifest, name, tag)
        })?;
        Ok(format!("{}/{name}:{tag}", self.host))
    }

    /// Pushes an index over images of several platforms, with the images; returns its name with the registry's host.
    pub fn push_index(&self, sandbox: &Sandbox, index: &Index, name: &str, tag: &str) -> Result<String> {
        sandbox.on_network(|| {
            for image in &index.images {
                self.push_blobs(image, name)?;
                self.put_manifest(&image.manifest, name, &image.manifest.digest)?;
            }
            self.put_manifest(&index.manifest, name, tag)
        })?;
        Ok(format!("{}/{name}:{tag}", self.host))
    }

    fn push_blobs(&self, image: &Image, name: &str) -> Result<()> {
        for blob in image.layers.iter().chain([&image.config]) {
            let upload = self.call("POST", &format!("/v2/{name}/blobs/uploads/"), "", &[])?;
            let place = upload.context("the registry gave no place for an upload")?;
            let path = place.split_once(&self.host).map_or(place.as_str(), |(_, path)| path);
            let joint = if path.contains('?') { '&' } else { '?' };
            self.call("PUT", &format!("{path}{joint}digest={}", blob.digest), &blob.media_type, &blob.bytes)?;
        }
        Ok(())
    }

    fn put_manifest(&self, manifest: &Blob, name: &str, reference: &str) -> Result<()> {
        self.call("PUT", &format!("/v2/{name}/manifests/{reference}"), &manifest.media_type, &manifest.bytes).map(drop)
    }

    /// One request of the distribution protocol; returns the `Location` of the answer.
    fn call(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Result<Option<String>> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.host));
        if !media_type.is_empty() {
            request = request.header("Content-Type", media_type);
        }
        if self.access == Access::Password {
            request = request.header("Authorization", BASIC);
        }
        let mut answer = agent.run(request.body(body)?).with_context(|| format!("no answer to {method} {path}"))?;
        let status = answer.status();
        let said = answer.body_mut().read_to_string().unwrap_or_default();
        ensure!(status.is_success(), "{method} {path}: {status}: {said}");
        Ok(answer.headers().get("Location").and_then(|place| place.to_str().ok()).map(str::to_owned))
    }
}
