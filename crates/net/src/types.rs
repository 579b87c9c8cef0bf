//! What goes to the network adapter and comes from it.

use std::{collections::BTreeSet, fmt, net::IpAddr, path::PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use hivemind_core::model::{Addresses, InstanceId, Protocol};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The ranges and own addresses of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNet {
    /// The node's range of instance addresses, IPv4. `None` in an IPv6-only cluster.
    pub instances_v4: Option<Ipv4Net>,
    /// IPv6.
    pub instances_v6: Option<Ipv6Net>,
    /// The cluster's range of service addresses, IPv4.
    pub services_v4: Option<Ipv4Net>,
    /// IPv6.
    pub services_v6: Option<Ipv6Net>,
    /// The node's own addresses in the instance ranges (the first usable ones): the node's end of every veth,
    /// where DNS is served, and what the host uses as source towards its instances.
    pub gateway: Addresses,
}

impl NodeNet {
    /// The node's ranges of instance addresses.
    pub fn instances(&self) -> impl Iterator<Item = IpNet> {
        self.instances_v4.map(IpNet::V4).into_iter().chain(self.instances_v6.map(IpNet::V6))
    }
}

/// Addresses that lead nowhere any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Where they are.
    pub within: Vec<IpNet>,
    /// Who is still there.
    pub known: BTreeSet<IpAddr>,
}

impl Gone {
    /// Whether nobody has the address any more.
    pub fn has(&self, address: &IpAddr) -> bool {
        self.within.iter().any(|range| range.contains(address)) && !self.known.contains(address)
    }
}

/// An instance's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceLink {
    /// The instance.
    pub id: InstanceId,
    /// Its addresses.
    pub addresses: Addresses,
    /// The node's own addresses: the default gateways in the instance.
    pub gateway: Addresses,
}

/// What is there for an instance on the host's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// The network namespace's path, e.g. `/run/hivemind/netns/hm-x7k2pabcde`.
    pub netns: PathBuf,
    /// The host's end of the veth pair.
    pub name: String,
    /// Its interface index.
    pub ifindex: u32,
    /// Its Ethernet address.
    pub host_mac: Mac,
    /// The Ethernet address of the instance's end.
    pub instance_mac: Mac,
}

/// What was not there, or not as it should be, and was put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Mended {
    /// Devices.
    pub devices: u64,
    /// Addresses of devices.
    pub addresses: u64,
    /// Routes.
    pub routes: u64,
    /// Permanent neighbours.
    pub neighbours: u64,
    /// Sets of rules of nftables.
    pub firewall: u64,
}

impl Mended {
    /// How many of each kind, as `hivemind_dataplane_repairs_total` names it.
    pub const fn kinds(&self) -> [(&'static str, u64); 5] {
        [
            ("device", self.devices),
            ("address", self.addresses),
            ("route", self.routes),
            ("neighbour", self.neighbours),
            ("firewall", self.firewall),
        ]
    }
}

/// How the device of an instance on the host's side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It is there, and up.
    Up,
    /// It is there, and down.
    Down,
    /// It is gone, or another one has its name. What was in the instance's namespace went with it.
    Gone,
}

impl std::ops::AddAssign for Mended {
    fn add_assign(&mut self, more: Self) {
        self.devices += more.devices;
        self.addresses += more.addresses;
        self.routes += more.routes;
        self.neighbours += more.neighbours;
        self.firewall += more.firewall;
    }
}

/// A port that is published on the node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishedPort {
    /// The port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl NodeNet {
    /// The node's own addresses.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.gateway.iter()
    }

    /// The ranges of instances' and of services' addresses.
    pub fn ranges(&self) -> impl Iterator<Item = IpNet> {
        let services = self.services_v4.map(IpNet::from).into_iter().chain(self.services_v6.map(IpNet::from));
        self.instance_ranges().chain(services)
    }

    /// The ranges of instances' addresses; the node's own are in them.
    pub fn instance_ranges(&self) -> impl Iterator<Item = IpNet> {
        self.instances_v4.map(IpNet::from).into_iter().chain(self.instances_v6.map(IpNet::from))
    }
}

/// A device that leads out of the node: it holds a default route or an address of global scope, and is not ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uplink {
    /// Its interface index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The largest packet it takes, in bytes.
    pub mtu: u32,
}

/// The queue that keeps packets until their time of departure, tc-fq(8).
pub const PACING_QUEUE: &str = "fq";

/// A configured range that overlaps something of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The configured range.
    pub range: IpNet,
    /// The option that sets it.
    pub option: &'static str,
    /// The address or route it overlaps.
    pub other: IpNet,
    /// The device that has it, or the option that sets it.
    pub device: String,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the range {} ({}) overlaps {} on {}", self.range, self.option, self.other, self.device)
    }
}
