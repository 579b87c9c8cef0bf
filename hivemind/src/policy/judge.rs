//! What happens to a packet: the look-ups of the data plane, in its order. For people who ask why, and for tests.
//!
//! Only for a packet that begins something. Replies pass when what they answer was noted (`docs/adr/0007-policies.md`);
//! nothing here knows of the past.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{ADMIN, ALL_PORTS, ANYBODY, BASELINE, Compiled, Direction, OTHERS, OWN, RuleKey, RuleRow, WORLD, interval};
use crate::{
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
    /// It comes from another tenant, and no rule allows it.
    OtherTenant,
}

impl Verdict {
    /// Whether the packet passes.
    pub fn passes(self) -> bool {
        !matches!(self, Self::Denied | Self::DeniedBy(_) | Self::OtherTenant)
    }

    /// The rule that decides.
    pub fn rule(self) -> Option<u32> {
        match self {
            Self::Allowed(number) | Self::DeniedBy(number) => Some(number),
            Self::OwnNode | Self::NotIsolated | Self::WouldDeny | Self::Denied | Self::OtherTenant => None,
        }
    }
}

impl RuleRow {
    /// What it decides; none if it leaves that to the next tier.
    fn verdict(self) -> Option<Verdict> {
        match self.action {
            Action::Accept => Some(Verdict::Allowed(self.number)),
            Action::Deny => Some(Verdict::DeniedBy(self.number)),
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
            // Nobody knows it any more: its address is one like all others.
            None => (WORLD, address, false),
        },
    };
    // The border between tenants is the receiver's to open: the sender needs no rule for it.
    let foreign = foreign && direction == Direction::In;
    let endpoint = compiled.endpoints.get(local).copied().unwrap_or_default();
    let (isolated, audit) = match direction {
        Direction::In => (endpoint.isolated_in, endpoint.audit_in),
        Direction::Out => (endpoint.isolated_out, endpoint.audit_out),
    };
    let interval = protocol.map_or(0, |protocol| interval(compiled.ports.get(&protocol), port));
    let ports = [(protocol, interval), (protocol, ALL_PORTS), (None, ALL_PORTS)];
    // Who is meant by "everybody" and by a block is the tenant's own and the world: another tenant must be named.
    let (wide, block) = if foreign { (OTHERS, None) } else { (ANYBODY, block_class(compiled, address)) };
    let first = |tier: usize| {
        let set = endpoint.sets[tier];
        let peers = [Some(class), Some(wide), block].into_iter().flatten();
        let keys =
            peers.flat_map(|peer| ports.map(|(protocol, port)| RuleKey { set, direction, peer, protocol, port }));
        keys.filter_map(|key| compiled.rules.get(&key)).min_by_key(|row| (row.order, row.number)).copied()
    };
    if let Some(verdict) = first(ADMIN).and_then(RuleRow::verdict) {
        return verdict;
    }
    // A policy in audit mode changes nothing: it opens no border, and keeps no other tier from deciding.
    let own = (isolated && !(audit && foreign)).then(|| first(OWN)).flatten().and_then(RuleRow::verdict);
    if let Some(verdict) = own.filter(|_| !audit) {
        return verdict;
    }
    let base = if isolated && !audit { None } else { first(BASELINE).and_then(RuleRow::verdict) };
    match base {
        Some(verdict @ Verdict::DeniedBy(_)) => verdict,
        Some(verdict) if foreign || !audit => verdict,
        _ if foreign => Verdict::OtherTenant,
        _ if !isolated => Verdict::NotIsolated,
        _ if audit => own.unwrap_or(Verdict::WouldDeny),
        _ => Verdict::Denied,
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
