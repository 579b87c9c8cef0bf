//! Other people's names: the servers of the host, or configured ones, are asked.
//!
//! The host's resolv.conf is read again when it has changed: a machine often starts before its network has told it a
//! name server. Never asked are ourselves, which would be a loop. The host's `/etc/hosts` is not consulted: what it
//! says is meant for processes of the host.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError as Refusal, NetError, runtime::TokioRuntimeProvider},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{message::Reply, server::DnsConfig};

/// Questions that may be with upstream servers at once; beyond that they are refused.
const MAX_QUESTIONS: usize = 512;
/// How long all servers together may take: as long as the instances' resolvers wait for one try and a second one.
const LIMIT: Duration = Duration::from_secs(4);
/// How often the host's resolv.conf is looked at, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Resolvers of apps' own servers that are kept, each with its connections.
const MAX_OTHERS: usize = 64;
const PORT: u16 = 53;

/// The servers for names that are not ours.
pub(super) struct Upstream {
    /// `None`: the servers are configured and do not change.
    resolv_conf: Option<PathBuf>,
    /// Our own addresses.
    own: Vec<SocketAddr>,
    questions: Semaphore,
    known: Mutex<Known>,
    /// The resolvers of apps with servers of their own.
    others: Mutex<HashMap<Vec<IpAddr>, TokioResolver>>,
}

/// The servers as last seen.
struct Known {
    servers: Vec<SocketAddr>,
    /// `None` without a server.
    resolver: Option<TokioResolver>,
    seen: Instant,
}

impl Upstream {
    pub(super) fn new(config: &DnsConfig) -> Self {
        let own = config.listen.clone();
        let resolv_conf = config.upstreams.is_empty().then(|| config.resolv_conf.clone());
        let servers: Vec<_> = match &resolv_conf {
            Some(path) => read(path, &own),
            None => config.upstreams.iter().copied().filter(|server| !own.contains(server)).collect(),
        };
        let known = Known { resolver: resolver(&servers), servers, seen: Instant::now() };
        Self {
            resolv_conf,
            own,
            questions: Semaphore::new(MAX_QUESTIONS),
            known: Mutex::new(known),
            others: Mutex::default(),
        }
    }

    /// Asks `servers`, or the node's if there are none. Without a server to ask, and with too many questions under way, the answer is a refusal at once.
    pub(super) async fn ask(&self, name: Name, kind: RecordType, servers: &[IpAddr]) -> Reply {
        let resolver = if servers.is_empty() { self.current() } else { self.other(servers) };
        let Some(resolver) = resolver else { return Reply::code(ResponseCode::Refused) };
        let Ok(_place) = self.questions.try_acquire() else { return Reply::code(ResponseCode::Refused) };
        match timeout(LIMIT, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => Reply { answers: lookup.answers().to_vec(), ..Reply::code(ResponseCode::NoError) },
            Ok(Err(NetError::Dns(Refusal::NoRecordsFound(none)))) => {
                // RFC 2308: what says for how long there is nothing goes on to who has asked.
                let top = none.soa.map(|soa| soa.into_record_of_rdata());
                Reply { authority: top.into_iter().collect(), ..Reply::code(none.response_code) }
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no upstream name server had an answer");
                Reply::code(ResponseCode::ServFail)
            }
            Err(_) => Reply::code(ResponseCode::ServFail),
        }
    }

    /// The resolver for these servers.
    fn other(&self, servers: &[IpAddr]) -> Option<TokioResolver> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = others.get(servers) {
            return Some(known.clone());
        }
        if others.len() >= MAX_OTHERS {
            others.clear();
        }
        let asked: Vec<_> = servers.iter().map(|address| SocketAddr::new(*address, PORT)).collect();
        let asked: Vec<_> = asked.into_iter().filter(|server| !self.own.contains(server)).collect();
        let made = resolver(&asked)?;
        others.insert(servers.to_vec(), made.clone());
        Some(made)
    }

    /// The resolver for the servers of now.
    fn current(&self) -> Option<TokioResolver> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = self.resolv_conf.as_ref().filter(|_| known.seen.elapsed() >= LOOK_AGAIN) {
            known.seen = Instant::now();
            let servers = read(path, &self.own);
            if servers != known.servers {
                tracing::info!(?servers, "the host's name servers have changed");
                *known = Known { resolver: resolver(&servers), servers, seen: known.seen };
            }
        }
        known.resolver.clone()
    }
}

/// The servers that the file names, but for ourselves; none if it cannot be read.
fn read(path: &PathBuf, own: &[SocketAddr]) -> Vec<SocketAddr> {
    match std::fs::read_to_string(path) {
        Ok(text) => servers(&text).filter(|server| !own.contains(server)).collect(),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "only names of the cluster are known");
            Vec::new()
        }
    }
}

/// The name servers of a resolv.conf(5). An address with a zone (`fe80::1%eth0`) is left out: it means a link.
fn servers(resolv_conf: &str) -> impl Iterator<Item = SocketAddr> {
    resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address: IpAddr = (words.next()? == "nameserver").then(|| words.next())??.parse().ok()?;
        Some(SocketAddr::new(address, PORT))
    })
}

fn resolver(servers: &[SocketAddr]) -> Option<TokioResolver> {
    if servers.is_empty() {
        return None;
    }
    let server = |address: &SocketAddr| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|connection| connection.port = address.port());
        NameServerConfig::new(address.ip(), true, connections)
    };
    let config = ResolverConfig::from_parts(None, vec![], servers.iter().map(server).collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = LIMIT / 4;
    options.attempts = 2;
    options.use_hosts_file = ResolveHosts::Never;
    // Names are complete when they come here: the instances' resolvers have added what they add.
    options.ndots = 0;
    builder.build().inspect_err(|error| tracing::error!(%error, "the upstream name servers cannot be used")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_names_servers() {
        let text = "# comment\nsearch a b\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # why\n;nameserver 192.0.2.2\n\
                    nameserver fe80::1%eth0\nnameserver\nnameserver x\noptions ndots:2";
        let found: Vec<String> = servers(text).map(|server| server.to_string()).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }

    #[tokio::test]
    async fn we_never_ask_ourselves() {
        let own: SocketAddr = "10.88.0.1:53".parse().expect("an address");
        let mut config = DnsConfig::new(vec![own]);
        config.upstreams = vec![own];
        assert!(Upstream::new(&config).current().is_none());
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "nameserver 10.88.0.1\n").expect("written");
        config = DnsConfig { upstreams: vec![], resolv_conf: file.path().to_owned(), ..config };
        assert!(Upstream::new(&config).current().is_none());
    }

    #[tokio::test]
    async fn one_question_too_many_is_refused_at_once_and_each_gives_its_place_back() {
        // It takes questions and answers none.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        let mut config = DnsConfig::new(vec![]);
        config.upstreams = vec![silent.local_addr().expect("bound")];
        let upstream = Upstream::new(&config);
        let ask = || upstream.ask(Name::from_ascii("a.example.").expect("a name"), RecordType::A, &[]);
        let mut under_way: Vec<_> = (0..MAX_QUESTIONS).map(|_| Box::pin(ask())).collect();
        for question in &mut under_way {
            assert!(futures::poll!(question).is_pending(), "it waits for the server");
        }
        let refused = futures::FutureExt::now_or_never(ask());
        assert_eq!(refused, Some(Reply::code(ResponseCode::Refused)));
        under_way.pop();
        assert!(futures::poll!(Box::pin(ask())).is_pending(), "there is a place again");
        drop(under_way);
        assert_eq!(upstream.questions.available_permits(), MAX_QUESTIONS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_resolv_conf_is_read_again() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let config = DnsConfig { resolv_conf: file.path().to_owned(), ..DnsConfig::new(vec![]) };
        let upstream = Upstream::new(&config);
        assert!(upstream.current().is_none());
        std::fs::write(file.path(), "nameserver 192.0.2.1\n").expect("written");
        tokio::time::advance(LOOK_AGAIN).await;
        assert!(upstream.current().is_some());
    }
}
