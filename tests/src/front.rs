//! A server in front of a real registry that does to requests and answers what a test wants: cuts, stalls, lies, refusals.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use xtask::sandbox::Sandbox;

/// Longer than anybody waits for an answer.
const STALL: Duration = Duration::from_secs(120);

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET`, …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The head as it came.
    pub head: String,
}

impl Asked {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Whether it is for the bytes of a blob.
    pub fn is_blob(&self) -> bool {
        self.method == "GET" && self.target.contains("/blobs/sha256:")
    }
}

/// What is done to a request.
#[derive(Clone, Debug)]
pub enum Deed {
    /// It is passed on, and its answer back.
    Pass,
    /// It is answered so: status line and headers, without the last empty line.
    Answer(String),
    /// The connection ends after so many bytes of the answer's body.
    Cut(usize),
    /// After so many bytes of the answer's body nothing comes any more.
    Stall(usize),
    /// The byte of this number of the answer's body is another one.
    Lie(usize),
    /// The connection ends after so many bytes of the request's body.
    CutRequest(usize),
}

type Judge = dyn Fn(&Asked, usize) -> Deed + Send + Sync;

/// The server. It serves until the test's process ends.
#[derive(Debug)]
pub struct Front {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Front {
    /// Serves on a port of the sandbox's loopback. `judge` is told of each request, with how many came before it.
    pub fn start(
        sandbox: &Sandbox,
        registry: u16,
        judge: impl Fn(&Asked, usize) -> Deed + Send + Sync + 'static,
    ) -> Result<Self> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, judge): (_, Arc<Judge>) = (Arc::clone(&asked), Arc::new(judge));
        // Threads are in the network namespace of the thread that makes them.
        let port = sandbox.on_network(|| {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let port = listener.local_addr()?.port();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (seen, judge) = (Arc::clone(&seen), Arc::clone(&judge));
                    // One request for each connection. Who goes away gets no answer; the test says so.
                    std::thread::spawn(move || serve(stream, registry, &seen, &*judge));
                }
            });
            Ok(port)
        })?;
        Ok(Self { port, asked })
    }

    /// `host:port`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What has been asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The head of a message, and what has come of its body.
fn head(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16384];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8(bytes)?, body));
        }
        match stream.read(&mut buffer)? {
            0 => bail!("the connection ended in a head"),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

fn length(head: &str) -> usize {
    let lengths = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = lengths.filter(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

fn serve(mut client: TcpStream, registry: u16, seen: &Mutex<Vec<Asked>>, judge: &Judge) -> Result<()> {
    let (text, mut body) = head(&mut client)?;
    let mut words = text.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let asked = Asked { method, target, head: text.clone() };
    let before = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(asked.clone());
        seen.len() - 1
    };
    let deed = judge(&asked, before);
    if let Deed::Answer(answer) = &deed {
        // The rest of the request is read, so that who sends it gets the answer.
        let rest = length(&text).saturating_sub(body.len());
        std::io::copy(&mut (&mut client).take(rest as u64), &mut std::io::sink())?;
        write!(client, "HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n")?;
        return Ok(());
    }
    let mut upstream = TcpStream::connect(("127.0.0.1", registry)).context("no registry behind the front")?;
    let (first, rest) = text.split_once("\r\n").context("a head of one line")?;
    let rest: String =
        rest.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
    write!(upstream, "{first}\r\nConnection: close\r\n{rest}")?;
    let total = length(&text);
    let limit = if let Deed::CutRequest(limit) = deed { limit.min(total) } else { total };
    body.truncate(limit);
    upstream.write_all(&body)?;
    let more = limit - body.len();
    std::io::copy(&mut (&mut client).take(more as u64), &mut upstream)?;
    if matches!(deed, Deed::CutRequest(_)) {
        client.shutdown(Shutdown::Both)?;
        return Ok(());
    }
    let (answer, mut body) = head(&mut upstream)?;
    client.write_all(answer.as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    let mut done = 0;
    let mut buffer = [0; 65536];
    loop {
        if body.is_empty() {
            match upstream.read(&mut buffer)? {
                0 => break,
                n => body.extend_from_slice(&buffer[..n]),
            }
        }
        match deed {
            Deed::Cut(at) | Deed::Stall(at) if done + body.len() > at => {
                client.write_all(&body[..at - done])?;
                if matches!(deed, Deed::Stall(_)) {
                    // Until whoever waits goes away.
                    client.set_read_timeout(Some(STALL))?;
                    let _ = client.read(&mut [0]);
                }
                client.shutdown(Shutdown::Both)?;
                return Ok(());
            }
            Deed::Lie(at) if (done..done + body.len()).contains(&at) => body[at - done] ^= 1,
            _ => {}
        }
        client.write_all(&body)?;
        done += body.len();
        body.clear();
    }
    Ok(())
}
