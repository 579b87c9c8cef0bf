//! Questions over TCP (RFC 7766): many on one connection, answered in whatever order their answers are there.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

use super::{
    message::Transport,
    reply::{Replier, Soon},
};

/// How long an idle connection is kept, and how long one that takes no answers.
const IDLE: Duration = Duration::from_secs(5);
/// Connections at once; the next ones wait until one ends.
const CONNECTIONS: usize = 512;
/// Of them from one address: one instance leaves others theirs.
const OF_ONE: usize = 16;
/// Questions of a connection that are answered at once; the next ones are read when one is.
const AT_ONCE: usize = 32;
/// How long nothing is accepted after a failure: most are for want of descriptors.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How many connections each address has.
type Counts = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// A place among an address's connections, given back when it is dropped.
struct Place {
    counts: Counts,
    of: IpAddr,
}

impl Place {
    fn take(counts: &Counts, of: IpAddr) -> Option<Self> {
        let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(of).or_default();
        if *count >= OF_ONE {
            return None;
        }
        *count += 1;
        Some(Self { counts: Arc::clone(counts), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.of);
            }
        }
    }
}

/// Serves a listener, until it is dropped.
pub(super) async fn serve(listener: TcpListener, replier: Arc<Replier>) {
    let mut connections = JoinSet::new();
    let counts = Counts::default();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(place) = Place::take(&counts, from.ip().to_canonical()) else {
                    tracing::debug!(%from, "has too many connections to the name server");
                    continue;
                };
                let replier = Arc::clone(&replier);
                connections.spawn(async move {
                    let _place = place;
                    connection(stream, from, &replier).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, from: SocketAddr, replier: &Replier) {
    let asker = from.ip().to_canonical();
    let mut codec = LengthDelimitedCodec::builder();
    codec.length_field_length(2).max_frame_length(usize::from(u16::MAX));
    let mut stream = codec.new_framed(stream);
    let mut waiting = FuturesUnordered::new();
    // Who has asked its last question may still wait for answers.
    let mut asks = true;
    while asks || !waiting.is_empty() {
        let answer = tokio::select! {
            biased;
            Some(answer) = waiting.next(), if !waiting.is_empty() => answer,
            // Cancel-safe: what has come of a question stays in the codec's buffer.
            question = stream.next(), if asks && waiting.len() < AT_ONCE => {
                let Some(Ok(question)) = question else {
                    asks = false;
                    continue;
                };
                match replier.at_once(&question, asker, Transport::Tcp) {
                    Soon::Now(answer) => answer,
                    Soon::Later(question) => {
                        waiting.push(async move { replier.later(&question, asker, Transport::Tcp).await });
                        continue;
                    }
                    Soon::Never => return,
                }
            }
            () = sleep(IDLE), if waiting.is_empty() => return,
        };
        let sent = timeout(IDLE, stream.send(Bytes::from(answer))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}
