//! Policies: may a packet leave the instance that sends it, may it enter the one it is for.

use hivemind_ebpf::{
    abi::{Addr, Endpoint, IN, OUT, Tuple, Who},
    packet::{FIRST, ICMP, LATER, Packet, TCP},
    policy::{
        ADMIN, ANYBODY, AUDIT_IN, AUDIT_OUT, BASELINE, BLOCKS as HAS_BLOCKS, DENIES, HOST, ISOLATED_IN, ISOLATED_OUT,
        OTHERS, OWN, PASSES, RULED_IN, RULED_OUT, WORLD, is_error, is_fresh, keys, of_fragments, port_index, protocol,
        reversed,
    },
    reason::Reason,
};

use super::maps::{BLOCKS, NODE_ADDRS, NOTES, PEERS, PORTS, RULES, config, count, hit, now};

/// A packet's addresses and ports as policies know them: those of the instances, not those of a service.
#[derive(Clone, Copy)]
pub(super) struct Judged {
    pub(super) tuple: Tuple,
    pub(super) detail: u8,
    pub(super) fragment: u8,
    /// What the sender is, if that is known already; class 0: not yet.
    pub(super) from: Who,
}

/// Nobody in particular: to be looked up.
pub(super) const UNKNOWN: Who = Who { class: 0, tenant: 0 };

impl Judged {
    #[inline(always)]
    pub(super) fn of(packet: &Packet, from: Who) -> Self {
        Self { tuple: packet.tuple, detail: packet.detail, fragment: packet.fragment, from }
    }

    #[inline(always)]
    fn opens(&self) -> bool {
        self.tuple.protocol == TCP && self.fragment != LATER && Packet { detail: self.detail, ..Packet::BLANK }.opens()
    }

    /// Messages about other packets pass: without them paths whose packets are too big are black holes.
    #[inline(always)]
    fn is_error(&self) -> bool {
        self.fragment != LATER && is_error(self.tuple.protocol, self.detail)
    }
}

/// May the instance send it? `to` is what the receiver is, if it is an instance.
#[inline(never)]
pub(super) fn leave(judged: &Judged, own: u32, endpoint: &Endpoint, to: Who) -> Result<(), Reason> {
    let ruled = endpoint.flags & (RULED_IN | RULED_OUT) != 0;
    let to = match to.class {
        0 if !ruled => return Ok(()),
        0 => who(&judged.tuple.dst),
        _ => to,
    };
    let foreign = to.tenant != 0 && to.tenant != endpoint.who.tenant;
    if !ruled && !foreign || to.class == HOST {
        return Ok(());
    }
    judge(&Question { judged, peer: to, way: OUT, foreign }, own, endpoint)
}

/// May it come into the instance?
#[inline(never)]
pub(super) fn enter(judged: &Judged, own: u32, endpoint: &Endpoint) -> Result<(), Reason> {
    let ruled = endpoint.flags & (RULED_IN | RULED_OUT) != 0;
    let from = if judged.from.class != 0 {
        judged.from
    } else if ruled || is_instance(&judged.tuple.src) {
        who(&judged.tuple.src)
    } else {
        return Ok(());
    };
    let foreign = from.tenant != 0 && from.tenant != endpoint.who.tenant;
    if !ruled && !foreign || from.class == HOST {
        return Ok(());
    }
    judge(&Question { judged, peer: from, way: IN, foreign }, own, endpoint)
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

/// The rest of both, for the few packets that need it.
#[inline(never)]
fn judge(question: &Question<'_>, own: u32, endpoint: &Endpoint) -> Result<(), Reason> {
    let Question { judged, way, foreign, .. } = *question;
    if judged.is_error() {
        return Ok(());
    }
    let fragments = of_fragments(&judged.tuple);
    if judged.fragment == LATER {
        // Its ports are those of the first, which was judged.
        return if noted(&fragments) { Ok(()) } else { Err(Reason::Fragment) };
    }
    // An answer to what was allowed. It makes no note: only what was allowed for itself opens the way back.
    if !judged.opens() && noted(&reversed(&judged.tuple)) {
        if judged.fragment == FIRST {
            note(&fragments);
        }
        return Ok(());
    }
    let flags = endpoint.flags;
    let (ruled, isolated, audit, denied) = match way {
        IN => (flags & RULED_IN, flags & ISOLATED_IN, flags & AUDIT_IN, Reason::PolicyIn),
        _ => (flags & RULED_OUT, flags & ISOLATED_OUT, flags & AUDIT_OUT, Reason::PolicyOut),
    };
    match if ruled != 0 { find(question, endpoint) } else { 0 } {
        // The border between tenants is opened by a rule that is enforced.
        0 if foreign && way == IN => return Err(Reason::OtherTenant),
        0 if audit != 0 => count(own, 0, way, Reason::Audit as u8, 0),
        0 if isolated != 0 => return Err(denied),
        0 => {}
        rule if rule & DENIES != 0 => return Err(denied),
        rule => hit(rule),
    }
    note(&judged.tuple);
    if judged.fragment == FIRST {
        note(&fragments);
    }
    Ok(())
}

/// What rules are looked up by.
struct Asked {
    way: u8,
    protocol: u8,
    interval: u32,
    /// The peer's class.
    class: u32,
    /// The block class of its address; if it has none, again its class.
    block: u32,
    /// Who it is one of.
    wide: u32,
}

/// The rule that decides, with [`DENIES`] if it denies; 0: nobody decides.
#[inline(never)]
fn find(question: &Question<'_>, endpoint: &Endpoint) -> u32 {
    let Question { judged, ref peer, way, .. } = *question;
    let protocol = protocol(judged.tuple.protocol);
    let port = if protocol == ICMP { u16::from(judged.detail) } else { u16::from_be(judged.tuple.dport_be) };
    let mut interval = 0;
    if let Some(index) = port_index(protocol, port)
        && let Some(number) = PORTS.get(index)
    {
        interval = *number;
    }
    // "Everybody" and blocks do not mean other tenants: those must be named.
    let foreign = question.foreign && way == IN;
    let mut asked = Asked {
        way,
        protocol,
        interval,
        class: peer.class,
        block: peer.class,
        wide: if foreign { OTHERS } else { ANYBODY },
    };
    if endpoint.flags & HAS_BLOCKS != 0 && !foreign {
        let block = block(if way == IN { &judged.tuple.src } else { &judged.tuple.dst });
        if block != 0 {
            asked.block = block;
        }
    }
    let admin = tier(&asked, endpoint.sets[ADMIN]);
    if admin != 0 && admin & PASSES == 0 {
        return admin;
    }
    let (isolated, audit) = match way {
        IN => (endpoint.flags & ISOLATED_IN != 0, endpoint.flags & AUDIT_IN != 0),
        _ => (endpoint.flags & ISOLATED_OUT != 0, endpoint.flags & AUDIT_OUT != 0),
    };
    // A policy on trial opens no border, and keeps no other tier from deciding.
    let own = if isolated && !(audit && foreign) { tier(&asked, endpoint.sets[OWN]) } else { 0 };
    if isolated && !audit {
        return own;
    }
    let base = tier(&asked, endpoint.sets[BASELINE]);
    if audit && !foreign && base & DENIES == 0 {
        // What it would have said is counted.
        return own;
    }
    if base & PASSES != 0 { 0 } else { base }
}

/// Of the rules of a set that match, the one that comes first; 0: none does.
#[inline(always)]
fn tier(asked: &Asked, set: u32) -> u32 {
    let under = u64::from(set) << 32 | u64::from(asked.interval);
    let peers = u64::from(asked.class) << 32 | u64::from(asked.wide);
    hm_first_rule(under, peers, asked.block, u32::from(asked.way), u32::from(asked.protocol))
}

/// The same, of words. It has a name of its own and takes nothing but numbers, so that the verifier looks at it once
/// and not at every call: with it `from_container` has a
/// quarter of the instructions to look at.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_first_rule(under: u64, peers: u64, block: u32, way: u32, protocol: u32) -> u32 {
    let (set, interval) = ((under >> 32) as u32, under as u32);
    if set == 0 {
        return 0;
    }
    let mut first = NOTHING;
    for peer in [(peers >> 32) as u32, peers as u32, block] {
        for key in &keys(set, way as u8, peer, protocol as u8, interval) {
            // SAFETY: copied at once.
            if let Some(rule) = unsafe { RULES.get(key) } {
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

#[inline(always)]
fn is_instance(addr: &Addr) -> bool {
    let config = config();
    config.instances[0].contains(addr) || config.instances[1].contains(addr)
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

#[inline(always)]
fn noted(tuple: &Tuple) -> bool {
    // SAFETY: one aligned word.
    unsafe { NOTES.get(tuple) }.is_some_and(|then| is_fresh(tuple, *then, now()))
}

/// Notes that it was allowed. A map that cannot take it evicts; if that fails as well, the next packet tries again.
#[inline(always)]
fn note(tuple: &Tuple) {
    let now = now();
    if let Some(then) = NOTES.get_ptr_mut(tuple) {
        // SAFETY: one aligned word of a row.
        unsafe { *then = now };
    } else {
        let _ = NOTES.insert(tuple, &now, 0);
    }
}
