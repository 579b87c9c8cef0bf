//! A network without devices.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;

use super::{journal::Journal, runtime::Fault};
use hivemind_core::model::InstanceId;
use hivemind_net::{
    Gone, HeldPort, HostLink, InstanceLink, LinkState, Mac, Mended, Net, NetError, NodeNet, PublishedPort, Uplink,
    host_device,
};

/// Keeps links in memory. It holds no ports: each is taken already.
#[derive(Clone, Debug)]
pub struct FakeNet {
    links: Arc<Mutex<BTreeMap<InstanceId, Link>>>,
    /// How many namespaces sockets are closed in now, and were at most.
    closing: Arc<[AtomicUsize; 2]>,
    /// Connections that are open to each instance.
    open: Arc<AtomicUsize>,
    journal: Journal,
}

/// A link, and whether it is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The host's side.
    pub host: HostLink,
    /// Whether it is up.
    pub up: bool,
}

impl FakeNet {
    /// No links; calls go into `journal`.
    pub fn new(journal: Journal) -> Self {
        Self { links: Arc::default(), closing: Arc::default(), open: Arc::default(), journal }
    }

    /// The same links, as the next life of the daemon finds them.
    pub fn in_life(&self, journal: Journal) -> Self {
        Self {
            links: Arc::clone(&self.links),
            closing: Arc::clone(&self.closing),
            open: Arc::clone(&self.open),
            journal,
        }
    }

    /// The links there are.
    pub fn links(&self) -> BTreeMap<InstanceId, Link> {
        self.lock().clone()
    }

    /// Makes a link that nobody asked for.
    pub fn add_link(&self, id: &InstanceId) -> HostLink {
        let mut links = self.lock();
        // The kernel does not use an index again either.
        static NEXT: AtomicU32 = AtomicU32::new(100);
        let ifindex = NEXT.fetch_add(1, Ordering::Relaxed);
        let (host_mac, instance_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let (netns, name) = (PathBuf::from(format!("/fake/hm-{id}")), host_device(id));
        let host = HostLink { netns, name, ifindex, host_mac, instance_mac };
        links.entry(id.clone()).or_insert(Link { host, up: false }).host.clone()
    }

    /// In how many namespaces at once sockets were closed, at most.
    pub fn closed_at_once(&self) -> usize {
        self.closing[1].load(Ordering::Relaxed)
    }

    /// So many connections to each instance are open from now on.
    pub fn set_open(&self, open: usize) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// Takes a link away, as somebody with root may.
    pub fn lose(&self, id: &InstanceId) {
        self.lock().remove(id);
    }

    /// Sets a link down.
    pub fn set_down(&self, id: &InstanceId) {
        if let Some(link) = self.lock().get_mut(id) {
            link.up = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, id: &InstanceId) -> Vec<u32> {
        self.lock().get(id).map(|link| link.host.ifindex).into_iter().collect()
    }

    async fn pass<T>(
        &self,
        what: &'static str,
        links: Vec<u32>,
        call: impl FnOnce() -> Result<T, NetError>,
    ) -> Result<T, NetError> {
        let refused = || NetError::Netlink { action: "call", object: what.into(), why: "a fault of the test".into() };
        match self.journal.pass(what, links) {
            Fault::None => call(),
            Fault::Before => Err(refused()),
            Fault::After => call().and_then(|_| Err(refused())),
            Fault::Never => std::future::pending().await,
        }
    }
}

#[async_trait::async_trait]
impl Net for FakeNet {
    async fn check_ranges(&self, _: &NodeNet) -> Result<(), NetError> {
        self.pass("net.check_ranges", Vec::new(), || Ok(())).await
    }

    async fn ensure_node(&self, _: &NodeNet) -> Result<Mended, NetError> {
        self.pass("net.ensure_node", Vec::new(), || Ok(Mended::default())).await
    }

    async fn mend_links(&self, _: &[InstanceLink]) -> Result<Mended, NetError> {
        Ok(Mended::default())
    }

    async fn sync_published(&self, _: &[PublishedPort]) -> Result<Mended, NetError> {
        self.pass("net.sync_published", Vec::new(), || Ok(Mended::default())).await
    }

    fn hold_port(&self, port: PublishedPort) -> Result<HeldPort, NetError> {
        // A port of the machine: whether it is held is the kernel's to say.
        HeldPort::hold(port)
    }

    fn netns(&self, id: &InstanceId) -> PathBuf {
        PathBuf::from("/run/netns").join(id.as_str())
    }

    async fn ensure_link(&self, link: &InstanceLink) -> Result<HostLink, NetError> {
        self.pass("net.ensure_link", Vec::new(), || Ok(self.add_link(&link.id))).await
    }

    async fn bring_up(&self, link: &InstanceLink) -> Result<u64, NetError> {
        let absent = || NetError::Netlink { action: "bring up", object: link.id.to_string(), why: "no device".into() };
        let up = || self.lock().get_mut(&link.id).map(|link| link.up = true).ok_or_else(absent).map(|()| 0);
        self.pass("net.bring_up", self.index(&link.id), up).await
    }

    async fn look_at_link(&self, link: &HostLink) -> Result<LinkState, NetError> {
        let links = self.lock();
        let found = links.values().find(|there| there.host.ifindex == link.ifindex);
        Ok(found.map_or(LinkState::Gone, |there| if there.up { LinkState::Up } else { LinkState::Down }))
    }

    async fn remove_link(&self, id: &InstanceId) -> Result<u64, NetError> {
        let remove = || {
            self.lock().remove(id);
            Ok(0)
        };
        self.pass("net.remove_link", self.index(id), remove).await
    }

    async fn close_sockets(&self, _: Option<&InstanceId>, _: Arc<Gone>) -> Result<usize, NetError> {
        let [now, most] = &*self.closing;
        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        // Whoever else is let in comes before this one ends.
        tokio::task::yield_now().await;
        now.fetch_sub(1, Ordering::Relaxed);
        self.pass("net.close_sockets", Vec::new(), || Ok(0)).await
    }

    async fn open_connections(&self, _: &InstanceId) -> Result<usize, NetError> {
        self.pass("net.open_connections", Vec::new(), || Ok(self.open.load(Ordering::Relaxed))).await
    }

    async fn list_links(&self) -> Result<Vec<(InstanceId, Option<HostLink>)>, NetError> {
        let list = || Ok(self.lock().iter().map(|(id, link)| (id.clone(), Some(link.host.clone()))).collect());
        self.pass("net.list_links", Vec::new(), list).await
    }

    async fn node_addresses(&self) -> Result<Vec<IpNet>, NetError> {
        self.pass("net.node_addresses", Vec::new(), || Ok(Vec::new())).await
    }

    async fn uplinks(&self) -> Result<Vec<Uplink>, NetError> {
        self.pass("net.uplinks", Vec::new(), || Ok(Vec::new())).await
    }

    async fn queues(&self) -> Result<BTreeMap<String, String>, NetError> {
        self.pass("net.queues", Vec::new(), || Ok(BTreeMap::new())).await
    }

    async fn ways(&self, _: &[IpAddr]) -> Result<BTreeMap<IpAddr, Option<Uplink>>, NetError> {
        self.pass("net.ways", Vec::new(), || Ok(BTreeMap::new())).await
    }

    async fn changed(&self) -> Result<(), NetError> {
        std::future::pending().await
    }

    async fn remove_node(&self) -> Result<(), NetError> {
        self.pass("net.remove_node", Vec::new(), || Ok(())).await
    }
}
