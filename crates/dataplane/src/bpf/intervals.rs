//! The table of ports: for each port of each protocol, the number of the interval that it is in. It has a quarter of a
//! million entries, so it is mapped into memory instead of being read and written by a system call for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::{Map, MapData};
use hivemind_ebpf::{
    map,
    policy::{PORT_ENTRIES, port_index},
};

use super::{
    mapped::Mapped,
    rows::{PROTOCOLS, number},
};
use crate::DataplaneError;
use hivemind_core::spec::v1::PolicyProtocol;
use hivemind_policy::interval;

/// Begins of intervals, by protocol; 0 always is one.
pub(super) type Intervals = BTreeMap<PolicyProtocol, BTreeSet<u16>>;

/// Bytes of the table: entries lie one after the other.
const SIZE: usize = PORT_ENTRIES as usize * size_of::<u32>();

/// The table. It is mapped only for as long as it is used: the daemon would carry all of it otherwise.
pub(super) struct Ports(MapData);

impl Ports {
    pub(super) fn take(map: Map) -> Result<Self, DataplaneError> {
        match map {
            Map::Array(data) => Ok(Self(data)),
            _ => Err(DataplaneError::Kernel { what: "a map of the object", why: map::PORTS.into() }),
        }
    }

    fn mapped(&self) -> Result<Mapped, DataplaneError> {
        Mapped::new(&self.0, map::PORTS, SIZE)
    }

    /// The intervals of the table. A new table is one interval for each protocol.
    pub(super) fn read(&self) -> Result<Intervals, DataplaneError> {
        let table = self.mapped()?;
        let mut intervals = Intervals::new();
        for protocol in PROTOCOLS {
            let begins = |port: &u16| {
                entry(&table, protocol, *port)
                    .is_some_and(|number| number.load(Ordering::Relaxed) >> 16 == u32::from(*port))
            };
            let found: BTreeSet<u16> = (0..=u16::MAX).filter(begins).collect();
            if found.len() > 1 {
                intervals.insert(protocol, found);
            }
        }
        Ok(intervals)
    }

    /// Makes the table say these intervals, one after the other: to search for each of a quarter of a million ports takes
    /// ten times as long.
    pub(super) fn write(&self, wanted: &Intervals) -> Result<(), DataplaneError> {
        let table = self.mapped()?;
        for protocol in PROTOCOLS {
            let begins = wanted.get(&protocol);
            let others = begins.into_iter().flatten().copied().filter(|first| *first > 0);
            for first in std::iter::once(0).chain(others) {
                let interval = interval(begins, first);
                // It tells how many more there are.
                let last = u32::from(first) + (interval & u32::from(u16::MAX));
                for port in first..=u16::try_from(last).unwrap_or(u16::MAX) {
                    if let Some(number) = entry(&table, protocol, port) {
                        number.store(interval, Ordering::Relaxed);
                    }
                }
            }
        }
        Ok(())
    }
}

fn entry(table: &Mapped, protocol: PolicyProtocol, port: u16) -> Option<&AtomicU32> {
    table.number(port_index(number(protocol), port)? as usize)
}
