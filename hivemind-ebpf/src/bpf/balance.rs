//! Services, packet by packet: which backend a packet has, or gets.

use hivemind_ebpf::{
    abi::{Addr, FrontendKey, SCOPE_PUBLISHED, ServedKey, Tuple},
    packet::{FIRST, LATER, Packet, TCP, UDP},
    reason::Reason,
};

use super::{
    maps::{FLOWS, PEERS, SERVED, TRANSLATIONS, has_nodes},
    service::{self, Choice},
    work::Work,
};

/// The backend that is remembered for a packet of this tuple, and its port in network order.
#[inline(always)]
pub(super) fn backend_of(tuple: &Tuple) -> Option<(Addr, u16)> {
    // SAFETY: copied at once.
    unsafe { TRANSLATIONS.get(tuple) }.map(|known| (known.addr, known.port_be))
}

/// Puts the backend that is remembered for the packet in place of what it asks for. False: none is.
#[inline(always)]
pub(super) fn translate(work: &mut Work) -> bool {
    let Some((addr, port_be)) = backend_of(&work.packet.tuple) else { return false };
    work.to_backend(addr, port_be);
    true
}

/// Finds a backend for a packet to a frontend: the one that it has, if that still serves, or another.
#[inline(always)]
pub(super) fn resolve(work: &mut Work, key: &FrontendKey) -> Result<(), Reason> {
    // Of a connection that nobody here knows another node may: all choose the same one.
    if has_backend(work, key.scope == SCOPE_PUBLISHED && has_nodes())? {
        return Ok(());
    }
    let mut choice = Choice::NONE;
    service::choose_for(&work.packet, key, &mut choice, work.tunnelled)?;
    // It would come back with the instance's own address as its source, which its kernel takes for forged.
    if choice.addr == work.packet.tuple.src {
        return Err(Reason::Hairpin);
    }
    // SAFETY: one aligned word.
    let Some(ifindex) = (unsafe { PEERS.get(&choice.addr) }).map(|p| p.ifindex) else { return Err(Reason::NoBackend) };
    if ifindex != 0 && goes_on(&work.packet) {
        return Err(Reason::NoConnection);
    }
    work.service = choice.service;
    work.devices[1] = ifindex;
    work.to_backend(choice.addr, choice.port_be);
    work.set_key();
    Ok(())
}

/// Whether the packet has a backend that still serves. [`Reason`]: it has none, and may not get one.
#[inline(never)]
fn has_backend(work: &mut Work, elsewhere: bool) -> Result<bool, Reason> {
    if work.packet.fragment == LATER {
        return Err(Reason::Fragment);
    }
    let tcp = work.packet.tuple.protocol == TCP;
    let opens = work.packet.opens();
    if !work.vip.is_none() {
        work.set_key();
        // A new connection from the port of an old one that is over is new.
        let over = tcp && opens && is_closed(work);
        if !over && is_served(work, tcp) {
            return Ok(true);
        }
        if tcp && !opens {
            return Err(Reason::BackendGone);
        }
        work.tuple = work.packet.tuple;
    }
    if tcp && !opens && !elsewhere {
        return Err(Reason::NoConnection);
    }
    if work.packet.fragment > FIRST {
        return Err(Reason::Fragment);
    }
    Ok(false)
}

/// Whether it is of a TCP connection, and does not begin one.
#[inline(always)]
const fn goes_on(packet: &Packet) -> bool {
    packet.tuple.protocol == TCP && !packet.opens()
}

/// Whether the flow of the packet is a connection that is over, or is none.
#[inline(always)]
fn is_closed(work: &Work) -> bool {
    // SAFETY: two bytes.
    unsafe { FLOWS.get(&work.key) }.is_none_or(|row| hivemind_ebpf::flow::is_closed(row.seen))
}

/// Whether the backend is still there: TCP stays as long as it exists (it may be draining), UDP, which has no end,
/// only as long as it serves. An instance that got the same address later has another device.
#[inline(always)]
fn is_served(work: &mut Work, tcp: bool) -> bool {
    // SAFETY: one aligned word.
    let Some(ifindex) = (unsafe { PEERS.get(&work.tuple.dst) }).map(|peer| peer.ifindex) else { return false };
    // SAFETY: one aligned word.
    let Some(device) = (unsafe { FLOWS.get(&work.key) }).map(|row| row.devices[1 - (work.side as usize & 1)]) else {
        return false;
    };
    work.devices[1] = ifindex;
    let key = ServedKey { ifindex, port_be: work.tuple.dport_be, protocol: UDP, pad: 0 };
    // SAFETY: only whether it is there.
    device == ifindex && (tcp || ifindex == 0 || unsafe { SERVED.get(&key) }.is_some())
}
