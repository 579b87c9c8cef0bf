//! The maps: checked before reuse, read and written with their types.

use std::{collections::BTreeMap, path::Path};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError, MapInfo, PerCpuHashMap},
};
use hivemind_ebpf::{
    abi::{
        Addr, Backend, Connection, Count, CounterKey, Endpoint, FORWARD, Frontend, FrontendKey, Peer, RETIRED,
        ServedKey, SlotKey, Tuple,
    },
    connection, map,
};

use super::chain;
use crate::dataplane::{Counter, DataplaneError, SweepReport};

/// A hash map whose descriptor we own.
type Table<K, V> = HashMap<MapData, K, V>;

/// All maps that the daemon reads or writes.
pub(super) struct Maps {
    pub(super) endpoints: Table<u32, Endpoint>,
    pub(super) peers: Table<Addr, Peer>,
    pub(super) node_addresses: Table<Addr, u32>,
    pub(super) frontends: Table<FrontendKey, Frontend>,
    pub(super) slots: Table<SlotKey, Backend>,
    pub(super) served: Table<ServedKey, u32>,
    connections: Table<Tuple, Connection>,
    counters: PerCpuHashMap<MapData, CounterKey, Count>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

pub(super) fn failed(action: &'static str, map: &'static str, error: &MapError) -> DataplaneError {
    DataplaneError::Map { action, map, why: chain(error) }
}

/// E2BIG and ENOMEM: the map holds no more.
pub(super) fn is_full(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM))
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DataplaneError> {
            let missing = || DataplaneError::Kernel { what: "a map of the object", why: name.into() };
            let map = ebpf.take_map(name).ok_or_else(missing)?;
            T::try_from(map).map_err(|error| failed("use", name, &error))
        }
        Ok(Self {
            endpoints: take(ebpf, map::ENDPOINTS)?,
            peers: take(ebpf, map::PEERS)?,
            node_addresses: take(ebpf, map::NODE_ADDRS)?,
            frontends: take(ebpf, map::FRONTENDS)?,
            slots: take(ebpf, map::SLOTS)?,
            served: take(ebpf, map::SERVED)?,
            connections: take(ebpf, map::CONNECTIONS)?,
            counters: take(ebpf, map::COUNTERS)?,
        })
    }

    /// All counters, summed over the CPUs.
    pub(super) fn counters(&self) -> Result<Vec<Counter>, DataplaneError> {
        let mut all = Vec::new();
        for row in self.counters.iter() {
            let (key, counts) = row.map_err(|error| failed("read", map::COUNTERS, &error))?;
            all.push(Counter {
                endpoint: if key.endpoint == RETIRED { 0 } else { key.endpoint },
                service: key.service,
                direction: key.direction,
                reason: key.reason,
                packets: counts.iter().map(|count| count.packets).sum(),
                bytes: counts.iter().map(|count| count.bytes).sum(),
            });
        }
        Ok(all)
    }

    /// Removes connections that have been silent for longer than they may.
    pub(super) fn sweep(&mut self) -> Result<SweepReport, DataplaneError> {
        let fail = |error: &MapError| failed("sweep", map::CONNECTIONS, error);
        let mut report = SweepReport::default();
        let mut over = Vec::new();
        let now = now();
        for row in self.connections.iter() {
            let (key, there) = row.map_err(|error| fail(&error))?;
            report.connections += 1;
            let back = self.connections.get(&there.other(&key), 0).ok();
            let (forward, reverse) = match (there.kind == FORWARD, back) {
                (true, back) => (Some(there), back),
                (false, back) => (back, Some(there)),
            };
            let seen = |half: Option<Connection>| half.map_or(0, |half| half.seen);
            let last = |half: Option<Connection>| half.map_or(there.last, |half| half.last);
            let ticks = connection::lifetime(key.protocol, seen(forward), seen(reverse));
            if connection::is_over(now, last(forward), last(reverse), ticks) {
                over.push(key);
            }
        }
        for key in over {
            match self.connections.remove(&key) {
                Ok(()) => report.expired += 1,
                Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
                Err(error) => return Err(fail(&error)),
            }
        }
        Ok(report)
    }
}

/// Now, in the unit of [`Connection::last`].
fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec` to a valid pointer. The clock is the one of bpf_ktime_get_coarse_ns.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    let nanos = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0);
    u32::try_from(nanos / connection::TICK_NS).unwrap_or(u32::MAX)
}

/// All rows of a table.
pub(super) fn rows<K: Pod + Ord, V: Pod>(
    table: &Table<K, V>,
    name: &'static str,
) -> Result<BTreeMap<K, V>, DataplaneError> {
    table.iter().collect::<Result<_, _>>().map_err(|error| failed("read", name, &error))
}

/// Compares every pinned map with what the object wants: aya takes any that is there (PLATFORM: fact 1).
pub(super) fn check_pinned(dir: &Path, object: &[u8]) -> Result<(), DataplaneError> {
    let parsed = aya_obj::Object::parse(object)
        .map_err(|error| DataplaneError::Kernel { what: "a readable object", why: error.to_string() })?;
    for name in map::ALL {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let Some(wanted) = parsed.maps.get(name) else { continue };
        let found = MapInfo::from_pin(&path).map_err(|error| failed("open", name, &error))?;
        let kind = found.map_type().map_or(u32::MAX, |kind| kind as u32);
        for (field, found, wanted) in [
            ("type", kind, wanted.map_type()),
            ("key size", found.key_size(), wanted.key_size()),
            ("value size", found.value_size(), wanted.value_size()),
            ("number of entries", found.max_entries(), wanted.max_entries()),
        ] {
            if found != wanted {
                let (found, wanted) = (found.to_string(), wanted.to_string());
                return Err(DataplaneError::Incompatible { path, field, found, wanted });
            }
        }
    }
    Ok(())
}

/// Name, entries and bytes of each map. Call before the maps are taken.
pub(super) fn sizes(ebpf: &Ebpf) -> Vec<(String, u32, u64)> {
    let names = map::ALL.into_iter();
    let sizes = names.filter_map(|name| {
        let data = match ebpf.map(name)? {
            Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuHashMap(data) => data,
            _ => return None,
        };
        let info = data.info().ok()?;
        Some((name.to_owned(), info.max_entries(), memlock(data)))
    });
    sizes.collect()
}

/// Bytes of memory of a map, as the kernel says in its fdinfo.
fn memlock(map: &MapData) -> u64 {
    use std::os::fd::{AsFd, AsRawFd};
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}
