//! The table of ports: for each port of each protocol, the number of the interval that it is in. It has a quarter of a
//! million entries, so it is mapped into memory instead of being read and written by a system call for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::{Map, MapData};
use hivemind_ebpf::{
    map,
    policy::{PORT_ENTRIES, port_index},
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::rows::{PROTOCOLS, number};
use crate::{dataplane::DataplaneError, policy::interval, spec::v1::PolicyProtocol};

/// Begins of intervals, by protocol; 0 always is one.
pub(super) type Intervals = BTreeMap<PolicyProtocol, BTreeSet<u16>>;

/// Bytes of the table: entries lie one after the other.
const SIZE: usize = PORT_ENTRIES as usize * size_of::<u32>();

/// The table.
pub(super) struct Ports(MapData);

/// The table, mapped. Only for as long as it is used: the daemon would carry all of it otherwise.
struct Mapped(NonNull<u8>);

impl Ports {
    pub(super) fn take(map: Map) -> Result<Self, DataplaneError> {
        match map {
            Map::Array(data) => Ok(Self(data)),
            _ => Err(DataplaneError::Kernel { what: "a map of the object", why: map::PORTS.into() }),
        }
    }

    fn mapped(&self) -> Result<Mapped, DataplaneError> {
        let fail = |why: String| DataplaneError::Map { action: "map into memory", map: map::PORTS, why };
        let size = NonZeroUsize::new(SIZE).ok_or_else(|| fail("it is empty".into()))?;
        let fd: BorrowedFd<'_> = self.0.fd().as_fd();
        // SAFETY: a new mapping of a whole map of this size, at an address that the kernel chooses.
        let memory =
            unsafe { mmap(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0) };
        memory.map(|memory| Mapped(memory.cast())).map_err(|error| fail(error.to_string()))
    }

    /// The intervals of the table. A new table is one interval for each protocol.
    pub(super) fn read(&self) -> Result<Intervals, DataplaneError> {
        let table = self.mapped()?;
        let mut intervals = Intervals::new();
        for protocol in PROTOCOLS {
            let begins = |port: &u16| {
                table
                    .entry(protocol, *port)
                    .is_some_and(|number| number.load(Ordering::Relaxed) >> 16 == u32::from(*port))
            };
            let found: BTreeSet<u16> = (0..=u16::MAX).filter(begins).collect();
            if found.len() > 1 {
                intervals.insert(protocol, found);
            }
        }
        Ok(intervals)
    }

    /// Makes the table say these intervals.
    pub(super) fn write(&self, wanted: &Intervals) -> Result<(), DataplaneError> {
        let table = self.mapped()?;
        for protocol in PROTOCOLS {
            let begins = wanted.get(&protocol);
            for port in 0..=u16::MAX {
                if let Some(number) = table.entry(protocol, port) {
                    number.store(interval(begins, port), Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}

impl Mapped {
    fn entry(&self, protocol: PolicyProtocol, port: u16) -> Option<&AtomicU32> {
        let index = port_index(number(protocol), port)? as usize;
        // SAFETY: within the mapping, aligned, and never accessed otherwise.
        Some(unsafe { self.0.cast::<AtomicU32>().add(index).as_ref() })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping of `mapped`, which nobody has a reference to any more.
        let _ = unsafe { munmap(self.0.cast(), SIZE) };
    }
}
