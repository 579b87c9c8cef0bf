//! The server: hickory's, with our answers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{MessageType, OpCode, ResponseCode},
    rr::{RData, Record, RecordType, rdata},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{DnsError as UpstreamError, NetError, runtime::TokioRuntimeProvider},
};
use hickory_server::{
    Server,
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, watch},
};

use super::table::{Answer, DnsTable};

/// How long others may remember our answers, in seconds: as long as a stale one may live.
const TTL: u32 = 1;
/// Questions that may be with upstream servers at once; beyond that they are refused.
const UPSTREAM_QUESTIONS: usize = 512;
/// How long upstream may take.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(4);
/// How long an idle TCP connection is kept.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Bytes of answers that may wait on a TCP connection.
const TCP_BUFFER: usize = 65_535;

/// How the server is configured.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Servers for other names; those of the host's resolv.conf if empty.
    pub upstreams: Vec<SocketAddr>,
}

/// What can go wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// It cannot listen.
    #[error("cannot serve names on {address}: {source} (hint: 'ss -lunp' names who has the port)")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The upstream servers cannot be used.
    #[error("the upstream name servers cannot be used: {why}")]
    Upstream {
        /// What the resolver said.
        why: String,
    },
}

/// The running server. Dropping it ends it.
pub struct DnsServer {
    server: Server<Handler>,
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DnsServer")
    }
}

impl DnsServer {
    /// Binds and serves. `table` may change at any time; the next question sees it.
    pub async fn start(config: &DnsConfig, table: watch::Receiver<Arc<DnsTable>>) -> Result<Self, DnsError> {
        let own: Vec<IpAddr> = config.listen.iter().map(SocketAddr::ip).collect();
        let handler = Handler {
            table,
            upstream: upstream(&config.upstreams, &own)?,
            questions: Semaphore::new(UPSTREAM_QUESTIONS),
        };
        let mut server = Server::new(handler);
        for address in &config.listen {
            let fail = |source| DnsError::Bind { address: *address, source };
            server.register_socket(UdpSocket::bind(address).await.map_err(fail)?);
            server.register_listener(TcpListener::bind(address).await.map_err(fail)?, TCP_IDLE, TCP_BUFFER);
        }
        Ok(Self { server })
    }

    /// Waits until the server has ended, which only a fault of its own brings about.
    pub async fn ended(&mut self) {
        if let Err(error) = self.server.block_until_done().await {
            tracing::error!(%error, "the name server has ended");
        }
    }
}

/// The resolver for other names; none if there is no server to ask but ourselves.
fn upstream(configured: &[SocketAddr], own: &[IpAddr]) -> Result<Option<TokioResolver>, DnsError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if configured.is_empty() {
        match TokioResolver::builder(provider) {
            Ok(builder) => builder,
            Err(error) => {
                tracing::warn!(%error, "the host's resolv.conf cannot be used; only names of the cluster are known");
                return Ok(None);
            }
        }
    } else {
        let server = |address: &SocketAddr| {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            connections.iter_mut().for_each(|connection| connection.port = address.port());
            NameServerConfig::new(address.ip(), true, connections)
        };
        let servers = configured.iter().map(server).collect();
        TokioResolver::builder_with_config(ResolverConfig::from_parts(None, vec![], servers), provider)
    };
    let options = builder.options_mut();
    options.timeout = UPSTREAM_LIMIT / 2;
    options.attempts = 2;
    // Names are complete when they come here: the instances' resolvers have added what they add.
    options.ndots = 0;
    let resolver = builder.build().map_err(|error| DnsError::Upstream { why: error.to_string() })?;
    let _ = own;
    Ok(Some(resolver))
}

struct Handler {
    table: watch::Receiver<Arc<DnsTable>>,
    upstream: Option<TokioResolver>,
    questions: Semaphore,
}

/// A code and the records of the answer section.
type Reply = (ResponseCode, Vec<Record>);

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query || request.metadata.message_type != MessageType::Query {
            return (ResponseCode::NotImp, vec![]);
        }
        let Ok(info) = request.request_info() else { return (ResponseCode::FormErr, vec![]) };
        let (name, kind) = (info.query.original().name().clone(), info.query.query_type());
        let text = name.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        let table = Arc::clone(&self.table.borrow());
        match table.answer(text, kind == RecordType::A) {
            Answer::Addresses(addresses) if matches!(kind, RecordType::A | RecordType::AAAA) => {
                let data = |address| match address {
                    IpAddr::V4(v4) => RData::A(rdata::A(v4)),
                    IpAddr::V6(v6) => RData::AAAA(rdata::AAAA(v6)),
                };
                let records = addresses.into_iter().map(|address| Record::from_rdata(name.clone(), TTL, data(address)));
                (ResponseCode::NoError, records.collect())
            }
            Answer::Addresses(_) => (ResponseCode::NoError, vec![]),
            Answer::NoSuchName => (ResponseCode::NXDomain, vec![]),
            Answer::NotOurs => self.ask_upstream(name, kind).await,
        }
    }

    async fn ask_upstream(&self, name: hickory_proto::rr::Name, kind: RecordType) -> Reply {
        let Some(upstream) = &self.upstream else { return (ResponseCode::Refused, vec![]) };
        let Ok(_place) = self.questions.try_acquire() else { return (ResponseCode::Refused, vec![]) };
        match tokio::time::timeout(UPSTREAM_LIMIT, upstream.lookup(name, kind)).await {
            Ok(Ok(lookup)) => (ResponseCode::NoError, lookup.answers().to_vec()),
            Ok(Err(NetError::Dns(UpstreamError::NoRecordsFound(none)))) => (none.response_code, vec![]),
            Ok(Err(error)) => {
                tracing::debug!(%error, "an upstream name server did not answer");
                (ResponseCode::ServFail, vec![])
            }
            Err(_) => (ResponseCode::ServFail, vec![]),
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut to: R) -> ResponseInfo {
        let (code, records) = self.reply(request).await;
        let mut metadata = hickory_proto::op::Metadata::response_from_request(&request.metadata);
        metadata.response_code = code;
        metadata.recursion_available = true;
        let response =
            MessageResponseBuilder::from_message_request(request).build(metadata, records.iter(), [], [], []);
        match to.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "an answer could not be sent");
                let mut metadata = hickory_proto::op::Metadata::response_from_request(&request.metadata);
                metadata.response_code = ResponseCode::ServFail;
                hickory_proto::op::Header { metadata, counts: hickory_proto::op::HeaderCounts::default() }.into()
            }
        }
    }
}
