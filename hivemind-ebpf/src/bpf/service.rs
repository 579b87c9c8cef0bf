//! Which backend of a service a connection gets.

use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, generated::bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{HashMap, LpmTrie, LruHashMap, lpm_trie},
};
use hivemind_ebpf::{
    abi::{
        Addr, ClientKey, Frontend, FrontendKey, LEAST, LOCAL, MemberKey, PART, Part, PartKey, SCOPE_PUBLISHED, SOURCES,
        SlotKey, Sticky, source,
    },
    choose,
    packet::Packet,
    reason::Reason,
};

use super::{
    atomic,
    maps::{BY_ROW, FRONTENDS, NEW, PEERS, SLOTS},
};

#[map(name = "hm_parts")]
static PARTS: HashMap<PartKey, Part> = HashMap::with_max_entries(32_768, BY_ROW);
#[map(name = "hm_members")]
static MEMBERS: HashMap<MemberKey, u32> = HashMap::with_max_entries(65_536, BY_ROW);
#[map(name = "hm_sticky")]
static STICKY: LruHashMap<ClientKey, Sticky> = LruHashMap::with_max_entries(32_768, 0);
#[map(name = "hm_sources")]
static RANGES: LpmTrie<[u32; 5], u32> = LpmTrie::with_max_entries(65_536, BY_ROW);
#[map(name = "hm_loads")]
static LOADS: HashMap<Addr, u64> = HashMap::with_max_entries(65_536, BY_ROW);

/// All bits of a key of source ranges.
const SOURCE_BITS: u32 = 160;

/// What a choice is made by.
pub(super) struct Asks {
    /// Who asks.
    pub(super) client: ClientKey,
    /// 32 random bits; the same for what should get the same backend.
    pub(super) random: u32,
    /// [`choose::flow`] of a connection from outside.
    pub(super) flow: u32,
    /// Not this one, if there is another. None: zero.
    pub(super) avoid: Addr,
    /// Whether it comes from outside: source ranges hold, and every node chooses alike.
    pub(super) outside: bool,
    /// Whether a socket is to be counted for its backend.
    pub(super) counted: bool,
    /// Whether it is to be one of this node: another node has chosen it, by tables that may differ from ours.
    pub(super) here: bool,
}

/// A backend of a service.
pub(super) struct Choice {
    pub(super) addr: Addr,
    pub(super) port_be: u16,
    /// The service's number, also if none of its backends could be chosen; 0: there is no such frontend.
    pub(super) service: u32,
    /// [`Frontend::flags`].
    pub(super) flags: u32,
}

impl Choice {
    /// Nothing chosen yet.
    pub(super) const NONE: Self = Self { addr: Addr { words_be: [0; 4] }, port_be: 0, service: 0, flags: 0 };
}

/// The backend of a frontend. [`Reason::NoSuchPort`]: no such frontend.
///
/// What it calls is not inlined: the stack has 512 bytes, and functions that do not run at the same time share it.
#[inline(always)]
pub(super) fn choose(key: &FrontendKey, asks: &mut Asks, choice: &mut Choice) -> Result<(), Reason> {
    // The second time round: the group was replaced between the look-ups.
    for _ in 0..2 {
        // SAFETY: copied at once; a row that was reused in between names a group that has no such slot.
        let Some(front) = (unsafe { FRONTENDS.get(key) }).copied() else { return Err(Reason::NoSuchPort) };
        choice.service = front.service;
        choice.flags = front.flags;
        asks.client.service = front.service;
        if asks.outside && front.flags & SOURCES != 0 && !is_allowed(&asks.client) {
            return Err(Reason::SourceRange);
        }
        if front.count == 0 {
            return Err(if front.flags & LOCAL != 0 { Reason::NoLocalBackend } else { Reason::NoBackend });
        }
        let mut index = if front.affinity == 0 { NOBODY } else { sticky(&front, asks) };
        if index == NOBODY {
            index = if asks.outside && front.table != 0 {
                alike(&front, asks.flow)
            } else if asks.counted && front.flags & LEAST != 0 && front.count > 1 {
                least(&front, asks.random)
            } else {
                by_chance(&front, asks.random)
            };
        }
        if !take(front.group, index, choice) {
            continue;
        }
        if choice.addr == asks.avoid && front.count > 1 {
            take(front.group, if index + 1 == front.count { 0 } else { index + 1 }, choice);
        }
        if asks.here && !is_here(&choice.addr) {
            let other = hm_here(front.group, front.count, index);
            if other == NOBODY || !take(front.group, other, choice) {
                return Err(Reason::NoLocalBackend);
            }
        }
        if front.affinity != 0 {
            stay(&asks.client, &choice.addr);
        }
        return Ok(());
    }
    Err(Reason::NoBackend)
}

/// The backend for a packet that has ports and belongs to no connection.
#[inline(never)]
pub(super) fn choose_for(packet: &Packet, key: &FrontendKey, choice: &mut Choice, here: u32) -> Result<(), Reason> {
    let tuple = &packet.tuple;
    let mut asks = Asks {
        client: ClientKey::address(tuple.src),
        // SAFETY: a helper without arguments.
        random: unsafe { bpf_get_prandom_u32() },
        flow: choose::flow(&tuple.src, tuple.sport_be, tuple.dport_be, tuple.protocol),
        avoid: tuple.src,
        outside: key.scope == SCOPE_PUBLISHED,
        counted: false,
        here: here != 0,
    };
    choose(key, &mut asks, choice)
}

/// No slot has this index.
const NOBODY: u32 = u32::MAX;

/// Puts the backend of a slot into `choice`. False: the group has no such slot.
#[inline(never)]
fn take(group: u32, index: u32, choice: &mut Choice) -> bool {
    // SAFETY: copied at once, and its group compared.
    let Some(backend) = (unsafe { SLOTS.get(&SlotKey { group, index }) }).copied() else { return false };
    if backend.group != group {
        return false;
    }
    choice.addr = backend.addr;
    choice.port_be = backend.port_be;
    true
}

/// Whether it is an instance of this node.
#[inline(always)]
fn is_here(addr: &Addr) -> bool {
    // SAFETY: one aligned word.
    unsafe { PEERS.get(addr) }.is_some_and(|peer| peer.ifindex != 0)
}

/// How many backends are looked at for one of this node.
const LOOKS: u32 = 128;

/// The first slot of a backend of this node that comes after the one that was chosen, or [`NOBODY`].
///
/// It has a name of its own and takes nothing but numbers, so that the verifier looks at it once and not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_here(group: u32, count: u32, index: u32) -> u32 {
    for n in 1..=LOOKS {
        if n >= count {
            break;
        }
        let next = index + n;
        let at = if next >= count { next - count } else { next };
        // SAFETY: read at once, and its group compared.
        let Some(backend) = (unsafe { SLOTS.get(&SlotKey { group, index: at }) }) else { continue };
        if backend.group == group && is_here(&backend.addr) {
            return at;
        }
    }
    NOBODY
}

/// Whether a client of this address may reach published ports of the service.
#[inline(never)]
pub(super) fn is_allowed(client: &ClientKey) -> bool {
    RANGES.get(lpm_trie::Key::new(SOURCE_BITS, source(client.service, &client.client))).is_some()
}

#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// The slot of the backend that the client stays with, if it still gets connections.
#[inline(never)]
fn sticky(front: &Frontend, asks: &Asks) -> u32 {
    // SAFETY: copied.
    let Some(known) = (unsafe { STICKY.get(&asks.client) }).copied() else { return NOBODY };
    if !choose::is_sticky(seconds(), known.seconds, front.affinity) || known.addr == asks.avoid {
        return NOBODY;
    }
    // SAFETY: one aligned word.
    unsafe { MEMBERS.get(&MemberKey { addr: known.addr, group: front.group }) }.copied().unwrap_or(NOBODY)
}

/// Remembers the client's backend. When it fails the client gets it all the same.
#[inline(never)]
fn stay(client: &ClientKey, addr: &Addr) {
    let _ = STICKY.insert(client, &Sticky { addr: *addr, seconds: seconds() }, 0);
}

/// A slot at random, by weight.
#[inline(never)]
fn by_chance(front: &Frontend, random: u32) -> u32 {
    let index = choose::index(random, front.count);
    // SAFETY: two aligned words. Of a slot that was reused in between the alias is none of this group, or is one.
    match unsafe { SLOTS.get(&SlotKey { group: front.group, index }) } {
        Some(own) if choose::rest(random, front.count) >= own.threshold => own.alias,
        _ => index,
    }
}

/// The slot that every node chooses.
#[inline(never)]
fn alike(front: &Frontend, flow: u32) -> u32 {
    let entry = choose::index(flow, front.table);
    let key = PartKey { group: front.group, part: entry / PART as u32 };
    // SAFETY: one aligned half-word.
    match unsafe { PARTS.get(&key) } {
        Some(part) => u32::from(part.slots[entry as usize % PART]),
        None => 0,
    }
}

/// The better of two slots at random.
#[inline(never)]
fn least(front: &Frontend, random: u32) -> u32 {
    let one = choose::index(random, front.count);
    // One of the others.
    let step = 1 + choose::index(choose::mix(random.into()), front.count - 1);
    let two = if one + step >= front.count { one + step - front.count } else { one + step };
    let ((load, weight), (other_load, other_weight)) = (load(front.group, one), load(front.group, two));
    if choose::has_less(load, weight, other_load, other_weight) { one } else { two }
}

/// Open sockets and weight of a slot's backend.
#[inline(always)]
fn load(group: u32, index: u32) -> (u64, u16) {
    // SAFETY: read at once.
    let Some(slot) = (unsafe { SLOTS.get(&SlotKey { group, index }) }) else { return (0, 0) };
    // SAFETY: one aligned word.
    (unsafe { LOADS.get(&slot.addr) }.copied().unwrap_or(0), slot.weight)
}

/// Counts a socket for its backend. False: there is no room for the count.
#[inline(never)]
pub(super) fn opened(addr: &Addr) -> bool {
    if LOADS.get_ptr_mut(addr).is_none() {
        // Another CPU may have made the row in the meantime.
        let _ = LOADS.insert(addr, &0, NEW);
    }
    let Some(load) = LOADS.get_ptr_mut(addr) else { return false };
    // SAFETY: an aligned word of the map; the daemon removes a row long after the last socket.
    unsafe { atomic::add(load, 1) };
    true
}

/// Counts it no more. The row was there when the socket was counted, and stays while one is.
#[inline(never)]
pub(super) fn closed(addr: &Addr) {
    if let Some(load) = LOADS.get_ptr_mut(addr) {
        // SAFETY: as above.
        unsafe { atomic::add(load, u64::MAX) };
    }
}
