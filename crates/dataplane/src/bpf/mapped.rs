//! A map as memory: read and changed without a system call for each entry, and in one step where the programs change it
//! as well.

use std::{
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64},
};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::DataplaneError;

/// An array, mapped. The kernel rounds the values of arrays up to eight bytes.
pub(super) struct Mapped {
    memory: NonNull<u8>,
    size: usize,
}

// SAFETY: memory that is only accessed by atomic loads and stores, and unmapped when the owner is dropped.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `size` bytes of the map `name`, which has as many.
    pub(super) fn new(data: &MapData, name: &'static str, size: usize) -> Result<Self, DataplaneError> {
        let fail = |why: String| DataplaneError::Map { action: "map into memory", map: name, why };
        let length = NonZeroUsize::new(size).ok_or_else(|| fail("it is empty".into()))?;
        let fd: BorrowedFd<'_> = data.fd().as_fd();
        // SAFETY: a new mapping of a whole map of this size, at an address that the kernel chooses.
        let memory =
            unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0) };
        memory.map(|memory| Self { memory: memory.cast(), size }).map_err(|error| fail(error.to_string()))
    }

    /// The number of four bytes with this index.
    pub(super) fn number(&self, index: usize) -> Option<&AtomicU32> {
        let at = index.checked_mul(4).filter(|at| at + 4 <= self.size)?;
        // SAFETY: within the mapping, aligned, and never accessed but by atomics.
        Some(unsafe { self.memory.add(at).cast::<AtomicU32>().as_ref() })
    }

    /// The word of eight bytes with this number.
    pub(super) fn word(&self, word: usize) -> Option<&AtomicU64> {
        let at = word.checked_mul(8).filter(|at| at + 8 <= self.size)?;
        // SAFETY: as above.
        Some(unsafe { self.memory.add(at).cast::<AtomicU64>().as_ref() })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nobody has a reference to any more.
        let _ = unsafe { munmap(self.memory.cast(), self.size) };
    }
}
