//! The server: hickory's, with our answers.
//!
//! A question is answered from the table of the moment, so that a change is seen by the next question. Bytes that are no
//! question, and questions of whoever is not ours, never reach us: hickory answers FORMERR and REFUSED.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType, rdata},
};
use hickory_server::{
    Server,
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use ipnet::IpNet;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    lookups::Lookups,
    opening::{self, Resolved},
    table::{Answer, DnsTable},
    upstream::Upstream,
};

/// How long others may remember our answers, in seconds: as long as a stale one may live.
const TTL: u32 = 1;
/// How long a question waits for the first complete table after the start.
const FIRST_TABLE: Duration = Duration::from_secs(3);
/// How long an idle TCP connection is kept.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Bytes of answers that may wait on a TCP connection.
const TCP_BUFFER: usize = 65_535;
/// The largest answer over UDP: what every path carries unfragmented (the agreement of DNS Flag Day 2020).
const UDP_PAYLOAD: u16 = 1232;

/// How the server is configured.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Who may ask; everyone if empty. Addresses of the node can be reached from outside where someone routes to them.
    pub clients: Vec<IpNet>,
    /// Servers for other names; those of `resolv_conf` if empty.
    pub upstreams: Vec<SocketAddr>,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Who is told of addresses before those who asked for them; nobody if there is none.
    pub opener: Option<mpsc::Sender<Resolved>>,
}

impl DnsConfig {
    /// Listening there, everyone may ask, upstream servers are the host's.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self { listen, clients: vec![], upstreams: vec![], resolv_conf: "/etc/resolv.conf".into(), opener: None }
    }
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
}

/// The running server. Dropping it ends it.
pub struct DnsServer {
    server: Server<Handler>,
    lookups: Lookups,
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DnsServer")
    }
}

impl DnsServer {
    /// Binds and serves. `table` may change at any time; the next question sees it.
    pub async fn start(config: &DnsConfig, table: watch::Receiver<Arc<DnsTable>>) -> Result<Self, DnsError> {
        let upstream = Arc::new(Upstream::new(config));
        let node = config.listen.first().map_or(IpAddr::from([0; 4]), SocketAddr::ip);
        let lookups = Lookups::new(Arc::clone(&upstream), config.opener.clone(), node);
        let handler = Handler { table, upstream, opener: config.opener.clone() };
        let mut server = Server::with_access(handler, [], config.clients.iter().copied());
        for address in &config.listen {
            let fail = |source| DnsError::Bind { address: *address, source };
            server.register_socket(UdpSocket::bind(address).await.map_err(fail)?);
            server.register_listener(TcpListener::bind(address).await.map_err(fail)?, TCP_IDLE, TCP_BUFFER);
        }
        Ok(Self { server, lookups })
    }

    /// What looks names up for the node itself.
    pub fn lookups(&self) -> Lookups {
        self.lookups.clone()
    }

    /// Waits until the server has ended, which only a fault of its own brings about.
    pub async fn ended(&mut self) {
        if let Err(error) = self.server.block_until_done().await {
            tracing::error!(%error, "the name server has ended");
        }
    }
}

struct Handler {
    table: watch::Receiver<Arc<DnsTable>>,
    upstream: Arc<Upstream>,
    opener: Option<mpsc::Sender<Resolved>>,
}

/// A code and the records of the answer section.
pub(super) type Reply = (ResponseCode, Vec<Record>);

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query || request.metadata.message_type != MessageType::Query {
            return (ResponseCode::NotImp, vec![]);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return (ResponseCode::BADVERS, vec![]);
        }
        let Ok(info) = request.request_info() else { return (ResponseCode::FormErr, vec![]) };
        let (name, kind) = (info.query.original().name().clone(), info.query.query_type());
        if info.query.query_class() != DNSClass::IN {
            return (ResponseCode::Refused, vec![]);
        }
        let Some(table) = self.table().await else { return (ResponseCode::ServFail, vec![]) };
        let text = name.to_ascii().to_ascii_lowercase();
        match table.answer(text.trim_end_matches('.'), kind == RecordType::A) {
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
            Answer::NotOurs => {
                let asker = request.src().ip().to_canonical();
                let reply = self.upstream.ask(name.clone(), kind, table.servers_of(asker)).await;
                if let Some(opener) = &self.opener {
                    opening::open(opener, asker, &name, &reply.1).await;
                }
                reply
            }
        }
    }

    /// The table. Just after the start it may not be complete: a question then waits, since "there is no such name"
    /// would be a lie that its asker remembers.
    async fn table(&self) -> Option<Arc<DnsTable>> {
        let mut table = self.table.clone();
        let known = table.wait_for(|table| table.is_complete());
        match timeout(FIRST_TABLE, known).await {
            Ok(Ok(table)) => Some(Arc::clone(&table)),
            _ => None,
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut to: R) -> ResponseInfo {
        let (code, records) = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = code;
        metadata.recursion_available = true;
        // RFC 6891: who speaks EDNS is answered with it, and is told what we take; answers keep to what it takes.
        let edns = request.edns.as_ref().map(|theirs| {
            let mut ours = Edns::new();
            ours.set_max_payload(theirs.max_payload().clamp(512, UDP_PAYLOAD));
            ours
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        match to.send_response(builder.build(metadata, records.iter(), [], [], [])).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "an answer could not be sent");
                metadata.response_code = ResponseCode::ServFail;
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}
