//! Floor 4: the client of the API, over the daemon's Unix socket, or over TCP with the token. Every fault is a
//! [`Problem`].
//!
//! The functions of [`Client`] are made of the API's description (`operations`); here is how a request travels. One whose
//! connection breaks is repeated for a while, if the daemon was there before. Changes carry a key by which the daemon
//! does them once; those that take none, as the description says, are sent once.

mod asked;
mod documents;
mod exec;
#[cfg(test)]
mod generate;
mod operations;
mod target;

pub use exec::{Channels, ExecMessage};
pub use operations::*;
pub use target::Target;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{io::AsyncBufReadExt, time::Instant};
use tokio_util::{io::StreamReader, task::AbortOnDropHandle};

use asked::Asked;
use hivemind_core::model::{ErrorCode, Problem, Revision};

/// The longest wait for the beginning of an answer: commands are answered in milliseconds, on a slow disk in seconds.
const ANSWER: Duration = Duration::from_secs(60);

/// How long a request is repeated when a daemon that was there is away: longer than most starts take.
const AGAIN: Duration = Duration::from_secs(10);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// The client. Each request has a connection of its own: they are local and cheap.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    /// Whether the daemon was reached before: then it is away only for a moment.
    reached: Arc<AtomicBool>,
}

/// Documents of an answer, as they come.
pub type Lines<T> = BoxStream<'static, Result<T, Problem>>;
/// The bytes of an answer, as they come.
pub type Download = BoxStream<'static, Result<Bytes, Problem>>;

/// What a request has besides its path.
struct Sent {
    body: UnsyncBoxBody<Bytes, std::io::Error>,
    /// The body's media type.
    kind: Option<&'static str>,
    if_match: Option<Revision>,
    /// What makes a repetition the same request.
    key: Option<String>,
    /// How long the beginning of the answer is waited for.
    patience: Option<Duration>,
}

/// An answer that is still coming, with the connection that brings it.
struct Answer {
    body: Incoming,
    driver: AbortOnDropHandle<hyper::Result<()>>,
}

impl Client {
    /// A client of the daemon that listens there.
    pub fn new(target: Target) -> Self {
        Self { target, reached: Arc::default() }
    }

    /// Whether the daemon is on this machine.
    pub fn is_local(&self) -> bool {
        self.target.is_local()
    }

    /// A request with a JSON answer.
    async fn document<T: DeserializeOwned>(&self, asked: Asked) -> Result<T, Problem> {
        read(self.request(asked).await?).await
    }

    /// A request with a body of any length, as it comes, and a JSON answer, which may take its time. It is sent once.
    async fn upload<T: DeserializeOwned>(
        &self,
        asked: Asked,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<T, Problem> {
        let Asked { method, path, if_match, .. } = asked;
        let body = BodyExt::boxed_unsync(StreamBody::new(body.map_ok(Frame::data)));
        let sent = Sent { body, kind: Some("application/x-tar"), if_match, key: None, patience: None };
        read(self.ask(method, &path, sent).await?).await
    }

    /// A request with an answer of any length, as it comes.
    async fn download(&self, asked: Asked) -> Result<Download, Problem> {
        let Answer { body, driver } = self.request(asked).await?;
        let parts = body.into_data_stream().map_err(move |error| {
            let _held = &driver;
            gone(&error)
        });
        Ok(parts.boxed())
    }

    /// A request with an answer of one JSON document on each line, as they come.
    async fn lines<T: DeserializeOwned + Send + 'static>(&self, asked: Asked) -> Result<Lines<T>, Problem> {
        let Answer { body, driver } = self.request(asked).await?;
        let reader = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
        let lines = stream::try_unfold((reader, driver), |(mut reader, driver)| async move {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line).await.map_err(|error| self::gone(&error))?;
            if read == 0 {
                return Ok(None);
            }
            let item = serde_json::from_slice(&line).map_err(|error| unreadable(&error))?;
            Ok(Some((item, (reader, driver))))
        });
        Ok(lines.boxed())
    }

    async fn request(&self, asked: Asked) -> Result<Answer, Problem> {
        let Asked { method, path, body, if_match, keyed } = asked;
        let kind = (!body.is_empty()).then_some("application/json");
        let key = keyed.then(|| format!("{:032x}", rand::random::<u128>()));
        let begun = Instant::now();
        loop {
            let body = Full::new(body.clone()).map_err(|never| match never {}).boxed_unsync();
            let sent = Sent { body, kind, if_match, key: key.clone(), patience: Some(ANSWER) };
            let answer = self.ask(method.clone(), &path, sent).await;
            let again = method.is_safe() || key.is_some();
            match answer {
                Err(problem) if again && self.is_away(&problem) && begun.elapsed() < AGAIN => {
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// Whether the daemon was there a moment ago, and is not now: it is being started again.
    fn is_away(&self, problem: &Problem) -> bool {
        let away = matches!(problem.code, ErrorCode::Unreachable | ErrorCode::Unavailable);
        away && self.reached.load(Ordering::Relaxed)
    }

    async fn ask(&self, method: Method, path: &str, sent: Sent) -> Result<Answer, Problem> {
        let io = self.target.connect().await?;
        self.reached.store(true, Ordering::Relaxed);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|error| gone(&error))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.target.host());
        if let Some(kind) = sent.kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        if let Some(revision) = sent.if_match {
            request = request.header(header::IF_MATCH, format!("\"{revision}\""));
        }
        if let Some(key) = sent.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(token) = self.target.token() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(sent.body).map_err(|error| Problem::new(ErrorCode::Invalid, error.to_string()))?;
        let answer = sender.send_request(request);
        let answer = match sent.patience {
            None => answer.await,
            Some(patience) => match tokio::time::timeout(patience, answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    let title = format!("the daemon has not answered for {} s", patience.as_secs());
                    return Err(Problem::new(ErrorCode::Unreachable, title).hint("hivemind doctor"));
                }
            },
        };
        let answer = answer.map_err(|error| gone(&error))?;
        let success = answer.status().is_success();
        let answer = Answer { body: answer.into_body(), driver };
        if success {
            return Ok(answer);
        }
        let bytes = answer.body.collect().await.map_err(|error| gone(&error))?.to_bytes();
        Err(problem_of(&bytes))
    }
}

/// The JSON document of an answer.
async fn read<T: DeserializeOwned>(answer: Answer) -> Result<T, Problem> {
    let bytes = answer.body.collect().await.map_err(|error| gone(&error))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))
}

/// The connection broke.
fn gone(error: &dyn std::error::Error) -> Problem {
    Problem::new(ErrorCode::Unreachable, format!("the daemon ended the connection: {error}"))
        .hint("repeat it; the daemon may be restarting")
}

fn unreadable(why: &dyn std::fmt::Display) -> Problem {
    Problem::new(ErrorCode::Internal, format!("the daemon's answer cannot be read: {why}"))
        .hint("hivemind version   (shows whether daemon and command line are of the same version)")
}

/// The problem that an answer carries.
fn problem_of(body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| unreadable(&String::from_utf8_lossy(body)))
}

#[cfg(test)]
mod tests {
    use hivemind_api::{apps::Scale, ending::Kill, tenants::TenantBody};
    use hivemind_core::{model::Scope, spec::v1::VolumeSpec};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    /// A daemon that does each time what is said: breaks the connection, or gives this answer. What it was asked comes
    /// back, as it was on the wire.
    fn daemon(
        answers: &'static [Option<&'static str>],
    ) -> (tempfile::TempDir, Client, tokio::task::JoinHandle<Vec<String>>) {
        let dir = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(dir.path().join("sock")).expect("a socket");
        let client = Client::new(Target::Unix(dir.path().join("sock")));
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("accepted");
                let mut request = Vec::new();
                while !is_whole(&request) {
                    assert_ne!(stream.read_buf(&mut request).await.expect("read"), 0, "it ended early");
                }
                asked.push(String::from_utf8_lossy(&request).to_lowercase());
                if let Some(answer) = answer {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                    stream.write_all(head.as_bytes()).await.expect("written");
                }
            }
            asked
        });
        (dir, client, asked)
    }

    fn is_whole(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        body.len() >= length.map_or(0, |length| length.parse().expect("a number"))
    }

    fn key(asked: &str) -> Option<&str> {
        asked.lines().find_map(|line| line.strip_prefix("idempotency-key: "))
    }

    const WRITTEN: &str = r#"{"revision":7,"created":false,"generation":2}"#;
    const CHANGED: &str = r#"{"revision":7,"created":false,"changed":true}"#;

    #[tokio::test]
    async fn a_change_with_a_key_is_repeated_with_the_same_one() {
        let (_dir, client, asked) = daemon(&[None, Some(WRITTEN)]);
        let (scope, how) = (Scope::default(), ChangeArgs { dry_run: true, if_match: Some(6) });
        let written = client.scale_app(&scope, "web", &Scale { replicas: 3 }, &how).await.expect("scaled");
        assert_eq!(written.written.generation, 2);
        let asked = asked.await.expect("ended");
        let line = "post /v1/tenants/default/namespaces/default/apps/web/scale?dryrun=true http/1.1\r\n";
        assert!(asked.iter().all(|asked| asked.starts_with(line) && asked.contains("if-match: \"6\"")), "{asked:?}");
        assert!(asked.iter().all(|asked| asked.ends_with("{\"replicas\":3}")), "{asked:?}");
        assert_eq!(key(&asked[0]).map(str::len), Some(32), "{asked:?}");
        assert_eq!(key(&asked[0]), key(&asked[1]));
    }

    #[tokio::test]
    async fn a_change_without_a_key_is_sent_once() {
        let (_dir, client, asked) = daemon(&[None]);
        let kill = Kill { signal: "HUP".into(), container: None };
        let answer = client.kill_instance(&Scope::default(), "web-x7k2p", &kill, &DryRunArgs::default()).await;
        assert_eq!(answer.expect_err("it broke").code, ErrorCode::Unreachable);
        let asked = asked.await.expect("ended");
        assert_eq!((asked.len(), key(&asked[0])), (1, None), "{asked:?}");
    }

    #[tokio::test]
    async fn what_only_looks_is_repeated_without_a_key() {
        let (_dir, client, asked) = daemon(&[None, Some("[]")]);
        assert!(client.list_nodes(&ListArgs::default()).await.expect("listed").is_empty());
        let asked = asked.await.expect("ended");
        assert!(asked.iter().all(|asked| key(asked).is_none() && asked.starts_with("get /v1/nodes http")), "{asked:?}");
    }

    #[tokio::test]
    async fn a_body_that_may_be_left_out_is_not_there_then() {
        let (_dir, client, asked) = daemon(&[Some(CHANGED), Some(CHANGED), Some(CHANGED)]);
        let how = ChangeArgs::default();
        client.put_tenant("acme", None, &how).await.expect("put");
        client.put_tenant("acme", Some(&TenantBody::default()), &how).await.expect("put");
        client.put_volume(&Scope::default(), "data", &VolumeSpec::default(), &how).await.expect("put");
        let asked = asked.await.expect("ended");
        let has_body = |asked: &String| asked.contains("content-type: application/json");
        assert_eq!(asked.iter().map(has_body).collect::<Vec<_>>(), [false, true, true], "{asked:?}");
    }

    #[test]
    fn an_answer_that_is_no_problem_is_one() {
        let wire =
            br#"{"code":"E-OBJ-001","title":"app a does not exist","status":404,"type":"urn:hivemind:E-OBJ-001"}"#;
        assert_eq!(problem_of(wire), Problem::new(ErrorCode::NotFound, "app a does not exist"));
        for body in [&b""[..], b"nginx says no", b"{\"code\":\"E-NEW-001\",\"title\":\"from a newer daemon\"}"] {
            assert_eq!(problem_of(body).code, ErrorCode::Internal);
        }
    }
}
