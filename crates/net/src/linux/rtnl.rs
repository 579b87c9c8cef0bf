//! A netlink socket and the few things we ask through it, in our own words.
//!
//! A socket belongs to the network namespace of the thread that opened it, for good; whoever uses it later, and from
//! which thread, does not matter. Whatever `ensure_…` finds as it should be it leaves alone: then the kernel sends
//! no notification, and watching for changes does not wake itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{Stream, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{
            AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
};
use tokio_util::task::AbortOnDropHandle;

use crate::{Mac, NetError, names::ROUTE_PROTOCOL};
use hivemind_core::lifecycle::killpoint;

/// `RT_TABLE_MAIN`.
pub(super) const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`: what the kernel keeps for itself.
pub(super) const TABLE_LOCAL: u32 = 255;

/// How often a listing is tried while the kernel still answers another one, and the pause between.
const BUSY_TRIES: u32 = 200;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// A netlink socket of one network namespace.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    /// The kernel takes one listing at a time on a socket.
    listing: tokio::sync::Mutex<()>,
    _connection: AbortOnDropHandle<()>,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Netlink")
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<Mac>,
    pub(super) up: bool,
    /// Whether packets go through: it is up, has a carrier, and the kernel has acted on that.
    pub(super) running: bool,
    pub(super) loopback: bool,
    /// Whether its neighbours have to be asked for their Ethernet addresses.
    pub(super) arp: bool,
    pub(super) mtu: u32,
    pub(super) kind: Option<InfoKind>,
    /// For a veth, the index of its other end, in that one's namespace.
    pub(super) peer: Option<u32>,
}

/// An address of a device.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) net: IpNet,
    pub(super) global: bool,
    message: AddressMessage,
}

/// A route.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) to: IpNet,
    pub(super) table: u32,
    pub(super) kind: RouteType,
    pub(super) ours: bool,
    pub(super) metric: u32,
    /// The devices it leads to; several with several next hops.
    pub(super) devices: Vec<u32>,
    pub(super) source: Option<IpAddr>,
    pub(super) via: Option<IpAddr>,
    message: RouteMessage,
}

/// A route that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedRoute {
    pub(super) to: IpNet,
    /// `None`: unreachable.
    pub(super) device: Option<u32>,
    pub(super) via: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) metric: u32,
}

impl WantedRoute {
    fn is(&self, route: &Route) -> bool {
        let kind = if self.device.is_some() { RouteType::Unicast } else { RouteType::Unreachable };
        // The kernel puts IPv6 routes without a device on the loopback device.
        let device = self.device.is_none_or(|device| route.devices == [device]);
        route.ours
            && route.table == TABLE_MAIN
            && route.to == self.to
            && route.kind == kind
            && device
            && (route.via, route.source) == (self.via, self.source)
            && route.metric == self.metric
    }

    fn message(&self) -> RouteMessage {
        // Only a route to a neighbour may have the scope of a link; IPv6 knows no scopes here.
        let scope = match (self.to, self.device, self.via) {
            (IpNet::V4(_), Some(_), None) => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        let mut message = match self.to {
            IpNet::V4(to) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to.addr(), to.prefix_len()).build()
            }
            IpNet::V6(to) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to.addr(), to.prefix_len()).build()
            }
        };
        message.header.scope = scope;
        message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        message.header.kind = if self.device.is_some() { RouteType::Unicast } else { RouteType::Unreachable };
        message.attributes.extend(self.device.map(RouteAttribute::Oif));
        message.attributes.extend(self.via.map(|ip| RouteAttribute::Gateway(ip.into())));
        message.attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        message.attributes.push(RouteAttribute::Priority(self.metric));
        message
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace. Must be called within a runtime.
    pub(super) fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| NetError::NoSocket { source })?;
        Ok(Self {
            handle,
            listing: tokio::sync::Mutex::default(),
            _connection: AbortOnDropHandle::new(tokio::spawn(connection)),
        })
    }

    /// All answers to a request. A request that was cancelled may still be answered when the next one comes; the
    /// kernel refuses that one for a moment.
    pub(super) async fn collect<T, S>(&self, request: impl Fn() -> S) -> Result<Vec<T>, rtnetlink::Error>
    where
        S: Stream<Item = Result<T, rtnetlink::Error>>,
    {
        let _one = self.listing.lock().await;
        let mut tries = 0;
        loop {
            match request().try_collect().await {
                Err(error) if is(&error, libc::EBUSY) && tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// All devices.
    pub(super) async fn links(&self) -> Result<Vec<Link>, NetError> {
        let links = self.collect(|| self.handle.link().get().execute()).await.map_err(refused("list", "devices"))?;
        Ok(links.into_iter().map(Link::from).collect())
    }

    /// A device by its name.
    pub(super) async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        match self.collect(|| self.handle.link().get().match_name(name.to_owned()).execute()).await {
            Ok(links) => Ok(links.into_iter().next().map(Link::from)),
            Err(error) if is(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(refused("look up", name)(error)),
        }
    }

    /// Makes a device.
    pub(super) async fn add_link(&self, name: &str, message: LinkMessage) -> Result<(), NetError> {
        killpoint::before("adding a device");
        self.handle.link().add(message).execute().await.map_err(refused("make the device", name))
    }

    /// Changes a device.
    pub(super) async fn change_link(&self, name: &str, message: LinkMessage) -> Result<(), NetError> {
        killpoint::before("changing a device");
        self.handle.link().change(message).execute().await.map_err(refused("change the device", name))
    }

    /// Sets a device up.
    pub(super) async fn ensure_up(&self, link: &Link) -> Result<(), NetError> {
        if link.up {
            return Ok(());
        }
        self.change_link(&link.name, LinkUnspec::new_with_index(link.index).up().build()).await
    }

    /// Removes a device. Ok if it is gone.
    pub(super) async fn remove_link(&self, name: &str) -> Result<(), NetError> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        killpoint::before("removing a device");
        match self.handle.link().del(link.index).execute().await {
            Err(error) if !is(&error, libc::ENODEV) => Err(refused("remove the device", name)(error)),
            _ => Ok(()),
        }
    }

    /// All addresses.
    pub(super) async fn addresses(&self) -> Result<Vec<Address>, NetError> {
        let all = self.collect(|| self.handle.address().get().execute()).await.map_err(refused("list", "addresses"))?;
        Ok(all.into_iter().filter_map(Address::new).collect())
    }

    /// Those of a device, but for link-local ones.
    pub(super) async fn addresses_of(&self, link: &Link) -> Result<Vec<IpAddr>, NetError> {
        let own = |address: &Address| address.index == link.index && address.global;
        Ok(self.addresses().await?.iter().filter(|address| own(address)).map(|address| address.net.addr()).collect())
    }

    /// Gives the device exactly these addresses (besides link-local ones), each as a network of its own. Says how many
    /// had to be added or removed.
    pub(super) async fn ensure_addresses(&self, link: &Link, wanted: &[IpAddr]) -> Result<u64, NetError> {
        let mut changed = 0;
        let all = self.addresses().await?;
        let there = || all.iter().filter(|address| address.index == link.index && address.global);
        let wanted: Vec<IpNet> = wanted.iter().map(|ip| IpNet::from(*ip)).collect();
        for net in wanted.iter().filter(|net| !there().any(|address| address.net == **net)) {
            let message = match net.addr() {
                IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().address(ip, 32).index(link.index).build(),
                IpAddr::V6(ip) => {
                    let mut message =
                        AddressMessageBuilder::<Ipv6Addr>::new().address(ip, 128).index(link.index).build();
                    // It is unique, and must be usable at once.
                    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
                    message
                }
            };
            let mut request = self.handle.address().add(link.index, net.addr(), net.prefix_len()).replace();
            *request.message_mut() = message;
            changed += 1;
            killpoint::before("adding an address");
            request.execute().await.map_err(refused("add the address", format!("{net} to {}", link.name)))?;
        }
        for address in there().filter(|address| !wanted.contains(&address.net)) {
            let object = format!("{} from {}", address.net, link.name);
            changed += 1;
            match self.handle.address().del(address.message.clone()).execute().await {
                Err(error) if !is(&error, libc::EADDRNOTAVAIL) => {
                    return Err(refused("remove the address", object)(error));
                }
                _ => {}
            }
        }
        Ok(changed)
    }

    /// All routes of all tables.
    pub(super) async fn routes(&self) -> Result<Vec<Route>, NetError> {
        let v4 = || self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let v6 = || self.handle.route().get(RouteMessageBuilder::<Ipv6Addr>::new().build()).execute();
        let mut all = self.collect(v4).await.map_err(refused("list", "IPv4 routes"))?;
        match self.collect(v6).await {
            Ok(v6) => all.extend(v6),
            // A kernel without IPv6.
            Err(error) if is(&error, libc::EAFNOSUPPORT) || is(&error, libc::EOPNOTSUPP) => {}
            Err(error) => return Err(refused("list", "IPv6 routes")(error)),
        }
        Ok(all.into_iter().filter_map(Route::new).collect())
    }

    /// The device by which the kernel reaches another machine's address; none if it knows no way there.
    pub(super) async fn way_to(&self, to: IpAddr) -> Result<Option<u32>, NetError> {
        let message = match to {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build(),
        };
        let unknown = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::EAFNOSUPPORT];
        match self.collect(|| self.handle.route().get(message.clone()).execute()).await {
            Ok(routes) => {
                let leads_out = |route: &RouteMessage| route.header.kind == RouteType::Unicast;
                let devices =
                    routes.into_iter().filter(leads_out).filter_map(Route::new).flat_map(|route| route.devices);
                Ok(devices.into_iter().next())
            }
            Err(error) if unknown.iter().any(|errno| is(&error, *errno)) => Ok(None),
            Err(error) => Err(refused("find the route to", to.to_string())(error)),
        }
    }

    /// Adds those of the wanted routes that are not among `there`, and says how many.
    pub(super) async fn ensure_routes(&self, wanted: &[WantedRoute], there: &[Route]) -> Result<u64, NetError> {
        let mut added = 0;
        for route in wanted.iter().filter(|wanted| !there.iter().any(|route| wanted.is(route))) {
            self.put_route(route).await?;
            added += 1;
        }
        Ok(added)
    }

    /// Adds a route, in the place of one to the same network with the same metric.
    pub(super) async fn put_route(&self, route: &WantedRoute) -> Result<(), NetError> {
        killpoint::before("adding a route");
        let request = self.handle.route().add(route.message()).replace();
        request.execute().await.map_err(refused("add the route to", route.to.to_string()))
    }

    /// Removes a route. Ok if it is gone.
    pub(super) async fn remove_route(&self, route: &Route) -> Result<(), NetError> {
        match self.handle.route().del(route.message.clone()).execute().await {
            Err(error) if !is(&error, libc::ESRCH) => Err(refused("remove the route to", route.to.to_string())(error)),
            _ => Ok(()),
        }
    }
}

/// Keeps the kernel from making a link-local IPv6 address of its own for a device that is only a point of passage.
pub(super) fn without_link_local(message: LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    message.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]))
}

/// `ensure_up` with no IPv6 address generated.
pub(super) fn quiet(index: u32) -> LinkMessage {
    without_link_local(LinkUnspec::new_with_index(index)).build()
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            up: flags.contains(LinkFlags::Up),
            running: false,
            loopback: flags.contains(LinkFlags::Loopback),
            arp: !flags.contains(LinkFlags::Noarp),
            mtu: 0,
            kind: None,
            peer: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
                LinkAttribute::OperState(state) => link.running = state == State::Up,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

impl Address {
    fn new(message: AddressMessage) -> Option<Self> {
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                // The device's own end; with IPv4 on a point-to-point device, Address is the other one.
                AddressAttribute::Local(ip) => address = Some(*ip),
                AddressAttribute::Address(ip) if address.is_none() => address = Some(*ip),
                _ => {}
            }
        }
        let net = IpNet::new(address?, message.header.prefix_len).ok()?;
        let global = message.header.scope == AddressScope::Universe;
        Some(Self { index: message.header.index, net, global, message })
    }
}

impl Route {
    pub(super) fn new(message: RouteMessage) -> Option<Self> {
        let header = &message.header;
        let any: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let (mut to, mut table, mut metric) = (any, u32::from(header.table), 0);
        let (mut devices, mut source, mut via) = (Vec::new(), None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(ip) => to = ip_of(ip)?,
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Priority(number) => metric = *number,
                RouteAttribute::Oif(device) => devices.push(*device),
                RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
                RouteAttribute::PrefSource(ip) => source = ip_of(ip),
                RouteAttribute::Gateway(ip) => via = ip_of(ip),
                _ => {}
            }
        }
        Some(Self {
            to: IpNet::new(to, header.destination_prefix_length).ok()?,
            table,
            kind: header.kind,
            ours: header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL),
            metric,
            devices,
            source,
            via,
            message,
        })
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

/// [`NetError::Netlink`], for `map_err`.
pub(super) fn refused<E: Why>(action: &'static str, object: impl Into<String>) -> impl FnOnce(E) -> NetError {
    let object = object.into();
    move |error| NetError::Netlink { action, object, why: error.why() }
}

/// What an error says, in the system's words.
pub(super) trait Why {
    fn why(self) -> String;
}

impl Why for rtnetlink::Error {
    fn why(self) -> String {
        match self {
            Self::NetlinkError(message) => message.to_io().to_string(),
            other => other.to_string(),
        }
    }
}
