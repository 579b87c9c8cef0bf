//! Registries: what names of images mean, where an image is fetched from, and where it is sent to.
//!
//! The protocol is OCI's (distribution-spec 1.1); `host` has its requests, [`Source`] knows the places that an image may come
//! from, `push` sends. The only place that names `reqwest`, `http_auth` and `oci_spec`.

mod blob;
mod credentials;
mod helper;
mod host;
mod login;
mod mirror;
mod notice;
mod push;
mod refusal;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures::stream::BoxStream;
use oci_spec::distribution::{ParseError, Reference};

use self::{credentials::Wallet, host::Host};
pub use self::{
    mirror::Mirror,
    notice::{Notice, Retry},
};
pub(super) use self::{
    notice::Notices,
    push::{Delivery, Target},
};
use super::{
    RuntimeError,
    manifest::{Descriptor, digest_of},
    origin::Origin,
};

/// How registries are spoken to.
#[derive(Clone, Debug, Default)]
pub(super) struct Registries {
    /// Those (`host:port`) that are spoken to without TLS, mirrors too.
    pub(super) plain_http: Vec<String>,
    /// A Docker `config.json`; read when a registry asks for credentials, and need not exist.
    pub(super) auth_file: Option<PathBuf>,
    /// The certificate (PEM) of an authority that is trusted besides those the machine trusts.
    pub(super) ca_file: Option<PathBuf>,
    /// Who is asked before the registry, in this order.
    pub(super) mirrors: Vec<Mirror>,
    /// Where it is said what went wrong on the way.
    pub(super) notices: Notices,
}

/// An image where it lies: at a registry, and perhaps at its mirrors.
pub(super) struct Source {
    /// Mirrors first; the last one is the registry itself.
    places: Vec<Place>,
    reference: Reference,
    notices: Notices,
}

struct Place {
    host: Arc<Host>,
    /// It has failed, and is not asked again for this image.
    given_up: AtomicBool,
}

/// Reads a reference as people write it: `nginx` is `docker.io/library/nginx:latest`.
pub(super) fn parse(reference: &str) -> Result<Reference, RuntimeError> {
    let refuse = |why: String| RuntimeError::BadReference { reference: reference.to_owned(), why };
    if reference.contains("://") {
        return Err(refuse("write it without http:// or https://".to_owned()));
    }
    reference.parse().map_err(|e: ParseError| refuse(e.to_string()))
}

/// Whether an image's name can be understood.
///
/// # Errors
/// [`RuntimeError::BadReference`], with the reason.
pub fn check_reference(reference: &str) -> Result<(), RuntimeError> {
    parse(reference).map(drop)
}

/// The name that an image is kept under: `nginx` is `docker.io/library/nginx:latest`.
///
/// # Errors
/// [`RuntimeError::BadReference`], with the reason.
pub fn complete_reference(reference: &str) -> Result<String, RuntimeError> {
    parse(reference).map(|reference| full_name(&reference))
}

/// The full name that an image is kept under.
pub(super) fn full_name(reference: &Reference) -> String {
    reference.whole()
}

impl Registries {
    /// Prepares fetching `reference`.
    pub(super) async fn source(&self, reference: Reference) -> Result<Source, RuntimeError> {
        let client = host::client(self.ca_file.as_deref()).await?;
        let (registry, repository) = (reference.registry(), reference.repository());
        let wallet = |host: &str| Wallet::new(self.auth_file.clone(), host);
        let mut places = Vec::new();
        for mirror in self.mirrors.iter().filter(|mirror| mirror.is_of(registry)) {
            let host =
                Host::new(client.clone(), &mirror.host, &mirror.repository(repository), self, full_name(&reference));
            let host = host?.with(wallet(&mirror.host)).instead_of(registry);
            places.push(Place { host: Arc::new(host), given_up: AtomicBool::new(false) });
        }
        let host = Host::new(client, registry, repository, self, full_name(&reference))?.with(wallet(registry));
        places.push(Place { host: Arc::new(host), given_up: AtomicBool::new(false) });
        Ok(Source { places, reference, notices: self.notices.clone() })
    }

    /// Prepares sending to `reference`; parts may be taken over from the repositories `from` of the same registry.
    pub(super) async fn target(&self, reference: &Reference, from: &[String]) -> Result<Target, RuntimeError> {
        let client = host::client(self.ca_file.as_deref()).await?;
        let (registry, repository) = (reference.registry(), reference.repository());
        let host = Host::new(client, registry, repository, self, full_name(reference))?;
        let wallet = Wallet::new(self.auth_file.clone(), registry);
        Ok(Target::new(host.with(wallet).for_push(from)))
    }

    fn is_plain(&self, host: &str) -> bool {
        self.plain_http.iter().any(|plain| plain == host)
    }
}

impl Source {
    /// The document that a tag or a digest stands for, from the first place that has it. What has the digest `wanted` is it.
    async fn document(&self, name: &str, wanted: Option<&str>) -> Result<(Bytes, String), RuntimeError> {
        let mut failure: Option<(usize, RuntimeError)> = None;
        for place in self.places() {
            if let Some((before, error)) = failure.take() {
                self.failed(before, &error);
            }
            let read = self.places[place].host.manifest(name).await.and_then(|bytes| {
                let actual = digest_of(&bytes);
                match wanted {
                    Some(wanted) if wanted.starts_with("sha256:") && wanted != actual => {
                        Err(self.corrupt(format!("its manifest should be {wanted} and is {actual}")))
                    }
                    _ => Ok((bytes, actual)),
                }
            });
            match read {
                Ok(document) => return Ok(document),
                Err(error) => failure = Some((place, error)),
            }
        }
        // There is a place, so there is an error.
        let nowhere = || self.corrupt("there is nowhere to fetch it from".to_owned());
        Err(failure.map_or_else(nowhere, |(_, error)| error))
    }
}

#[async_trait::async_trait]
impl Origin for Source {
    async fn top(&self) -> Result<(Bytes, String), RuntimeError> {
        let digest = self.reference.digest();
        self.document(digest.or(self.reference.tag()).unwrap_or("latest"), digest).await
    }

    async fn manifest(&self, digest: &str) -> Result<Bytes, RuntimeError> {
        self.document(digest, Some(digest)).await.map(|(bytes, _)| bytes)
    }

    fn places(&self) -> Vec<usize> {
        let last = self.places.len() - 1;
        let usable = |place: &usize| *place == last || !self.places[*place].given_up.load(Ordering::Relaxed);
        (0..=last).filter(usable).collect()
    }

    async fn blob(
        &self,
        place: usize,
        blob: &Descriptor,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError> {
        Ok(blob::stream(Arc::clone(&self.places[place].host), blob))
    }

    fn failed(&self, place: usize, error: &RuntimeError) {
        self.places[place].given_up.store(true, Ordering::Relaxed);
        // That a mirror does not have everything is usual.
        if !matches!(error, RuntimeError::ImageNotFound { .. }) {
            let mirror = self.places[place].host.name().to_owned();
            let registry = self.reference.registry().to_owned();
            self.notices.say(Notice::MirrorFailed { mirror, registry, why: error.to_string() });
        }
    }

    fn corrupt(&self, why: String) -> RuntimeError {
        RuntimeError::Corrupt { reference: full_name(&self.reference), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (short, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
            ("127.0.0.1:5000/web", "127.0.0.1:5000/web:latest"),
            ("ghcr.io/o/n", "ghcr.io/o/n:latest"),
            (&format!("nginx@{digest}"), &format!("docker.io/library/nginx@{digest}")),
        ] {
            assert_eq!(parse(short).map(|r| full_name(&r)).ok().as_deref(), Some(full), "{short}");
        }
        for bad in ["", "Nginx", "a b", "x:", "https://docker.io/nginx", "nginx@sha256:12", "../etc"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
