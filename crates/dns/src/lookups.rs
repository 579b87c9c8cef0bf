//! Names that the node looks up for itself: what the host asks other name servers for is not seen here.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hickory_proto::rr::{Name, Record, RecordType};
use tokio::sync::mpsc;

use super::{
    opening::{self, Resolved},
    upstream::Upstream,
};

/// Looks names up where the name server does, and tells of their addresses as if the node itself had asked it.
#[derive(Clone)]
pub struct Lookups {
    upstream: Arc<Upstream>,
    opener: Option<mpsc::Sender<Resolved>>,
    /// The address by which the node is known as who asks.
    node: IpAddr,
}

impl std::fmt::Debug for Lookups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookups")
    }
}

impl Lookups {
    pub(super) fn new(upstream: Arc<Upstream>, opener: Option<mpsc::Sender<Resolved>>, node: IpAddr) -> Self {
        Self { upstream, opener, node }
    }

    /// Tells of the addresses that a name (without a final dot) stands for now, and waits until they are open. Returns
    /// for how long the first of them holds; `None` if nobody knows an address of it.
    pub async fn open(&self, name: &str) -> Option<Duration> {
        let name = Name::from_ascii(format!("{name}.")).ok()?;
        let (v4, v6) = tokio::join!(
            self.upstream.ask(name.clone(), RecordType::A, &[]),
            self.upstream.ask(name.clone(), RecordType::AAAA, &[]),
        );
        let answer: Vec<Record> = v4.answers.into_iter().chain(v6.answers).collect();
        let first = answer.iter().map(|record| record.ttl).min().map(|seconds| Duration::from_secs(seconds.into()));
        if let Some(opener) = &self.opener {
            opening::open(opener, self.node, &name, &answer).await;
        }
        first
    }
}
