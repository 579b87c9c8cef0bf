//! HTTP/1.1 by hand: what is sent and what comes back is seen as it is.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The way in.
pub(crate) enum Door {
    Unix(PathBuf),
    /// A port of loopback, in the network namespace of the calling thread.
    Tcp(u16),
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }
}

fn request(method: &str, path: &str, headers: &[&str], body: Option<&str>) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        text += "Host: localhost\r\n";
    }
    headers.iter().for_each(|header| text += &format!("{header}\r\n"));
    let body = body.unwrap_or_default();
    text + &format!("Content-Length: {}\r\n\r\n{body}", body.len())
}

impl Door {
    /// Asks, and takes the whole answer.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[&str], body: Option<&str>) -> Result<Answer> {
        let request = request(method, path, headers, body);
        let mut bytes = Vec::new();
        match self {
            Self::Unix(socket) => {
                let mut stream = UnixStream::connect(socket).context("cannot reach the daemon")?;
                stream.set_read_timeout(Some(PATIENCE))?;
                // A request that is too large may be refused before all of it was taken.
                let _ = stream.write_all(request.as_bytes());
                let _ = stream.read_to_end(&mut bytes);
            }
            Self::Tcp(port) => {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).context("cannot reach the daemon")?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let _ = stream.write_all(request.as_bytes());
                let _ = stream.read_to_end(&mut bytes);
            }
        }
        parse(&String::from_utf8_lossy(&bytes)).with_context(|| format!("{method} {path}"))
    }
}

/// The bytes of an answer that has no end.
pub(crate) fn stream(socket: &Path, path: &str) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).context("cannot reach the daemon")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request("GET", path, &[], None).as_bytes())?;
    Ok(stream)
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text:?}"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("no status")?;
    let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers: Vec<_> = lines.filter_map(split).collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { dechunk(body) } else { body.to_owned() };
    Ok(Answer { status, headers, body })
}

/// RFC 9112 section 7.1, without extensions and trailers.
fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        let Some(chunk) = after.get(..size).filter(|_| size > 0) else { break };
        body += chunk;
        rest = after.get(size + 2..).unwrap_or_default();
    }
    body
}
