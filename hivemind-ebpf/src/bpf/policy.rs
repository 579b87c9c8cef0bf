//! Policies: may a packet leave the instance that sends it, may it enter the one it is for.

use hivemind_ebpf::{
    abi::{Addr, Endpoint, IN, OUT, Tuple, Who},
    packet::ICMP,
    policy::{
        ANYBODY, AUDIT_IN, AUDIT_OUT, BLOCKS as HAS_BLOCKS, HOST, ISOLATED_IN, ISOLATED_OUT, WORLD, asks, keys,
        port_index, protocol, reversed,
    },
    reason::Reason,
};

use super::{
    maps::{BLOCKS, ENDPOINTS, NODE_ADDRS, PEERS, PORTS, RULES, config, count, hit},
    work::Work,
};

/// A packet's addresses and ports as policies know them: those of the instances, not those of a service.
#[repr(C)]
pub(super) struct Judged {
    pub(super) tuple: Tuple,
    /// ICMP's type.
    detail: u32,
}

/// May the packet go its way? `answers`: what is judged is the flow that it answers, which goes the other way.
#[inline(never)]
pub(super) fn judge(work: &mut Work, answers: bool) -> Result<(), Reason> {
    let [mut from, mut to] = work.devices;
    if answers {
        (from, to) = (to, from);
        work.judged.tuple = reversed(&work.tuple);
        work.judged.detail = asks(work.tuple.protocol, work.packet.detail).into();
    } else {
        work.judged.tuple = work.tuple;
        work.judged.detail = work.packet.detail.into();
    }
    work.rule = 0;
    work.restricted = 0;
    if from != 0 {
        one(work, OUT, from)?;
    }
    if to != 0 {
        one(work, IN, to)?;
    }
    Ok(())
}

/// May it leave or enter (`way`) the instance behind this device?
#[inline(never)]
fn one(work: &mut Work, way: u8, device: u32) -> Result<(), Reason> {
    let missing = if way == IN { Reason::PeerNotReady } else { Reason::NotReady };
    // SAFETY: a row goes only when its device does.
    let endpoint = unsafe { ENDPOINTS.get(&device) }.ok_or(missing)?;
    let ruled = endpoint.flags & (ISOLATED_IN | ISOLATED_OUT) != 0;
    let tuple = &work.judged.tuple;
    let other = if way == IN { &tuple.src } else { &tuple.dst };
    if !ruled && !config().is_instance(other) {
        return Ok(());
    }
    let peer = who(other);
    let foreign = peer.tenant != 0 && peer.tenant != endpoint.who.tenant;
    if !ruled && !foreign || peer.class == HOST {
        return Ok(());
    }
    work.restricted = 1;
    let question = Question { judged: &work.judged, peer, way, foreign };
    let (isolated, audit, denied) = match way {
        IN => (endpoint.flags & ISOLATED_IN != 0, endpoint.flags & AUDIT_IN != 0, Reason::PolicyIn),
        _ => (endpoint.flags & ISOLATED_OUT != 0, endpoint.flags & AUDIT_OUT != 0, Reason::PolicyOut),
    };
    if isolated {
        let rule = find(&question, endpoint);
        // The border between tenants is opened by a rule that is enforced.
        if foreign && way == IN && (rule == 0 || audit) {
            return Err(Reason::OtherTenant);
        }
        match rule {
            0 if audit => count(device, 0, way, Reason::Audit as u8, 0),
            0 => return Err(denied),
            rule => {
                work.rule = rule;
                hit(rule);
            }
        }
    } else if foreign && way == IN {
        return Err(Reason::OtherTenant);
    }
    Ok(())
}

/// May `peer` have this packet, or may it come from `peer`?
struct Question<'a> {
    judged: &'a Judged,
    peer: Who,
    /// [`IN`] or [`OUT`].
    way: u8,
    /// The peer is an instance of another tenant.
    foreign: bool,
}

/// The rule that allows it; 0: none does.
#[inline(never)]
fn find(question: &Question<'_>, endpoint: &Endpoint) -> u32 {
    let Question { judged, ref peer, way, .. } = *question;
    let protocol = protocol(judged.tuple.protocol);
    let port = if protocol == ICMP { judged.detail as u16 } else { u16::from_be(judged.tuple.dport_be) };
    let mut interval = 0;
    if let Some(index) = port_index(protocol, port)
        && let Some(number) = PORTS.get(index)
    {
        interval = *number;
    }
    let rule = among(endpoint.set, way, peer.class, protocol, interval);
    // "Everybody" and blocks do not mean other tenants: those must be named.
    if rule != 0 || question.foreign && way == IN {
        return rule;
    }
    if endpoint.flags & HAS_BLOCKS != 0 {
        let other = if way == IN { &judged.tuple.src } else { &judged.tuple.dst };
        let block = block(other);
        if block != 0 {
            let rule = among(endpoint.set, way, block, protocol, interval);
            if rule != 0 {
                return rule;
            }
        }
    }
    among(endpoint.set, way, ANYBODY, protocol, interval)
}

#[inline(never)]
fn among(set: u32, way: u8, peer: u32, protocol: u8, interval: u32) -> u32 {
    for key in &keys(set, way, peer, protocol, interval) {
        // SAFETY: one aligned word.
        if let Some(rule) = unsafe { RULES.get(key) } {
            return *rule;
        }
    }
    0
}

/// The block class of an address; 0: it is in no block.
#[inline(never)]
fn block(addr: &Addr) -> u32 {
    let key = aya_ebpf::maps::lpm_trie::Key::new(128, addr.words_be);
    BLOCKS.get(&key).copied().unwrap_or(0)
}

/// What the owner of an address is.
#[inline(never)]
fn who(addr: &Addr) -> Who {
    // SAFETY: copied at once.
    if let Some(peer) = unsafe { PEERS.get(addr) } {
        return peer.who;
    }
    let config = config();
    let own = *addr == config.gateways[0] || *addr == config.gateways[1];
    // SAFETY: only whether it is there.
    let host = own || unsafe { NODE_ADDRS.get(addr) }.is_some();
    Who { class: if host { HOST } else { WORLD }, tenant: 0 }
}
