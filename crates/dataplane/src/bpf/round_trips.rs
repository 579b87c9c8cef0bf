//! Round-trip times, read from the kernel.

use std::collections::BTreeSet;

use aya::maps::{MapData, MapError, PerCpuHashMap, PerCpuValues};
use hivemind_ebpf::{
    abi::{Rtt, RttKey},
    map,
};

use super::maps::{Maps, failed, named};
use crate::{
    DataplaneError,
    round_trips::{Histogram, RoundTrips},
};
use hivemind_policy::FIRST_CLASS;

pub(super) type Table = PerCpuHashMap<MapData, RttKey, Rtt>;

fn rows(maps: &Maps) -> Result<Vec<(RttKey, PerCpuValues<Rtt>)>, DataplaneError> {
    let most = maps.capacity(map::RTT) as usize * 2;
    let rows = maps.rtt.iter().take(most).filter(|row| !matches!(row, Err(MapError::KeyNotFound)));
    rows.collect::<Result<_, _>>().map_err(|error| failed("read", map::RTT, &error))
}

/// All of them, summed over the CPUs.
pub(super) fn read(maps: &Maps) -> Result<Vec<RoundTrips>, DataplaneError> {
    let sum = |values: &PerCpuValues<Rtt>| {
        let mut sum = Histogram::default();
        values.iter().for_each(|Rtt { buckets, sum_us }| sum.add(&Histogram { buckets: *buckets, sum_us: *sum_us }));
        sum
    };
    let row = |(RttKey { from, to, service }, values): &(RttKey, PerCpuValues<Rtt>)| RoundTrips {
        from: *from,
        to: *to,
        service: *service,
        histogram: sum(values),
    };
    Ok(rows(maps)?.iter().map(row).collect())
}

/// Removes those of classes that no instance has any more.
pub(super) fn sweep(maps: &mut Maps, classes: &BTreeSet<u32>) -> Result<(), DataplaneError> {
    let is_known = |class: &u32| *class < FIRST_CLASS || classes.contains(class);
    for (key, _) in rows(maps)? {
        if is_known(&key.from) && is_known(&key.to) {
            continue;
        }
        match named(maps.rtt.remove(&key)) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed("sweep", map::RTT, &error)),
        }
    }
    Ok(())
}
