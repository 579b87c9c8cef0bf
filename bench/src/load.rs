//! Clients of a web server that ask all the time, until they are told to stop: on a new connection each time, or on one
//! that is kept as long as the server keeps it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::clock::pause;

/// No answer takes longer on a working path.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one request of a client to its next.
const EACH: Duration = Duration::from_millis(1);

/// What is asked, and by how many.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    /// The server.
    pub(crate) to: SocketAddr,
    /// Clients that make a new connection for each request.
    pub(crate) fresh: usize,
    /// Clients that keep theirs.
    pub(crate) kept: usize,
    /// They go on as long as this file is there.
    pub(crate) while_there: PathBuf,
}

/// What came of it, of one kind of client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Requests that were answered.
    pub(crate) answered: u64,
    /// Requests without an answer.
    pub(crate) failed: u64,
    /// Kept connections that the server closed before a byte of an answer came: every client of HTTP asks again then, on
    /// another one (RFC 9112, 9.3.1). Counted as answered if that one was.
    pub(crate) repeated: u64,
    /// How often which error came.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// What came of both kinds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// With new connections.
    pub(crate) fresh: Asked,
    /// With kept ones.
    pub(crate) kept: Asked,
}

/// Why a request has no answer, and whether it may be asked again on another connection.
struct Unanswered {
    why: String,
    closed: bool,
}

impl Load {
    /// Asks until it is to stop.
    pub(crate) fn run(&self) -> Result<Outcome> {
        thread::scope(|scope| {
            let fresh: Vec<_> = (0..self.fresh).map(|_| scope.spawn(|| self.ask(false))).collect();
            let kept: Vec<_> = (0..self.kept).map(|_| scope.spawn(|| self.ask(true))).collect();
            let sum = |clients: Vec<thread::ScopedJoinHandle<'_, Asked>>| -> Result<Asked> {
                let mut all = Asked::default();
                for client in clients {
                    all.add(client.join().map_err(|_| anyhow!("a client ended in a panic"))?);
                }
                Ok(all)
            };
            Ok(Outcome { fresh: sum(fresh)?, kept: sum(kept)? })
        })
    }

    fn ask(&self, keep: bool) -> Asked {
        let mut asked = Asked::default();
        let mut connection: Option<BufReader<TcpStream>> = None;
        while self.while_there.exists() {
            let known = connection.is_some();
            let mut answer = self.once(&mut connection, keep);
            if known && answer.as_ref().is_err_and(|error| error.closed) {
                asked.repeated += 1;
                connection = None;
                answer = self.once(&mut connection, keep);
            }
            match answer {
                Ok(()) => asked.answered += 1,
                Err(error) => {
                    asked.failed += 1;
                    *asked.errors.entry(error.why).or_default() += 1;
                    connection = None;
                }
            }
            pause(EACH);
        }
        asked
    }

    fn once(&self, connection: &mut Option<BufReader<TcpStream>>, keep: bool) -> Result<(), Unanswered> {
        let failed = |what: &str, error: std::io::Error| {
            let ends = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
            Unanswered { why: format!("{what}: {}", error.kind()), closed: ends.contains(&error.kind()) }
        };
        if connection.is_none() {
            let stream = TcpStream::connect_timeout(&self.to, PATIENCE).map_err(|error| failed("connect", error))?;
            stream.set_nodelay(true).map_err(|error| failed("connect", error))?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(|error| failed("connect", error))?;
            *connection = Some(BufReader::new(stream));
        }
        let Some(stream) = connection.as_mut() else { return Ok(()) };
        let word = if keep { "keep-alive" } else { "close" };
        let request = format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: {word}\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes()).map_err(|error| failed("write", error))?;
        let closes = answer(stream).map_err(|(begun, error)| {
            let error = failed("read", error);
            Unanswered { closed: error.closed && !begun, ..error }
        })?;
        if closes || !keep {
            *connection = None;
        }
        Ok(())
    }
}

/// Reads an answer to its end. Whether the server closes the connection then; an error with whether the answer had begun.
fn answer(stream: &mut BufReader<TcpStream>) -> Result<bool, (bool, std::io::Error)> {
    let (mut length, mut closes, mut line) = (None, false, String::new());
    let mut first = true;
    loop {
        line.clear();
        let read = stream.read_line(&mut line).map_err(|error| (!first || !line.is_empty(), error))?;
        if read == 0 {
            return Err((!first, ErrorKind::UnexpectedEof.into()));
        }
        if first && !line.starts_with("HTTP/1.1 200") {
            return Err((true, std::io::Error::other(line.trim().to_owned())));
        }
        first = false;
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse::<u64>().ok();
        }
        closes |= header == "connection: close";
    }
    let read = match length {
        Some(length) => std::io::copy(&mut stream.take(length), &mut std::io::sink()),
        None => std::io::copy(stream, &mut std::io::sink()),
    };
    match (read, length) {
        (Err(error), _) => Err((true, error)),
        (Ok(read), Some(length)) if read < length => Err((true, ErrorKind::UnexpectedEof.into())),
        _ => Ok(closes || length.is_none()),
    }
}

impl Asked {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.repeated += other.repeated;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}
