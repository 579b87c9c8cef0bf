//! What the node has, once, for all its instances.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use rtnetlink::{
    LinkUnspec, LinkVeth,
    packet_route::{link::InfoKind, route::RouteType},
};

use super::{
    rtnl::{self, Link, Netlink, Route, TABLE_LOCAL, TABLE_MAIN, WantedRoute},
    sysctl,
};
use crate::{
    Mended, NetError, NodeNet, Uplink,
    names::{NODE_DEVICE, PUBLISH_DEVICE, is_ours},
    ranges::Taken,
};

/// What duplicated packets are sent "to": the kernel asks for a next hop, but nobody is behind the publish device
/// whose address could matter. Link-local, so that they exist on that device alone.
pub(super) const PUBLISH_NEXT_HOPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 104, 1)), IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x68))];

/// The unreachable routes give way to every other route to the same network.
const LAST_RESORT: u32 = 0x7fff_ffff;

/// The publish device takes what the stack has put together (a whole UDP datagram); the instance's device decides.
const PUBLISH_MTU: u32 = 65_535;

/// What a container may assume to pass when the host has no uplink at all.
const DEFAULT_MTU: u32 = 1500;
/// Below this there is no IPv6 (RFC 8200, section 5).
const MIN_MTU: u32 = 1280;

/// The node's devices, addresses, routes and kernel parameters.
pub(super) async fn ensure(netlink: &Netlink, node: &NodeNet) -> Result<Mended, NetError> {
    let mut mended = Mended::default();
    let others: Vec<String> =
        netlink.links().await?.into_iter().map(|link| link.name).filter(|name| !is_ours(name)).collect();
    let (v4, v6) = (node.instances_v4.is_some(), node.instances_v6.is_some());
    blocking(move || sysctl::ensure_forwarding(v4, v6, &others)).await?;

    let (device, publish) = ensure_pair(netlink, &mut mended).await?;
    let gateways: Vec<IpAddr> = node.gateways().collect();
    mended.addresses = netlink.ensure_addresses(&device, &gateways).await?;

    let wanted = wanted_routes(node, publish.index);
    let there = netlink.routes().await?;
    mended.routes = netlink.ensure_routes(&wanted, &there).await?;
    for stale in there.iter().filter(|route| is_unreachable_of_ours(route) && !wanted.iter().any(|w| w.to == route.to))
    {
        netlink.remove_route(stale).await?;
        mended.routes += 1;
    }
    Ok(mended)
}

/// Undoes [`ensure`], but for the kernel parameters: who else relies on forwarding by now is not known.
pub(super) async fn remove(netlink: &Netlink) -> Result<(), NetError> {
    // The other end goes with it.
    netlink.remove_link(NODE_DEVICE).await?;
    for route in netlink.routes().await?.iter().filter(|route| is_unreachable_of_ours(route)) {
        netlink.remove_route(route).await?;
    }
    Ok(())
}

/// What the configured ranges must not overlap.
pub(super) async fn taken(netlink: &Netlink) -> Result<Vec<Taken>, NetError> {
    let links = netlink.links().await?;
    let name = |index: u32| links.iter().find(|link| link.index == index).map_or("?", |link| &link.name);
    let mut taken = Vec::new();
    for address in netlink.addresses().await? {
        taken.push(Taken { net: address.net, device: name(address.index).to_owned() });
    }
    for route in netlink.routes().await? {
        if route.ours || route.table == TABLE_LOCAL {
            continue;
        }
        let device = route.devices.first().map_or("no device", |index| name(*index));
        taken.push(Taken { net: route.to, device: device.to_owned() });
    }
    taken.retain(|taken| !is_ours(&taken.device));
    Ok(taken)
}

/// The devices that lead out of the node.
pub(super) async fn uplinks(netlink: &Netlink) -> Result<Vec<Uplink>, NetError> {
    let default_routes: Vec<u32> = netlink
        .routes()
        .await?
        .into_iter()
        .filter(|route| route.to.prefix_len() == 0 && route.table == TABLE_MAIN && route.kind == RouteType::Unicast)
        .flat_map(|route| route.devices)
        .collect();
    let addresses = netlink.addresses().await?;
    let leads_out = |link: &Link| {
        let has_address = || addresses.iter().any(|address| address.index == link.index && address.global);
        link.up && !link.loopback && !is_ours(&link.name) && (default_routes.contains(&link.index) || has_address())
    };
    let mut uplinks: Vec<Uplink> = netlink
        .links()
        .await?
        .into_iter()
        .filter(leads_out)
        .map(|link| Uplink { ifindex: link.index, name: link.name, mtu: link.mtu })
        .collect();
    uplinks.sort();
    Ok(uplinks)
}

/// The device by which each of these addresses of other machines is reached, if there is a way there.
pub(super) async fn ways(netlink: &Netlink, to: &[IpAddr]) -> Result<BTreeMap<IpAddr, Option<Uplink>>, NetError> {
    let mut ways = BTreeMap::new();
    if to.is_empty() {
        return Ok(ways);
    }
    let links = netlink.links().await?;
    for address in to {
        let device = netlink.way_to(*address).await?;
        let link = links.iter().find(|link| device == Some(link.index) && !is_ours(&link.name));
        let uplink = |link: &Link| Uplink { ifindex: link.index, name: link.name.clone(), mtu: link.mtu };
        ways.insert(*address, link.map(uplink));
    }
    Ok(ways)
}

/// The MTU that fits through every uplink.
pub(super) async fn smallest_mtu(netlink: &Netlink) -> Result<u32, NetError> {
    let smallest = uplinks(netlink).await?.iter().map(|uplink| uplink.mtu).min();
    Ok(smallest.unwrap_or(DEFAULT_MTU).max(MIN_MTU))
}

/// The node's own addresses.
pub(super) async fn addresses(netlink: &Netlink) -> Result<Vec<IpNet>, NetError> {
    let links = netlink.links().await?;
    let is_others = |index| links.iter().any(|link| link.index == index && !is_ours(&link.name));
    let all = netlink.addresses().await?;
    let mut found: Vec<IpNet> =
        all.into_iter().filter(|a| a.global && is_others(a.index)).map(|address| address.net).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The node's two devices, up. They are the ends of one veth pair: a dummy device would do for either, but not every
/// kernel has it. Nothing ever goes through the pair: the program on the publish device redirects or drops.
/// Without ARP, since a duplicated packet still bears the node's address as its destination, and the kernel would wait
/// for a neighbour on the pair that has it.
async fn ensure_pair(netlink: &Netlink, mended: &mut Mended) -> Result<(Link, Link), NetError> {
    let ends = (netlink.link(NODE_DEVICE).await?, netlink.link(PUBLISH_DEVICE).await?);
    let veth = |link: &Option<Link>| link.as_ref().is_some_and(|link| link.kind == Some(InfoKind::Veth));
    if !(veth(&ends.0) && veth(&ends.1)) {
        // Devices of these names and another kind cannot be ours, and half a pair is of no use.
        netlink.remove_link(NODE_DEVICE).await?;
        netlink.remove_link(PUBLISH_DEVICE).await?;
        mended.devices += 1;
        netlink.add_link(NODE_DEVICE, LinkVeth::new(NODE_DEVICE, PUBLISH_DEVICE).build()).await?;
    }
    Ok((ensure_end(netlink, NODE_DEVICE, mended).await?, ensure_end(netlink, PUBLISH_DEVICE, mended).await?))
}

async fn ensure_end(netlink: &Netlink, name: &str, mended: &mut Mended) -> Result<Link, NetError> {
    let link = netlink.link(name).await?.ok_or_else(|| NetError::Netlink {
        action: "find the device",
        object: name.to_owned(),
        why: "it was removed the moment it was made".to_owned(),
    })?;
    mended.devices += u64::from(!link.up || link.mtu != PUBLISH_MTU || link.arp);
    if link.mtu != PUBLISH_MTU || link.arp {
        let message = LinkUnspec::new_with_index(link.index).mtu(PUBLISH_MTU).arp(false).build();
        netlink.change_link(name, message).await?;
    }
    if !link.up {
        let ipv6 = format!("net/ipv6/conf/{name}/disable_ipv6");
        blocking(move || sysctl::set(&ipv6, "0")).await?;
        netlink.change_link(name, rtnl::quiet(link.index)).await?;
    }
    netlink.ensure_up(&link).await?;
    Ok(link)
}

fn wanted_routes(node: &NodeNet, publish_device: u32) -> Vec<WantedRoute> {
    let ranges = [
        node.instances_v4.map(IpNet::from),
        node.services_v4.map(IpNet::from),
        node.instances_v6.map(IpNet::from),
        node.services_v6.map(IpNet::from),
    ];
    let unreachable =
        |to: IpNet| WantedRoute { to: to.trunc(), device: None, via: None, source: None, metric: LAST_RESORT };
    let publish = |next_hop: IpAddr| {
        let (to, device) = (IpNet::from(next_hop), Some(publish_device));
        let metric = if next_hop.is_ipv4() { 0 } else { super::link::V6_METRIC };
        WantedRoute { to, device, via: None, source: None, metric }
    };
    let has_v6 = node.instances_v6.is_some();
    let next_hops = PUBLISH_NEXT_HOPS.into_iter().filter(|ip| ip.is_ipv4() || has_v6);
    ranges.into_iter().flatten().map(unreachable).chain(next_hops.map(publish)).collect()
}

fn is_unreachable_of_ours(route: &Route) -> bool {
    route.ours && route.kind == RouteType::Unreachable
}

/// Kernel parameters are files, and some wait for the kernel's network lock.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(NetError::file("finish the work on", "/proc/sys/net")(std::io::Error::other(error))),
    }
}
