//! Published ports: the device that the host's firewall hands accepted connections to, and the uplinks.

use aya_ebpf::{macros::classifier, programs::TcContext};
use hivemind_ebpf::{
    abi::{FORWARD, FrontendKey, IN},
    packet::{self, Bytes, ETH, WHOLE},
    reason::Reason,
};

use super::{
    Verdict,
    balance::{self, Known},
    container::{to_local, to_local_by_device},
    finish,
    skb::Skb,
};

/// Ingress of an uplink: packets of connections that were accepted go straight to their backend. All others pass.
#[classifier]
fn hm_from_uplink(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let verdict = from_uplink(skb).unwrap_or_else(Verdict::Drop);
    finish(verdict, skb, 0, IN)
}

/// Egress of the device to which a rule copies what the firewall's input chains have accepted.
#[classifier]
fn hm_pub_select(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let verdict = pub_select(skb).unwrap_or_else(Verdict::Drop);
    finish(verdict, skb, 0, IN)
}

#[inline(always)]
fn ether_type(skb: Skb) -> Option<u16> {
    let field: [u8; 2] = skb.load(ETH - 2)?;
    Some(u16::from_be_bytes(field))
}

#[inline(always)]
fn from_uplink(skb: Skb) -> Result<Verdict, Reason> {
    // What cannot be read is not ours to judge.
    let Some(Ok(mut packet)) = ether_type(skb).map(|t| packet::parse(&skb, t)) else { return Ok(Verdict::Pass) };
    if packet.fragment != WHOLE || !balance::is_forward(&packet.tuple) {
        return Ok(Verdict::Pass);
    }
    let mut known = Known::NOTHING;
    balance::follow(skb, &mut packet, &mut known)?;
    if known.ifindex == 0 {
        return Ok(Verdict::Pass);
    }
    to_local(skb, &packet, known.ifindex, known.service)
}

#[inline(always)]
fn pub_select(skb: Skb) -> Result<Verdict, Reason> {
    let mut packet = packet::parse(&skb, ether_type(skb).ok_or(Reason::Malformed)?)?;
    if !packet.has_ports() {
        return Err(Reason::NoSuchPort);
    }
    if packet.fragment != WHOLE {
        return Err(Reason::Fragment);
    }
    let mut known = Known::NOTHING;
    balance::follow(skb, &mut packet, &mut known)?;
    if known.kind == 0 {
        let key = FrontendKey::published(packet.is_v4(), packet.tuple.dport_be, packet.tuple.protocol);
        balance::begin(skb, &mut packet, &key, skb.came_by(), &mut known)?;
    }
    // A backend on another node is reached there: its node publishes the port as well.
    if known.kind != FORWARD || known.ifindex == 0 {
        return Err(Reason::PeerNotReady);
    }
    to_local_by_device(skb, known.ifindex)
}
