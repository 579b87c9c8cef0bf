//! What grows with traffic: connections that have ended or lost their backend, and counters of instances that are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::{maps::MapError, maps::PerCpuValues};
use hivemind_ebpf::{
    abi::{Connection, Count, CounterKey, FORWARD, RETIRED},
    connection, map,
};

use super::maps::{Maps, failed, named};
use crate::dataplane::{Counter, DataplaneError, SweepReport};

/// Removes connections that have been silent for longer than they may, and those whose backend is gone: nothing of
/// them is forwarded any more.
pub(super) fn connections(maps: &mut Maps) -> Result<SweepReport, DataplaneError> {
    let mut report = SweepReport::default();
    let mut ended = Vec::new();
    let now = now();
    for (key, row) in maps.connections.raw_rows()? {
        let other = maps.connections.get(&row.other(&key));
        let (forward, reverse) = if row.kind == FORWARD { (Some(row), other) } else { (other, Some(row)) };
        let seen = |half: Option<Connection>| half.map_or(0, |half| half.seen);
        let last = |half: Option<Connection>| half.map_or(row.last, |half| half.last);
        let ticks = connection::lifetime(key.protocol, seen(forward), seen(reverse));
        let gone = forward.is_some_and(|to| maps.peers.get(&to.addr).map(|peer| peer.ifindex) != Some(to.ifindex));
        let over = gone || connection::is_over(now, last(forward), last(reverse), ticks);
        match (row.kind == FORWARD, over) {
            (true, true) => report.expired += 1,
            (true, false) => report.connections += 1,
            (false, _) => {}
        }
        if over {
            ended.push(key);
        }
    }
    for key in ended {
        match maps.connections.remove(&key) {
            Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
            Err(error) => return Err(failed("sweep", map::CONNECTIONS, &error)),
        }
    }
    Ok(report)
}

/// Removes the counts of sockets of what is no backend any more, once the last socket is closed.
pub(super) fn loads(maps: &mut Maps, backends: &BTreeSet<IpAddr>) -> Result<(), DataplaneError> {
    for (addr, load) in maps.loads.raw_rows()? {
        if load == 0 && !backends.contains(&addr.into()) {
            match maps.loads.remove(&addr) {
                Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
                Err(error) => return Err(failed("sweep", map::LOADS, &error)),
            }
        }
    }
    Ok(())
}

/// Now, in the unit of [`Connection::last`].
fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec` to a valid pointer. The clock is the one of bpf_ktime_get_coarse_ns.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    let nanos = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0);
    // The kernel's side cuts off in the same way.
    (nanos / connection::TICK_NS) as u32
}

/// All counters, summed over the CPUs. What was counted for instances that are gone is the node's.
pub(super) fn counters(maps: &Maps) -> Result<Vec<Counter>, DataplaneError> {
    let mut sums: BTreeMap<CounterKey, Count> = BTreeMap::new();
    for (mut key, values) in rows(maps)? {
        if key.endpoint == RETIRED {
            key.endpoint = 0;
        }
        let sum = sums.entry(key).or_default();
        let more = total(&values);
        sum.packets += more.packets;
        sum.bytes += more.bytes;
    }
    let counters = sums.into_iter().map(|(key, count)| Counter {
        endpoint: key.endpoint,
        service: key.service,
        direction: key.direction,
        reason: key.reason,
        packets: count.packets,
        bytes: count.bytes,
    });
    Ok(counters.collect())
}

/// What rules have allowed, summed over the CPUs.
pub(super) fn rule_hits(maps: &Maps) -> Result<BTreeMap<u32, u64>, DataplaneError> {
    let most = maps.capacity(map::HITS) as usize * 2;
    let rows = maps.hits.iter().take(most).filter(|row| !matches!(row, Err(MapError::KeyNotFound)));
    let sums = rows.map(|row| row.map(|(rule, values)| (rule, total(&values).packets)));
    sums.collect::<Result<_, _>>().map_err(|error| failed("read", map::HITS, &error))
}

/// Adds the counters of interfaces that no longer exist to those of the retired, and removes them: totals never fall.
pub(super) fn retire(maps: &mut Maps, exists: impl Fn(u32) -> bool) -> Result<(), DataplaneError> {
    let fail = |error: &MapError| failed("retire rows of", map::COUNTERS, error);
    for (key, values) in rows(maps)? {
        if key.endpoint == 0 || key.endpoint == RETIRED || exists(key.endpoint) {
            continue;
        }
        let retired = CounterKey { endpoint: RETIRED, ..key };
        let mut sum = total(&values);
        if let Ok(there) = maps.counters.get(&retired, 0) {
            let there = total(&there);
            sum.packets += there.packets;
            sum.bytes += there.bytes;
        }
        let sums = on_first_cpu(sum, values.len())?;
        maps.counters.insert(retired, sums, 0).map_err(|error| fail(&error))?;
        match named(maps.counters.remove(&key)) {
            Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
            Err(error) => return Err(fail(&error)),
        }
    }
    Ok(())
}

type Row = (CounterKey, PerCpuValues<Count>);

fn rows(maps: &Maps) -> Result<Vec<Row>, DataplaneError> {
    let most = maps.capacity(map::COUNTERS) as usize * 2;
    let rows = maps.counters.iter().take(most).filter(|row| !matches!(row, Err(MapError::KeyNotFound)));
    rows.collect::<Result<_, _>>().map_err(|error| failed("read", map::COUNTERS, &error))
}

fn total(values: &PerCpuValues<Count>) -> Count {
    let mut sum = Count::default();
    for value in values.iter() {
        sum.packets += value.packets;
        sum.bytes += value.bytes;
    }
    sum
}

fn on_first_cpu(sum: Count, cpus: usize) -> Result<PerCpuValues<Count>, DataplaneError> {
    let mut values = vec![Count::default(); cpus];
    if let Some(first) = values.first_mut() {
        *first = sum;
    }
    PerCpuValues::try_from(values).map_err(|error| DataplaneError::Map {
        action: "retire rows of",
        map: map::COUNTERS,
        why: error.to_string(),
    })
}
