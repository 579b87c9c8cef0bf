//! Published ports: the device that the host's firewall hands accepted connections to, and the uplinks.

use aya_ebpf::{macros::classifier, programs::TcContext};
use hivemind_ebpf::{
    abi::{FORWARD, FrontendKey, IN},
    packet::{Bytes, ETH, WHOLE},
    reason::Reason,
};

use super::{
    PASS,
    balance::{self, Known},
    container::{to_local, to_local_by_device},
    finish,
    maps::config,
    policy::{Judged, UNKNOWN},
    skb::{Skb, packet, read},
};

/// Ingress of an uplink: packets of connections that were accepted go straight to their backend. All others pass.
#[classifier]
fn hm_from_uplink(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let mut verdict = PASS;
    let result = from_uplink(skb, &mut verdict);
    finish(result, verdict, skb, 0, IN)
}

/// Egress of the device to which a rule copies what the firewall's input chains have accepted.
#[classifier]
fn hm_pub_select(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let mut verdict = PASS;
    let result = pub_select(skb, &mut verdict);
    finish(result, verdict, skb, 0, IN)
}

#[inline(always)]
fn ether_type(skb: Skb) -> Option<u16> {
    let field: [u8; 2] = skb.load(ETH - 2)?;
    Some(u16::from_be_bytes(field))
}

#[inline(always)]
fn from_uplink(skb: Skb, verdict: &mut i32) -> Result<(), Reason> {
    // What cannot be read is not ours to judge.
    if ether_type(skb).is_none_or(|t| read(skb, t).is_err()) {
        return Ok(());
    }
    let packet = packet().ok_or(Reason::Malformed)?;
    // Before the stack sees it, which would believe it where the host does not filter by reverse path.
    if config().is_inside(&packet.tuple.src) {
        return Err(Reason::SpoofedAddress);
    }
    if !packet.has_ports() || packet.fragment != WHOLE || !balance::is_forward(&packet.tuple) {
        return Ok(());
    }
    let mut known = Known::NOTHING;
    balance::follow(packet, &mut known)?;
    if known.ifindex == 0 {
        return Ok(());
    }
    known.apply(skb, packet)?;
    to_local(skb, packet, known.ifindex, &known, &Judged::of(packet, UNKNOWN), verdict)
}

#[inline(always)]
fn pub_select(skb: Skb, verdict: &mut i32) -> Result<(), Reason> {
    read(skb, ether_type(skb).ok_or(Reason::Malformed)?)?;
    let packet = packet().ok_or(Reason::Malformed)?;
    if !packet.has_ports() {
        return Err(Reason::NoSuchPort);
    }
    if packet.fragment != WHOLE {
        return Err(Reason::Fragment);
    }
    let mut known = Known::NOTHING;
    balance::follow(packet, &mut known)?;
    if known.kind == 0 {
        let key = FrontendKey::published(packet.is_v4(), packet.tuple.dport_be, packet.tuple.protocol);
        balance::begin(packet, &key, skb.came_by(), &mut known)?;
    }
    // A backend on another node is reached there: its node publishes the port as well.
    if known.kind != FORWARD || known.ifindex == 0 {
        return Err(Reason::PeerNotReady);
    }
    known.apply(skb, packet)?;
    to_local_by_device(skb, known.ifindex, verdict)
}
