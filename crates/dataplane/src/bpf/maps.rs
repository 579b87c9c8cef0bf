//! The maps: checked before reuse, read and written with their types.

use std::{collections::BTreeMap, fs, path::Path};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
};
use aya_obj::Object;
use hivemind_ebpf::{
    abi::{
        Addr, BY_DRIVER, BY_STACK, Backend, Count, CounterKey, DropKey, Drops, Endpoint, Flow, FlowKey, Frontend,
        FrontendKey, Hits, MemberKey, Node, Part, PartKey, Peer, Rule, RuleKey, Served, ServedKey, SlotKey,
        Translation, Tuple,
    },
    map,
};
use imbl::OrdMap;
use ipnet::IpNet;

use super::{
    accounts::{Limits, Uses},
    chain,
    intervals::Ports,
    round_trips,
    rows::Row,
    sources::Sources,
};
use crate::DataplaneError;
use hivemind_core::lifecycle::killpoint;

/// A hash map with its name.
pub(super) struct Table<K, V> {
    pub(super) name: &'static str,
    capacity: u32,
    map: HashMap<MapData, K, V>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) -> Result<(), MapError> {
        killpoint::before("writing a row of a map");
        self.map.insert(key, value, 0)
    }

    /// Whether there was no row of this key: one that is there stays as it is.
    pub(super) fn add(&mut self, key: K, value: V) -> Result<bool, MapError> {
        /// `BPF_NOEXIST` of linux/bpf.h.
        const NEW: u64 = 1;
        killpoint::before("writing a row of a map");
        match self.map.insert(key, value, NEW) {
            Ok(()) => Ok(true),
            Err(error) if is_there(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// [`MapError::KeyNotFound`]: it was not there.
    pub(super) fn remove(&mut self, key: &K) -> Result<(), MapError> {
        killpoint::before("removing a row of a map");
        named(self.map.remove(key))
    }

    /// The value, if the key is there.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.map.get(key, 0).ok()
    }

    /// All rows. Of a map that the kernel's side changes meanwhile: each row that stays, and some of the others.
    pub(super) fn raw_rows(&self) -> Result<Vec<(K, V)>, DataplaneError> {
        // When the row that the walk stands on is removed, the walk begins anew: it must end all the same.
        let most = self.capacity as usize * 2;
        let rows = self.map.iter().take(most).filter(|row| !matches!(row, Err(MapError::KeyNotFound)));
        rows.collect::<Result<_, _>>().map_err(|error| failed("read", self.name, &error))
    }

    /// All keys, where the values are large.
    pub(super) fn keys(&self) -> Result<Vec<K>, DataplaneError> {
        let most = self.capacity as usize * 2;
        self.map.keys().take(most).collect::<Result<_, _>>().map_err(|error| failed("read", self.name, &error))
    }

    /// All rows in the words of the tables. The keys of what cannot be read so go to `strange`.
    pub(super) fn rows<A, B>(&self, strange: &mut Vec<K>) -> Result<OrdMap<A, B>, DataplaneError>
    where
        A: Row<Abi = K> + Ord + Clone,
        B: Row<Abi = V> + Clone,
    {
        let mut rows = OrdMap::new();
        for (key, value) in self.raw_rows()? {
            match (A::decode(key), B::decode(value)) {
                (Some(key), Some(value)) => {
                    rows.insert(key, value);
                }
                _ => strange.push(key),
            }
        }
        Ok(rows)
    }
}

/// Blocks of addresses, by longest prefix.
pub(super) struct Blocks(LpmTrie<MapData, [u32; 4], u32>);

impl Blocks {
    pub(super) fn insert(&mut self, block: IpNet, class: u32) -> Result<(), MapError> {
        killpoint::before("writing a row of a map");
        self.0.insert(&key(block), class, 0)
    }

    pub(super) fn remove(&mut self, block: IpNet) -> Result<(), MapError> {
        killpoint::before("removing a row of a map");
        named(self.0.remove(&key(block)))
    }

    pub(super) fn rows(&self) -> Result<OrdMap<IpNet, u32>, DataplaneError> {
        let mut rows = OrdMap::new();
        for row in self.0.iter() {
            let (key, class) = row.map_err(|error| failed("read", map::BLOCKS, &error))?;
            let (words, bits) = (key.data(), key.prefix_len());
            let addr = std::net::IpAddr::from(Addr { words_be: words });
            let bits = if addr.is_ipv4() && bits >= 96 { bits - 96 } else { bits };
            // A prefix that is shorter than what tells IPv4 is no row of ours.
            if let Some(net) = u8::try_from(bits).ok().and_then(|bits| IpNet::new(addr, bits).ok()) {
                rows.insert(net, class);
            }
        }
        Ok(rows)
    }
}

/// IPv4 as mapped into IPv6.
fn key(block: IpNet) -> Key<[u32; 4]> {
    let bits = u32::from(block.prefix_len()) + if block.addr().is_ipv4() { 96 } else { 0 };
    Key::new(bits, Addr::from(block.network()).words_be)
}

/// All maps that the daemon reads or writes.
pub(super) struct Maps {
    pub(super) endpoints: Table<u32, Endpoint>,
    pub(super) peers: Table<Addr, Peer>,
    pub(super) node_addresses: Table<Addr, u32>,
    /// Addresses of other nodes.
    pub(super) nodes: Table<Addr, Node>,
    forwarded: PerCpuArray<MapData, Count>,
    pub(super) frontends: Table<FrontendKey, Frontend>,
    pub(super) slots: Table<SlotKey, Backend>,
    pub(super) served: Table<ServedKey, Served>,
    pub(super) flows: Table<FlowKey, Flow>,
    pub(super) drops: Table<DropKey, Drops>,
    pub(super) translations: Table<Tuple, Translation>,
    pub(super) totals: PerCpuArray<MapData, Count>,
    generation: Array<MapData, u32>,
    pub(super) members: Table<MemberKey, u32>,
    pub(super) parts: Table<PartKey, Part>,
    pub(super) sources: Sources,
    /// Of backends, how many sockets are open.
    pub(super) loads: Table<Addr, u64>,
    pub(super) counters: PerCpuHashMap<MapData, CounterKey, Count>,
    pub(super) rules: Table<RuleKey, Rule>,
    pub(super) ports: Ports,
    pub(super) blocks: Blocks,
    pub(super) hits: PerCpuHashMap<MapData, u32, Count>,
    pub(super) hits_near: PerCpuArray<MapData, Hits>,
    pub(super) limits: Limits,
    pub(super) uses: Uses,
    pub(super) rtt: round_trips::Table,
    capacities: BTreeMap<&'static str, u32>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").field("capacities", &self.capacities).finish_non_exhaustive()
    }
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, DataplaneError> {
            ebpf.take_map(name).ok_or_else(|| DataplaneError::Kernel { what: "a map of the object", why: name.into() })
        }
        fn table<K: Pod, V: Pod>(
            ebpf: &mut Ebpf,
            name: &'static str,
            capacities: &BTreeMap<&'static str, u32>,
        ) -> Result<Table<K, V>, DataplaneError> {
            let map = HashMap::try_from(take(ebpf, name)?).map_err(|error| failed("use", name, &error))?;
            Ok(Table { name, capacity: capacities.get(name).copied().unwrap_or(0), map })
        }
        let capacities = map::ALL.into_iter().filter_map(|name| Some((name, data(ebpf.map(name)?)?.info().ok()?)));
        let sizes: BTreeMap<_, _> = capacities.map(|(name, info)| (name, info.max_entries())).collect();
        let (counters, totals) = (take(ebpf, map::COUNTERS)?, take(ebpf, map::TOTALS)?);
        let (generation, rtt) = (take(ebpf, map::GENERATION)?, take(ebpf, map::RTT)?);
        let (uses, forwarded) = (take(ebpf, map::USES)?, take(ebpf, map::FORWARDED)?);
        let no_data = |name: &str| DataplaneError::Kernel { what: "a map of the object", why: name.into() };
        let hits_near = take(ebpf, map::HITS_NEAR)?;
        let (ports, blocks, hits) = (take(ebpf, map::PORTS)?, take(ebpf, map::BLOCKS)?, take(ebpf, map::HITS)?);
        Ok(Self {
            endpoints: table(ebpf, map::ENDPOINTS, &sizes)?,
            peers: table(ebpf, map::PEERS, &sizes)?,
            node_addresses: table(ebpf, map::NODE_ADDRS, &sizes)?,
            nodes: table(ebpf, map::NODES, &sizes)?,
            forwarded: PerCpuArray::try_from(forwarded).map_err(|error| failed("use", map::FORWARDED, &error))?,
            frontends: table(ebpf, map::FRONTENDS, &sizes)?,
            slots: table(ebpf, map::SLOTS, &sizes)?,
            members: table(ebpf, map::MEMBERS, &sizes)?,
            parts: table(ebpf, map::PARTS, &sizes)?,
            sources: Sources::take(take(ebpf, map::SOURCES)?)?,
            loads: table(ebpf, map::LOADS, &sizes)?,
            served: table(ebpf, map::SERVED, &sizes)?,
            flows: table(ebpf, map::FLOWS, &sizes)?,
            drops: table(ebpf, map::DROPS, &sizes)?,
            translations: table(ebpf, map::TRANSLATIONS, &sizes)?,
            totals: PerCpuArray::try_from(totals).map_err(|error| failed("use", map::TOTALS, &error))?,
            generation: Array::try_from(generation).map_err(|error| failed("use", map::GENERATION, &error))?,
            counters: PerCpuHashMap::try_from(counters).map_err(|error| failed("use", map::COUNTERS, &error))?,
            rules: table(ebpf, map::RULES, &sizes)?,
            ports: Ports::take(ports)?,
            limits: Limits::take(take(ebpf, map::LIMITS)?)?,
            uses: Uses::map(data(&uses).ok_or_else(|| no_data(map::USES))?)?,
            blocks: Blocks(LpmTrie::try_from(blocks).map_err(|error| failed("use", map::BLOCKS, &error))?),
            hits: PerCpuHashMap::try_from(hits).map_err(|error| failed("use", map::HITS, &error))?,
            hits_near: PerCpuArray::try_from(hits_near).map_err(|error| failed("use", map::HITS_NEAR, &error))?,
            rtt: PerCpuHashMap::try_from(rtt).map_err(|error| failed("use", map::RTT, &error))?,
            capacities: sizes,
        })
    }

    /// Has every flow decided anew at its next packet. Call it after the tables have changed.
    pub(super) fn next_generation(&mut self) -> Result<(), DataplaneError> {
        let fail = |error: MapError| failed("write", map::GENERATION, &error);
        let now = self.generation.get(&0, 0).map_err(fail)?;
        killpoint::before("telling the programs that the tables have changed");
        self.generation.set(0, now.wrapping_add(1), 0).map_err(fail)
    }

    /// Has the tables be of this generation.
    pub(super) fn set_generation(&mut self, generation: u32) -> Result<(), DataplaneError> {
        killpoint::before("telling the programs the generation of the tables");
        self.generation.set(0, generation, 0).map_err(|error| failed("write", map::GENERATION, &error))
    }

    /// The generation of the tables.
    pub(super) fn generation(&self) -> Result<u32, DataplaneError> {
        self.generation.get(&0, 0).map_err(|error| failed("read", map::GENERATION, &error))
    }

    /// Tells the programs whether, and in which ways, policies are about the host. The generation must change after it.
    pub(super) fn set_host(&mut self, flags: u32) -> Result<(), MapError> {
        killpoint::before("writing a row of a map");
        self.generation.set(1, flags, 0)
    }

    /// What the programs were told last.
    pub(super) fn host(&self) -> Result<u32, DataplaneError> {
        self.generation.get(&1, 0).map_err(|error| failed("read", map::GENERATION, &error))
    }

    /// Tells the programs how many addresses other nodes have (with none, nothing looks for tunnels), and, by the bit
    /// [`hivemind_ebpf::limit::PACED`], that packets are kept until their time of departure.
    pub(super) fn set_nodes(&mut self, word: u32) -> Result<(), MapError> {
        killpoint::before("writing a row of a map");
        self.generation.set(2, word, 0)
    }

    /// What the programs were told last.
    pub(super) fn told_nodes(&self) -> Result<u32, DataplaneError> {
        self.generation.get(&2, 0).map_err(|error| failed("read", map::GENERATION, &error))
    }

    /// What was sent on to other nodes: by drivers, and by the kernel.
    pub(super) fn forwarded(&self) -> [Count; 2] {
        [BY_DRIVER, BY_STACK].map(|by| {
            let counts = self.forwarded.get(&by, 0);
            let counts = counts.iter().flat_map(|counts| counts.iter());
            counts.fold(Count::default(), |sum, count| Count {
                packets: sum.packets + count.packets,
                bytes: sum.bytes + count.bytes,
            })
        })
    }

    /// How many entries each map holds, but those that make room by themselves.
    #[cfg(feature = "testkit")]
    pub(super) fn entries(&self) -> Result<BTreeMap<&'static str, usize>, DataplaneError> {
        let counters = self.counters.keys().filter(Result::is_ok).count();
        Ok(BTreeMap::from([
            (map::ENDPOINTS, self.endpoints.raw_rows()?.len()),
            (map::PEERS, self.peers.raw_rows()?.len()),
            (map::NODE_ADDRS, self.node_addresses.raw_rows()?.len()),
            (map::NODES, self.nodes.raw_rows()?.len()),
            (map::FRONTENDS, self.frontends.raw_rows()?.len()),
            (map::SLOTS, self.slots.raw_rows()?.len()),
            (map::MEMBERS, self.members.raw_rows()?.len()),
            (map::PARTS, self.parts.keys()?.len()),
            (map::SOURCES, self.sources.rows()?.len()),
            (map::LOADS, self.loads.raw_rows()?.len()),
            (map::SERVED, self.served.raw_rows()?.len()),
            (map::FLOWS, self.flows.raw_rows()?.len()),
            (map::TRANSLATIONS, self.translations.raw_rows()?.len()),
            (map::COUNTERS, counters),
            (map::RULES, self.rules.raw_rows()?.len()),
            (map::BLOCKS, self.blocks.rows()?.len()),
        ]))
    }

    /// How many entries a map can hold.
    pub(super) fn capacity(&self, name: &str) -> u32 {
        self.capacities.get(name).copied().unwrap_or(0)
    }
}

pub(super) fn failed(action: &'static str, map: &'static str, error: &MapError) -> DataplaneError {
    DataplaneError::Map { action, map, why: chain(error) }
}

/// Names the refusal to remove what is not there: aya hands on the kernel's ENOENT.
pub(super) fn named(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Err(MapError::KeyNotFound)
        }
        other => other,
    }
}

/// EEXIST: a row is there already.
fn is_there(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EEXIST))
}

/// E2BIG and ENOMEM: the map holds no more.
pub(super) fn is_full(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM))
}

/// Compares every pinned map with what the object wants: aya takes any that is there. While nothing is attached that
/// uses them (`in_use`), maps that differ are removed, and made anew by the loader.
pub(super) fn check_pinned(dir: &Path, object: &Object, in_use: bool) -> Result<(), DataplaneError> {
    for name in map::ALL {
        let path = dir.join(name);
        let Some(wanted) = object.maps.get(name) else { continue };
        if !path.exists() {
            continue;
        }
        let Some((field, found, wanted)) = differs(&path, name, wanted)? else { continue };
        if in_use {
            let (found, wanted) = (found.to_string(), wanted.to_string());
            return Err(DataplaneError::Incompatible { path, field, found, wanted });
        }
        tracing::info!(map = name, field, found, wanted, "a map that nothing uses differs and is made anew");
        fs::remove_file(&path).map_err(|source| DataplaneError::file("remove", &path, source))?;
    }
    Ok(())
}

/// What of a pinned map is not as the object wants it: its name, as it is, and as it should be. One that was kept from a
/// daemon of another ABI may hold more or less, and be allocated in another way: the programs do not see that.
pub(super) fn differs(
    path: &Path,
    name: &'static str,
    wanted: &aya_obj::Map,
) -> Result<Option<(&'static str, u32, u32)>, DataplaneError> {
    let found = MapInfo::from_pin(path).map_err(|error| failed("open", name, &error))?;
    let kind = found.map_type().map_or(u32::MAX, |kind| kind as u32);
    let fields = [
        ("type", kind, wanted.map_type()),
        ("key size", found.key_size(), wanted.key_size()),
        ("value size", found.value_size(), wanted.value_size()),
        ("number of entries", found.max_entries(), wanted.max_entries()),
        ("flags", found.map_flags(), wanted.map_flags()),
    ];
    let seen = if map::KEPT.iter().any(|group| group.contains(&name)) { 3 } else { fields.len() };
    Ok(fields.into_iter().take(seen).find(|(_, found, wanted)| found != wanted))
}

/// What an object says that it needs.
pub(super) fn parse(object: &[u8]) -> Result<Object, DataplaneError> {
    Object::parse(object).map_err(|error| DataplaneError::Kernel { what: "a readable object", why: chain(&error) })
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuArray(data)
        | Map::Array(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::LpmTrie(data) => Some(data),
        _ => None,
    }
}

/// The kernel's number of a map. Call before the maps are taken.
pub(super) fn id(ebpf: &Ebpf, name: &str) -> Option<u32> {
    Some(data(ebpf.map(name)?)?.info().ok()?.id())
}

/// Name, entries and bytes of each map. Call before the maps are taken.
pub(super) fn sizes(ebpf: &Ebpf) -> Vec<(String, u32, u64)> {
    let sizes = map::ALL.into_iter().chain(map::OWN).filter_map(|name| {
        let data = data(ebpf.map(name)?)?;
        Some((name.to_owned(), data.info().ok()?.max_entries(), memlock(data)))
    });
    sizes.collect()
}

/// Bytes of memory of a map, as the kernel says in its fdinfo.
fn memlock(map: &MapData) -> u64 {
    use std::os::fd::{AsFd, AsRawFd};
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(path).unwrap_or_default();
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}
