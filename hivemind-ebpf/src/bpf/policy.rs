//! Policies: may a packet leave the instance that sends it, may it enter the one it is for.

use hivemind_ebpf::{
    abi::{Addr, Endpoint, IN, OUT, Tuple, Who},
    packet::ICMP,
    policy::{
        ADMIN, ANYBODY, AUDIT_IN, AUDIT_OUT, BASELINE, BLOCKS as HAS_BLOCKS, DENIES, HOST, ISOLATED_IN, ISOLATED_OUT,
        LAST_RULE, OTHERS, OWN, PASSES, PORTS_PER_ROW, REJECT_IN, REJECT_OUT, REJECTS, RULED_IN, RULED_OUT,
        TENANT_ADMIN, TENANT_BASELINE, WORLD, asks, keys, port_index, protocol, reversed,
    },
    reason::Reason,
};

use super::{
    host,
    maps::{BLOCKS, ENDPOINTS, NODE_ADDRS, PEERS, PORTS, RULES, config, count, hit},
    verdicts,
    work::{TRIED_IN, TRIED_OUT, Work, work},
};

/// A packet's addresses and ports as policies know them: those of the instances, not those of a service.
#[repr(C)]
pub(super) struct Judged {
    pub(super) tuple: Tuple,
    /// ICMP's type.
    pub(super) detail: u32,
}

/// May the packet go its way? `answers`: what is judged is the flow that it answers, which goes the other way.
#[inline(always)]
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
    work.tried = 0;
    if !verdicts::is_kept(work, from, to) {
        (work.rule, work.restricted, work.hits) = (0, 0, [0; 2]);
        if from != 0 {
            one(work, OUT, from)?;
        }
        if to != 0 {
            one(work, IN, to)?;
        }
        if work.tried == 0 {
            verdicts::keep(work);
        }
    }
    host::judge(work, answers, from, to)
}

/// May it leave or enter (`way`) the instance behind this device?
#[inline(never)]
fn one(work: &mut Work, way: u8, device: u32) -> Result<(), Reason> {
    let missing = if way == IN { Reason::PeerNotReady } else { Reason::NotReady };
    // SAFETY: a row goes only when its device does.
    let endpoint = unsafe { ENDPOINTS.get(&device) }.ok_or(missing)?;
    let ruled = endpoint.flags & (RULED_IN | RULED_OUT) != 0;
    let tuple = &work.judged.tuple;
    let other = if way == IN { &tuple.src } else { &tuple.dst };
    let instance = config().is_instance(other);
    if !ruled && !instance {
        return Ok(());
    }
    let peer = who(other);
    if instance && peer.class == WORLD {
        // No instance has it: nobody can be there, and no rule means it.
        return Err(Reason::SpoofedAddress);
    }
    let foreign = peer.tenant != 0 && peer.tenant != endpoint.who.tenant;
    if !ruled && !foreign || peer.class == HOST {
        return Ok(());
    }
    work.restricted = 1;
    let flags = endpoint.flags;
    let (ruled, isolated, audit, reject, denied) = match way {
        IN => (flags & RULED_IN, flags & ISOLATED_IN, flags & AUDIT_IN, flags & REJECT_IN, Reason::PolicyIn),
        _ => (flags & RULED_OUT, flags & ISOLATED_OUT, flags & AUDIT_OUT, flags & REJECT_OUT, Reason::PolicyOut),
    };
    let rule = if ruled != 0 { find(work, endpoint, way, peer.class, foreign) } else { 0 };
    work.rule = rule & LAST_RULE;
    match rule {
        // The border between tenants is opened by a rule that is enforced.
        0 if foreign && way == IN => return Err(Reason::OtherTenant),
        0 if audit != 0 => {
            work.tried |= if way == IN { TRIED_IN } else { TRIED_OUT };
            count(device, 0, way, Reason::Audit as u8, 0);
        }
        0 if isolated != 0 && reject != 0 => return Err(Reason::Rejected),
        0 if isolated != 0 => return Err(denied),
        0 => {}
        rule if rule & REJECTS != 0 => return Err(Reason::Rejected),
        rule if rule & DENIES != 0 => return Err(denied),
        rule => {
            work.hits[way as usize & 1] = rule;
            hit(rule);
        }
    }
    Ok(())
}

/// What rules are looked up by.
#[repr(C)]
pub(super) struct Asked {
    way: u32,
    protocol: u32,
    interval: u32,
    /// The peer's class.
    class: u32,
    /// The block class of its address; if it has none, again its class.
    block: u32,
    /// Who it is one of.
    wide: u32,
}

/// The rule that decides, with [`DENIES`] if it denies; 0: nobody decides. `class` is the peer's; `foreign`: it is an
/// instance of another tenant.
#[inline(never)]
fn find(work: &mut Work, endpoint: &Endpoint, way: u8, class: u32, foreign: bool) -> u32 {
    // "Everybody" and blocks do not mean other tenants: those must be named.
    let foreign = foreign && way == IN;
    ask(work, way, class, foreign, endpoint.flags);
    // Each has its say: who passes leaves it to the next.
    let mut admin = hm_first_rule(endpoint.sets[ADMIN]);
    if admin == 0 || admin & PASSES != 0 {
        admin = hm_first_rule(endpoint.sets[TENANT_ADMIN]);
    }
    if admin != 0 && admin & PASSES == 0 {
        return admin;
    }
    let (isolated, audit) = match way {
        IN => (endpoint.flags & ISOLATED_IN != 0, endpoint.flags & AUDIT_IN != 0),
        _ => (endpoint.flags & ISOLATED_OUT != 0, endpoint.flags & AUDIT_OUT != 0),
    };
    // A policy on trial opens no border, and keeps no other tier from deciding.
    let own = if isolated && !(audit && foreign) { hm_first_rule(endpoint.sets[OWN]) } else { 0 };
    if isolated && !audit {
        return own;
    }
    let mut base = hm_first_rule(endpoint.sets[TENANT_BASELINE]);
    if base == 0 || base & PASSES != 0 {
        base = hm_first_rule(endpoint.sets[BASELINE]);
    }
    if audit && !foreign && base & DENIES == 0 {
        // What it would have said is counted.
        return own;
    }
    if base & PASSES != 0 { 0 } else { base }
}

/// Makes `work.asked` of `work.judged`. `foreign`: "everybody" and blocks do not mean the peer. `flags` are those of the
/// endpoint that is asked about.
#[inline(never)]
pub(super) fn ask(work: &mut Work, way: u8, class: u32, foreign: bool, flags: u32) {
    let judged = &work.judged;
    let protocol = protocol(judged.tuple.protocol);
    let port = if protocol == ICMP { judged.detail as u16 } else { u16::from_be(judged.tuple.dport_be) };
    work.asked.interval = 0;
    if let Some(index) = port_index(protocol, port)
        && let Some(row) = PORTS.get(index / PORTS_PER_ROW)
    {
        work.asked.interval = row[(index % PORTS_PER_ROW) as usize];
    }
    let asked = &mut work.asked;
    (asked.way, asked.protocol, asked.class, asked.block) = (way.into(), protocol.into(), class, class);
    asked.wide = if foreign { OTHERS } else { ANYBODY };
    if flags & HAS_BLOCKS != 0 && !foreign {
        let block = block(if way == IN { &judged.tuple.src } else { &judged.tuple.dst });
        if block != 0 {
            asked.block = block;
        }
    }
}

/// Of the rules of a set that match what is asked, the one that comes first; 0: none does.
///
/// It has a name of its own and takes nothing but a number, so that the verifier looks at it once and not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn hm_first_rule(set: u32) -> u32 {
    if set == 0 {
        return 0;
    }
    let Ok(work) = work() else { return 0 };
    let mut first = NOTHING;
    for n in 0..3 {
        let Asked { way, protocol, interval, class, block, wide } = work.asked;
        let peer = match n {
            0 => class,
            1 => wide,
            _ if block == class => break,
            _ => block,
        };
        for key in keys(set, way as u8, peer, protocol as u8, interval) {
            work.rule_key = key;
            // SAFETY: copied at once.
            if let Some(rule) = unsafe { RULES.get(&work.rule_key) } {
                first = first.min(u64::from(rule.order) << 32 | u64::from(rule.number));
            }
        }
    }
    if first == NOTHING { 0 } else { first as u32 }
}

/// No rule: behind all others.
const NOTHING: u64 = u64::MAX;

/// The block class of an address; 0: it is in no block.
#[inline(never)]
fn block(addr: &Addr) -> u32 {
    let key = aya_ebpf::maps::lpm_trie::Key::new(128, addr.words_be);
    BLOCKS.get(&key).copied().unwrap_or(0)
}

/// What the owner of an address is.
#[inline(never)]
pub(super) fn who(addr: &Addr) -> Who {
    // SAFETY: copied at once.
    if let Some(peer) = unsafe { PEERS.get(addr) } {
        return peer.who;
    }
    Who { class: if is_node(addr) { HOST } else { WORLD }, tenant: 0 }
}

/// Whether it is an address of the node itself.
#[inline(always)]
pub(super) fn is_node(addr: &Addr) -> bool {
    let config = config();
    // SAFETY: only whether it is there.
    *addr == config.gateways[0] || *addr == config.gateways[1] || unsafe { NODE_ADDRS.get(addr) }.is_some()
}
