//! Who decides about a packet, at both of its ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Compiled, Direction, KnownNames, Peer, PolicyRef, RuleName, Verdict, compile_with, judge};
use crate::{
    model::{InstanceId, NodeDesired, NodeName, PolicyKey},
    spec::v1::PolicyProtocol,
};

/// One end of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An instance.
    Instance(InstanceId),
    /// The node of the instance at the other end.
    Node,
    /// Somebody outside of the cluster.
    Outside(IpAddr),
}

/// What happens at an end that is an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The instance.
    pub instance: InstanceId,
    /// Out of it or into it.
    pub direction: Direction,
    /// What happens.
    pub verdict: Verdict,
    /// The rule that decides, if one does.
    pub rule: Option<RuleName>,
    /// The policies of its namespace that close this direction, but for what their rules allow.
    pub closed_by: Vec<PolicyKey>,
}

/// What happens to a packet that begins something: first where it leaves an instance, then where it enters one. Both
/// must pass. `known` is what names of hosts stand for now. `port` is the receiver's, or the ICMP type.
pub fn explain(
    desired: &NodeDesired,
    known: &KnownNames,
    from: &End,
    to: &End,
    protocol: PolicyProtocol,
    port: u16,
) -> Vec<Leg> {
    let mut compiled: BTreeMap<&NodeName, Compiled> = BTreeMap::new();
    let mut legs = Vec::new();
    for (end, other, direction) in [(from, to, Direction::Out), (to, from, Direction::In)] {
        let End::Instance(id) = end else { continue };
        let Some(own) = desired.peers.get(id) else { continue };
        let peer = match other {
            End::Node => Peer::Host,
            End::Outside(address) => Peer::Address(*address),
            End::Instance(other) => {
                let address = desired.peers.get(other).and_then(|peer| peer.addresses.iter().next());
                let Some(address) = address else { continue };
                Peer::Instance(other, address)
            }
        };
        let compiled = compiled.entry(&own.node).or_insert_with(|| compile_with(desired, &own.node, known));
        let verdict = judge(compiled, id, direction, peer, Some(protocol), port);
        let rule = verdict.rule().and_then(|number| compiled.names.get(&number).cloned());
        legs.push(Leg { instance: id.clone(), direction, verdict, rule, closed_by: closed_by(desired, id, direction) });
    }
    legs
}

fn closed_by(desired: &NodeDesired, id: &InstanceId, direction: Direction) -> Vec<PolicyKey> {
    let Some(own) = desired.peers.get(id) else { return Vec::new() };
    let about = desired.policies.values().filter(|policy| {
        let rules = match direction {
            Direction::In => &policy.spec.ingress,
            Direction::Out => &policy.spec.egress,
        };
        policy.key.scope == own.scope && rules.is_some() && policy.spec.instances.matches(&own.labels)
    });
    about.map(|policy| policy.key.clone()).collect()
}

impl Leg {
    /// The verdict in a sentence.
    pub fn says(&self) -> String {
        let rule = || match &self.rule {
            Some(RuleName { policy: PolicyRef::Namespace(key), index, .. }) => format!("rule {index} of policy {key}"),
            Some(RuleName { policy: PolicyRef::Tier(key), index, .. }) => format!("rule {index} of tier policy {key}"),
            None => "a rule".into(),
        };
        let names = || {
            let names: BTreeSet<_> = self.closed_by.iter().map(ToString::to_string).collect();
            names.into_iter().collect::<Vec<_>>().join(", ")
        };
        match self.verdict {
            Verdict::OwnNode => "the instance's own node always passes".into(),
            Verdict::NotIsolated => "no policy selects it in this direction, and no tier's rule matches".into(),
            Verdict::Allowed(_) => format!("{} allows it", rule()),
            Verdict::DeniedBy(_) => format!("{} denies it", rule()),
            Verdict::Denied => format!("no rule allows it, and the direction is closed by {}", names()),
            Verdict::WouldDeny => format!("it passes, and would be denied but for the audit mode of {}", names()),
            Verdict::OtherTenant => "it comes from another tenant, and no rule names that one".into(),
        }
    }
}
