//! Published ports: the device that the host's firewall hands accepted connections to, and the uplinks.

use aya_ebpf::{helpers::generated::bpf_redirect, macros::classifier, programs::TcContext};
use hivemind_ebpf::{
    abi::{FrontendKey, IN},
    packet::WHOLE,
    policy::RULED_IN,
    reason::Reason,
};

use super::{
    PASS, balance, capture,
    container::leave,
    finish,
    flow::{self, Hook},
    host,
    limit::{self, RECEIVER},
    maps::{ENDPOINTS, PEERS, config, forwarded, has_nodes},
    policy::is_node,
    refuse::{Back, answer},
    related,
    rewrite::{self, End},
    skb::Skb,
    tunnel,
    work::{Work, blank, read, work},
};

/// Ingress of an uplink: packets of connections that were accepted go straight to their backend. All others pass, but
/// for what policies of the host say.
#[classifier]
fn hm_from_uplink(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let mut verdict = PASS;
    let result = from_uplink(skb, &mut verdict);
    let code = finish(result, verdict, skb, 0, IN);
    match result {
        Ok(()) => code,
        Err(reason) => answer(skb, reason, skb.ifindex(), Back::Outside),
    }
}

/// Egress of the device to which a rule copies what the firewall's input chains have accepted.
#[classifier]
fn hm_pub_select(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let mut verdict = PASS;
    let result = pub_select(skb, &mut verdict);
    let code = finish(result, verdict, skb, 0, IN);
    match result {
        Ok(()) => code,
        Err(reason) => answer(skb, reason, skb.came_by(), Back::Outside),
    }
}

#[inline(always)]
fn from_uplink(skb: Skb, verdict: &mut i32) -> Result<(), Reason> {
    let Some(ether_type) = skb.ether_type() else { return Ok(()) };
    let read = read(skb, ether_type);
    let work = work()?;
    // Before the stack sees it, which would believe it where the host does not filter by reverse path.
    if config().is_inside(&work.packet.tuple.src) {
        return Err(Reason::SpoofedAddress);
    }
    if let Err(reason) = read {
        return host::unread(reason, ether_type, RULED_IN);
    }
    let others = has_nodes();
    let tunnelled = others && tunnel::comes_out(skb, work)?;
    let length = u64::from(skb.len());
    if work.packet.is_error() {
        if related::published(skb, work)? {
            if capture::is_on() {
                capture::passes(skb, work.way.far, IN);
            }
            leave(&work.way, verdict);
        } else if tunnelled {
            return Err(Reason::Unrelated);
        } else if others {
            tunnel::follows(skb, work, true, verdict)?;
        }
        return Ok(());
    }
    let balanced = work.packet.is_balanced();
    // Fragments may come in any order. The stack puts them together, whose copies do not.
    let known = balanced && (tunnelled || work.packet.fragment == WHOLE) && balance::translate(work);
    if tunnelled && !balanced {
        return Err(Reason::Fragment);
    }
    if !known && !tunnelled {
        if others && balanced && tunnel::follows(skb, work, false, verdict)? {
            return Ok(());
        }
        return host::enters(skb, work, length);
    }
    work.set_key();
    if !known || !flow::passes(work, Hook::From, 0, length) {
        // The stack and the firewall see a connection that is over, or whose end is new. For what came by a tunnel those
        // of the other node have.
        if !continues(work, length, if tunnelled { skb.ifindex() } else { 0 })? {
            return Ok(());
        }
    }
    if work.way.far == 0 {
        // What came by a tunnel is not sent on a second time.
        return if tunnelled { Err(Reason::NoLocalBackend) } else { Ok(()) };
    }
    limit::rates(skb, work, RECEIVER)?;
    forwarded(work.way.slots[1], IN, length);
    rewrite::replace(skb, &work.packet, End::Destination, &work.tuple.dst, work.tuple.dport_be)?;
    if capture::is_on() {
        capture::passes(skb, work.way.far, IN);
    }
    leave(&work.way, verdict);
    Ok(())
}

/// Decides anew about a connection that was accepted. False: it is none, or a new one. One that another node has accepted
/// may be new; it is answered by the device that is named then.
#[inline(always)]
fn continues(work: &mut Work, length: u64, accepted: u32) -> Result<bool, Reason> {
    (work.devices, work.back, work.service) = ([0, 0], accepted, 0);
    if accepted == 0 {
        flow::recall(work, false)?;
        if work.known == 0 || work.packet.opens() {
            return Ok(false);
        }
        work.back = work.fresh.back;
    }
    balance::resolve(work, &published(work))?;
    flow::admit(Hook::From, length)?;
    Ok(true)
}

#[inline(always)]
fn published(work: &Work) -> FrontendKey {
    FrontendKey::published(work.packet.is_v4(), work.packet.tuple.dport_be, work.packet.tuple.protocol)
}

#[inline(always)]
fn pub_select(skb: Skb, verdict: &mut i32) -> Result<(), Reason> {
    let work = blank()?;
    read(skb, skb.ether_type().ok_or(Reason::Malformed)?)?;
    if !work.packet.is_balanced() {
        return Err(Reason::NoSuchPort);
    }
    // The stack believes it of IPv6, and policies would take it for the host.
    let src = &work.packet.tuple.src;
    if is_node(src) || src.is_none() {
        return Err(Reason::SpoofedAddress);
    }
    balance::translate(work);
    // SAFETY: one aligned word.
    let from = unsafe { PEERS.get(&work.packet.tuple.src) }.map_or(0, |peer| peer.ifindex);
    (work.devices, work.back, work.service) = ([from, 0], skb.came_by(), 0);
    balance::resolve(work, &published(work))?;
    if work.devices[1] == 0 {
        return tunnel::begins(skb, work, verdict);
    }
    tunnel::is_here(work);
    // Counted when it goes into the instance.
    flow::admit(Hook::From, 0)?;
    rewrite::replace(skb, &work.packet, End::Destination, &work.tuple.dst, work.tuple.dport_be)?;
    // The shorter way is not allowed from an egress hook: the instance's host device sends it.
    // SAFETY: copied.
    let to = unsafe { ENDPOINTS.get(&work.devices[1]) }.ok_or(Reason::PeerNotReady)?.frame_to;
    skb.store(0, &to, 0)?;
    // SAFETY: no pointers.
    *verdict = unsafe { bpf_redirect(work.devices[1], 0) } as i32;
    Ok(())
}
