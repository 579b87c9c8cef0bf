//! The real network: netlink for devices, addresses, routes and neighbours, nftables for masquerade and published
//! ports.
//!
//! It keeps no record of what it made: names follow from ids, and everything else is read from the kernel. Making a
//! link is a handful of system calls and no process; `nft` is run only for what concerns the whole node.

mod begun;
mod link;
mod monitor;
mod neighbours;
mod netns;
mod node;
mod queues;
pub mod reach;
mod rtnl;
mod sockets;
mod sysctl;
mod tracked;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ipnet::IpNet;

pub use self::begun::{Begun, begun};
use self::{monitor::Monitor, rtnl::Netlink};
use super::{
    Gone, HeldPort, HostLink, InstanceLink, LinkState, Mended, Net, NetError, NodeNet, PublishedPort, Uplink, nft,
    ranges,
};
use crate::names::netns_path;
use hivemind_core::model::InstanceId;

/// What can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Where the instances' network namespaces are mounted, as `hm-<id>`. Made if it is not there.
    pub netns_dir: PathBuf,
    /// The MTU of the instances' devices, 1280 to 65535 bytes; `None`: the smallest of the uplinks.
    pub mtu: Option<u32>,
    /// Whether instances reach the outside with the node's address.
    pub masquerade: bool,
    /// The program of nftables.
    pub nft: PathBuf,
}

impl NetConfig {
    /// Everything by default: derived MTU, masquerade, `nft` from where Debian puts it.
    pub fn new(netns_dir: impl Into<PathBuf>) -> Self {
        Self { netns_dir: netns_dir.into(), mtu: None, masquerade: true, nft: PathBuf::from("/usr/sbin/nft") }
    }
}

/// The network of the node that it was made on.
#[derive(Debug)]
pub struct LinuxNet {
    config: NetConfig,
    netlink: Netlink,
    monitor: Monitor,
    /// The derived MTU, as `ensure_node` last saw it; 0 before. A cache: making a link should not list every route.
    derived_mtu: AtomicU32,
    /// The rules as they were written last.
    node_rules: nft::Rules,
    published_rules: nft::Rules,
}

/// [`Net::check_ranges`], for a look at the machine before a daemon is started: makes nothing.
pub async fn check_ranges(node: &NodeNet) -> Result<(), NetError> {
    overlapping(&Netlink::open()?, node).await
}

async fn overlapping(netlink: &Netlink, node: &NodeNet) -> Result<(), NetError> {
    let overlaps = ranges::overlaps(node, &node::taken(netlink).await?);
    if overlaps.is_empty() { Ok(()) } else { Err(NetError::Overlaps(overlaps)) }
}

impl LinuxNet {
    /// Opens the sockets in the network namespace of the calling thread, which must be that of all threads of the
    /// runtime it is called in.
    pub fn new(config: NetConfig) -> Result<Self, NetError> {
        let (netlink, monitor) = (Netlink::open()?, Monitor::start()?);
        let (node_rules, published_rules) = (nft::Rules::of_node(), nft::Rules::of_published());
        Ok(Self { config, netlink, monitor, derived_mtu: AtomicU32::new(0), node_rules, published_rules })
    }

    async fn mtu(&self) -> Result<u32, NetError> {
        if let Some(mtu) = self.config.mtu {
            return Ok(mtu);
        }
        match self.derived_mtu.load(Ordering::Relaxed) {
            0 => self.derive_mtu().await,
            mtu => Ok(mtu),
        }
    }

    async fn derive_mtu(&self) -> Result<u32, NetError> {
        let mtu = node::smallest_mtu(&self.netlink).await?;
        self.derived_mtu.store(mtu, Ordering::Relaxed);
        Ok(mtu)
    }
}

#[async_trait::async_trait]
impl Net for LinuxNet {
    async fn check_ranges(&self, node: &NodeNet) -> Result<(), NetError> {
        overlapping(&self.netlink, node).await
    }

    async fn ensure_node(&self, node: &NodeNet) -> Result<Mended, NetError> {
        netns::prepare_dir(&self.config.netns_dir)?;
        let mended = node::ensure(&self.netlink, node).await?;
        self.derive_mtu().await?;
        let rules = nft::node_rules(node, self.config.masquerade);
        let firewall = self.node_rules.keep(&self.config.nft, &rules).await?;
        Ok(Mended { firewall, ..mended })
    }

    async fn sync_published(&self, ports: &[PublishedPort]) -> Result<Mended, NetError> {
        let rules = nft::published_rules(ports, node::PUBLISH_NEXT_HOPS);
        let firewall = self.published_rules.keep(&self.config.nft, &rules).await?;
        Ok(Mended { firewall, ..Mended::default() })
    }

    fn hold_port(&self, port: PublishedPort) -> Result<HeldPort, NetError> {
        HeldPort::hold(port)
    }

    fn netns(&self, id: &InstanceId) -> PathBuf {
        netns_path(&self.config.netns_dir, id)
    }

    async fn ensure_link(&self, link: &InstanceLink) -> Result<HostLink, NetError> {
        link::ensure(&self.netlink, &self.config.netns_dir, &link.id, self.mtu().await?).await
    }

    async fn bring_up(&self, link: &InstanceLink) -> Result<u64, NetError> {
        link::bring_up(&self.netlink, &self.config.netns_dir, link).await
    }

    async fn mend_links(&self, links: &[InstanceLink]) -> Result<Mended, NetError> {
        link::mend(&self.netlink, &self.config.netns_dir, links).await
    }

    async fn look_at_link(&self, link: &HostLink) -> Result<LinkState, NetError> {
        link::look(&self.netlink, link).await
    }

    async fn remove_link(&self, id: &InstanceId) -> Result<u64, NetError> {
        link::remove(&self.netlink, &self.config.netns_dir, id).await
    }

    async fn close_sockets(&self, of: Option<&InstanceId>, gone: Arc<Gone>) -> Result<usize, NetError> {
        let action = "close sockets of";
        match of {
            Some(id) => {
                let path = netns_path(&self.config.netns_dir, id);
                if !netns::is_kept(&path) {
                    return Ok(0);
                }
                let named = path.clone();
                netns::in_existing(path, move || sockets::close(&gone).map_err(NetError::file(action, &named))).await
            }
            None => {
                let own = PathBuf::from(netns::OWN);
                netns::on_own_thread(own.clone(), move || sockets::close(&gone).map_err(NetError::file(action, &own)))
                    .await
            }
        }
    }

    async fn open_connections(&self, id: &InstanceId) -> Result<usize, NetError> {
        let path = netns_path(&self.config.netns_dir, id);
        if !netns::is_kept(&path) {
            return Ok(0);
        }
        let named = path.clone();
        let count = move || sockets::accepted().map_err(NetError::file("count connections of", &named));
        netns::in_existing(path, count).await
    }

    async fn list_links(&self) -> Result<Vec<(InstanceId, Option<HostLink>)>, NetError> {
        link::list(&self.netlink, &self.config.netns_dir).await
    }

    async fn node_addresses(&self) -> Result<Vec<IpNet>, NetError> {
        node::addresses(&self.netlink).await
    }

    async fn uplinks(&self) -> Result<Vec<Uplink>, NetError> {
        node::uplinks(&self.netlink).await
    }

    async fn queues(&self) -> Result<BTreeMap<String, String>, NetError> {
        queues::queues(&self.netlink).await
    }

    async fn ways(&self, to: &[IpAddr]) -> Result<BTreeMap<IpAddr, Option<Uplink>>, NetError> {
        node::ways(&self.netlink, to).await
    }

    async fn changed(&self) -> Result<(), NetError> {
        self.monitor.changed().await;
        Ok(())
    }

    async fn remove_node(&self) -> Result<(), NetError> {
        nft::remove(&self.config.nft).await?;
        node::remove(&self.netlink).await?;
        let dir = self.config.netns_dir.clone();
        node::blocking(move || netns::release_dir(&dir)).await
    }
}
