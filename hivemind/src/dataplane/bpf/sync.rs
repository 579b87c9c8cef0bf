//! What the maps hold, and the difference to what they should hold.
//!
//! Additions come before removals, and a service's new backends before the row that points to them. A reader in the
//! kernel sees the old or the new service, never a part of one.

use std::collections::BTreeMap;

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
};
use hivemind_ebpf::{
    abi::{Addr, Backend, Endpoint, Frontend as FrontendRow, FrontendKey, Peer, ServedKey, SlotKey},
    map,
};

use super::maps::{Maps, failed, is_full, rows};
use crate::{
    dataplane::{
        DataplaneError, SyncReport,
        tables::{Frontend, Tables},
    },
    net::Family,
};

/// A service as it is in the maps.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    row: FrontendRow,
    backends: Vec<(Addr, u16)>,
}

/// What the maps hold: read once when the daemon starts, then kept in step with what is written.
#[derive(Debug)]
pub(super) struct Shadow {
    endpoints: BTreeMap<u32, Endpoint>,
    peers: BTreeMap<Addr, Peer>,
    node_addresses: BTreeMap<Addr, u32>,
    served: BTreeMap<ServedKey, u32>,
    services: BTreeMap<FrontendKey, Group>,
    /// Slots that no row points to: left by a daemon that was killed between two writes.
    stray: Vec<SlotKey>,
    next_group: u32,
}

/// Counts what is written, and remembers what is refused while the rest goes on.
#[derive(Default)]
struct Writes {
    report: SyncReport,
    full: BTreeMap<&'static str, u64>,
    failed: Option<DataplaneError>,
}

impl Writes {
    /// True if it was written.
    fn note(&mut self, result: Result<(), MapError>, action: &'static str, map: &'static str) -> bool {
        match result {
            Ok(()) if action == "write" => self.report.written += 1,
            Ok(()) => self.report.removed += 1,
            // Removed already, by someone else.
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => self.report.repaired += 1,
            Err(error) if is_full(&error) => {
                *self.full.entry(map).or_default() += 1;
                return false;
            }
            Err(error) => {
                self.failed.get_or_insert(failed(action, map, &error));
                return false;
            }
        }
        true
    }

    fn finish(self) -> Result<SyncReport, DataplaneError> {
        if let Some((map, refused)) = self.full.into_iter().next() {
            return Err(DataplaneError::Full { map, refused, capacity: 0 });
        }
        self.failed.map_or(Ok(self.report), Err)
    }

    /// Writes what differs. What was refused is not in `known`, so that the next call tries again.
    fn put<K: Pod + Ord, V: Pod + PartialEq>(
        &mut self,
        table: &mut HashMap<MapData, K, V>,
        name: &'static str,
        known: &mut BTreeMap<K, V>,
        wanted: &BTreeMap<K, V>,
    ) {
        for (key, value) in wanted {
            if known.get(key) != Some(value) && self.note(table.insert(key, value, 0), "write", name) {
                known.insert(*key, *value);
            }
        }
    }

    /// Removes what is not wanted.
    fn cut<K: Pod + Ord, V: Pod>(
        &mut self,
        table: &mut HashMap<MapData, K, V>,
        name: &'static str,
        known: &mut BTreeMap<K, V>,
        wanted: &BTreeMap<K, V>,
    ) {
        known.retain(|key, _| wanted.contains_key(key) || !self.note(table.remove(key), "remove", name));
    }
}

impl Shadow {
    pub(super) fn read(maps: &Maps) -> Result<Self, DataplaneError> {
        let frontends = rows(&maps.frontends, map::FRONTENDS)?;
        let slots = rows(&maps.slots, map::SLOTS)?;
        let mut used = std::collections::BTreeSet::new();
        let mut services = BTreeMap::new();
        for (key, row) in frontends {
            let own: Vec<_> = (0..row.count).map(|index| SlotKey { group: row.group, index }).collect();
            let backends = own.iter().filter_map(|key| slots.get(key)).map(|slot| (slot.addr, slot.port_be)).collect();
            used.extend(own);
            services.insert(key, Group { row, backends });
        }
        let next_group = slots.keys().map(|key| key.group).chain(services.values().map(|group| group.row.group)).max();
        Ok(Self {
            endpoints: rows(&maps.endpoints, map::ENDPOINTS)?,
            peers: rows(&maps.peers, map::PEERS)?,
            node_addresses: rows(&maps.node_addresses, map::NODE_ADDRS)?,
            served: rows(&maps.served, map::SERVED)?,
            services,
            stray: slots.into_keys().filter(|key| !used.contains(key)).collect(),
            next_group: next_group.map_or(1, |group| group.wrapping_add(1).max(1)),
        })
    }

    pub(super) fn sync(&mut self, maps: &mut Maps, desired: &Tables) -> Result<SyncReport, DataplaneError> {
        let mut writes = Writes::default();
        let endpoints = endpoints(desired);
        let peers = peers(desired);
        let node_addresses = desired.node_addresses.iter().map(|ip| (Addr::from(*ip), 1)).collect();
        let served = served(desired);
        let services: BTreeMap<_, _> = desired.services.iter().map(|(front, row)| (frontend(front), row)).collect();

        writes.put(&mut maps.peers, map::PEERS, &mut self.peers, &peers);
        writes.put(&mut maps.endpoints, map::ENDPOINTS, &mut self.endpoints, &endpoints);
        writes.put(&mut maps.node_addresses, map::NODE_ADDRS, &mut self.node_addresses, &node_addresses);
        writes.put(&mut maps.served, map::SERVED, &mut self.served, &served);
        for (key, row) in &services {
            let backends: Vec<_> = row.backends.iter().map(|(ip, port)| (Addr::from(*ip), port.to_be())).collect();
            let same = |group: &Group| group.row.service == row.id && group.backends == backends;
            if !self.services.get(key).is_some_and(same) {
                self.replace(&mut writes, maps, *key, row.id, backends);
            }
        }
        let gone: Vec<_> = self.services.keys().filter(|key| !services.contains_key(key)).copied().collect();
        for key in gone {
            if writes.note(maps.frontends.remove(&key), "remove", map::FRONTENDS)
                && let Some(group) = self.services.remove(&key)
            {
                self.stray.extend(slots_of(&group));
            }
        }
        for key in std::mem::take(&mut self.stray) {
            writes.note(maps.slots.remove(&key), "remove", map::SLOTS);
        }
        writes.cut(&mut maps.served, map::SERVED, &mut self.served, &served);
        writes.cut(&mut maps.node_addresses, map::NODE_ADDRS, &mut self.node_addresses, &node_addresses);
        writes.cut(&mut maps.endpoints, map::ENDPOINTS, &mut self.endpoints, &endpoints);
        writes.cut(&mut maps.peers, map::PEERS, &mut self.peers, &peers);
        writes.finish()
    }

    /// Writes the new group, then the row that points to it; the old group becomes stray.
    fn replace(
        &mut self,
        writes: &mut Writes,
        maps: &mut Maps,
        key: FrontendKey,
        service: u32,
        backends: Vec<(Addr, u16)>,
    ) {
        let group = self.next_group;
        self.next_group = self.next_group.wrapping_add(1).max(1);
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let row = FrontendRow { service, group, count, reserved: 0 };
        let new = Group { row, backends };
        for (slot, (addr, port_be)) in slots_of(&new).zip(&new.backends) {
            let backend = Backend { addr: *addr, port_be: *port_be, pad: 0, group };
            if !writes.note(maps.slots.insert(slot, backend, 0), "write", map::SLOTS) {
                self.stray.extend(slots_of(&new));
                return;
            }
        }
        if writes.note(maps.frontends.insert(key, row, 0), "write", map::FRONTENDS) {
            if let Some(old) = self.services.insert(key, new) {
                self.stray.extend(slots_of(&old));
            }
        } else {
            self.stray.extend(slots_of(&new));
        }
    }
}

fn slots_of(group: &Group) -> impl Iterator<Item = SlotKey> + use<> {
    let FrontendRow { group, count, .. } = group.row;
    (0..count).map(move |index| SlotKey { group, index })
}

fn endpoints(desired: &Tables) -> BTreeMap<u32, Endpoint> {
    let row = |row: &crate::dataplane::tables::EndpointRow| {
        let mut frame_to = [0; 12];
        frame_to[..6].copy_from_slice(&row.instance_mac.0);
        frame_to[6..].copy_from_slice(&row.host_mac.0);
        Endpoint {
            v4: row.v4.map_or(Addr::default(), |ip| Addr::from(std::net::IpAddr::V4(ip))),
            v6: row.v6.map_or(Addr::default(), |ip| Addr::from(std::net::IpAddr::V6(ip))),
            frame_to,
            identity: row.identity,
        }
    };
    desired.endpoints.iter().map(|(ifindex, endpoint)| (*ifindex, row(endpoint))).collect()
}

fn peers(desired: &Tables) -> BTreeMap<Addr, Peer> {
    let row = |row: &crate::dataplane::tables::PeerRow| Peer { identity: row.identity, ifindex: row.ifindex };
    desired.peers.iter().map(|(ip, peer)| (Addr::from(*ip), row(peer))).collect()
}

fn served(desired: &Tables) -> BTreeMap<ServedKey, u32> {
    let rows = desired.served.iter().map(|((ifindex, port, protocol), service)| {
        let key = ServedKey { ifindex: *ifindex, port_be: port.to_be(), protocol: protocol.number(), pad: 0 };
        (key, *service)
    });
    rows.collect()
}

fn frontend(front: &Frontend) -> FrontendKey {
    match front {
        Frontend::Address(ip) => FrontendKey::address(Addr::from(*ip)),
        Frontend::Virtual(ip, port, protocol) => FrontendKey::service(Addr::from(*ip), port.to_be(), protocol.number()),
        Frontend::Published(family, port, protocol) => {
            FrontendKey::published(*family == Family::V4, port.to_be(), protocol.number())
        }
    }
}
