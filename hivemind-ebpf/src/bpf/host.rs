//! Policies for the host itself and for its published ports (`docs/adr/0012-host-policies.md`): what comes in and goes
//! out by uplinks, and what instances send to the host. What has nothing to do with any such policy is done after one
//! look at its flags.
//!
//! Never judged: errors of ICMP, what IPv6 itself lives by, IGMP, later fragments (their first is), name resolution of
//! instances, and what the host sends to its own instances.

use aya_ebpf::{macros::classifier, programs::TcContext};
use hivemind_ebpf::{
    abi::{Addr, ClientKey, Endpoint, FrontendKey, IN, OUT, SOURCES, Tuple},
    packet::{ICMPV6, LATER, Packet, TCP, UDP, is_group, is_link_local},
    policy::{
        AUDIT_IN, AUDIT_OUT, AUDIT_PUBLISHED, DENIES, FAILSAFE, HOST, HOST_ENDPOINT, HOST_RULES, ISOLATED_IN,
        ISOLATED_OUT, ISOLATED_PUBLISHED, LAST_RULE, PUBLISHED_RULES, PUBLISHED_TRIAL, REJECT_IN, REJECT_OUT,
        REJECT_PUBLISHED, REJECTS, RULED_IN, RULED_OUT, RULED_PUBLISHED, TRIAL_RULES, WORLD, reversed,
    },
    reason::Reason,
};

use super::{
    PASS, balance, finish,
    flow::{self, Hook},
    maps::{ENDPOINTS, FRONTENDS, config, count, has_nodes, hit, host_flags},
    policy::{ask, hm_first_rule, is_node, who},
    refuse::{ANSWER_MARK, Back, answer},
    service,
    skb::Skb,
    tunnel::{is_between_nodes, learn},
    words,
    work::{TRIED_HOST_IN, TRIED_HOST_OUT, Work, read, work},
};

/// The Ethernet types of tags (IEEE 802.1Q).
const TAG: u16 = 0x8100;
const OUTER_TAG: u16 = 0x88a8;
/// The protocol by which hosts join groups.
const IGMP: u8 = 2;
/// The types of ICMPv6 that are judged: echo and its reply.
const ECHO: [u8; 2] = [128, 129];
/// The port of name servers.
const DNS: u16 = 53;

/// Egress of an uplink: what the host sends, and what goes through it with an address of its own.
#[classifier]
fn hm_to_uplink(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    if has_nodes() {
        learn(skb);
    }
    if host_flags() & (RULED_IN | RULED_OUT) == 0 {
        return PASS;
    }
    let result = leaves(skb);
    let code = finish(result, PASS, skb, 0, OUT);
    match result {
        Ok(()) => code,
        Err(reason) => answer(skb, reason, skb.ifindex(), Back::Host),
    }
}

#[inline(always)]
fn leaves(skb: Skb) -> Result<(), Reason> {
    let Some(ether_type) = skb.ether_type() else { return Ok(()) };
    if let Err(reason) = read(skb, ether_type) {
        return unread(reason, ether_type, RULED_OUT);
    }
    let work = work()?;
    if is_control(&work.packet) || !is_hosts(&work.packet.tuple.src) || is_between_nodes(&work.packet) {
        return Ok(());
    }
    let forwarded = skb.came_by() != 0;
    if forwarded {
        // The answer of a published port has its row.
        work.judged.tuple = reversed(&work.packet.tuple);
        if balance::backend_of(&work.judged.tuple).is_some() {
            return Ok(());
        }
    }
    work.leaves = 1;
    work.forwarded = forwarded.into();
    follow(work, u64::from(skb.len()))
}

/// A packet whose headers cannot be read, for this reason. It is not ours to judge, unless policies of the host are about
/// this way (`ruled`): the stack can read more than we do, so it would be a way around them. What is neither IP nor a
/// tag before it (the stack takes off two) is for others.
#[inline(always)]
pub(super) fn unread(reason: Reason, ether_type: u16, ruled: u32) -> Result<(), Reason> {
    let other = reason as u8 == Reason::EtherType as u8 && ether_type != TAG && ether_type != OUTER_TAG;
    if other || host_flags() & ruled == 0 { Ok(()) } else { Err(reason) }
}

/// Ingress of an uplink, of what is of no connection to a published port.
#[inline(always)]
pub(super) fn enters(skb: Skb, work: &mut Work, bytes: u64) -> Result<(), Reason> {
    if host_flags() & (RULED_IN | RULED_OUT) == 0 {
        return Ok(());
    }
    if skb.mark() == ANSWER_MARK {
        skb.set_mark(0);
        return Ok(());
    }
    let dst = &work.packet.tuple.dst;
    if is_control(&work.packet) || !(skb.is_cast() || is_group(dst) || is_hosts(dst)) {
        return Ok(());
    }
    // What the host says to itself does not come by an uplink.
    if is_node(&work.packet.tuple.src) {
        return Err(Reason::SpoofedAddress);
    }
    follow(work, bytes)
}

/// By the row of its flow, or else by the policies. One after the other and not one in the other: the stack is small.
#[inline(always)]
fn follow(work: &mut Work, bytes: u64) -> Result<(), Reason> {
    if has_row(work, bytes) {
        return Ok(());
    }
    (work.devices, work.back, work.service) = ([0; 2], 0, 0);
    flow::admit(Hook::From, bytes)
}

/// Whether it passes by a row; what goes to a published port does, whose rules are asked where a backend is chosen.
#[inline(never)]
fn has_row(work: &mut Work, bytes: u64) -> bool {
    work.set_key();
    flow::passes(work, Hook::From, 0, bytes) || work.leaves == 0 && is_published(work)
}

/// Whether the host, or IPv6 on it, cannot do without.
#[inline(always)]
const fn is_control(packet: &Packet) -> bool {
    let protocol = packet.tuple.protocol;
    packet.fragment == LATER
        || packet.is_error()
        || protocol == IGMP
        || protocol == ICMPV6 && packet.detail != ECHO[0] && packet.detail != ECHO[1]
}

/// Whether the address is one of the host's.
#[inline(always)]
fn is_hosts(addr: &Addr) -> bool {
    is_link_local(addr) || who(addr).class == HOST
}

/// Whether what is judged goes to a published port.
#[inline(always)]
fn is_published(work: &Work) -> bool {
    let tuple = &work.packet.tuple;
    let key = FrontendKey::published(work.packet.is_v4(), tuple.dport_be, tuple.protocol);
    // SAFETY: only whether it is there.
    (tuple.protocol == TCP || tuple.protocol == UDP) && unsafe { FRONTENDS.get(&key) }.is_some()
}

/// May the flow of `work.judged`, between these devices, go its way as far as the host is concerned? `answers`: the
/// packet at hand goes the other way.
#[inline(always)]
pub(super) fn judge(work: &Work, answers: bool, from: u32, to: u32) -> Result<(), Reason> {
    let asked = if answers { &work.fresh.vip } else { &work.vip };
    // One after the other and not one in the other: the stack is small.
    let way = if !asked.is_none() && !config().is_service(asked) {
        hm_published(answers.into())
    } else if to == 0 && host_flags() != 0 {
        hm_way(from, answers.into())
    } else {
        NO_WAY
    };
    match way {
        NO_WAY => Ok(()),
        OUT_OF_RANGE => Err(Reason::SourceRange),
        // SAFETY: it says nothing but reasons.
        way => unsafe { Reason::check(hm_host(way)) },
    }
}

/// What is asked of the rules of the host.
const NO_WAY: u32 = 0;
const ENTERS: u32 = 1;
const LEAVES: u32 = 2;
const PUBLISHED: u32 = 3;
const OUT_OF_RANGE: u32 = 4;

/// Of a flow that an instance (`from` is its device) has begun towards the host or, by an uplink, somebody else, or the
/// host. Like [`hm_first_rule`] it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_way(from: u32, answers: u32) -> u32 {
    let Ok(work) = work() else { return NO_WAY };
    let forwarded = if work.known != 0 { u32::from(work.fresh.forwarded) } else { work.forwarded };
    if forwarded != 0 {
        return NO_WAY;
    }
    if from == 0 {
        return if work.leaves != answers { LEAVES } else { ENTERS };
    }
    let tuple = &work.judged.tuple;
    if who(&tuple.dst).class != HOST {
        return NO_WAY;
    }
    let config = config();
    let named = tuple.dst == config.gateways[0] || tuple.dst == config.gateways[1];
    if named && u16::from_be(tuple.dport_be) == DNS && (tuple.protocol == UDP || tuple.protocol == TCP) {
        return NO_WAY;
    }
    let key = FrontendKey::published(tuple.dst.is_v4(), tuple.dport_be, tuple.protocol);
    // SAFETY: only whether it is there.
    if unsafe { FRONTENDS.get(&key) }.is_some() { NO_WAY } else { ENTERS }
}

/// Of a flow to a published port: who is in none of its source ranges any more is not asked about further.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_published(answers: u32) -> u32 {
    let Ok(work) = work() else { return NO_WAY };
    let (vip, port_be) =
        if answers != 0 { (&work.fresh.vip, work.fresh.vip_port_be) } else { (&work.vip, work.vip_port_be as u16) };
    let tuple = &mut work.judged.tuple;
    words::copy(vip, &mut tuple.dst);
    tuple.dport_be = port_be;
    let key = FrontendKey::published(vip.is_v4(), port_be, tuple.protocol);
    // SAFETY: two aligned words. One that is gone has no ranges: its connections stay.
    if let Some(front) = unsafe { FRONTENDS.get(&key) }
        && front.flags & SOURCES != 0
    {
        let client = ClientKey { service: front.service, ..ClientKey::address(tuple.src) };
        if !service::is_allowed(&client) {
            return OUT_OF_RANGE;
        }
    }
    if host_flags() & RULED_PUBLISHED == 0 { NO_WAY } else { PUBLISHED }
}

/// What the rules of the host say of `work.judged`: a [`Reason`], or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hm_host(asked: u32) -> u32 {
    let Ok(work) = work() else { return 0 };
    // SAFETY: a row goes after the flags do.
    let Some(host) = (unsafe { ENDPOINTS.get(&HOST_ENDPOINT) }) else { return 0 };
    let (ruled, isolated, reject, denied) = match asked {
        ENTERS => (RULED_IN, ISOLATED_IN, REJECT_IN, Reason::HostIn),
        LEAVES => (RULED_OUT, ISOLATED_OUT, REJECT_OUT, Reason::HostOut),
        _ => (RULED_PUBLISHED, ISOLATED_PUBLISHED, REJECT_PUBLISHED, Reason::Published),
    };
    if host.flags & ruled == 0 {
        return 0;
    }
    let (way, other) = if asked == LEAVES { (OUT, &work.judged.tuple.dst) } else { (IN, &work.judged.tuple.src) };
    let class = who(other).class;
    if class == HOST {
        return 0;
    }
    ask(work, way, class, false, host.flags);
    if asked != PUBLISHED && class == WORLD && is_safe(work, host, way) {
        return 0;
    }
    let rule = hm_first_rule(if asked == PUBLISHED { host.sets[PUBLISHED_RULES] } else { host.sets[HOST_RULES] });
    work.rule = rule & LAST_RULE;
    match rule {
        0 if host.flags & isolated == 0 => {}
        0 if host.flags & reject != 0 => return Reason::Rejected as u32,
        0 => return denied as u32,
        rule if rule & REJECTS != 0 => return Reason::Rejected as u32,
        rule if rule & DENIES != 0 => return denied as u32,
        rule => hit(rule),
    }
    try_out(host, asked);
    0
}

/// Of what passes: counts it if the policies on trial would not let it pass.
#[inline(always)]
fn try_out(host: &Endpoint, asked: u32) {
    let (set, audit, way) = match asked {
        ENTERS => (host.sets[TRIAL_RULES], AUDIT_IN, IN),
        LEAVES => (host.sets[TRIAL_RULES], AUDIT_OUT, OUT),
        _ => (host.sets[PUBLISHED_TRIAL], AUDIT_PUBLISHED, IN),
    };
    if set == 0 {
        return;
    }
    let rule = hm_first_rule(set);
    if rule & DENIES != 0 || rule == 0 && host.flags & audit != 0 {
        if let Ok(work) = work() {
            work.tried |= if way == IN { TRIED_HOST_IN } else { TRIED_HOST_OUT };
        }
        count(HOST_ENDPOINT, 0, way, Reason::Audit as u8, 0);
    }
}

/// Whether it always passes. So does what answers a port that is always reached, also if there was no room for its
/// flow: nobody is locked out by a full table.
#[inline(always)]
fn is_safe(work: &mut Work, host: &Endpoint, way: u8) -> bool {
    let set = host.sets[FAILSAFE];
    if hm_first_rule(set) != 0 {
        return true;
    }
    if way != OUT || work.packet.opens() {
        return false;
    }
    turn(&mut work.judged.tuple);
    ask(work, IN, WORLD, false, 0);
    let safe = hm_first_rule(set) != 0;
    turn(&mut work.judged.tuple);
    ask(work, OUT, WORLD, false, host.flags);
    safe
}

/// As the answer says it. In its place: the stack is small.
#[inline(always)]
const fn turn(tuple: &mut Tuple) {
    let mut word = 0;
    while word < 4 {
        let src = tuple.src.words_be[word];
        tuple.src.words_be[word] = tuple.dst.words_be[word];
        tuple.dst.words_be[word] = src;
        word += 1;
    }
    let sport_be = tuple.sport_be;
    tuple.sport_be = tuple.dport_be;
    tuple.dport_be = sport_be;
}
