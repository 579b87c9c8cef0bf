//! Services: which backend, for sockets and for packets.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use hivemind_ebpf::{
    abi::{Addr, Backend, FrontendKey, ServedKey, SlotKey, Tuple},
    choose,
    packet::{LATER, TCP, UDP, WHOLE},
    reason::Reason,
};

use super::{
    maps::{FLOWS, FRONTENDS, PEERS, SERVED, SLOTS, TRANSLATIONS},
    work::Work,
};

/// A backend of a service.
pub(super) struct Choice {
    pub(super) addr: Addr,
    pub(super) port_be: u16,
    pub(super) service: u32,
}

/// The backend of a frontend for these 32 random bits; not `avoid`, if there is another.
///
/// `None`: no such frontend. `Err`: a frontend without backends, with its service's number.
#[inline(always)]
pub(super) fn choose(key: &FrontendKey, random: u32, avoid: Option<&Addr>) -> Option<Result<Choice, u32>> {
    let mut service = 0;
    // The second time round: the group was replaced between the two look-ups.
    for _ in 0..2 {
        // SAFETY: copied at once; a row that was reused in between names a group that has no such slot.
        let front = *unsafe { FRONTENDS.get(key) }?;
        service = front.service;
        if front.count == 0 {
            return Some(Err(service));
        }
        let index = choose::index(random, front.count);
        let Some(backend) = slot(front.group, index) else { continue };
        let mut backend = backend;
        if avoid.is_some_and(|addr| *addr == backend.addr) && front.count > 1 {
            let next = if index + 1 == front.count { 0 } else { index + 1 };
            backend = slot(front.group, next).unwrap_or(backend);
        }
        return Some(Ok(Choice { addr: backend.addr, port_be: backend.port_be, service }));
    }
    Some(Err(service))
}

#[inline(always)]
fn slot(group: u32, index: u32) -> Option<Backend> {
    // SAFETY: copied at once, and its group compared.
    let backend = *unsafe { SLOTS.get(&SlotKey { group, index }) }?;
    (backend.group == group).then_some(backend)
}

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
#[inline(never)]
pub(super) fn resolve(work: &mut Work, key: &FrontendKey) -> Result<(), Reason> {
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
            return Ok(());
        }
        if tcp && !opens {
            return Err(Reason::BackendGone);
        }
        work.tuple = work.packet.tuple;
    }
    if tcp && !opens {
        return Err(Reason::NoConnection);
    }
    if work.packet.fragment > WHOLE + 1 {
        return Err(Reason::Fragment);
    }
    // SAFETY: a helper without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let choice = match choose(key, random, Some(&work.packet.tuple.src)) {
        Some(Ok(choice)) => choice,
        Some(Err(_)) => return Err(Reason::NoBackend),
        None => return Err(Reason::NoSuchPort),
    };
    // SAFETY: one aligned word.
    let Some(ifindex) = (unsafe { PEERS.get(&choice.addr) }).map(|p| p.ifindex) else { return Err(Reason::NoBackend) };
    work.service = choice.service;
    work.devices[1] = ifindex;
    work.to_backend(choice.addr, choice.port_be);
    work.set_key();
    Ok(())
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
