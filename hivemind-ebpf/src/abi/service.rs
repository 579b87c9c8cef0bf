//! What is behind a frontend, and what the kernel remembers of its choices.
//!
//! A group is the backends of one frontend: slots, and for some of them a table for choices that every node makes alike
//! and a list of members. A change writes a new group, then the frontend, and then removes the old group, so that every
//! reader sees the one or the other. Of a large group of which little changes, slots and what names them are written
//! where they are, each to a backend of the old or of the new group; then the frontend with the new count; at last what
//! is behind the count is removed. A reader that finds no slot there reads the frontend again.

use core::mem::{align_of, offset_of, size_of};

use super::Addr;

/// What is behind a frontend.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// The service's number.
    pub service: u32,
    /// The group of its backends.
    pub group: u32,
    /// How many there are. 0: refuse.
    pub count: u32,
    /// How one is chosen: [`LEAST`], [`SOURCES`], [`LOCAL`], [`ALIKE`].
    pub flags: u32,
    /// For how many seconds after its last connection a client stays with its backend; 0: it does not.
    pub affinity: u32,
    /// Entries of the table for choices that every node makes alike; 0: none.
    pub table: u32,
}

/// [`Frontend::flags`]: sockets choose the one of two backends with fewer open connections for its weight.
pub const LEAST: u32 = 1;
/// [`Frontend::flags`]: from outside only who is in one of the service's source ranges.
pub const SOURCES: u32 = 2;
/// [`Frontend::flags`]: only backends of this node, so none may mean that there are others elsewhere.
pub const LOCAL: u32 = 4;
/// [`Frontend::flags`]: for connections from outside every node chooses alike, by a table if there is a choice.
pub const ALIKE: u32 = 8;

/// One backend of a group.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotKey {
    /// The group.
    pub group: u32,
    /// 0 to `count` - 1.
    pub index: u32,
}

/// Where a backend is reached. With `threshold` and `alias` (Walker's alias method) a random slot is a backend at
/// random by weight, in one or two look-ups whatever the number of backends.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port_be: u16,
    /// Its share of new connections, from 1 to [`crate::choose::MAX_WEIGHT`].
    pub weight: u16,
    /// The group it belongs to: the kernel reuses a removed element at once, so a reader checks whose it is.
    pub group: u32,
    /// A random fraction of 2^32 that is below it means this slot's own backend, else that of `alias`.
    pub threshold: u32,
    /// Index of another slot.
    pub alias: u32,
}

/// A part of the table of a group.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartKey {
    /// The group.
    pub group: u32,
    /// The index in the table divided by [`PART`].
    pub part: u32,
}

/// Entries of one part.
pub const PART: usize = 256;

/// Indices of slots. One of a group that was replaced meanwhile leads to no slot or to another one of the new group.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// The entries.
    pub slots: [u16; PART],
}

/// A backend of a group whose clients stay with theirs. The value is its slot's index.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberKey {
    /// The backend's address.
    pub addr: Addr,
    /// The group.
    pub group: u32,
}

/// A client of a service.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientKey {
    /// Its address, or the cookie of its network namespace in the last two words.
    pub client: Addr,
    /// The service's number.
    pub service: u32,
    /// 0: an address; 1: a cookie.
    pub kind: u32,
}

impl ClientKey {
    /// The client with this address; of no service yet.
    #[inline(always)]
    pub const fn address(client: Addr) -> Self {
        Self { client, service: 0, kind: 0 }
    }

    /// The processes of a network namespace; of no service yet.
    #[inline(always)]
    pub const fn namespace(cookie: u64) -> Self {
        Self { client: Addr { words_be: [0, 0, (cookie >> 32) as u32, cookie as u32] }, service: 0, kind: 1 }
    }
}

/// The backend that a client stays with.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sticky {
    /// The backend's address.
    pub addr: Addr,
    /// When the client last began a connection, in seconds of the monotonic clock.
    pub seconds: u32,
}

/// Bits of a key of source ranges before the address: the service's number, most significant byte first.
pub const SOURCE_PREFIX: u32 = 32;

/// An address as a key of source ranges.
#[inline(always)]
pub const fn source(service: u32, addr: &Addr) -> [u32; 5] {
    let [a, b, c, d] = addr.words_be;
    [service.to_be(), a, b, c, d]
}

layout!(Frontend, 24, 4, service: 0, group: 4, count: 8, flags: 12, affinity: 16, table: 20);
layout!(SlotKey, 8, 4, group: 0, index: 4);
layout!(Backend, 32, 4, addr: 0, port_be: 16, weight: 18, group: 20, threshold: 24, alias: 28);
layout!(PartKey, 8, 4, group: 0, part: 4);
layout!(Part, 512, 2, slots: 0);
layout!(MemberKey, 20, 4, addr: 0, group: 16);
layout!(ClientKey, 24, 4, client: 0, service: 16, kind: 20);
layout!(Sticky, 20, 4, addr: 0, seconds: 16);
