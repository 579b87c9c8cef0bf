//! Floor 2, seam: interfaces, addresses, routes and the firewall's masquerade rules. The real one speaks netlink
//! (the only place that names `rtnetlink` and `nftables`).
//!
//! No bridge: each instance has a network namespace and a routed veth. The host's end has no address of its own
//! but the gateway's; neighbours on both ends are permanent, so that no ARP and no neighbour discovery is needed.

mod error;
pub mod linux;
mod names;
mod nft;
mod ports;
mod ranges;
mod types;

pub use error::NetError;
pub use names::{PUBLISH_DEVICE, host_device, instance_of_device};
pub use ports::HeldPort;
pub use types::{
    Family, Gone, HostLink, InstanceLink, LinkState, Mac, Mended, NodeNet, Overlap, PACING_QUEUE, PublishedPort, Uplink,
};

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;

use hivemind_core::model::InstanceId;

/// Makes and removes what instances are connected with. Every call is idempotent.
#[async_trait::async_trait]
pub trait Net: Send + Sync + std::fmt::Debug {
    /// Fails if a configured range overlaps an address or a route of the host that is not ours.
    async fn check_ranges(&self, node: &NodeNet) -> Result<(), NetError>;

    /// Forwarding, the node's device with its DNS addresses, unreachable routes for the instance and service ranges,
    /// and the masquerade rules. Repairs what has drifted, and says what lacked.
    async fn ensure_node(&self, node: &NodeNet) -> Result<Mended, NetError>;

    /// The rules that hand the first packet of a connection to a published port, after the host's own firewall
    /// has accepted it, to the data plane. Replaces the former set in one transaction, unless it is as it was written;
    /// says whether somebody else had changed it.
    async fn sync_published(&self, ports: &[PublishedPort]) -> Result<Mended, NetError>;

    /// Takes a port that is to be published, so that no process of the host has it or gets it.
    /// Fails with [`NetError::PortTaken`] if one has it.
    fn hold_port(&self, port: PublishedPort) -> Result<HeldPort, NetError>;

    /// Where the namespace of an instance is mounted, or will be.
    fn netns(&self, id: &InstanceId) -> PathBuf;

    /// The namespace and the veth pair of an instance, **both ends down**, without routes to it: the caller attaches
    /// the data plane's programs before [`Net::bring_up`].
    async fn ensure_link(&self, link: &InstanceLink) -> Result<HostLink, NetError>;

    /// Addresses, routes and neighbours on both ends, then the link goes up. Before the instance gets an address, the host's
    /// connection tracking forgets it: who had it before may have been in conversations. Returns how many these were.
    async fn bring_up(&self, link: &InstanceLink) -> Result<u64, NetError>;

    /// Addresses, routes and neighbours of links that are up, made again where they lack; says what lacked. A link that
    /// is not up, or comes or goes meanwhile, is left to whoever does that.
    async fn mend_links(&self, links: &[InstanceLink]) -> Result<Mended, NetError>;

    /// How the host's end of a link is that was brought up.
    async fn look_at_link(&self, link: &HostLink) -> Result<LinkState, NetError>;

    /// Removes the veth pair, the routes and the namespace, and what was tracked of its addresses. Returns how much that was;
    /// 0 if there is nothing.
    async fn remove_link(&self, id: &InstanceId) -> Result<u64, NetError>;

    /// Closes every TCP and UDP socket that is connected to somebody who is gone, in an instance's namespace or in the
    /// host's, and says how many. Ok if there is no such instance.
    async fn close_sockets(&self, of: Option<&InstanceId>, gone: Arc<Gone>) -> Result<usize, NetError>;

    /// How many TCP connections others have opened to an instance, and nobody has begun to close. 0 if there is no such
    /// instance.
    async fn open_connections(&self, id: &InstanceId) -> Result<usize, NetError>;

    /// The instances that have a link or a namespace, found in the kernel.
    async fn list_links(&self) -> Result<Vec<(InstanceId, Option<HostLink>)>, NetError>;

    /// The node's own addresses (global scope, not on our devices), each with the network it is in.
    async fn node_addresses(&self) -> Result<Vec<IpNet>, NetError>;

    /// The devices that lead out of the node, ordered by interface index.
    async fn uplinks(&self) -> Result<Vec<Uplink>, NetError>;

    /// The queue that each device's packets go out by, by the device's name, in the words of `tc`: [`PACING_QUEUE`] also
    /// where every hardware queue has one (`mq`).
    async fn queues(&self) -> Result<BTreeMap<String, String>, NetError>;

    /// The device by which each of these addresses of other machines is reached; none where there is no way.
    async fn ways(&self, to: &[IpAddr]) -> Result<BTreeMap<IpAddr, Option<Uplink>>, NetError>;

    /// Waits until something of the host's links, addresses or routes may have changed. Safe to cancel.
    async fn changed(&self) -> Result<(), NetError>;

    /// Removes everything of [`Net::ensure_node`] and [`Net::sync_published`].
    async fn remove_node(&self) -> Result<(), NetError>;
}
