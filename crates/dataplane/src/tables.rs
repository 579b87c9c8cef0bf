//! Floor 1: the rows that the data plane should hold. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use hivemind_core::{
    model::Protocol,
    spec::v1::{LimitSpec, PolicyProtocol},
};
use hivemind_net::{Family, Mac};
use hivemind_policy::{EndpointPolicy, RuleKey, RuleRow};

/// Every row the data plane should hold. A clone is cheap and shares what it has with the original, so that two of them
/// are compared by what differs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tables {
    /// The instances of this node, by the interface index of their host device. An interface without a row denies. The
    /// host, if policies are about it, by [`hivemind_ebpf::policy::HOST_ENDPOINT`].
    pub endpoints: OrdMap<u32, EndpointRow>,
    /// Whose address it is, for all instances of the cluster.
    pub peers: OrdMap<IpAddr, PeerRow>,
    /// Virtual addresses and ports, and published ports.
    pub services: OrdMap<Frontend, ServiceRow>,
    /// From where the published ports of services (by number) are reached that have source ranges.
    pub sources: OrdSet<(u32, IpNet)>,
    /// The node's own addresses: where published ports are reached.
    pub node_addresses: BTreeSet<IpAddr>,
    /// All addresses of the other nodes, and how they are reached: tunnels come from them only.
    pub nodes: OrdMap<IpAddr, NodeRow>,
    /// Whether every uplink keeps packets until their time of departure: then rates have them wait for it.
    pub paced: bool,
    /// The ports that instances of this node serve, by interface index, and the number of the service: its packets
    /// carry no virtual address, so this is how they are counted for it.
    pub served: OrdMap<(u32, u16, Protocol), u32>,
    /// What policies say.
    pub rules: OrdMap<RuleKey, RuleRow>,
    /// Where intervals of ports begin that rules name; 0 always does.
    pub intervals: BTreeMap<PolicyProtocol, BTreeSet<u16>>,
    /// The block class of addresses, by longest prefix.
    pub blocks: OrdMap<IpNet, u32>,
    /// What instances and tenants may use. Who is not here may use everything.
    pub limits: OrdMap<LimitOwner, LimitRow>,
}

/// A part of [`Tables`] that can be read by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// [`Tables::endpoints`]
    Endpoints,
    /// [`Tables::peers`]
    Peers,
    /// [`Tables::services`]
    Services,
    /// [`Tables::sources`]
    Sources,
    /// [`Tables::node_addresses`]
    NodeAddresses,
    /// [`Tables::nodes`]
    Nodes,
    /// [`Tables::served`]
    Served,
    /// [`Tables::rules`]
    Rules,
    /// [`Tables::intervals`]
    Intervals,
    /// [`Tables::blocks`]
    Blocks,
    /// [`Tables::limits`]
    Limits,
}

impl Part {
    /// Everything.
    pub const ALL: &[Self] = &[
        Self::Endpoints,
        Self::Peers,
        Self::Services,
        Self::Sources,
        Self::NodeAddresses,
        Self::Nodes,
        Self::Served,
        Self::Rules,
        Self::Intervals,
        Self::Blocks,
        Self::Limits,
    ];
}

/// Who has limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitOwner {
    /// An instance of this node, by the interface index of its host device.
    Instance(u32),
    /// A tenant's instances on this node together, by the tenant's number.
    Tenant(u32),
}

/// What somebody may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LimitRow {
    /// The limits; of an instance that has none itself, none.
    pub spec: LimitSpec,
    /// Of an instance whose tenant has limits, the tenant's number; else 0.
    pub tenant: u32,
}

/// What somebody uses. Pairs are what goes out, or is begun, and what comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Connections that are not closed.
    pub connections: [u64; 2],
    /// Rows of the table of flows; of tenants 0.
    pub flows: u64,
    /// Flows that got no row because the instance holds its share of the table.
    pub unshared: u64,
    /// Packets that were dropped because they were over a rate.
    pub dropped_packets: [u64; 2],
    /// Bytes of them.
    pub dropped_bytes: [u64; 2],
    /// Connections that were refused.
    pub refused: [u64; 2],
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
    /// Its class for policies.
    pub class: u32,
    /// Its tenant's number.
    pub tenant: u32,
    /// What policies are about it.
    pub policy: EndpointPolicy,
    /// Whether a rule of its sets names a block of addresses.
    pub blocks: bool,
    /// Whether it has rates, or its tenant has.
    pub limited: bool,
}

impl EndpointRow {
    /// That of the host, which has no address, no device and no class of its own here.
    pub const fn host(policy: EndpointPolicy, blocks: bool) -> Self {
        let (none, class) = (Mac([0; 6]), hivemind_policy::HOST);
        Self {
            v4: None,
            v6: None,
            instance_mac: none,
            host_mac: none,
            class,
            tenant: 0,
            policy,
            blocks,
            limited: false,
        }
    }
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// Its class for policies.
    pub class: u32,
    /// Its tenant's number.
    pub tenant: u32,
    /// The interface index of its host device if it is on this node, else 0.
    pub ifindex: u32,
    /// Where the node is reached that it is on, if that is another one; of the family of the instance's address.
    pub node: Option<IpAddr>,
}

/// How another node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NodeRow {
    /// The interface index of the uplink that leads there; 0: none does, and nothing is sent there.
    pub device: u32,
    /// The longest packet in bytes that the uplink takes, without an Ethernet header.
    pub mtu: u32,
}

/// Where a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// That the virtual address is some service's, whatever the port.
    Address(IpAddr),
    /// A virtual address and port.
    Virtual(IpAddr, u16, Protocol),
    /// A port on the node's own addresses, loopback included, IPv4 or IPv6.
    Published(Family, u16, Protocol),
}

/// What is behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceRow {
    /// The service's number.
    pub id: u32,
    /// Those that get new connections (addresses of the frontend's family), in a stable order.
    pub backends: Vec<BackendRow>,
    /// How one of them is chosen.
    pub choice: Choice,
}

/// Where new connections may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendRow {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share, from 1 to [`hivemind_ebpf::choose::MAX_WEIGHT`].
    pub weight: u16,
}

/// How a backend is chosen. By default at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Choice {
    /// For how many seconds after its last connection a client stays with its backend; 0: it does not.
    pub affinity: u32,
    /// Sockets choose the one of two with fewer open connections.
    pub least: bool,
    /// From outside, only who is in a source range of the service.
    pub sources: bool,
    /// Only backends of this node are here, though there may be others.
    pub local: bool,
    /// From outside every node chooses alike.
    pub alike: bool,
}

impl ServiceRow {
    /// Backends of equal weight, one of them at random.
    pub fn equal(id: u32, backends: impl IntoIterator<Item = (IpAddr, u16)>) -> Self {
        let row = |(address, port)| BackendRow { address, port, weight: 1 };
        Self { id, backends: backends.into_iter().map(row).collect(), choice: Choice::default() }
    }
}
