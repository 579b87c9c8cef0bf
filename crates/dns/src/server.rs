//! The server: its sockets, and who reads from them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{lookups::Lookups, opening::Resolved, reply::Replier, table::DnsTable, tcp, udp, upstream::Upstream};

/// The most tasks that read from one UDP socket.
const READERS: usize = 4;

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
    serving: JoinSet<()>,
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
        let replier =
            Arc::new(Replier { table, upstream, opener: config.opener.clone(), clients: config.clients.clone() });
        let readers = std::thread::available_parallelism().map_or(1, usize::from).min(READERS);
        let mut serving = JoinSet::new();
        for address in &config.listen {
            let fail = |source| DnsError::Bind { address: *address, source };
            let socket = Arc::new(UdpSocket::bind(address).await.map_err(fail)?);
            for _ in 0..readers {
                serving.spawn(udp::serve(Arc::clone(&socket), Arc::clone(&replier)));
            }
            serving.spawn(tcp::serve(TcpListener::bind(address).await.map_err(fail)?, Arc::clone(&replier)));
        }
        Ok(Self { serving, lookups })
    }

    /// What looks names up for the node itself.
    pub fn lookups(&self) -> Lookups {
        self.lookups.clone()
    }

    /// Waits until the server has ended, which only a fault of its own brings about.
    pub async fn ended(&mut self) {
        match self.serving.join_next().await {
            Some(Err(error)) => tracing::error!(%error, "the name server has ended"),
            Some(Ok(())) => tracing::error!("the name server has ended"),
            // It listens nowhere.
            None => std::future::pending().await,
        }
    }
}
