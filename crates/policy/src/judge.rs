//! What happens to a packet: the look-ups of the data plane, in its order. For people who ask why, and for tests.
//!
//! Only for a packet that begins something. Replies pass when what they answer was noted (`docs/adr/0007-policies.md`);
//! nothing here knows of the past.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    ADMIN, ALL_PORTS, ANYBODY, BASELINE, Compiled, Direction, FAILSAFE, HOST_RULES, OTHERS, OWN, PUBLISHED_RULES,
    PUBLISHED_TRIAL, RuleKey, RuleRow, TENANT_ADMIN, TENANT_BASELINE, TRIAL_RULES, WORLD, interval,
};
use hivemind_core::{
    model::InstanceId,
    spec::v1::{Action, PolicyProtocol},
};

/// The other end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer<'a> {
    /// The instance's own node.
    Host,
    /// An instance, with the one of its addresses that the packet has: blocks are about addresses.
    Instance(&'a InstanceId, IpAddr),
    /// Somebody else.
    Address(IpAddr),
}

/// What happens to a packet, and why. The number is the rule's, see [`Compiled::names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The instance's own node always passes.
    OwnNode,
    /// No policy is about this direction of the instance, and no rule of a tier about this packet.
    NotIsolated,
    /// This rule allows it.
    Allowed(u32),
    /// It passes, but policies in audit mode would deny it.
    WouldDeny,
    /// Policies are about this direction, and none of their rules allows it.
    Denied,
    /// This rule of a tier denies it.
    DeniedBy(u32),
    /// The same, and its sender is told.
    Rejected,
    /// This rule of a tier denies it, and its sender is told.
    RejectedBy(u32),
    /// It comes from another tenant, and no rule allows it.
    OtherTenant,
    /// It says that it comes from an instance that is not there.
    NoInstance,
    /// It goes to, or from, a port of the host that is always open.
    Failsafe,
}

impl Verdict {
    /// Whether the packet passes.
    pub fn passes(self) -> bool {
        match self {
            Self::Denied | Self::DeniedBy(_) | Self::Rejected | Self::RejectedBy(_) => false,
            Self::OtherTenant | Self::NoInstance => false,
            Self::OwnNode | Self::NotIsolated | Self::Allowed(_) | Self::WouldDeny | Self::Failsafe => true,
        }
    }

    /// The rule that decides.
    pub fn rule(self) -> Option<u32> {
        match self {
            Self::Allowed(number) | Self::DeniedBy(number) | Self::RejectedBy(number) => Some(number),
            Self::OwnNode
            | Self::NotIsolated
            | Self::WouldDeny
            | Self::Denied
            | Self::Rejected
            | Self::OtherTenant
            | Self::NoInstance
            | Self::Failsafe => None,
        }
    }
}

impl RuleRow {
    /// What it decides; none if it leaves that to the next tier.
    fn verdict(self) -> Option<Verdict> {
        match self.action {
            Action::Accept => Some(Verdict::Allowed(self.number)),
            Action::Deny => Some(Verdict::DeniedBy(self.number)),
            Action::Reject => Some(Verdict::RejectedBy(self.number)),
            Action::Pass => None,
        }
    }
}

/// What happens to a packet of the instance `local`. `protocol` is `None` for one that policies do not know; `port` is
/// the receiver's port, or the ICMP type.
pub fn judge(
    compiled: &Compiled,
    local: &InstanceId,
    direction: Direction,
    peer: Peer<'_>,
    protocol: Option<PolicyProtocol>,
    port: u16,
) -> Verdict {
    let tenant = |id: &InstanceId| compiled.peers.get(id).map(|peer| peer.tenant);
    let (class, address, foreign) = match peer {
        Peer::Host => return Verdict::OwnNode,
        Peer::Address(address) => (WORLD, address, false),
        Peer::Instance(id, address) => match compiled.peers.get(id) {
            Some(peer) => (peer.class, address, tenant(local) != Some(peer.tenant)),
            None => return Verdict::NoInstance,
        },
    };
    // The border between tenants is the receiver's to open: the sender needs no rule for it.
    let foreign = foreign && direction == Direction::In;
    let endpoint = compiled.endpoints.get(local).copied().unwrap_or_default();
    let (isolated, audit, reject) = match direction {
        Direction::In | Direction::Published => (endpoint.isolated_in, endpoint.audit_in, endpoint.reject_in),
        Direction::Out => (endpoint.isolated_out, endpoint.audit_out, endpoint.reject_out),
    };
    // Who is meant by "everybody" and by a block is the tenant's own and the world: another tenant must be named.
    let (wide, block) = if foreign { (OTHERS, None) } else { (ANYBODY, block_class(compiled, address)) };
    let asked = Asked { compiled, direction, peers: [Some(class), Some(wide), block], protocol, port };
    let first = |set: usize| asked.first(endpoint.sets[set]);
    let verdict = |set: usize| first(set).and_then(RuleRow::verdict);
    // Each has its say: who passes leaves it to the next.
    if let Some(verdict) = verdict(ADMIN).or_else(|| verdict(TENANT_ADMIN)) {
        return verdict;
    }
    // A policy in audit mode changes nothing: it opens no border, and keeps no other tier from deciding.
    let own = (isolated && !(audit && foreign)).then(|| verdict(OWN)).flatten();
    if let Some(verdict) = own.filter(|_| !audit) {
        return verdict;
    }
    let base = || verdict(TENANT_BASELINE).or_else(|| verdict(BASELINE));
    let base = if isolated && !audit { None } else { base() };
    match base {
        Some(verdict @ (Verdict::DeniedBy(_) | Verdict::RejectedBy(_))) => verdict,
        Some(verdict) if foreign || !audit => verdict,
        _ if foreign => Verdict::OtherTenant,
        _ if !isolated => Verdict::NotIsolated,
        _ if audit => own.unwrap_or(Verdict::WouldDeny),
        _ if reject => Verdict::Rejected,
        _ => Verdict::Denied,
    }
}

/// What happens to a packet that enters the host, leaves it by an uplink, or comes to a published port. `port` is the
/// receiver's; of a published one that of the host.
pub fn judge_host(
    compiled: &Compiled,
    direction: Direction,
    peer: Peer<'_>,
    protocol: Option<PolicyProtocol>,
    port: u16,
) -> Verdict {
    let Some(host) = compiled.host else { return Verdict::NotIsolated };
    let (isolated, reject, audit) = match direction {
        Direction::In => (host.isolated_in, host.reject_in, host.audit_in),
        Direction::Out => (host.isolated_out, host.reject_out, host.audit_out),
        Direction::Published => (host.isolated_published, host.reject_published, host.audit_published),
    };
    let (set, trial) = match direction {
        Direction::In | Direction::Out => (HOST_RULES, TRIAL_RULES),
        Direction::Published => (PUBLISHED_RULES, PUBLISHED_TRIAL),
    };
    let (class, address) = match peer {
        Peer::Host => return Verdict::OwnNode,
        Peer::Address(address) => (WORLD, address),
        Peer::Instance(..) if direction == Direction::Out => return Verdict::OwnNode,
        Peer::Instance(id, address) => (compiled.peers.get(id).map_or(WORLD, |peer| peer.class), address),
    };
    let peers = [Some(class), Some(ANYBODY), block_class(compiled, address)];
    let asked = Asked { compiled, direction: direction.asked(), peers, protocol, port };
    if set == HOST_RULES && class == WORLD && asked.first(host.sets[FAILSAFE]).is_some() {
        return Verdict::Failsafe;
    }
    // The name server of instances, which is theirs whatever the host says.
    let names = port == DNS && matches!(protocol, Some(PolicyProtocol::Udp | PolicyProtocol::Tcp));
    if direction == Direction::In && matches!(peer, Peer::Instance(..)) && names {
        return Verdict::Failsafe;
    }
    let verdict = match asked.first(host.sets[set]).and_then(RuleRow::verdict) {
        Some(verdict) => verdict,
        None if !isolated => Verdict::NotIsolated,
        None if reject => Verdict::Rejected,
        None => Verdict::Denied,
    };
    // The policies on trial are asked of what passes, beside the others.
    let tried = asked.first(host.sets[trial]).and_then(RuleRow::verdict);
    let would_pass = tried.map_or(host.sets[trial] == 0 || !audit, Verdict::passes);
    if verdict.passes() && !would_pass { Verdict::WouldDeny } else { verdict }
}

/// The port of name servers.
const DNS: u16 = 53;

/// What rules are looked up by.
struct Asked<'a> {
    compiled: &'a Compiled,
    direction: Direction,
    peers: [Option<u32>; 3],
    protocol: Option<PolicyProtocol>,
    port: u16,
}

impl Asked<'_> {
    /// Of the rules of a set that match, the one that comes first.
    fn first(&self, set: u32) -> Option<RuleRow> {
        let Self { compiled, direction, peers, protocol, port } = *self;
        let interval = protocol.map_or(0, |protocol| interval(compiled.ports.get(&protocol), port));
        let ports = [(protocol, interval), (protocol, ALL_PORTS), (None, ALL_PORTS)];
        let keys = peers
            .into_iter()
            .flatten()
            .flat_map(|peer| ports.map(|(protocol, port)| RuleKey { set, direction, peer, protocol, port }));
        keys.filter_map(|key| compiled.rules.get(&key)).min_by_key(|row| (row.order, row.number)).copied()
    }
}

/// The class of the longest prefix that holds an address.
fn block_class(compiled: &Compiled, address: IpAddr) -> Option<u32> {
    let longest = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let prefixes = (0..=longest).rev().filter_map(|length| IpNet::new(address, length).ok());
    let found = prefixes.map(|prefix| prefix.trunc()).find_map(|prefix| compiled.blocks.get(&prefix).copied());
    found.filter(|class| *class != 0)
}
