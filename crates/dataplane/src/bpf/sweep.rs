//! What grows with traffic: flows that have ended or lost an end, and counters of instances that are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::{maps::MapError, maps::PerCpuValues};
use hivemind_ebpf::{
    abi::{Count, CounterKey, Flow, FlowKey, IN, OPENED, OUT, RETIRED, Tuple},
    flow, map,
    reason::Reason,
};

use super::{
    accounts::Accounts,
    maps::{Maps, Table, failed},
    seen,
    slots::{self, Slots, sum},
};
use crate::{Counter, DataplaneError, SweepReport, Watch, Way, flows::Told};

/// Removes flows that have been silent for longer than they may, and those that have lost an instance of this node:
/// nothing of them is forwarded any more.
pub(super) fn flows(maps: &mut Maps, accounts: &mut Accounts, watch: &Watch) -> Result<SweepReport, DataplaneError> {
    let mut report = SweepReport::default();
    let now = now();
    let devices: BTreeSet<u32> = maps.endpoints.raw_rows()?.into_iter().map(|(ifindex, _)| ifindex).collect();
    let translations: BTreeSet<Tuple> = maps.translations.raw_rows()?.into_iter().map(|(asked, _)| asked).collect();
    let mut ended = Vec::new();
    let mut in_use = BTreeSet::new();
    let (before, mut counted) = (accounts.counts(maps), BTreeMap::new());
    for (key, row) in maps.flows.raw_rows()? {
        accounts.add(&row, &mut counted);
        let lost = row.devices.iter().any(|device| *device != 0 && !devices.contains(device));
        if lost || flow::is_over(&key, &row, now) {
            report.expired += 1;
            ended.push((key, row));
        } else {
            report.connections += 1;
            in_use.extend(asked(&key, &row));
        }
    }
    report.corrected = accounts.correct(maps, &before, &counted);
    let (clock, mut told) = (seen::Clock::now(), Vec::new());
    for (key, row) in ended {
        // What the programs have removed meanwhile they have counted and told themselves.
        if removed(&mut maps.flows, &key)? {
            accounts.ended(maps, &row);
            if watch.is_watched() {
                told.push(Told::Ended(seen::flow(&key, &row, true, clock)));
            }
        }
    }
    watch.tell(told);
    report.dropped = u64::try_from(maps.drops.keys()?.len()).unwrap_or(u64::MAX);
    // A flow that has begun since the flows were read is not in this list: its translation is newer than the list of
    // translations, which is older.
    let unused: Vec<_> = translations.difference(&in_use).copied().collect();
    remove(&mut maps.translations, &unused)?;
    Ok(report)
}

/// Those of the addresses that a flow lives to or from.
pub(super) fn in_use(maps: &Maps, among: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, DataplaneError> {
    let now = now();
    let live = maps.flows.raw_rows()?.into_iter().filter(|(key, row)| !flow::is_over(key, row, now));
    Ok(live.flat_map(|(key, _)| key.addrs).map(IpAddr::from).filter(|address| among.contains(address)).collect())
}

/// What a client sends that is translated.
fn asked(key: &FlowKey, row: &Flow) -> Option<Tuple> {
    let sent = key.sent_by(usize::from(row.origin));
    (!row.vip.is_none()).then_some(Tuple { dst: row.vip, dport_be: row.vip_port_be, ..sent })
}

fn remove<K: aya::Pod, V: aya::Pod>(table: &mut Table<K, V>, keys: &[K]) -> Result<(), DataplaneError> {
    keys.iter().try_for_each(|key| removed(table, key).map(drop))
}

/// Whether it was there.
fn removed<K: aya::Pod, V: aya::Pod>(table: &mut Table<K, V>, key: &K) -> Result<bool, DataplaneError> {
    match table.remove(key) {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(false),
        Err(error) => Err(failed("sweep", table.name, &error)),
    }
}

/// Removes the counts of sockets of what is no backend any more, once the last socket is closed.
pub(super) fn loads(maps: &mut Maps, backends: &BTreeSet<IpAddr>) -> Result<(), DataplaneError> {
    let rows = maps.loads.raw_rows()?.into_iter();
    let unused = rows.filter(|(addr, load)| *load == 0 && !backends.contains(&(*addr).into()));
    let unused: Vec<_> = unused.map(|(addr, _)| addr).collect();
    remove(&mut maps.loads, &unused)
}

/// Now, in nanoseconds: the clock of bpf_ktime_get_coarse_ns.
pub(super) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec` to a valid pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// All counters, summed over the CPUs. What was counted for instances that are gone is the node's.
pub(super) fn counters(maps: &Maps, slots: &Slots) -> Result<Vec<Counter>, DataplaneError> {
    let mut sums: BTreeMap<CounterKey, Count> = BTreeMap::new();
    let mut add = |key, more: Count| {
        let sum = sums.entry(key).or_default();
        sum.packets += more.packets;
        sum.bytes += more.bytes;
    };
    for (key, values) in rows(maps)? {
        let endpoint = if key.endpoint == RETIRED { 0 } else { key.endpoint };
        add(CounterKey { endpoint, ..key }, sum(&values));
    }
    for (key, count) in slots.counters(maps)? {
        add(key, count);
    }
    Ok(sums.into_iter().filter_map(|(key, count)| counter(key, count)).collect())
}

/// A counter in words of this side; none if its numbers are of a newer version.
fn counter(key: CounterKey, Count { packets, bytes }: Count) -> Option<Counter> {
    let CounterKey { endpoint, service, direction, reason, pad: _ } = key;
    let direction = match direction {
        OUT => Way::Out,
        IN => Way::In,
        OPENED => Way::Opened,
        _ => return None,
    };
    let reason = match reason {
        0 => None,
        number => Some(Reason::from_number(number)?),
    };
    Some(Counter { endpoint, service, direction, reason, packets, bytes })
}

/// Adds the counters of interfaces that no longer exist to those of the retired, and removes them: totals never fall.
pub(super) fn retire(maps: &mut Maps, exists: impl Fn(u32) -> bool) -> Result<(), DataplaneError> {
    for (key, values) in rows(maps)? {
        if key.endpoint == 0 || key.endpoint == RETIRED || exists(key.endpoint) {
            continue;
        }
        slots::add(maps, CounterKey { endpoint: RETIRED, ..key }, sum(&values))?;
        slots::remove(maps, &key)?;
    }
    Ok(())
}

type Row = (CounterKey, PerCpuValues<Count>);

fn rows(maps: &Maps) -> Result<Vec<Row>, DataplaneError> {
    let most = maps.capacity(map::COUNTERS) as usize * 2;
    let rows = maps.counters.iter().take(most).filter(|row| !matches!(row, Err(MapError::KeyNotFound)));
    rows.collect::<Result<_, _>>().map_err(|error| failed("read", map::COUNTERS, &error))
}
