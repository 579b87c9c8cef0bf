//! Floor 1: from what the node is told to the rows that the data plane should hold. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{model::Protocol, net::Mac};

/// Every row the data plane should hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tables {
    /// The instances of this node, by the interface index of their host device. An interface without a row denies.
    pub endpoints: BTreeMap<u32, EndpointRow>,
    /// Whose address it is, for all instances of the cluster.
    pub peers: BTreeMap<IpAddr, PeerRow>,
    /// Virtual addresses and ports, and published ports.
    pub services: BTreeMap<Frontend, ServiceRow>,
    /// The node's own addresses: where published ports are reached.
    pub node_addresses: BTreeSet<IpAddr>,
}

/// An instance of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointRow {
    /// Its IPv4 address, the only one it may send from.
    pub v4: Option<std::net::Ipv4Addr>,
    /// Its IPv6 address, the only one it may send from besides its link-local one.
    pub v6: Option<std::net::Ipv6Addr>,
    /// The Ethernet address of its end.
    pub instance_mac: Mac,
    /// The Ethernet address of the host's end.
    pub host_mac: Mac,
    /// Its identity.
    pub identity: u32,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// Its identity.
    pub identity: u32,
    /// The interface index of its host device if it is on this node, else 0.
    pub ifindex: u32,
}

/// Where a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// A virtual address and port.
    Virtual(IpAddr, u16, Protocol),
    /// A port on the node's own addresses, loopback included, IPv4 or IPv6.
    Published(crate::net::Family, u16, Protocol),
}

/// What is behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// The service's number.
    pub id: u32,
    /// The Ready instances' addresses (of the frontend's family) and ports, in a stable order.
    pub backends: Vec<(IpAddr, u16)>,
}
