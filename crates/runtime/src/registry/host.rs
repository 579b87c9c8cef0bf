//! One repository at one host: requests with credentials, repeated where that helps.
//!
//! Credentials go to the host that they are of and to the token server that it names, never to where it redirects, and never
//! without TLS if the host has TLS. What comes is bounded: in time between two bytes, and in size where it is held in memory.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use reqwest::{
    Certificate, Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use tokio::{sync::Mutex, time::timeout};

use super::{Notice, Notices, Registries, Retry, credentials::Wallet, refusal};
use crate::{
    RuntimeError,
    manifest::{MANIFEST_TYPES, MAX_DOCUMENT},
};
use hivemind_core::{lifecycle::backoff, model::chain};

/// Name look-up, connection and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A host that sends nothing for so long is taken for dead.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How often something is asked for in all.
const ATTEMPTS: u32 = 4;

/// The pause before the second attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause that we choose.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The longest one that a registry may ask for; who asks for more is not waited for.
const MAX_ASKED: Duration = Duration::from_secs(60);

/// Redirects followed for one request.
const REDIRECTS: usize = 5;

/// One attempt at something.
pub(super) type Attempt<'a, T> = BoxFuture<'a, Result<T, Trouble>>;

/// Why an attempt failed.
pub(super) enum Trouble {
    /// The next one may go well.
    Passing(Passing),
    /// It will not.
    Lasting(RuntimeError),
}

/// A failure that may pass.
pub(super) struct Passing {
    pub(super) why: Retry,
    pub(super) error: RuntimeError,
    /// The pause that the host asks for.
    pub(super) pause: Option<Duration>,
}

impl From<RuntimeError> for Trouble {
    fn from(error: RuntimeError) -> Self {
        Self::Lasting(error)
    }
}

/// One repository at one host.
pub(super) struct Host {
    pub(super) client: Client,
    /// `host:port`, as names of images have it.
    name: String,
    /// `https://host:port/v2/`
    base: Url,
    pub(super) repository: String,
    /// The registry that it is a mirror of.
    stands_for: Option<String>,
    pub(super) wallet: Wallet,
    /// What a token has to allow.
    pub(super) scopes: Vec<String>,
    /// The image, for messages.
    pub(super) image: String,
    attempts: u32,
    notices: Notices,
    /// It has answered before: one that does not now may be starting again.
    answered: AtomicBool,
    /// What the last login gave.
    pub(super) authorization: Mutex<Option<HeaderValue>>,
}

/// A client that trusts the machine's authorities and that of `ca_file`. It follows no redirects by itself.
///
/// A machine may have no authorities: what is fetched without TLS, or by that of `ca_file`, needs none.
pub(super) async fn client(ca_file: Option<&Path>) -> Result<Client, RuntimeError> {
    // A second installation fails and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let agent = concat!("hivemind/", env!("CARGO_PKG_VERSION"));
    let builder = || Client::builder().user_agent(agent).redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT);
    let mut own = Vec::new();
    if let Some(path) = ca_file {
        let action = "read the certificates of --registry-ca from";
        let refuse = |source| RuntimeError::File { action, path: path.to_owned(), source };
        let pem = tokio::fs::read(path).await.map_err(refuse)?;
        own = Certificate::from_pem_bundle(&pem).map_err(|error| refuse(std::io::Error::other(error)))?;
    }
    let client = builder().tls_certs_merge(own.clone()).build().or_else(|error| {
        let hint = "install the package ca-certificates";
        tracing::warn!(error = causes(&error), hint, "no registry is trusted but by --registry-ca");
        builder().tls_certs_only(own).build()
    });
    client.map_err(|error| RuntimeError::RegistryUnreachable {
        registry: "of every image".to_owned(),
        why: format!("no TLS: {}", causes(&error)),
    })
}

impl Host {
    pub(super) fn new(
        client: Client,
        name: &str,
        repository: &str,
        registries: &Registries,
        image: String,
    ) -> Result<Self, RuntimeError> {
        let scheme = if registries.is_plain(name) { "http" } else { "https" };
        // Docker's registry has another name than its images.
        let host = if name == "docker.io" { "index.docker.io" } else { name };
        let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| RuntimeError::BadReference {
            reference: image.clone(),
            why: format!("{host} is no host: {error}"),
        })?;
        Ok(Self {
            client,
            name: name.to_owned(),
            base,
            repository: repository.to_owned(),
            stands_for: None,
            wallet: Wallet::new(None, name),
            scopes: vec![format!("repository:{repository}:pull")],
            image,
            attempts: ATTEMPTS,
            notices: registries.notices.clone(),
            answered: AtomicBool::new(false),
            authorization: Mutex::new(None),
        })
    }

    /// With these credentials.
    pub(super) fn with(mut self, wallet: Wallet) -> Self {
        self.wallet = wallet;
        self
    }

    /// As a mirror: what fails is not tried again, since somebody else can be asked.
    pub(super) fn instead_of(mut self, registry: &str) -> Self {
        self.stands_for = Some(registry.to_owned());
        self.attempts = 1;
        self
    }

    /// To send something there; parts may be taken over from the repositories `from`.
    pub(super) fn for_push(mut self, from: &[String]) -> Self {
        self.scopes = vec![format!("repository:{}:pull,push", self.repository)];
        self.scopes.extend(from.iter().map(|repository| format!("repository:{repository}:pull")));
        self
    }

    /// `host:port`
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is spoken to with TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// The address of something in the repository.
    pub(super) fn url(&self, path: &str) -> Result<Url, RuntimeError> {
        let joined = self.base.join(&format!("{}/{path}", self.repository));
        let mut url = joined.map_err(|error| self.refused(format!("{path} is no path: {error}")))?;
        if let Some(registry) = &self.stands_for {
            // As containerd asks its mirrors, so that one can serve several registries.
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// The manifest or index that a tag or a digest stands for.
    pub(super) async fn manifest(&self, reference: &str) -> Result<Bytes, RuntimeError> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let accept = MANIFEST_TYPES.join(", ");
        let read = || -> Attempt<'_, Bytes> {
            let (url, accept) = (url.clone(), accept.clone());
            Box::pin(async move {
                let get = move |client: &Client, url: Url| client.get(url).header(ACCEPT, &accept);
                let answer = self.ask(url, &get).await?;
                if answer.status() != StatusCode::OK {
                    return Err(refusal::of(self, answer).await.into());
                }
                self.body(answer, MAX_DOCUMENT.unsigned_abs() as usize).await
            })
        };
        self.repeat(read).await
    }

    /// What an answer holds; larger ones are refused.
    pub(super) async fn body(&self, mut answer: Response, limit: usize) -> Result<Bytes, Trouble> {
        let mut body = BytesMut::new();
        while let Some(part) = self.part(&mut answer).await? {
            if body.len() + part.len() > limit {
                return Err(self.refused(format!("what it sends is longer than {limit} bytes")).into());
            }
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }

    /// The next part of an answer.
    pub(super) async fn part(&self, answer: &mut Response) -> Result<Option<Bytes>, Trouble> {
        match timeout(READ_TIMEOUT, answer.chunk()).await {
            Ok(part) => part.map_err(|error| self.broken(Retry::Broken, causes(&error))),
            Err(_) => Err(self.stalled()),
        }
    }

    /// Makes attempts until one goes well, or none will.
    pub(super) async fn repeat<'a, T>(&self, attempt: impl Fn() -> Attempt<'a, T>) -> Result<T, RuntimeError> {
        let mut failures = 0;
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing(passing)) => {
                    failures += 1;
                    self.pause(failures, passing).await?;
                }
            }
        }
    }

    /// Waits before the attempt after `failures` of them; the error if there is to be none.
    pub(super) async fn pause(&self, failures: u32, passing: Passing) -> Result<(), RuntimeError> {
        let Passing { why, error, pause } = passing;
        if failures >= self.attempts || pause.is_some_and(|pause| pause > MAX_ASKED) {
            return Err(error);
        }
        let pause = pause.unwrap_or_else(|| backoff::delay(failures, FIRST_PAUSE, MAX_PAUSE, rand::random()));
        tracing::info!(image = self.image, failures, ?pause, "{error}; it is tried again");
        self.notices.say(Notice::Retried(why));
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// One request, answered by the host or by whom it redirects to; logs in if the host asks for it. What a host says of
    /// itself that may pass is a [`Trouble`]; all other answers are the caller's.
    pub(super) async fn ask(
        &self,
        url: Url,
        make: &(dyn Fn(&Client, Url) -> RequestBuilder + Send + Sync),
    ) -> Result<Response, Trouble> {
        let known = self.authorization.lock().await.clone();
        let mut answer = self.follow(url.clone(), make, known.as_ref()).await?;
        // Who is redirected to must not ask for the host's credentials.
        if answer.status() == StatusCode::UNAUTHORIZED && self.is_own(answer.url()) {
            let given = self.log_in(answer.headers(), known.as_ref()).await?;
            answer = self.follow(url, make, Some(&given)).await?;
        }
        self.judge(answer)
    }

    /// One request, and those that its redirects lead to.
    async fn follow(
        &self,
        mut url: Url,
        make: &(dyn Fn(&Client, Url) -> RequestBuilder + Send + Sync),
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Trouble> {
        for _ in 0..=REDIRECTS {
            let mut request = make(&self.client, url.clone()).build().map_err(|error| self.transport(&error))?;
            let repeatable = request.body().is_none();
            if let Some(value) = authorization.filter(|_| self.is_own(&url)) {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let answer = self.execute(request).await?;
            let place = answer.headers().get(LOCATION).filter(|_| answer.status().is_redirection() && repeatable);
            let Some(place) = place else { return Ok(answer) };
            url = self.place(&url, place)?;
        }
        Err(self.refused(format!("it redirects more than {REDIRECTS} times")).into())
    }

    /// Where a header leads from an address.
    pub(super) fn place(&self, from: &Url, place: &HeaderValue) -> Result<Url, RuntimeError> {
        let to = place.to_str().ok().and_then(|place| from.join(place).ok());
        let to = to.ok_or_else(|| self.refused("it redirects to what is no address".to_owned()))?;
        match to.scheme() {
            "https" => Ok(to),
            "http" if from.scheme() == "http" => Ok(to),
            _ => {
                let host = to.host_str().unwrap_or_default();
                Err(self.refused(format!("it redirects from TLS to {}://{host}, which is refused", to.scheme())))
            }
        }
    }

    /// Sends a request and waits for the beginning of the answer.
    pub(super) async fn execute(&self, request: reqwest::Request) -> Result<Response, Trouble> {
        let answer = match timeout(READ_TIMEOUT, self.client.execute(request)).await {
            Ok(answer) => answer.map_err(|error| self.transport(&error))?,
            Err(_) => return Err(self.stalled()),
        };
        self.answered.store(true, Ordering::Relaxed);
        Ok(answer)
    }

    /// An answer with which a host says that it may go well later is a failure that may pass.
    pub(super) fn judge(&self, answer: Response) -> Result<Response, Trouble> {
        let status = answer.status();
        let asked = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let pause = asked.map(Duration::from_secs);
        let (why, said) = match status.as_u16() {
            429 => (Retry::Busy, "it has had too many requests"),
            503 => (Retry::Busy, "it cannot serve now"),
            408 | 500 | 502 | 504 => (Retry::Failing, "something is wrong with it"),
            _ => return Ok(answer),
        };
        let when = pause.map_or(String::new(), |pause| format!(", and asks to come again in {} s", pause.as_secs()));
        let error = self.refused(format!("{said} (HTTP {}){when}", status.as_u16()));
        Err(Trouble::Passing(Passing { why, error, pause }))
    }

    /// Whether an address is the host's own, to which its credentials may go.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// What an error of the connection means.
    pub(super) fn transport(&self, error: &reqwest::Error) -> Trouble {
        let why = causes(error);
        // A name that is not known, or a certificate of a stranger, will be the same the next time.
        if error.is_builder() || error.is_connect() && !self.answered.load(Ordering::Relaxed) {
            return Trouble::Lasting(self.unreachable(why));
        }
        self.broken(if error.is_timeout() { Retry::Stalled } else { Retry::Broken }, why)
    }

    pub(super) fn broken(&self, why: Retry, said: String) -> Trouble {
        Trouble::Passing(Passing { why, error: self.unreachable(said), pause: None })
    }

    pub(super) fn stalled(&self) -> Trouble {
        self.broken(Retry::Stalled, format!("nothing has come from it for {} s", READ_TIMEOUT.as_secs()))
    }

    pub(super) fn unreachable(&self, why: String) -> RuntimeError {
        RuntimeError::RegistryUnreachable { registry: self.name.clone(), why }
    }

    pub(super) fn refused(&self, why: String) -> RuntimeError {
        RuntimeError::RegistryRefused { registry: self.name.clone(), reference: self.image.clone(), why }
    }

    pub(super) fn forbidden(&self, why: String) -> RuntimeError {
        RuntimeError::RegistryAuth { registry: self.name.clone(), reference: self.image.clone(), why }
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
