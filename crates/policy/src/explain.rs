//! Who decides about a packet, at both of its ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Compiled, Direction, Failsafe, KnownNames, Peer, PolicyRef, RuleName, Verdict, compile_with, judge, judge_host,
};
use hivemind_core::{
    model::{InstanceId, NodeDesired, NodeName},
    spec::v1::{PolicyProtocol, Tier, Way},
};

/// One end of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An instance.
    Instance(InstanceId),
    /// The node of the instance at the other end, or that which is asked.
    Node,
    /// A published port of it.
    Published,
    /// Somebody outside of the cluster.
    Outside(IpAddr),
}

/// At whom something happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An instance.
    Instance(InstanceId),
    /// The host.
    Host,
}

/// What happens at an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The end.
    pub subject: Subject,
    /// Out of it or into it.
    pub direction: Direction,
    /// What happens.
    pub verdict: Verdict,
    /// The rule that decides, if one does.
    pub rule: Option<RuleName>,
    /// The policies that close this direction, but for what rules allow.
    pub closed_by: Vec<PolicyRef>,
    /// What the kernel's tables make of it; none: they were not asked, or it is another node.
    pub held: Option<Held>,
}

/// What the tables that the kernel holds make of a packet at an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// They know nothing of the instance, so that all its packets are dropped.
    Unknown,
    /// The verdict, and the rule that decides, if one does.
    Verdict(Verdict, Option<RuleName>),
}

/// By what is judged.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What the nodes are told.
    pub desired: &'a NodeDesired,
    /// The node that is asked.
    pub node: &'a NodeName,
    /// What names of hosts stand for now.
    pub known: &'a KnownNames,
    /// The ports of the host that are always open.
    pub failsafe: &'a Failsafe,
    /// What the kernel of this node holds, to be compared.
    pub held: Option<&'a Compiled>,
}

/// What happens to a packet that begins something: first where it leaves, then where it enters. Both must pass. `port` is
/// the receiver's, or the ICMP type.
pub fn explain(asked: Asked<'_>, from: &End, to: &End, protocol: PolicyProtocol, port: u16) -> Vec<Leg> {
    let Asked { desired, node: here, known, failsafe, held } = asked;
    let mut compiled: BTreeMap<&NodeName, Compiled> = BTreeMap::new();
    let mut legs = Vec::new();
    for (end, other, mut direction) in [(from, to, Direction::Out), (to, from, Direction::In)] {
        let Some(peer) = peer(desired, other) else { continue };
        let (subject, node) = match (end, other) {
            (End::Instance(id), _) => match desired.peers.get(id) {
                Some(own) => (Subject::Instance(id.clone()), &own.node),
                None => continue,
            },
            // What the host sends to its instances is not its policies' business.
            (End::Node, End::Outside(_)) => (Subject::Host, here),
            (End::Node | End::Published, End::Instance(id)) if direction == Direction::In => {
                (Subject::Host, desired.peers.get(id).map_or(here, |peer| &peer.node))
            }
            (End::Published, End::Outside(_)) => (Subject::Host, here),
            _ => continue,
        };
        if *end == End::Published {
            direction = Direction::Published;
        }
        let compiled = compiled.entry(node).or_insert_with(|| compile_with(desired, node, known, failsafe));
        let judged = |by: &Compiled| {
            let verdict = match &subject {
                Subject::Instance(id) => judge(by, id, direction, peer, Some(protocol), port),
                Subject::Host => judge_host(by, direction, peer, Some(protocol), port),
            };
            (verdict, verdict.rule().and_then(|number| by.names.get(&number).cloned()))
        };
        let (verdict, rule) = judged(compiled);
        let held = held.filter(|_| node == here).map(|held| match &subject {
            Subject::Instance(id) if !held.endpoints.contains_key(id) => Held::Unknown,
            _ => {
                let (verdict, rule) = judged(held);
                Held::Verdict(verdict, rule)
            }
        });
        let closed_by = match &subject {
            Subject::Instance(id) => closed_by(desired, id, direction),
            Subject::Host => closed_by_host(desired, node, direction, verdict),
        };
        legs.push(Leg { subject, direction, verdict, rule, closed_by, held });
    }
    legs
}

/// An end as the other one sees it; none: it is gone.
fn peer<'a>(desired: &NodeDesired, end: &'a End) -> Option<Peer<'a>> {
    Some(match end {
        End::Node | End::Published => Peer::Host,
        End::Outside(address) => Peer::Address(*address),
        End::Instance(id) => Peer::Instance(id, desired.peers.get(id)?.addresses.iter().next()?),
    })
}

pub(super) fn closed_by(desired: &NodeDesired, id: &InstanceId, direction: Direction) -> Vec<PolicyRef> {
    let Some(own) = desired.peers.get(id) else { return Vec::new() };
    let about = desired.policies.values().filter(|policy| {
        let rules = match direction.asked() {
            Direction::Out => &policy.spec.egress,
            _ => &policy.spec.ingress,
        };
        policy.key.scope == own.scope && rules.is_some() && policy.spec.instances.matches(&own.labels)
    });
    about.map(|policy| PolicyRef::Namespace(policy.key.clone())).collect()
}

/// The policies of the host that close a direction. Of what only policies on trial would deny: these.
pub fn closed_by_host(
    desired: &NodeDesired,
    node: &NodeName,
    direction: Direction,
    verdict: Verdict,
) -> Vec<PolicyRef> {
    let way = match direction {
        Direction::In => Way::Ingress,
        Direction::Out => Way::Egress,
        Direction::Published => Way::Published,
    };
    let about = desired.tiers.values().filter(|policy| {
        let spec = &policy.spec;
        let closes = match verdict {
            Verdict::WouldDeny => spec.audit && spec.speaks_of(way),
            _ => !spec.audit && spec.closes.contains(&way),
        };
        spec.tier == Tier::Host && closes && (spec.nodes.is_empty() || spec.nodes.contains(node))
    });
    about.map(|policy| PolicyRef::Tier(policy.key.clone())).collect()
}

impl Leg {
    /// What the kernel's tables say, if that is something else.
    pub fn kernel_says(&self) -> Option<String> {
        match self.held.as_ref()? {
            Held::Unknown => Some("they know nothing of it yet, so that all its packets are dropped".into()),
            Held::Verdict(verdict, rule) => {
                // The same rule may have another number there.
                let same = std::mem::discriminant(verdict) == std::mem::discriminant(&self.verdict);
                let theirs = || Self { verdict: *verdict, rule: rule.clone(), ..self.clone() };
                (!same || *rule != self.rule).then(|| theirs().says())
            }
        }
    }

    /// The verdict in a sentence.
    pub fn says(&self) -> String {
        let rule = || match &self.rule {
            Some(RuleName { policy: PolicyRef::Namespace(key), index, .. }) => format!("rule {index} of policy {key}"),
            Some(RuleName { policy: PolicyRef::Tier(key), direction: Direction::Published, index }) => {
                format!("rule {index} for published ports of tier policy {key}")
            }
            Some(RuleName { policy: PolicyRef::Tier(key), index, .. }) => format!("rule {index} of tier policy {key}"),
            Some(RuleName { policy: PolicyRef::Failsafe, .. }) => PolicyRef::Failsafe.to_string(),
            None => "a rule".into(),
        };
        let names = || {
            let names: BTreeSet<_> = self.closed_by.iter().map(ToString::to_string).collect();
            // The kernel's tables may still hold what is not stored any more.
            if names.is_empty() {
                return "a policy that is gone".to_owned();
            }
            names.into_iter().collect::<Vec<_>>().join(", ")
        };
        match self.verdict {
            Verdict::OwnNode if self.subject == Subject::Host => "the host always reaches itself".into(),
            Verdict::NotIsolated if self.subject == Subject::Host => "no policy of the host says anything of it".into(),
            Verdict::Failsafe => "the port is always open: it is a fail-safe port, or that of names".into(),
            Verdict::OwnNode => "the instance's own node always passes".into(),
            Verdict::NotIsolated => "no policy selects it in this direction, and no tier's rule matches".into(),
            Verdict::Allowed(_) => format!("{} allows it", rule()),
            Verdict::DeniedBy(_) => format!("{} denies it", rule()),
            Verdict::RejectedBy(_) => format!("{} denies it, and the sender is told", rule()),
            Verdict::Rejected => {
                format!("no rule allows it, the direction is closed by {}, and the sender is told", names())
            }
            Verdict::Denied => format!("no rule allows it, and the direction is closed by {}", names()),
            Verdict::WouldDeny => format!("it passes, and would be denied but for the audit mode of {}", names()),
            Verdict::NoInstance => "no instance has the address that it comes from".into(),
            Verdict::OtherTenant => "it comes from another tenant, and no rule names that one".into(),
        }
    }
}
