//! Floor 1: from what the node is told to the rows that the data plane should hold, at the cost of what differs from
//! before. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use hivemind_ebpf::policy::{HOST, HOST_ENDPOINT};
use imbl::{
    OrdMap,
    ordmap::{DiffItem, Entry},
};
use ipnet::IpNet;

use super::tables::{
    BackendRow, Choice, EndpointRow, Frontend, LimitOwner, LimitRow, NodeRow, PeerRow, ServiceRow, Tables,
};
use hivemind_core::{
    model::{Backend, Instance, InstanceId, NodeDesired, NodeName, Protocol, ServedService, ServicePort},
    spec::v1::{External, Internal, LimitSpec, Method},
};
use hivemind_net::{Family, HostLink};
use hivemind_policy::{Compiled, PeerClass};

/// What the rows follow from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What the node is told.
    pub desired: &'a Arc<NodeDesired>,
    /// Its policies.
    pub policies: &'a Compiled,
    /// Another number when the policies are others.
    pub policies_version: u64,
    /// Which node it is.
    pub node: &'a NodeName,
    /// Its instances' links. An instance without one has no row, and so denies.
    pub links: &'a BTreeMap<InstanceId, HostLink>,
    /// Its own addresses and their networks.
    pub node_addresses: &'a [IpNet],
    /// How the addresses of other nodes are reached.
    pub ways: &'a BTreeMap<IpAddr, NodeRow>,
    /// [`Tables::paced`]
    pub paced: bool,
}

/// The rows, and what they were made from.
#[derive(Debug, Default)]
pub struct Follower {
    tables: Tables,
    desired: Arc<NodeDesired>,
    policies_version: Option<u64>,
    node: Option<NodeName>,
    links: BTreeMap<InstanceId, HostLink>,
    ways: BTreeMap<IpAddr, NodeRow>,
    networks: Vec<IpNet>,
    /// Two services claim one row: what is left when one of them goes is only known by looking at all.
    disputed: bool,
}

/// The rows for `facts`.
pub fn compute(facts: Facts<'_>) -> Tables {
    let mut follower = Follower::default();
    follower.take(facts);
    follower.tables
}

impl Follower {
    /// The ports of this node's instances that a service has, by the instances' devices.
    /// What goes to an instance is counted once: at the service that has its app's name, which has all of its ports.
    fn ports(&self, served: &ServedService, facts: &Facts<'_>) -> Vec<(u32, u16, Protocol)> {
        if !served.service.is_apps_own() {
            return Vec::new();
        }
        let here = served.backends.iter().filter(|backend| backend.node == *facts.node);
        let devices = here.filter_map(|backend| Some((self.links.get(&backend.id)?.ifindex, backend)));
        let ports = devices.flat_map(|(device, backend)| {
            served.ports_of(backend).iter().map(move |port| (device, port.target, port.protocol))
        });
        // One port may be there twice, published in two places.
        ports.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The rows for `facts`, the same as [`compute`] says.
    pub fn follow(&mut self, facts: Facts<'_>) -> &Tables {
        if self.disputed || self.node.as_ref() != Some(facts.node) {
            *self = Self::default();
        }
        let fresh = self.node.is_none();
        self.take(facts);
        if self.disputed && !fresh {
            *self = Self::default();
            self.take(facts);
        }
        &self.tables
    }

    fn take(&mut self, facts: Facts<'_>) {
        let Facts { desired, policies, policies_version, node, links, node_addresses, ways, paced } = facts;
        let before = std::mem::replace(&mut self.desired, Arc::clone(desired));
        let other_policies = self.policies_version.replace(policies_version) != Some(policies_version);
        let other_links = self.links != *links;
        if other_links {
            self.links.clone_from(links);
        }
        let others_changed = !before.instances.ptr_eq(&desired.instances)
            || !before.peers.ptr_eq(&desired.peers)
            || !before.tenants.ptr_eq(&desired.tenants);
        let other_nodes = !before.nodes.ptr_eq(&desired.nodes) || self.networks != node_addresses;
        if other_nodes || self.ways != *ways {
            self.ways.clone_from(ways);
            self.tables.nodes = nodes(&facts);
        }
        if other_nodes {
            self.networks = node_addresses.to_vec();
            self.tables.node_addresses = node_addresses.iter().map(IpNet::addr).collect();
        }
        self.tables.paced = paced;
        if others_changed || other_links || other_policies || other_nodes {
            self.tables.endpoints = endpoints(&facts).chain(host(policies)).collect();
            self.tables.limits = limits(&facts);
            self.tables.peers = networks(node_addresses).chain(peers(&facts)).collect();
        }
        if other_policies {
            self.tables.rules.clone_from(&policies.rules);
            self.tables.intervals.clone_from(&policies.ports);
            self.tables.blocks.clone_from(&policies.blocks);
        }
        self.node = Some(node.clone());
        if other_links {
            self.tables.served.clear();
        }
        self.services(&before, &facts);
        if other_links {
            for served in desired.services.values() {
                self.serve(served, &facts);
            }
        }
    }

    fn services(&mut self, before: &NodeDesired, facts: &Facts<'_>) {
        let mut come = Vec::new();
        for change in before.services.diff(&facts.desired.services) {
            let (old, new) = match change {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            if let Some(old) = old {
                let id = old.service.id;
                for (front, _) in frontends(old, facts.node) {
                    self.tables.services.remove(&front);
                }
                for range in &old.service.balance.source_ranges {
                    self.tables.sources.remove(&(id, *range));
                }
                for port in self.ports(old, facts) {
                    self.tables.served.remove(&port);
                }
            }
            come.extend(new);
        }
        // After all that go: a port or an address may go over from one service to another at once.
        for served in come {
            let id = served.service.id;
            let mut published = false;
            for (front, row) in frontends(served, facts.node) {
                published |= matches!(front, Frontend::Published(..));
                let before = self.tables.services.insert(front, row);
                self.disputed |= before.is_some_and(|before| before.id != id);
            }
            if published {
                let ranges = &served.service.balance.source_ranges;
                self.tables.sources.extend(ranges.iter().map(|range| (id, *range)));
            }
            self.serve(served, facts);
        }
    }

    /// Notes which ports of this node's instances a service has.
    fn serve(&mut self, served: &ServedService, facts: &Facts<'_>) {
        for port in self.ports(served, facts) {
            match self.tables.served.entry(port) {
                Entry::Occupied(other) => self.disputed |= *other.get() != served.service.id,
                Entry::Vacant(free) => {
                    free.insert(served.service.id);
                }
            }
        }
    }
}

fn endpoints(facts: &Facts<'_>) -> impl Iterator<Item = (u32, EndpointRow)> {
    let policies = facts.policies;
    facts.desired.instances.iter().filter_map(move |(id, instance)| {
        let link = facts.links.get(id)?;
        let PeerClass { class, tenant } = class(policies, id);
        let policy = policies.endpoints.get(id);
        let row = EndpointRow {
            v4: instance.addresses.v4,
            v6: instance.addresses.v6,
            instance_mac: link.instance_mac,
            host_mac: link.host_mac,
            class,
            tenant,
            policy: policy.copied().unwrap_or_default(),
            blocks: policy.is_some_and(|policy| policies.has_blocks(policy)),
            limited: instance.spec.limits.has_rates() || of_tenant(facts.desired, instance, tenant).has_rates(),
        };
        Some((link.ifindex, row))
    })
}

/// The limits of a tenant's instances together; none of nobody's.
fn of_tenant(desired: &NodeDesired, instance: &Instance, number: u32) -> LimitSpec {
    let tenant = desired.tenants.get(&instance.app.scope.tenant).filter(|_| number != 0);
    tenant.map(|tenant| tenant.limits).unwrap_or_default()
}

/// The limits of the node's instances and of their tenants.
fn limits(facts: &Facts<'_>) -> OrdMap<LimitOwner, LimitRow> {
    let mut rows = OrdMap::new();
    for (id, instance) in &facts.desired.instances {
        let Some(link) = facts.links.get(id) else { continue };
        let number = class(facts.policies, id).tenant;
        let (spec, tenant) = (instance.spec.limits, of_tenant(facts.desired, instance, number));
        if !tenant.is_default() {
            rows.insert(LimitOwner::Tenant(number), LimitRow { spec: tenant, tenant: 0 });
        }
        if !tenant.is_default() || !spec.is_default() {
            let tenant = if tenant.is_default() { 0 } else { number };
            rows.insert(LimitOwner::Instance(link.ifindex), LimitRow { spec, tenant });
        }
    }
    rows
}

/// The host's row, if policies are about it.
fn host(policies: &Compiled) -> Option<(u32, EndpointRow)> {
    let row = |policy| (HOST_ENDPOINT, EndpointRow::host(policy, policies.has_blocks(&policy)));
    policies.host.map(row)
}

/// What reaches the node though it is none of its addresses: the broadcasts of its networks (RFC 1122 3.2.1.3, the old one
/// as well), and the address that every router of a network has (RFC 4291 2.6.1), for a node is one.
fn networks(own: &[IpNet]) -> impl Iterator<Item = (IpAddr, PeerRow)> {
    let row = PeerRow { class: HOST, tenant: 0, ifindex: 0, node: None };
    let shared = own.iter().filter(|net| net.max_prefix_len() - net.prefix_len() > 1).flat_map(|net| match net {
        IpNet::V4(net) => vec![IpAddr::from(net.network()), net.broadcast().into()],
        IpNet::V6(net) => vec![net.network().into()],
    });
    shared.map(move |address| (address, row))
}

fn peers(facts: &Facts<'_>) -> impl Iterator<Item = (IpAddr, PeerRow)> {
    let Facts { desired, policies, node, links, .. } = *facts;
    let nodes = others(facts);
    desired.peers.iter().flat_map(move |(id, peer)| {
        let local = links.get(id).filter(|_| peer.node == *node && desired.instances.contains_key(id));
        let PeerClass { class, tenant } = class(policies, id);
        let ifindex = local.map_or(0, |link| link.ifindex);
        let reached = nodes.get(&peer.node).cloned().unwrap_or_default();
        peer.addresses.iter().map(move |address| {
            let node = reached.iter().find(|node| node.is_ipv4() == address.is_ipv4()).copied();
            (address, PeerRow { class, tenant, ifindex, node })
        })
    })
}

/// The other nodes and their addresses, but those that this node has as well: such a one leads to nobody else.
fn others<'a>(facts: &Facts<'a>) -> BTreeMap<&'a NodeName, Vec<IpAddr>> {
    let Facts { desired, node, node_addresses, .. } = *facts;
    let theirs = |addresses: &Vec<IpAddr>| {
        addresses
            .iter()
            .copied()
            .filter(|address| !node_addresses.iter().any(|own| own.addr() == *address))
            .collect::<Vec<_>>()
    };
    desired.nodes.iter().filter(|(name, _)| *name != node).map(|(name, all)| (name, theirs(all))).collect()
}

/// How each address of another node is reached.
fn nodes(facts: &Facts<'_>) -> OrdMap<IpAddr, NodeRow> {
    let addresses = others(facts).into_values().flatten();
    addresses.map(|address| (address, facts.ways.get(&address).copied().unwrap_or_default())).collect()
}

/// Every instance has a class; one that has none yet is unknown to everybody.
fn class(policies: &Compiled, id: &InstanceId) -> PeerClass {
    policies.peers.get(id).copied().unwrap_or_default()
}

/// Where a service is reached, and what is behind it.
fn frontends(served: &ServedService, node: &NodeName) -> Vec<(Frontend, ServiceRow)> {
    let Served { inside, outside } = Served::new(served, node);
    let id = served.service.id;
    let mut rows = Vec::new();
    // Two generations of one app may have the same port, and each its own target.
    let mut seen = BTreeSet::new();
    for address in served.service.addresses.iter() {
        rows.push((Frontend::Address(address), ServiceRow { id, ..ServiceRow::default() }));
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        for port in &served.service.ports {
            let published = port.published.map(|published| Frontend::Published(family, published, port.protocol));
            if let Some(front) = published.filter(|front| seen.insert(*front)) {
                let same = |other: &&ServicePort| other.published == port.published && other.protocol == port.protocol;
                let row = outside.row(id, address.is_ipv4(), |backend| served.ports_of(backend).iter().find(same));
                rows.push((front, row));
            }
            let front = Frontend::Virtual(address, port.port, port.protocol);
            if seen.insert(front) {
                let same = |other: &&ServicePort| other.port == port.port && other.protocol == port.protocol;
                let row = inside.row(id, address.is_ipv4(), |backend| served.ports_of(backend).iter().find(same));
                rows.push((front, row));
            }
        }
    }
    rows
}

/// Who gets a service's connections, as it is for its clients inside and outside.
struct Served<'a> {
    inside: Among<'a>,
    outside: Among<'a>,
}

/// Those that get new connections, and how one of them is chosen.
struct Among<'a> {
    backends: Vec<&'a Backend>,
    choice: Choice,
}

impl<'a> Served<'a> {
    fn new(served: &'a ServedService, node: &NodeName) -> Self {
        let balance = &served.service.balance;
        let all = || served.backends.iter().filter(|backend| backend.weight > 0).collect::<Vec<_>>();
        let here = || served.backends.iter().filter(|b| b.weight > 0 && b.node == *node).collect::<Vec<_>>();
        let affinity = balance.affinity.map_or(0, |affinity| affinity.client_ip_seconds);
        let least = balance.method == Method::LeastConnections;
        let choice = Choice { affinity, least, ..Choice::default() };
        let inside = match balance.internal {
            Internal::Cluster => Among { backends: all(), choice },
            Internal::PreferLocal if here().is_empty() => Among { backends: all(), choice },
            Internal::PreferLocal => Among { backends: here(), choice },
            Internal::Local => Among { backends: here(), choice: Choice { local: true, ..choice } },
        };
        let choice = Choice { alike: true, sources: !balance.source_ranges.is_empty(), ..choice };
        let outside = match balance.external {
            External::Cluster => Among { backends: all(), choice },
            External::Local => Among { backends: here(), choice: Choice { local: true, ..choice } },
        };
        Self { inside, outside }
    }
}

impl Among<'_> {
    /// The row of a frontend of one family, with those that have its port.
    fn row<'b>(&self, id: u32, v4: bool, port: impl Fn(&'b Backend) -> Option<&'b ServicePort>) -> ServiceRow
    where
        Self: 'b,
    {
        let backend = |backend: &&'b Backend| {
            let address = backend.addresses.iter().find(|address| address.is_ipv4() == v4)?;
            Some(BackendRow { address, port: port(backend)?.target, weight: backend.weight })
        };
        ServiceRow { id, backends: self.backends.iter().filter_map(backend).collect(), choice: self.choice }
    }
}

#[cfg(test)]
mod tests;
