//! Sending to a registry: blobs that it lacks, each in one piece, and then what names them.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use reqwest::{
    Body, Client, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use tokio::time::{Instant, timeout};

use super::{
    host::{Attempt, Host, READ_TIMEOUT, Trouble},
    refusal,
};
use crate::{
    RuntimeError,
    manifest::{Descriptor, MANIFEST_TYPES},
};

/// After the last byte of a blob: some registries copy it to where it stays before they answer.
const SETTLE: Duration = Duration::from_secs(300);

/// How often it is looked how far an upload is.
const LOOK: Duration = Duration::from_millis(200);

/// How a blob came to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It was there.
    There,
    /// The registry took it from another repository.
    Mounted,
    /// It was sent.
    Sent,
}

/// A repository that an image is sent to.
pub(crate) struct Target {
    host: Host,
}

/// The content of a blob, from its beginning; asked for anew for each attempt.
pub(crate) type Content<'a> = &'a (dyn Fn() -> BoxStream<'static, Result<Bytes, RuntimeError>> + Send + Sync);

/// What a blob is sent with.
struct Upload<'a> {
    blob: &'a Descriptor,
    content: Content<'a>,
    progress: &'a (dyn Fn(i64) + Send + Sync),
}

impl Target {
    pub(super) fn new(host: Host) -> Self {
        Self { host }
    }

    /// Whether the repository has a manifest.
    pub(crate) async fn has_manifest(&self, digest: &str) -> Result<bool, RuntimeError> {
        self.has(&format!("manifests/{digest}")).await
    }

    async fn has(&self, path: &str) -> Result<bool, RuntimeError> {
        let url = self.host.url(path)?;
        let accept = MANIFEST_TYPES.join(", ");
        let ask = || -> Attempt<'_, bool> {
            let (url, accept) = (url.clone(), accept.clone());
            Box::pin(async move {
                let head = move |client: &Client, url: Url| client.head(url).header(ACCEPT, &accept);
                let answer = self.host.ask(url, &head).await?;
                match answer.status() {
                    StatusCode::OK => Ok(true),
                    StatusCode::NOT_FOUND => Ok(false),
                    _ => Err(refusal::of(&self.host, answer).await.into()),
                }
            })
        };
        self.host.repeat(ask).await
    }

    /// Sees to it that the repository has a blob: it may have it, or take it from its repository `from`, or it is sent.
    /// `progress` is told of bytes that are there; less than none if they have to be sent again.
    pub(crate) async fn deliver(
        &self,
        blob: &Descriptor,
        from: Option<&str>,
        content: Content<'_>,
        progress: &(dyn Fn(i64) + Send + Sync),
    ) -> Result<Delivery, RuntimeError> {
        if self.has(&format!("blobs/{}", blob.digest)).await? {
            progress(blob.size);
            return Ok(Delivery::There);
        }
        let upload = Upload { blob, content, progress };
        let upload = &upload;
        let attempt = || -> Attempt<'_, Delivery> { Box::pin(self.attempt(upload, from)) };
        self.host.repeat(attempt).await
    }

    async fn attempt(&self, upload: &Upload<'_>, from: Option<&str>) -> Result<Delivery, Trouble> {
        let Some(place) = self.begin(upload.blob, from).await? else {
            (upload.progress)(upload.blob.size);
            return Ok(Delivery::Mounted);
        };
        let mut told = 0;
        let done = self.send(place, upload, &mut told).await;
        // What was told of is sent again, or the rest has gone with the last look.
        (upload.progress)(if done.is_ok() { upload.blob.size - told } else { -told });
        done.map(|()| Delivery::Sent)
    }

    /// Begins an upload, and returns where to; `None` if the registry has taken the blob from `from`.
    async fn begin(&self, blob: &Descriptor, from: Option<&str>) -> Result<Option<Url>, Trouble> {
        let mut url = self.host.url("blobs/uploads/")?;
        if let Some(from) = from {
            url.query_pairs_mut().append_pair("mount", &blob.digest).append_pair("from", from);
        }
        let post = |client: &Client, url: Url| client.post(url).header(CONTENT_LENGTH, 0);
        let answer = self.host.ask(url, &post).await?;
        match answer.status() {
            StatusCode::CREATED if from.is_some() => Ok(None),
            StatusCode::ACCEPTED => {
                let nowhere = || self.host.refused("it does not say where to send a blob to".to_owned());
                let place = answer.headers().get(LOCATION).ok_or_else(nowhere)?;
                let mut place = self.host.place(answer.url(), place)?;
                place.query_pairs_mut().append_pair("digest", &blob.digest);
                Ok(Some(place))
            }
            _ => Err(refusal::of(&self.host, answer).await.into()),
        }
    }

    /// Sends a blob whole. It is given up when nothing of it goes any more, however long it takes. `told` is what progress was
    /// told of.
    async fn send(&self, place: Url, upload: &Upload<'_>, told: &mut i64) -> Result<(), Trouble> {
        let Upload { blob, content, progress } = upload;
        let (sent, fault) = (Arc::new(AtomicI64::new(0)), Arc::new(Mutex::new(None)));
        let (taken, at_fault) = (Arc::clone(&sent), Arc::clone(&fault));
        let parts = content().map(move |part| match part {
            Ok(part) => {
                taken.fetch_add(part.len() as i64, Ordering::Relaxed);
                Ok(part)
            }
            Err(error) => {
                let said = io::Error::other(error.to_string());
                *at_fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(said)
            }
        });
        let mut request = self.host.client.put(place.clone());
        request = request.header(CONTENT_LENGTH, blob.size).header(CONTENT_TYPE, "application/octet-stream");
        let mut request = request.body(Body::wrap_stream(parts)).build().map_err(|e| self.host.transport(&e))?;
        // The login was for the beginning of the upload, a moment ago; elsewhere it is nobody's business.
        let given = self.host.authorization.lock().await.clone();
        if let Some(value) = given.filter(|_| self.host.is_own(&place)) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let mut answer = std::pin::pin!(self.host.client.execute(request));
        let mut since = Instant::now();
        let answer = loop {
            let outcome = timeout(LOOK, &mut answer).await;
            let now = sent.load(Ordering::Relaxed);
            if now > *told {
                progress(now - *told);
                (*told, since) = (now, Instant::now());
            }
            match outcome {
                Ok(answer) => break answer,
                Err(_) if since.elapsed() > if *told < blob.size { READ_TIMEOUT } else { SETTLE } => {
                    return Err(self.host.stalled());
                }
                Err(_) => {}
            }
        };
        // What could not be read is no fault of the registry's.
        let unreadable = fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = unreadable {
            return Err(error.into());
        }
        let answer = self.host.judge(answer.map_err(|error| self.host.transport(&error))?)?;
        match answer.status() {
            StatusCode::CREATED => Ok(()),
            _ => Err(refusal::of(&self.host, answer).await.into()),
        }
    }

    /// Has a tag, or a digest, stand for a manifest or an index.
    pub(crate) async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<(), RuntimeError> {
        let url = self.host.url(&format!("manifests/{reference}"))?;
        let put = || -> Attempt<'_, ()> {
            let url = url.clone();
            Box::pin(async move {
                let put =
                    |client: &Client, url: Url| client.put(url).header(CONTENT_TYPE, media_type).body(bytes.clone());
                let answer = self.host.ask(url, &put).await?;
                match answer.status() {
                    StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => Ok(()),
                    _ => Err(refusal::of(&self.host, answer).await.into()),
                }
            })
        };
        self.host.repeat(put).await
    }
}
