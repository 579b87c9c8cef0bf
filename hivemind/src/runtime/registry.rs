//! One image in one registry: references, credentials, and what a registry's refusals mean.
//! The only place that names `oci_client`, with `auth`.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol, LayerDescriptor},
    errors::{DigestError, OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};

use super::{
    RuntimeError, auth,
    manifest::{Descriptor, MANIFEST_TYPES, digest_of},
    origin::Origin,
};
use crate::model::chain;

/// Name look-up, connection and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A registry that sends nothing for so long is taken for dead.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// An image in its registry.
pub(super) struct Source {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

/// Reads a reference as people write it: `nginx` is `docker.io/library/nginx:latest`.
pub(super) fn parse(reference: &str) -> Result<Reference, RuntimeError> {
    let refuse = |why: String| RuntimeError::BadReference { reference: reference.to_owned(), why };
    if reference.contains("://") {
        return Err(refuse("write it without http:// or https://".to_owned()));
    }
    reference.parse().map_err(|e: oci_client::ParseError| refuse(e.to_string()))
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

impl Source {
    /// Prepares fetching `reference`. Registries in `plain_http` (`host:port`) are spoken to without TLS; the
    /// certificate in `ca_file` (PEM) is trusted besides those the machine trusts.
    pub(super) async fn open(
        reference: Reference,
        plain_http: &[String],
        auth_file: Option<&Path>,
        ca_file: Option<&Path>,
    ) -> Result<Self, RuntimeError> {
        // A second installation fails and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let auth = auth::credentials(auth_file, reference.registry()).await?;
        let mut authorities = Vec::new();
        if let Some(path) = ca_file {
            let action = "read the certificate of --registry-ca from";
            let refuse = |source| RuntimeError::File { action, path: path.to_owned(), source };
            let data = tokio::fs::read(path).await.map_err(refuse)?;
            authorities.push(Certificate { encoding: CertificateEncoding::Pem, data });
        }
        let config = ClientConfig {
            extra_root_certificates: authorities,
            protocol: ClientProtocol::HttpsExcept(plain_http.to_vec()),
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("hivemind/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let registry = reference.registry().to_owned();
        let client = Client::try_from(config)
            .map_err(|e| RuntimeError::RegistryUnreachable { registry, why: format!("no TLS: {}", causes(&e)) })?;
        Ok(Self { client, reference, auth })
    }

    /// Logs in. Without this, a refused login would be taken for an anonymous one.
    pub(super) async fn login(&self) -> Result<(), RuntimeError> {
        let login = self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull).await;
        login.map(|_| ()).map_err(|e| self.error(&e))
    }

    /// The manifest or index that the reference names, or the one with `digest`; and its own digest.
    async fn fetch(&self, digest: Option<&str>) -> Result<(Bytes, String), RuntimeError> {
        let exact = digest.map(|d| self.reference.clone_with_digest(d.to_owned()));
        let reference = exact.as_ref().unwrap_or(&self.reference);
        let fetched = self.client.pull_manifest_raw(reference, &self.auth, &MANIFEST_TYPES).await;
        let (bytes, _) = fetched.map_err(|e| self.error(&e))?;
        let actual = digest_of(&bytes);
        match reference.digest() {
            Some(wanted) if wanted.starts_with("sha256:") && wanted != actual => {
                Err(self.corrupt(format!("its manifest should be {wanted} and is {actual}")))
            }
            _ => Ok((bytes, actual)),
        }
    }

    fn unreachable(&self, why: String) -> RuntimeError {
        RuntimeError::RegistryUnreachable { registry: self.reference.registry().to_owned(), why }
    }

    fn error(&self, error: &OciDistributionError) -> RuntimeError {
        use OciDistributionError as E;
        let registry = self.reference.registry().to_owned();
        let reference = full_name(&self.reference);
        match error {
            E::UnauthorizedError { .. } | E::ServerError { code: 401 | 403, .. } => {
                let why = match self.auth {
                    RegistryAuth::Anonymous => "it asks for credentials and none are configured; or no such image",
                    _ => "the credentials are wrong, or do not allow this image",
                };
                RuntimeError::RegistryAuth { registry, reference, why: why.to_owned() }
            }
            E::AuthenticationFailure(why) => RuntimeError::RegistryAuth { registry, reference, why: why.clone() },
            E::ImageManifestNotFoundError(_) | E::ServerError { code: 404, .. } => {
                RuntimeError::ImageNotFound { registry, reference }
            }
            E::RegistryError { envelope, .. } => {
                use OciErrorCode as C;
                let has = |codes: &[C]| envelope.errors.iter().any(|e| codes.contains(&e.code));
                let why = envelope.errors.iter().map(|e| e.message.as_str()).collect::<Vec<_>>().join(", ");
                if has(&[C::Unauthorized, C::Denied]) {
                    RuntimeError::RegistryAuth { registry, reference, why }
                } else if has(&[C::BlobUnknown, C::ManifestBlobUnknown]) {
                    self.corrupt(format!("the registry lacks a part of it: {why}"))
                } else if has(&[C::ManifestUnknown, C::NameUnknown, C::NotFound, C::NameInvalid]) {
                    RuntimeError::ImageNotFound { registry, reference }
                } else {
                    self.unreachable(why)
                }
            }
            E::DigestError(e) => self.corrupt(e.to_string()),
            other => self.unreachable(causes(other)),
        }
    }
}

#[async_trait::async_trait]
impl Origin for Source {
    async fn top(&self) -> Result<(Bytes, String), RuntimeError> {
        self.fetch(None).await
    }

    async fn manifest(&self, digest: &str) -> Result<Bytes, RuntimeError> {
        self.fetch(Some(digest)).await.map(|(bytes, _)| bytes)
    }

    /// The end is an error if the content does not have the digest.
    async fn blob(&self, blob: &Descriptor) -> Result<BoxStream<'static, io::Result<Bytes>>, RuntimeError> {
        let layer = LayerDescriptor { digest: &blob.digest, urls: &blob.urls };
        let stream = self.client.pull_blob_stream(&self.reference, &layer).await.map_err(|e| self.error(&e))?;
        Ok(stream.stream.boxed())
    }

    fn corrupt(&self, why: String) -> RuntimeError {
        RuntimeError::Corrupt { reference: full_name(&self.reference), why }
    }

    fn blob_error(&self, error: io::Error) -> RuntimeError {
        match error.get_ref().and_then(|e| e.downcast_ref::<DigestError>()) {
            Some(digest) => self.corrupt(digest.to_string()),
            None => self.unreachable(causes(&error)),
        }
    }
}

/// The whole chain of causes (the outermost alone says only "error sending request"), and what helps.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = chain(error);
    if text.contains("InvalidContentType") {
        text += " (hint: it speaks plain HTTP, which has to be allowed for it)";
    }
    if text.contains("UnknownIssuer") {
        text += " (hint: the machine must trust who signed its certificate: update-ca-certificates, or --registry-ca)";
    }
    text
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
