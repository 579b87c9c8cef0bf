//! An instance's namespace and veth pair.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoVeth},
};

use super::{
    neighbours::Neighbour,
    netns,
    rtnl::{self, Link, Netlink, Route, WantedRoute},
    tracked,
};
use crate::{
    HostLink, InstanceLink, LinkState, Mended, NetError,
    names::{INSTANCE_DEVICE, host_device, host_mac, instance_mac, instance_of_device, instance_of_netns, netns_path},
};
use hivemind_core::{lifecycle::killpoint, model::InstanceId};

/// What the kernel makes of an IPv6 route without a metric (`IP6_RT_PRIO_USER`).
pub(super) const V6_METRIC: u32 = 1024;

/// How often, and how far apart, a device is looked at until it is running: two seconds in all.
const RUNNING_TRIES: u32 = 1000;
const RUNNING_PAUSE: Duration = Duration::from_millis(2);

/// The namespace and the pair, both ends down. A pair that is whole is left as it is, so that a running instance is
/// adopted without a packet lost; half of one is removed and made again.
pub(super) async fn ensure(host: &Netlink, dir: &Path, id: &InstanceId, mtu: u32) -> Result<HostLink, NetError> {
    let path = netns_path(dir, id);
    let inside = netns::in_ensured(path.clone(), Netlink::open).await?;
    if let Some(lo) = inside.link("lo").await? {
        inside.ensure_up(&lo).await?;
    }
    let name = host_device(id);
    let (outer, inner) = (host.link(&name).await?, inside.link(INSTANCE_DEVICE).await?);
    let outer = match (outer, inner) {
        (Some(outer), Some(inner)) if is_pair(id, &outer, &inner) => outer,
        (outer, inner) => {
            if outer.is_some() {
                host.remove_link(&name).await?;
            }
            if inner.is_some() {
                inside.remove_link(INSTANCE_DEVICE).await?;
            }
            make_pair(host, &path, id, mtu).await?;
            find(host, &name).await?
        }
    };
    if !outer.up {
        host.change_link(&name, rtnl::quiet(outer.index)).await?;
    }
    Ok(host_link(dir, id, &outer))
}

/// Addresses, routes and neighbours on both ends. The host's end comes up last: before that there is no carrier. Returns how
/// much was tracked of the addresses before the instance got them, and is forgotten: others would go on with it.
pub(super) async fn bring_up(host: &Netlink, dir: &Path, link: &InstanceLink) -> Result<u64, NetError> {
    let inside = netns::in_existing(netns_path(dir, &link.id), Netlink::open).await?;
    let inner = find(&inside, INSTANCE_DEVICE).await?;
    let (addresses, pairs) = (link.addresses.iter().collect::<Vec<_>>(), pairs(link));

    // Of an instance that has them already, what is tracked is its own.
    let there = inside.addresses_of(&inner).await?;
    let forgotten = forget(addresses.iter().copied().filter(|address| !there.contains(address)).collect()).await?;
    inside.ensure_addresses(&inner, &addresses).await?;
    inside.ensure_up(&inner).await?;
    let routes: Vec<WantedRoute> =
        pairs.iter().flat_map(|(ip, gateway)| inner_routes(*ip, *gateway, inner.index)).collect();
    for (_, gateway) in &pairs {
        inside.ensure_neighbour(&inner, *gateway, host_mac(&link.id)).await?;
    }
    inside.ensure_routes(&routes, &inside.routes().await?).await?;

    let outer = find(host, &host_device(&link.id)).await?;
    for ip in &addresses {
        host.ensure_neighbour(&outer, *ip, instance_mac(&link.id)).await?;
    }
    host.ensure_up(&outer).await?;
    for route in outer_routes(&pairs, outer.index) {
        host.put_route(&route).await?;
    }
    until_running(&inside, INSTANCE_DEVICE).await?;
    until_running(host, &outer.name).await?;
    Ok(forgotten)
}

/// Makes the host's connection tracking forget addresses; see [`tracked::forget`].
async fn forget(addresses: Vec<IpAddr>) -> Result<u64, NetError> {
    killpoint::before("forgetting what is tracked");
    let work = move || tracked::forget(&addresses).map_err(|source| NetError::Tracked { addresses, source });
    super::node::blocking(work).await
}

/// What the host has, looked at once for all links.
struct There {
    routes: Vec<Route>,
    neighbours: BTreeSet<Neighbour>,
}

/// See [`crate::Net::look_at_link`].
pub(super) async fn look(host: &Netlink, link: &HostLink) -> Result<LinkState, NetError> {
    Ok(match host.link(&link.name).await? {
        Some(found) if found.index != link.ifindex => LinkState::Gone,
        Some(found) if found.up => LinkState::Up,
        Some(_) => LinkState::Down,
        None => LinkState::Gone,
    })
}

/// See [`crate::Net::mend_links`].
pub(super) async fn mend(host: &Netlink, dir: &Path, links: &[InstanceLink]) -> Result<Mended, NetError> {
    let mut mended = Mended::default();
    let (routes, devices, neighbours) = (host.routes().await?, host.links().await?, host.neighbours().await?);
    let there = There { routes, neighbours };
    for link in links {
        let name = host_device(&link.id);
        let Some(outer) = devices.iter().find(|device| device.name == name && device.up) else { continue };
        match mend_one(host, dir, link, outer, &there).await {
            Ok(more) => mended += more,
            // It may be going: then its device or its namespace is not there any more.
            Err(error) => tracing::debug!(%error, device = name, "the link of an instance could not be mended"),
        }
    }
    Ok(mended)
}

async fn mend_one(
    host: &Netlink,
    dir: &Path,
    link: &InstanceLink,
    outer: &Link,
    there: &There,
) -> Result<Mended, NetError> {
    let inside = netns::in_existing(netns_path(dir, &link.id), Netlink::open).await?;
    let inner = find(&inside, INSTANCE_DEVICE).await?;
    let (addresses, pairs) = (link.addresses.iter().collect::<Vec<_>>(), pairs(link));
    let added = inside.ensure_addresses(&inner, &addresses).await?;
    let gateways: Vec<_> = pairs.iter().map(|(_, gateway)| (*gateway, host_mac(&link.id))).collect();
    let own: Vec<_> = pairs.iter().map(|(ip, _)| (*ip, instance_mac(&link.id))).collect();
    let mut neighbours = inside.ensure_neighbours(&inner, &gateways, &inside.neighbours().await?).await?;
    neighbours += host.ensure_neighbours(outer, &own, &there.neighbours).await?;
    let routes: Vec<WantedRoute> =
        pairs.iter().flat_map(|(ip, gateway)| inner_routes(*ip, *gateway, inner.index)).collect();
    let within = inside.ensure_routes(&routes, &inside.routes().await?).await?;
    let outside = host.ensure_routes(&outer_routes(&pairs, outer.index), &there.routes).await?;
    Ok(Mended { addresses: added, routes: within + outside, neighbours, ..Mended::default() })
}

/// Each address with the gateway of its family.
fn pairs(link: &InstanceLink) -> Vec<(IpAddr, IpAddr)> {
    let gateway = |ip: &IpAddr| link.gateway.iter().find(|gateway| gateway.is_ipv4() == ip.is_ipv4());
    link.addresses.iter().filter_map(|ip| Some((ip, gateway(&ip)?))).collect()
}

/// The host's routes to the instance.
fn outer_routes(pairs: &[(IpAddr, IpAddr)], device: u32) -> Vec<WantedRoute> {
    let route = |(ip, gateway): &(IpAddr, IpAddr)| WantedRoute {
        to: IpNet::from(*ip),
        device: Some(device),
        via: None,
        source: Some(*gateway),
        metric: metric(*ip),
    };
    pairs.iter().map(route).collect()
}

/// A device that got its carrier while it was up drops what is sent until a worker of the kernel has noticed. From
/// Linux 6.8 on, looking at the device makes it notice. Whoever is told that the link is up must not lose his first
/// packet: TCP sends the second one a second later.
async fn until_running(netlink: &Netlink, name: &str) -> Result<(), NetError> {
    for _ in 0..RUNNING_TRIES {
        if find(netlink, name).await?.running {
            return Ok(());
        }
        tokio::time::sleep(RUNNING_PAUSE).await;
    }
    Err(NetError::Netlink { action: "bring up", object: name.to_owned(), why: "it has no carrier".to_owned() })
}

/// Removes all of it. The routes and neighbours go with the devices; what was tracked of its addresses is forgotten when no
/// packet can come from there any more. Returns how much that was.
pub(super) async fn remove(host: &Netlink, dir: &Path, id: &InstanceId) -> Result<u64, NetError> {
    let path = netns_path(dir, id);
    let addresses = if netns::is_kept(&path) { held(&path).await? } else { Vec::new() };
    host.remove_link(&host_device(id)).await?;
    let forgotten = forget(addresses).await?;
    super::node::blocking(move || netns::remove(&path)).await?;
    Ok(forgotten)
}

/// The addresses of an instance whose namespace is there; none without a device.
async fn held(path: &Path) -> Result<Vec<IpAddr>, NetError> {
    let inside = netns::in_existing(path.to_owned(), Netlink::open).await?;
    match inside.link(INSTANCE_DEVICE).await? {
        Some(inner) => inside.addresses_of(&inner).await,
        None => Ok(Vec::new()),
    }
}

/// Every instance of which a device or a namespace's file is there, whole or not.
pub(super) async fn list(host: &Netlink, dir: &Path) -> Result<Vec<(InstanceId, Option<HostLink>)>, NetError> {
    let mut found: BTreeMap<InstanceId, Option<HostLink>> = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => Some(entries),
        // No node yet, or no longer.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(NetError::file("read", dir)(error)),
    };
    for entry in entries.into_iter().flatten() {
        let entry = entry.map_err(NetError::file("read", dir))?;
        if let Some(id) = entry.file_name().to_str().and_then(instance_of_netns) {
            found.insert(id, None);
        }
    }
    for link in host.links().await? {
        if let Some(id) = instance_of_device(&link.name) {
            let there = host_link(dir, &id, &link);
            found.insert(id, Some(there));
        }
    }
    Ok(found.into_iter().collect())
}

async fn make_pair(host: &Netlink, netns: &Path, id: &InstanceId, mtu: u32) -> Result<(), NetError> {
    let namespace = netns::open(netns)?;
    let inner = LinkMessageBuilder::<LinkUnspec>::new()
        .name(INSTANCE_DEVICE)
        .address(instance_mac(id).0.to_vec())
        .mtu(mtu)
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let name = host_device(id);
    let pair = LinkVeth::new(&name, INSTANCE_DEVICE)
        .address(host_mac(id).0.to_vec())
        .mtu(mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inner)))
        .build();
    host.add_link(&name, pair).await
}

fn is_pair(id: &InstanceId, outer: &Link, inner: &Link) -> bool {
    outer.peer == Some(inner.index)
        && inner.peer == Some(outer.index)
        && outer.mac == Some(host_mac(id))
        && inner.mac == Some(instance_mac(id))
}

/// The gateway is beyond no network of the device's: it is on the link because we say so.
fn inner_routes(ip: IpAddr, gateway: IpAddr, device: u32) -> [WantedRoute; 2] {
    let everything: IpNet = match ip {
        IpAddr::V4(_) => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let (device, metric) = (Some(device), metric(ip));
    [
        WantedRoute { to: gateway.into(), device, via: None, source: None, metric },
        WantedRoute { to: everything, device, via: Some(gateway), source: None, metric },
    ]
}

fn metric(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 0 } else { V6_METRIC }
}

async fn find(netlink: &Netlink, name: &str) -> Result<Link, NetError> {
    netlink.link(name).await?.ok_or_else(|| NetError::Netlink {
        action: "find the device",
        object: name.to_owned(),
        why: "there is none of that name".to_owned(),
    })
}

fn host_link(dir: &Path, id: &InstanceId, link: &Link) -> HostLink {
    HostLink {
        netns: netns_path(dir, id),
        name: link.name.clone(),
        ifindex: link.index,
        host_mac: host_mac(id),
        instance_mac: instance_mac(id),
    }
}
