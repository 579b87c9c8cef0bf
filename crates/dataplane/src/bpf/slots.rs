//! Where what is forwarded is counted: a slot of the totals for each instance, and one for each port that it serves.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{MapError, PerCpuValues};
use hivemind_ebpf::{
    abi::{Count, CounterKey, IN, OUT, RETIRED, SLOTS, total},
    map,
};

use super::maps::{Maps, failed, named};
use crate::DataplaneError;
use hivemind_core::model::Protocol;

/// Who is counted in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    /// Interface index of the instance's host device.
    pub(super) ifindex: u32,
    /// The port that it serves, and for which service; none: all other packets.
    pub(super) served: Option<(u16, Protocol, u32)>,
}

/// Who has which slot. The rows in the kernel say the same: this is read from them.
#[derive(Debug, Default)]
pub(super) struct Slots {
    owners: BTreeMap<Owner, u32>,
    free: BTreeSet<u32>,
    /// All slots from this one on are free as well.
    next: u32,
    /// Slots whose owners are gone, to be emptied.
    released: Vec<(Owner, u32)>,
}

impl Slots {
    /// The slots of rows that were read.
    pub(super) fn read(owners: BTreeMap<Owner, u32>) -> Self {
        let used: BTreeSet<u32> = owners.values().copied().collect();
        let next = used.last().map_or(1, |last| last + 1);
        let free = (1..next).filter(|slot| !used.contains(slot)).collect();
        Self { owners, free, next, released: Vec::new() }
    }

    /// The slot of an owner; 0, which counts nowhere, if there is none left. What was counted in it for somebody whose
    /// row a daemon that died has removed is kept.
    pub(super) fn of(&mut self, maps: &mut Maps, owner: Owner) -> u32 {
        if let Some(slot) = self.owners.get(&owner) {
            return *slot;
        }
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None if self.next < SLOTS => {
                self.next += 1;
                self.next - 1
            }
            None => return 0,
        };
        if let Err(error) = empty(maps, 0, slot) {
            tracing::warn!(%error, "a slot of counters was not emptied: the counters begin higher than they should");
        }
        self.owners.insert(owner, slot);
        slot
    }

    /// The owners whose rows are gone. Nothing is counted in their slots once the generation has changed.
    pub(super) fn release(&mut self, gone: impl Fn(&Owner) -> bool) {
        for (owner, slot) in self.owners.extract_if(.., |owner, _| gone(owner)) {
            self.released.push((owner, slot));
        }
    }

    /// Adds what was counted in released slots to the counters of those that are gone, so that totals never fall, and
    /// gives the slots out again.
    pub(super) fn empty(&mut self, maps: &mut Maps) -> Result<(), DataplaneError> {
        while let Some((owner, slot)) = self.released.last().copied() {
            empty(maps, owner.served.map_or(0, |(_, _, service)| service), slot)?;
            self.released.pop();
            self.free.insert(slot);
        }
        Ok(())
    }

    /// What is counted in all slots.
    pub(super) fn counters(&self, maps: &Maps) -> Result<Vec<(CounterKey, Count)>, DataplaneError> {
        let mut counters = Vec::new();
        for (owner, slot) in &self.owners {
            for direction in [OUT, IN] {
                let count = read(maps, *slot, direction)?;
                if count.packets != 0 {
                    let service = owner.served.map_or(0, |(_, _, service)| service);
                    let endpoint = owner.ifindex;
                    counters.push((CounterKey { endpoint, service, direction, reason: 0, pad: 0 }, count));
                }
            }
        }
        Ok(counters)
    }
}

fn read(maps: &Maps, slot: u32, direction: u8) -> Result<Count, DataplaneError> {
    let values = maps.totals.get(&total(slot, direction), 0);
    Ok(sum(&values.map_err(|error| failed("read", map::TOTALS, &error))?))
}

fn empty(maps: &mut Maps, service: u32, slot: u32) -> Result<(), DataplaneError> {
    for direction in [OUT, IN] {
        let count = read(maps, slot, direction)?;
        if count.packets == 0 {
            continue;
        }
        add(maps, CounterKey { endpoint: RETIRED, service, direction, reason: 0, pad: 0 }, count)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| DataplaneError::Map {
            action: "empty an entry of",
            map: map::TOTALS,
            why: error.to_string(),
        })?;
        let none = on_first_cpu(Count::default(), cpus)?;
        let emptied = maps.totals.set(total(slot, direction), none, 0);
        emptied.map_err(|error| failed("empty an entry of", map::TOTALS, &error))?;
    }
    Ok(())
}

/// Adds to a counter.
pub(super) fn add(maps: &mut Maps, key: CounterKey, mut count: Count) -> Result<(), DataplaneError> {
    if let Ok(there) = maps.counters.get(&key, 0) {
        let there = sum(&there);
        count.packets += there.packets;
        count.bytes += there.bytes;
    }
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| DataplaneError::Map {
        action: "add to a row of",
        map: map::COUNTERS,
        why: error.to_string(),
    })?;
    let values = on_first_cpu(count, cpus)?;
    maps.counters.insert(key, values, 0).map_err(|error| failed("add to a row of", map::COUNTERS, &error))
}

/// Removes a counter.
pub(super) fn remove(maps: &mut Maps, key: &CounterKey) -> Result<(), DataplaneError> {
    match named(maps.counters.remove(key)) {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(error) => Err(failed("retire rows of", map::COUNTERS, &error)),
    }
}

/// The sum over the CPUs.
pub(super) fn sum(values: &PerCpuValues<Count>) -> Count {
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
        action: "write a row of",
        map: map::COUNTERS,
        why: error.to_string(),
    })
}
