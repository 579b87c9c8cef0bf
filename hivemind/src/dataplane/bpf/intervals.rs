//! The table of ports: for each port of each protocol, the number of the interval that it is in. It has a quarter of a
//! million entries, so it is mapped into memory instead of being read and written by a system call for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::MapData;
use hivemind_ebpf::{
    map,
    policy::{PORT_ENTRIES, port_index},
};

use super::{
    mapped::Mapped,
    rows::{PROTOCOLS, number},
};
use crate::{dataplane::DataplaneError, policy::interval, spec::v1::PolicyProtocol};

/// Begins of intervals, by protocol; 0 always is one.
pub(super) type Intervals = BTreeMap<PolicyProtocol, BTreeSet<u16>>;

/// Bytes of the table: the kernel rounds values up to eight.
const SIZE: usize = PORT_ENTRIES as usize * 8;

/// The table, mapped.
pub(super) struct Ports(Mapped);

impl Ports {
    pub(super) fn map(data: &MapData) -> Result<Self, DataplaneError> {
        Mapped::new(data, map::PORTS, SIZE).map(Self)
    }

    fn entry(&self, protocol: PolicyProtocol, port: u16) -> Option<&AtomicU32> {
        self.0.half(port_index(number(protocol), port)? as usize)
    }

    /// The intervals of the table. A new table is one interval for each protocol.
    pub(super) fn read(&self) -> Intervals {
        let mut intervals = Intervals::new();
        for protocol in PROTOCOLS {
            let begins = |port: &u16| {
                self.entry(protocol, *port)
                    .is_some_and(|number| number.load(Ordering::Relaxed) >> 16 == u32::from(*port))
            };
            let found: BTreeSet<u16> = (0..=u16::MAX).filter(begins).collect();
            if found.len() > 1 {
                intervals.insert(protocol, found);
            }
        }
        intervals
    }

    /// Makes the table say these intervals.
    pub(super) fn write(&self, wanted: &Intervals) {
        for protocol in PROTOCOLS {
            let begins = wanted.get(&protocol);
            for port in 0..=u16::MAX {
                if let Some(number) = self.entry(protocol, port) {
                    number.store(interval(begins, port), Ordering::Relaxed);
                }
            }
        }
    }
}
