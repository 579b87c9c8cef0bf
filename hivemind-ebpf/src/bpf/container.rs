//! An instance's host device: what the instance sends, and what goes into it.

use aya_ebpf::{
    bindings::bpf_redir_neigh,
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};
use hivemind_ebpf::{
    abi::{Endpoint, FORWARD, FrontendKey, IN, OUT, REVERSE},
    packet::{self as model, ARP, Bytes, ETH, Packet},
    reason::Reason,
};

use super::{
    PASS,
    balance::{self, Known, served},
    finish,
    maps::{ENDPOINTS, FRONTENDS, PEERS, config, count},
    policy::{self, Judged, UNKNOWN},
    skb::{Skb, packet, read},
};

/// Bytes of an ARP message for IPv4 over Ethernet.
const ARP_LEN: usize = 28;

/// Ingress of the host device: the instance sends.
#[classifier]
fn hm_from_cont(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let own = skb.ifindex();
    let mut verdict = PASS;
    let result = from_container(skb, own, &mut verdict);
    finish(result, verdict, skb, own, OUT)
}

/// Egress of the host device: the host's stack, or a redirect, sends to the instance.
#[classifier]
fn hm_to_cont(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let own = skb.ifindex();
    finish(to_container(skb, own), PASS, skb, own, IN)
}

#[inline(always)]
fn from_container(skb: Skb, own: u32, verdict: &mut i32) -> Result<(), Reason> {
    // SAFETY: a row goes only when its device does.
    let endpoint = unsafe { ENDPOINTS.get(&own) }.ok_or(Reason::NotReady)?;
    if skb.has_tag() {
        return Err(Reason::EtherType);
    }
    let eth: [u8; ETH as usize] = skb.load(0).ok_or(Reason::Malformed)?;
    if !same_mac(&eth, 6, &endpoint.frame_to) {
        return Err(Reason::SpoofedMac);
    }
    let ether_type = u16::from_be_bytes([eth[12], eth[13]]);
    if ether_type == ARP {
        return arp(skb, endpoint);
    }
    read(skb, ether_type)?;
    let packet = packet().ok_or(Reason::Malformed)?;
    check_source(packet, endpoint)?;
    let length = u64::from(skb.len());
    if packet.is_neighbour() {
        // The host's entries for instances are permanent: nothing that is said here changes them.
        let near = model::is_group(&packet.tuple.dst)
            || model::is_link_local(&packet.tuple.dst)
            || packet.tuple.dst == config().gateways[1];
        return if packet.is_resolution() && near { Ok(()) } else { Err(Reason::Neighbour) };
    }
    if model::is_group(&packet.tuple.dst) {
        return Err(Reason::Multicast);
    }
    if model::is_unroutable(&packet.tuple.dst) {
        return Err(Reason::Unroutable);
    }

    let config = config();
    let mut known = Known::NOTHING;
    if packet.has_ports() {
        balance::follow(packet, &mut known)?;
    }
    if known.kind == 0 {
        let dst = &packet.tuple.dst;
        if config.services[0].contains(dst) || config.services[1].contains(dst) {
            to_service(packet, own, &mut known)?;
        }
    }
    // Policies know instances by their own addresses: before an answer gets the service's, after a question loses it.
    let rewritten = known.kind != 0;
    let mut judged = Judged::of(packet, endpoint.who);
    if rewritten {
        known.apply(skb, packet)?;
    }
    if known.kind == FORWARD {
        judged.tuple = packet.tuple;
    }
    let returns_by = if known.kind == REVERSE { known.ifindex } else { 0 };
    // A service's packets are counted for it on its backend's side only: once.
    let mut service = if known.kind == REVERSE { known.service } else { 0 };
    if !rewritten && packet.has_ports() {
        service = served(own, packet.tuple.sport_be, packet.tuple.protocol);
    }
    let dst = packet.tuple.dst;
    let within = config.instances[0].contains(&dst) || config.instances[1].contains(&dst);
    let mut local = 0;
    let mut to = UNKNOWN;
    if within && dst != config.gateways[0] && dst != config.gateways[1] {
        // SAFETY: copied at once.
        let peer = unsafe { PEERS.get(&dst) }.ok_or(Reason::NoSuchInstance)?;
        (local, to) = (peer.ifindex, peer.who);
    }
    policy::leave(&judged, own, endpoint, to)?;
    if local != 0 {
        to_local(skb, packet, local, &known, &judged, verdict)?;
    } else if returns_by != 0 && to.class == 0 {
        // The source is an address of the node: the stack would refuse it as forged. Out by the device the client's
        // packets come from; the kernel finds the next hop.
        let none: *mut bpf_redir_neigh = core::ptr::null_mut();
        // SAFETY: no parameters are passed.
        *verdict = unsafe { bpf_redirect_neigh(returns_by, none, 0, 0) } as i32;
    }
    count(own, service, OUT, 0, length);
    Ok(())
}

/// Hands a packet to an instance of this node: straight into its namespace, past its host device's egress hook, so
/// what that would check and count is checked and counted here.
///
/// The packet stays as it is, for the first write to one that TCP keeps for sending again copies its headers. The
/// Ethernet addresses are those of the way to the node: the receiver asks only whether the frame was for this machine,
/// which is known since it came. The time to live is as on one wire: no way that leads into an instance comes back.
#[inline(always)]
pub(super) fn to_local(
    skb: Skb,
    packet: &Packet,
    ifindex: u32,
    known: &Known,
    judged: &Judged,
    verdict: &mut i32,
) -> Result<(), Reason> {
    // SAFETY: a row goes only when its device does.
    let endpoint = unsafe { ENDPOINTS.get(&ifindex) }.ok_or(Reason::PeerNotReady)?;
    policy::enter(judged, ifindex, endpoint)?;
    let length = u64::from(skb.len());
    let service = match known.kind {
        FORWARD => known.service,
        REVERSE => 0,
        _ if packet.has_ports() => served(ifindex, packet.tuple.dport_be, packet.tuple.protocol),
        _ => 0,
    };
    count(ifindex, service, IN, 0, length);
    // SAFETY: no pointers.
    *verdict = unsafe { bpf_redirect_peer(ifindex, 0) } as i32;
    Ok(())
}

/// The same from an egress hook, where the shorter way is not allowed: the instance's host device sends it, and its
/// own egress hook checks and counts.
#[inline(always)]
pub(super) fn to_local_by_device(skb: Skb, ifindex: u32, verdict: &mut i32) -> Result<(), Reason> {
    // SAFETY: copied.
    let to = unsafe { ENDPOINTS.get(&ifindex) }.ok_or(Reason::PeerNotReady)?.frame_to;
    skb.store(0, &to, 0)?;
    // SAFETY: no pointers.
    *verdict = unsafe { bpf_redirect(ifindex, 0) } as i32;
    Ok(())
}

/// A packet to a virtual address that did not go through a socket hook.
#[inline(always)]
fn to_service(packet: &Packet, own: u32, known: &mut Known) -> Result<(), Reason> {
    if packet.fragment != model::WHOLE {
        return Err(Reason::Fragment);
    }
    let dst = packet.tuple.dst;
    // SAFETY: only whether it is there.
    if unsafe { FRONTENDS.get(&FrontendKey::address(dst)) }.is_none() {
        return Err(Reason::NoSuchService);
    }
    if !packet.has_ports() {
        return Err(Reason::NoSuchPort);
    }
    let key = FrontendKey::service(dst, packet.tuple.dport_be, packet.tuple.protocol);
    balance::begin(packet, &key, own, known)
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

/// Whether the Ethernet address at `at` is the instance's own. Spelled out: a comparison of slices is a loop.
#[inline(always)]
fn same_mac(bytes: &[u8], at: usize, frame_to: &[u8; 12]) -> bool {
    let mut differs = 0;
    for i in 0..6 {
        differs |= bytes[at + i] ^ frame_to[i];
    }
    differs == 0
}

/// ARP for IPv4 over Ethernet that speaks for nobody else.
#[inline(always)]
fn arp(skb: Skb, endpoint: &Endpoint) -> Result<(), Reason> {
    let arp: [u8; ARP_LEN] = skb.load(ETH).ok_or(Reason::Malformed)?;
    let sender = u32::from_ne_bytes([arp[14], arp[15], arp[16], arp[17]]);
    if !same_mac(&arp, 8, &endpoint.frame_to) || sender != endpoint.v4.v4_be() || endpoint.v4.is_none() {
        return Err(Reason::SpoofedAddress);
    }
    Ok(())
}

#[inline(always)]
fn to_container(skb: Skb, own: u32) -> Result<(), Reason> {
    // SAFETY: a row goes only when its device does.
    let endpoint = unsafe { ENDPOINTS.get(&own) }.ok_or(Reason::NotReady)?;
    let eth: [u8; ETH as usize] = skb.load(0).ok_or(Reason::Malformed)?;
    let ether_type = u16::from_be_bytes([eth[12], eth[13]]);
    if ether_type == ARP {
        return Ok(());
    }
    read(skb, ether_type)?;
    let packet = packet().ok_or(Reason::Malformed)?;
    let dst = packet.tuple.dst;
    if packet.is_neighbour() {
        return if packet.is_resolution() { Ok(()) } else { Err(Reason::Neighbour) };
    }
    if model::is_group(&dst) {
        return Err(Reason::Multicast);
    }
    if dst != if packet.is_v4() { endpoint.v4 } else { endpoint.v6 } {
        return Err(Reason::NotForInstance);
    }
    policy::enter(&Judged::of(packet, UNKNOWN), own, endpoint)?;
    let length = u64::from(skb.len());
    let mut service = 0;
    if packet.has_ports() {
        service = served(own, packet.tuple.dport_be, packet.tuple.protocol);
        // Answers of a backend on another node come by the stack. What goes to a backend was rewritten before and is
        // not in the table under these addresses.
        if service == 0 {
            let mut known = Known::NOTHING;
            balance::follow(packet, &mut known)?;
            if known.kind == REVERSE {
                known.apply(skb, packet)?;
            }
        }
    }
    count(own, service, IN, 0, length);
    Ok(())
}
