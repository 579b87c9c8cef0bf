//! A blob as it comes. A connection that breaks or stalls is made again, and goes on where it was.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{CONTENT_RANGE, HeaderMap, RANGE},
};

use super::{
    Retry,
    host::{Host, Trouble},
    refusal,
};
use crate::{RuntimeError, manifest::Descriptor};

/// So many bytes after a failure, and it is forgotten: a large blob may take hours over a line that breaks now and then.
const FORGIVEN: u64 = 4 << 20;

struct Coming {
    host: Arc<Host>,
    digest: String,
    size: u64,
    /// Bytes that have come.
    done: u64,
    /// Bytes at the beginning of the answer that have come before.
    skip: u64,
    answer: Option<Response>,
    /// The answer says how long it is, so that its end is its end.
    framed: bool,
    failures: u32,
    /// Where the last failure was.
    failed_at: u64,
}

/// The bytes of a blob. Whoever takes them compares length and digest.
pub(super) fn stream(host: Arc<Host>, blob: &Descriptor) -> BoxStream<'static, Result<Bytes, RuntimeError>> {
    let coming = Coming {
        host,
        digest: blob.digest.clone(),
        size: blob.size.unsigned_abs(),
        done: 0,
        skip: 0,
        answer: None,
        framed: false,
        failures: 0,
        failed_at: 0,
    };
    stream::try_unfold(coming, |mut coming| async move {
        let part = coming.next().await?;
        Ok(part.map(|part| (part, coming)))
    })
    .boxed()
}

impl Coming {
    async fn next(&mut self) -> Result<Option<Bytes>, RuntimeError> {
        loop {
            match self.part().await {
                Ok(part) => return Ok(part),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing(passing)) => {
                    self.answer = None;
                    if self.done >= self.failed_at + FORGIVEN {
                        self.failures = 0;
                    }
                    self.failures += 1;
                    self.failed_at = self.done;
                    self.host.pause(self.failures, passing).await?;
                }
            }
        }
    }

    async fn part(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            let answer = match &mut self.answer {
                Some(answer) => answer,
                None => {
                    let (answer, skip) = self.open().await?;
                    (self.skip, self.framed) = (skip, answer.content_length().is_some());
                    self.answer.insert(answer)
                }
            };
            let Some(mut part) = self.host.part(answer).await? else {
                if self.done < self.size && !self.framed {
                    let why = format!("it ended the connection after {} of {} bytes", self.done, self.size);
                    return Err(self.host.broken(Retry::Broken, why));
                }
                return Ok(None);
            };
            let known = self.skip.min(part.len() as u64);
            part.advance(known as usize);
            self.skip -= known;
            if !part.is_empty() {
                self.done += part.len() as u64;
                return Ok(Some(part));
            }
        }
    }

    /// Asks for what has not come yet. The number is of bytes that come once more.
    async fn open(&self) -> Result<(Response, u64), Trouble> {
        let url = self.host.url(&format!("blobs/{}", self.digest))?;
        let from = self.done;
        let get = move |client: &Client, url: Url| {
            let request = client.get(url);
            if from > 0 { request.header(RANGE, format!("bytes={from}-")) } else { request }
        };
        let answer = self.host.ask(url, &get).await?;
        match answer.status() {
            StatusCode::OK => Ok((answer, from)),
            StatusCode::PARTIAL_CONTENT if from > 0 && begins_at(answer.headers(), from) => Ok((answer, 0)),
            StatusCode::PARTIAL_CONTENT => {
                Err(self.host.refused(format!("it sends another part of {} than was asked for", self.digest)).into())
            }
            // The manifest named it: what is missing is a part of the image, not the image.
            StatusCode::NOT_FOUND => {
                let (reference, why) = (self.host.image.clone(), format!("{} lacks {}", self.host.name(), self.digest));
                Err(RuntimeError::Corrupt { reference, why }.into())
            }
            _ => Err(refusal::of(&self.host, answer).await.into()),
        }
    }
}

/// Whether an answer's `Content-Range` says that it begins there (RFC 9110, section 14.4).
fn begins_at(headers: &HeaderMap, from: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    first == Some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_believed_if_it_is_the_one_that_was_asked_for() {
        let begins = |range: &'static str| {
            let headers = [(CONTENT_RANGE, reqwest::header::HeaderValue::from_static(range))].into_iter().collect();
            begins_at(&headers, 7)
        };
        assert!(begins("bytes 7-99/100") && begins("bytes 7-99/*"));
        for other in ["bytes 0-99/100", "bytes 8-99/100", "items 7-99/100", "bytes */100", ""] {
            assert!(!begins(other), "{other}");
        }
    }
}
