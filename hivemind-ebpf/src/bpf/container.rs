//! An instance's host device: what the instance sends, and what goes into it.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, bpf_redir_neigh},
    helpers::generated::{bpf_redirect_neigh, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};
use hivemind_ebpf::{
    abi::{Endpoint, FrontendKey, IN, OUT},
    packet::{self as model, ARP, Bytes, ETH, LATER, Packet, WHOLE},
    policy::LIMITED,
    reason::Reason,
};

use super::{
    PASS, balance, capture, finish,
    flow::{self, Hook},
    limit::{self, RECEIVER, SENDER},
    maps::{ENDPOINTS, FRONTENDS, PEERS, config, forwarded},
    pieces, quick,
    refuse::{Back, answer},
    related,
    rewrite::{self, End},
    skb::Skb,
    tunnel::is_between_nodes,
    work::{Work, blank, read},
};

/// Bytes of an ARP message for IPv4 over Ethernet.
const ARP_LEN: usize = 28;

/// Ingress of the host device: the instance sends.
#[classifier]
fn hm_from_cont(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let own = skb.ifindex();
    let code = quick::pass(skb, own);
    if code != quick::NO {
        return code;
    }
    let mut verdict = PASS;
    let result = from_container(skb, own, &mut verdict);
    let code = finish(result, verdict, skb, own, OUT);
    match result {
        Ok(()) => code,
        Err(reason) => {
            let code = answer(skb, reason, own, Back::Instance);
            if code != TC_ACT_SHOT && capture::is_on() {
                capture::answer(skb, own);
            }
            code
        }
    }
}

/// Egress of the host device: the host's stack, or a redirect, sends to the instance.
#[classifier]
fn hm_to_cont(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let own = skb.ifindex();
    let result = to_container(skb, own);
    if result.is_ok() && capture::is_on() {
        capture::passes(skb, own, IN);
    }
    let code = finish(result, PASS, skb, own, IN);
    match result {
        // Who has sent it is on another machine.
        Err(Reason::Rejected) => answer(skb, Reason::Rejected, skb.came_by(), Back::Outside),
        _ => code,
    }
}

#[inline(always)]
fn from_container(skb: Skb, own: u32, verdict: &mut i32) -> Result<(), Reason> {
    let work = blank()?;
    if skb.has_tag() {
        return Err(Reason::EtherType);
    }
    let [_, second, third] = skb.words::<3>(0).ok_or(Reason::Malformed)?;
    let ether_type = skb.ether_type().ok_or(Reason::Malformed)?;
    work.mac = mac(second, third);
    if ether_type == ARP {
        arp(skb, own, work.mac)?;
        if capture::is_on() {
            capture::passes(skb, own, OUT);
        }
        return Ok(());
    }
    read(skb, ether_type)?;
    if config().is_service(&work.packet.tuple.dst) {
        balance::translate(work);
    }
    work.set_key();
    let length = u64::from(skb.len());
    // An error is judged by the packet that it tells of.
    if work.packet.is_error() || !flow::passes(work, Hook::From, own, length) {
        if !sends(skb, work, own)? {
            limit::rates(skb, work, SENDER)?;
            open(skb, own, work)?;
            forwarded(work.way.slots[0], OUT, length);
            if capture::is_on() {
                capture::passes(skb, own, OUT);
                capture::passes(skb, work.way.far, IN);
            }
            leave(&work.way, verdict);
            return Ok(());
        }
        flow::admit(Hook::From, length)?;
    }
    limit::rates(skb, work, SENDER | RECEIVER)?;
    open(skb, own, work)?;
    flow::count(&work.way, length);
    go(skb, own, work, verdict)
}

/// A fragment that goes up the stack must have its room there. The last thing that is asked: what is dropped here all the
/// same would be taken for there.
#[inline(always)]
fn open(skb: Skb, own: u32, work: &Work) -> Result<(), Reason> {
    if work.packet.fragment == WHOLE || work.way.far | work.way.back != 0 { Ok(()) } else { pieces::hold(skb, own) }
}

/// Sends a packet on its way, as what that says. Captured as the one sends it, and as the other gets it.
#[inline(always)]
fn go(skb: Skb, own: u32, work: &mut Work, verdict: &mut i32) -> Result<(), Reason> {
    let captures = capture::is_on();
    if captures {
        capture::passes(skb, own, OUT);
    }
    if !work.vip.is_none() {
        rewrite::replace(skb, &work.packet, End::Destination, &work.tuple.dst, work.tuple.dport_be)?;
    } else if !work.way.vip.is_none() {
        rewrite::replace(skb, &work.packet, End::Source, &work.way.vip, work.way.vip_port_be as u16)?;
    }
    if captures {
        capture::passes(skb, work.way.far, IN);
    }
    leave(&work.way, verdict);
    Ok(())
}

/// Hands a packet to an instance of this node: straight into its namespace, past its host device's egress hook, so
/// what that would check and count was checked and counted here.
///
/// The packet stays as it is, for the first write to one that TCP keeps for sending again copies its headers. The
/// Ethernet addresses are those of the way to the node: the receiver asks only whether the frame was for this machine,
/// which is known since it came. The time to live is as on one wire: no way that leads into an instance comes back.
///
/// An answer of a published port goes out by the device the client's packets come from: its source is an address of the
/// node, which the stack would refuse as forged. The kernel finds the next hop. All else is the stack's.
#[inline(always)]
pub(super) fn leave(way: &super::work::Way, verdict: &mut i32) {
    if way.far != 0 {
        // SAFETY: no pointers.
        *verdict = unsafe { bpf_redirect_peer(way.far, 0) } as i32;
    } else if way.back != 0 {
        let none: *mut bpf_redir_neigh = core::ptr::null_mut();
        // SAFETY: no parameters are passed.
        *verdict = unsafe { bpf_redirect_neigh(way.back, none, 0, 0) } as i32;
    }
}

/// A packet that no flow lets pass: may it be sent at all? False: it has no flow, and `way` says where it goes.
#[inline(never)]
fn sends(skb: Skb, work: &mut Work, own: u32) -> Result<bool, Reason> {
    // SAFETY: a row goes only when its device does.
    let endpoint = unsafe { ENDPOINTS.get(&own) }.ok_or(Reason::NotReady)?;
    if !is_own_mac(work.mac, endpoint) {
        return Err(Reason::SpoofedMac);
    }
    (work.way.accounts, work.way.limited) = ([endpoint.account as u16, 0], 0);
    if endpoint.flags & LIMITED != 0 {
        work.way.limited = SENDER;
    }
    let packet = &work.packet;
    check_source(packet, endpoint)?;
    let dst = packet.tuple.dst;
    let config = config();
    if packet.is_neighbour() {
        (work.way.slots, work.way.far, work.way.back) = ([0; 2], 0, 0);
        // The host's entries for instances are permanent: nothing that is said here changes them.
        let near = model::is_group(&dst) || model::is_link_local(&dst) || dst == config.gateways[1];
        return if packet.is_resolution() && near { Ok(false) } else { Err(Reason::Neighbour) };
    }
    if model::is_group(&dst) {
        return Err(Reason::Multicast);
    }
    if model::is_unroutable(&dst) || model::is_cloud(&dst) && !config.is_instance(&dst) && !config.is_service(&dst) {
        return Err(Reason::Unroutable);
    }
    if packet.fragment == LATER {
        return Err(Reason::Fragment);
    }
    // With the node's address it would seem to be the node's.
    if is_between_nodes(packet) {
        return Err(Reason::Stranger);
    }
    if packet.is_error() {
        work.way.slots = [endpoint.slot, 0];
        related::sent(skb, work)?;
        return Ok(false);
    }
    if dst == work.packet.tuple.src {
        return Err(Reason::Hairpin);
    }
    (work.devices, work.back, work.service) = ([own, 0], 0, 0);
    if config.is_service(&dst) {
        to_service(work)?;
    }
    let dst = work.tuple.dst;
    if config.is_instance(&dst) && dst != config.gateways[0] && dst != config.gateways[1] {
        // SAFETY: one aligned word.
        work.devices[1] = unsafe { PEERS.get(&dst) }.ok_or(Reason::NoSuchInstance)?.ifindex;
    }
    Ok(true)
}

/// A packet to a virtual address that did not go through a socket hook.
#[inline(always)]
fn to_service(work: &mut Work) -> Result<(), Reason> {
    let dst = work.packet.tuple.dst;
    // SAFETY: only whether it is there.
    if unsafe { FRONTENDS.get(&FrontendKey::address(dst)) }.is_none() {
        return Err(Reason::NoSuchService);
    }
    if !work.packet.is_balanced() {
        return Err(Reason::NoSuchPort);
    }
    let key = FrontendKey::service(dst, work.packet.tuple.dport_be, work.packet.tuple.protocol);
    balance::resolve(work, &key)
}

/// Only the instance's own addresses; its link-local ones in neighbour discovery only.
#[inline(always)]
fn check_source(packet: &Packet, endpoint: &Endpoint) -> Result<(), Reason> {
    let src = packet.tuple.src;
    let own = if packet.is_v4() { endpoint.v4 } else { endpoint.v6 };
    if src == own && !own.is_none() {
        return Ok(());
    }
    // `::` asks whether an address is taken.
    let quiet = !packet.is_v4() && (model::is_link_local(&src) || src.is_none());
    if quiet && packet.is_neighbour() { Ok(()) } else { Err(Reason::SpoofedAddress) }
}

/// The source of a frame as [`hivemind_ebpf::abi::Flow::macs`] has it, from its second and third word. The target is
/// little-endian.
#[inline(always)]
const fn mac(second: u32, third: u32) -> u64 {
    second as u64 >> 16 | (third as u64) << 16
}

/// Whether the Ethernet address is the instance's own.
#[inline(always)]
fn is_own_mac(mac: u64, endpoint: &Endpoint) -> bool {
    let [a, b, c, d, e, f, ..] = endpoint.frame_to;
    mac == u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// ARP for IPv4 over Ethernet that speaks for nobody else.
#[inline(never)]
fn arp(skb: Skb, own: u32, mac: u64) -> Result<(), Reason> {
    // SAFETY: a row goes only when its device does.
    let endpoint = unsafe { ENDPOINTS.get(&own) }.ok_or(Reason::NotReady)?;
    if !is_own_mac(mac, endpoint) {
        return Err(Reason::SpoofedMac);
    }
    let arp: [u8; ARP_LEN] = skb.load(ETH).ok_or(Reason::Malformed)?;
    let sender = u32::from_ne_bytes([arp[14], arp[15], arp[16], arp[17]]);
    let told = u64::from_ne_bytes([arp[8], arp[9], arp[10], arp[11], arp[12], arp[13], 0, 0]);
    if !is_own_mac(told, endpoint) || sender != endpoint.v4.v4_be() || endpoint.v4.is_none() {
        return Err(Reason::SpoofedAddress);
    }
    Ok(())
}

#[inline(always)]
fn to_container(skb: Skb, own: u32) -> Result<(), Reason> {
    let work = blank()?;
    let ether_type = skb.ether_type().ok_or(Reason::Malformed)?;
    if ether_type == ARP {
        // SAFETY: only whether it is there.
        return if unsafe { ENDPOINTS.get(&own) }.is_some() { Ok(()) } else { Err(Reason::NotReady) };
    }
    read(skb, ether_type)?;
    work.set_key();
    let length = u64::from(skb.len());
    if work.packet.is_error() || !flow::passes(work, Hook::To, own, length) {
        if !gets(skb, work, own)? {
            forwarded(work.way.slots[1], IN, length);
            return Ok(());
        }
        flow::admit(Hook::To, length)?;
    }
    limit::rates(skb, work, RECEIVER)?;
    forwarded(work.way.slots[1], IN, length);
    // The answer of a backend on another node.
    if !work.way.vip.is_none() {
        rewrite::replace(skb, &work.packet, End::Source, &work.way.vip, work.way.vip_port_be as u16)?;
    }
    Ok(())
}

/// A packet that no flow lets pass: may it come in at all? False: it has no flow.
#[inline(never)]
fn gets(skb: Skb, work: &mut Work, own: u32) -> Result<bool, Reason> {
    // SAFETY: a row goes only when its device does.
    let endpoint = unsafe { ENDPOINTS.get(&own) }.ok_or(Reason::NotReady)?;
    let packet = &work.packet;
    let dst = packet.tuple.dst;
    if packet.is_neighbour() {
        work.way.slots[1] = 0;
        return if packet.is_resolution() { Ok(false) } else { Err(Reason::Neighbour) };
    }
    if model::is_group(&dst) {
        return Err(Reason::Multicast);
    }
    if dst != if packet.is_v4() { endpoint.v4 } else { endpoint.v6 } {
        return Err(Reason::NotForInstance);
    }
    if packet.fragment == LATER {
        return Err(Reason::Fragment);
    }
    if packet.is_error() {
        work.way.slots = [0, endpoint.slot];
        related::received(skb, work)?;
        return Ok(false);
    }
    (work.devices, work.back, work.service) = ([0, own], 0, 0);
    Ok(true)
}
