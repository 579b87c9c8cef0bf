//! Services: which backend, and the table of connections that are balanced packet by packet.

use hivemind_ebpf::{
    abi::{Addr, Connection, FORWARD, FrontendKey, REVERSE, ServedKey, Tuple},
    connection::{self, SENT},
    packet::{Packet, TCP, UDP},
    reason::Reason,
};

use super::{
    maps::{CONNECTIONS, NEW, PEERS, SERVED, now},
    rewrite::{self, End},
    service::{self, Choice},
    skb::Skb,
};

/// The service whose backend this port of an instance is; 0: none.
#[inline(always)]
pub(super) fn served(ifindex: u32, port_be: u16, protocol: u8) -> u32 {
    // SAFETY: one aligned word.
    unsafe { SERVED.get(&ServedKey { ifindex, port_be, protocol, pad: 0 }) }.copied().unwrap_or(0)
}

/// What the table says of a packet.
#[derive(Clone, Copy)]
pub(super) struct Known {
    /// What is to be put in place of destination ([`FORWARD`]) or source ([`REVERSE`]).
    addr: Addr,
    port_be: u16,
    /// 0: nothing, or it is of a connection that is over, so that whoever may begin one decides. [`FORWARD`]: it goes
    /// to a backend. [`REVERSE`]: it comes from one.
    pub(super) kind: u8,
    /// The service's number.
    pub(super) service: u32,
    /// [`Connection::ifindex`].
    pub(super) ifindex: u32,
}

impl Known {
    /// Nothing is known.
    pub(super) const NOTHING: Self =
        Self { addr: Addr { words_be: [0; 4] }, port_be: 0, kind: 0, service: 0, ifindex: 0 };

    /// Rewrites the packet.
    #[inline(always)]
    pub(super) fn apply(&self, skb: Skb, packet: &mut Packet) -> Result<(), Reason> {
        let end = if self.kind == FORWARD { End::Destination } else { End::Source };
        rewrite::replace(skb, packet, end, &self.addr, self.port_be)
    }
}

/// Whether the table knows these addresses as those of a client towards a backend.
#[inline(always)]
pub(super) fn is_forward(tuple: &Tuple) -> bool {
    // SAFETY: one byte.
    unsafe { CONNECTIONS.get(tuple) }.is_some_and(|c| c.kind == FORWARD)
}

/// Looks a packet that has ports up in the table, and follows the connection's state.
///
/// Not inlined, as some others here: the stack has 512 bytes, and functions that do not run at the same time share it.
#[inline(never)]
pub(super) fn follow(packet: &Packet, known: &mut Known) -> Result<(), Reason> {
    let Some(entry) = CONNECTIONS.get_ptr_mut(&packet.tuple) else { return Ok(()) };
    // SAFETY: a row of the table. Rows are removed long after their connection's last packet only.
    let entry = unsafe { &mut *entry };
    let tcp = packet.tuple.protocol == TCP;
    if entry.kind == FORWARD {
        // A new connection from the port of an old one that is over is new.
        if tcp && packet.opens() {
            // SAFETY: one byte.
            let reverse = unsafe { CONNECTIONS.get(&entry.other(&packet.tuple)) }.map_or(0, |c| c.seen);
            if connection::is_closed(entry.seen, reverse) {
                return Ok(());
            }
        }
        if !is_served(entry, tcp) {
            return if tcp && !packet.opens() { Err(Reason::BackendGone) } else { Ok(()) };
        }
    }
    let seen = entry.seen | if tcp { connection::seen(packet.detail) } else { SENT };
    let tick = now();
    // Two CPUs may write at once: the same tick, and bits that the next packet brings again.
    if seen != entry.seen || tick != entry.last {
        entry.seen = seen;
        entry.last = tick;
    }
    let Connection { addr, port_be, kind, service, ifindex, .. } = *entry;
    *known = Known { addr, port_be, kind, service, ifindex };
    Ok(())
}

/// Whether the backend is still there: TCP stays as long as it exists (it may be draining), UDP, which has no end,
/// only as long as it serves. An instance that got the same address later has another device.
#[inline(always)]
fn is_served(known: &Connection, tcp: bool) -> bool {
    // SAFETY: copied.
    let Some(peer) = (unsafe { PEERS.get(&known.addr) }).copied() else { return false };
    if peer.ifindex != known.ifindex {
        return false;
    }
    tcp || peer.ifindex == 0 || served(peer.ifindex, known.port_be, UDP) != 0
}

/// Chooses a backend for a packet that has ports, and remembers both directions. `came_by` is where answers go back.
#[inline(never)]
pub(super) fn begin(packet: &Packet, key: &FrontendKey, came_by: u32, known: &mut Known) -> Result<(), Reason> {
    if packet.tuple.protocol == TCP && !packet.opens() {
        return Err(Reason::NoConnection);
    }
    let mut choice = Choice::NONE;
    service::choose_for(packet, key, &mut choice)?;
    open(packet, &choice, came_by, known)
}

#[inline(never)]
fn open(packet: &Packet, choice: &Choice, came_by: u32, known: &mut Known) -> Result<(), Reason> {
    let tcp = packet.tuple.protocol == TCP;
    // SAFETY: one aligned word.
    let Some(ifindex) = (unsafe { PEERS.get(&choice.addr) }).map(|p| p.ifindex) else { return Err(Reason::NoBackend) };
    let service = choice.service;
    *known = Known { addr: choice.addr, port_be: choice.port_be, kind: FORWARD, service, ifindex };
    let mut row = Connection {
        addr: packet.tuple.dst,
        port_be: packet.tuple.dport_be,
        kind: REVERSE,
        seen: 0,
        service,
        ifindex: came_by,
        last: now(),
    };
    let back = Tuple {
        src: choice.addr,
        dst: packet.tuple.src,
        sport_be: choice.port_be,
        dport_be: packet.tuple.sport_be,
        ..packet.tuple
    };
    remember(&back, &row)?;
    row.addr = choice.addr;
    row.port_be = choice.port_be;
    row.kind = FORWARD;
    row.seen = if tcp { connection::seen(packet.detail) } else { SENT };
    row.ifindex = ifindex;
    let written = write(&packet.tuple, &row);
    if written.is_err() {
        // Half a connection would hold the client's port until it times out.
        let _ = CONNECTIONS.remove(&back);
    }
    written
}

/// Writes the way back. The client may use one port towards two of a service's addresses: if both lead to the same
/// backend, answers could not be told apart, unless the older connection is over.
#[inline(never)]
fn remember(key: &Tuple, back: &Connection) -> Result<(), Reason> {
    if CONNECTIONS.insert(key, back, NEW).is_ok() {
        return Ok(());
    }
    // SAFETY: read at once.
    let Some(old) = (unsafe { CONNECTIONS.get(key) }) else { return Err(Reason::TableFull) };
    let same = old.addr == back.addr && old.port_be == back.port_be;
    let (seen, last) = (old.seen, old.last);
    // SAFETY: read at once.
    let over = unsafe { CONNECTIONS.get(&old.other(key)) }.is_none_or(|forward| {
        let ticks = connection::lifetime(key.protocol, forward.seen, seen);
        connection::is_closed(forward.seen, seen) || connection::is_over(back.last, forward.last, last, ticks)
    });
    if !same && !over {
        return Err(Reason::TupleClash);
    }
    write(key, back)
}

/// Writes a row; one that is there is changed in its place. The map would put another element there and use the old one
/// for its next row at once, under the eyes of a packet that another CPU has just found it for. (Seen: an answer sent by
/// the wrong device, once in 10,000 packets.)
#[inline(always)]
fn write(key: &Tuple, row: &Connection) -> Result<(), Reason> {
    if let Some(there) = CONNECTIONS.get_ptr_mut(key) {
        // SAFETY: a row of the table. Of two writers the last wins.
        unsafe { *there = *row };
        return Ok(());
    }
    CONNECTIONS.insert(key, row, 0).map_err(|_| Reason::TableFull)
}
