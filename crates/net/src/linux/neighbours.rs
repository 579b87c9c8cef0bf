//! Permanent neighbours: the node reaches its instances without ARP and neighbour discovery.

use std::{collections::BTreeSet, net::IpAddr};

use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};

use super::rtnl::{Link, Netlink, refused};
use crate::{Mac, NetError};
use hivemind_core::lifecycle::killpoint;

/// A device's index, an address, and its Ethernet address.
pub(super) type Neighbour = (u32, IpAddr, [u8; 6]);

impl Netlink {
    /// All permanent neighbours: on which device, of which address, with which Ethernet address.
    pub(super) async fn neighbours(&self) -> Result<BTreeSet<Neighbour>, NetError> {
        let all = self.collect(|| self.handle.neighbours().get().execute()).await;
        Ok(all.map_err(refused("list", "neighbours"))?.into_iter().filter_map(neighbour).collect())
    }

    /// Adds those of the wanted neighbours of a device that are not among `there`, and says how many.
    pub(super) async fn ensure_neighbours(
        &self,
        link: &Link,
        wanted: &[(IpAddr, Mac)],
        there: &BTreeSet<Neighbour>,
    ) -> Result<u64, NetError> {
        let mut added = 0;
        for (ip, mac) in wanted.iter().filter(|(ip, mac)| !there.contains(&(link.index, *ip, mac.0))) {
            self.ensure_neighbour(link, *ip, *mac).await?;
            added += 1;
        }
        Ok(added)
    }

    /// A permanent neighbour: no ARP and no neighbour discovery is needed to reach it.
    pub(super) async fn ensure_neighbour(&self, link: &Link, ip: IpAddr, mac: Mac) -> Result<(), NetError> {
        killpoint::before("adding a neighbour");
        let request = self.handle.neighbours().add(link.index, ip).link_layer_address(&mac.0).replace();
        request.execute().await.map_err(refused("add the neighbour", format!("{ip} on {}", link.name)))
    }
}

/// None: it is not permanent.
fn neighbour(message: NeighbourMessage) -> Option<Neighbour> {
    let (mut ip, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(v4.into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(v6.into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
            _ => {}
        }
    }
    (message.header.state == NeighbourState::Permanent).then_some((message.header.ifindex, ip?, mac?))
}
