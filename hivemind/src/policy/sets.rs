//! Sets: which rules count for an instance, tier by tier.
//!
//! In a tier the operator's and the tenant's policies are one list. Whoever stands higher decides first in `Admin` and
//! last in `Baseline`: so a tenant overrules no operator, and says what holds for itself where the operator says nothing.
//!
//! The set of a tier is numbered by what its policies say, not only by their names: a change of one is a new set, and an
//! instance goes from the old list to the new one in a single write. An order that is half old and half new would let
//! pass what both lists deny.

use std::collections::BTreeMap;

use super::{
    ADMIN, BASELINE, Direction, EndpointPolicy, OWN, PolicyRef,
    number::{Kind, fingerprint, numbers},
};
use crate::{
    model::{InstanceId, Namespace, NodeDesired, NodeName, Policy, PolicyKey, Scope, TenantName, TierKey, TierPolicy},
    spec::v1::{Action, Entity, PolicyPeer, PolicyPort, PolicyRule, Tier},
};

/// A policy of either kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner<'a> {
    Policy(&'a PolicyKey),
    Tier(&'a TierKey),
}

/// A rule that counts in a set.
pub(super) struct Entry<'a> {
    pub(super) set: u32,
    pub(super) owner: Owner<'a>,
    /// The tenant of the instances that the set is about.
    pub(super) tenant: &'a TenantName,
    pub(super) direction: Direction,
    pub(super) index: usize,
    pub(super) action: Action,
    /// Of all rules of the set that match, the lowest decides.
    pub(super) order: u32,
    pub(super) peers: &'a [PolicyPeer],
    pub(super) ports: &'a [PolicyPort],
}

impl<'a> Entry<'a> {
    /// What the rule's number is a hash of.
    pub(super) fn identity(&self) -> (Owner<'a>, Direction, usize) {
        (self.owner, self.direction, self.index)
    }
}

impl From<Owner<'_>> for PolicyRef {
    fn from(owner: Owner<'_>) -> Self {
        match owner {
            Owner::Policy(key) => Self::Namespace(key.clone()),
            Owner::Tier(key) => Self::Tier(key.clone()),
        }
    }
}

/// How a direction of a set is judged; the strictest policy decides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Open,
    Audit,
    Enforce,
}

/// What the number of a set is a hash of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Identity<'a> {
    Own(Vec<&'a PolicyKey>),
    /// With the tenant, if a rule speaks of the same or of other tenants: then it means others in each.
    Tier(Tier, Option<&'a TenantName>, Vec<(&'a TierKey, u64)>),
}

/// The policies about the instances of a namespace with the same labels, in the order of the tiers.
struct About<'a> {
    admin: Vec<&'a TierPolicy>,
    own: Vec<&'a Policy>,
    baseline: Vec<&'a TierPolicy>,
}

/// The sets of the node's instances, and the rules in them. An instance that no policy is about is in none.
pub(super) fn of_node<'a>(
    desired: &'a NodeDesired,
    node: &NodeName,
) -> (BTreeMap<InstanceId, EndpointPolicy>, Vec<Entry<'a>>) {
    let index = Index::new(desired);
    let mut alike: BTreeMap<(&Scope, &BTreeMap<String, String>), Vec<&InstanceId>> = BTreeMap::new();
    for (id, peer) in desired.peers.iter().filter(|(_, peer)| peer.node == *node) {
        alike.entry((&peer.scope, &peer.labels)).or_default().push(id);
    }
    let about: Vec<_> = alike
        .into_iter()
        .map(|((scope, labels), ids)| {
            let about = index.about(scope, labels);
            let identities = about.identities(&scope.tenant, &index);
            (scope, ids, about, identities)
        })
        .collect();
    let sets = numbers(Kind::Set, about.iter().flat_map(|(.., identities)| identities).flatten().cloned());
    let mut endpoints = BTreeMap::new();
    let mut entries: BTreeMap<u32, Vec<Entry<'a>>> = BTreeMap::new();
    for (scope, ids, about, identities) in &about {
        let set = |tier: usize| identities[tier].as_ref().and_then(|identity| sets.get(identity)).copied().unwrap_or(0);
        let endpoint = about.endpoint([set(ADMIN), set(OWN), set(BASELINE)]);
        if endpoint.sets == [0; 3] {
            continue;
        }
        endpoints.extend(ids.iter().map(|id| ((*id).clone(), endpoint)));
        for (tier, set) in endpoint.sets.into_iter().enumerate().filter(|(_, set)| *set != 0) {
            entries.entry(set).or_insert_with(|| about.rules(tier, set, &scope.tenant));
        }
    }
    (endpoints, entries.into_values().flatten().collect())
}

/// The policies by where they look.
struct Index<'a> {
    desired: &'a NodeDesired,
    own: BTreeMap<&'a Scope, Vec<&'a Policy>>,
    admin: Vec<&'a TierPolicy>,
    baseline: Vec<&'a TierPolicy>,
    prints: BTreeMap<&'a TierKey, u64>,
}

impl<'a> Index<'a> {
    fn new(desired: &'a NodeDesired) -> Self {
        let mut own: BTreeMap<&Scope, Vec<&Policy>> = BTreeMap::new();
        for policy in desired.policies.values() {
            own.entry(&policy.key.scope).or_default().push(policy);
        }
        let tiers = || desired.tiers.values().map(|policy| &**policy);
        let of = |tier| {
            let mut found: Vec<&TierPolicy> = tiers().filter(|policy| policy.spec.tier == tier).collect();
            found.sort_by_key(|policy| {
                let higher = policy.key.tenant.is_none();
                ((tier == Tier::Admin) != higher, policy.spec.priority, &policy.key)
            });
            found
        };
        let (admin, baseline) = (of(Tier::Admin), of(Tier::Baseline));
        let prints = tiers().map(|policy| (&policy.key, fingerprint(&policy.spec))).collect();
        Self { desired, own, admin, baseline, prints }
    }

    fn about(&self, scope: &Scope, labels: &BTreeMap<String, String>) -> About<'a> {
        let none = BTreeMap::new();
        let row = self.desired.namespaces.get(scope);
        let namespace = Namespace::all_labels(scope, row.map_or(&none, |namespace| &namespace.labels));
        let tier = |policies: &[&'a TierPolicy]| {
            let about = |policy: &&&TierPolicy| {
                policy.key.reaches(&scope.tenant)
                    && policy.spec.namespaces.as_ref().is_none_or(|selector| selector.matches(&namespace))
                    && policy.spec.instances.matches(labels)
            };
            policies.iter().filter(about).copied().collect()
        };
        let own = self.own.get(scope).into_iter().flatten();
        About {
            admin: tier(&self.admin),
            own: own.filter(|policy| policy.spec.instances.matches(labels)).copied().collect(),
            baseline: tier(&self.baseline),
        }
    }
}

impl<'a> About<'a> {
    fn identities(&self, tenant: &'a TenantName, index: &Index<'a>) -> [Option<Identity<'a>>; 3] {
        let tier = |tier, policies: &[&'a TierPolicy]| {
            let relative = policies.iter().flat_map(|policy| rules_of_tier(policy)).any(|(.., rule)| {
                let relative =
                    |peer: &PolicyPeer| matches!(peer, PolicyPeer::Entity(Entity::SameTenant | Entity::OtherTenants));
                rule.peers.iter().any(relative)
            });
            let print = |policy: &&'a TierPolicy| (&policy.key, index.prints.get(&policy.key).copied().unwrap_or(0));
            let printed = policies.iter().map(print).collect();
            (!policies.is_empty()).then(|| Identity::Tier(tier, relative.then_some(tenant), printed))
        };
        let own = (!self.own.is_empty()).then(|| Identity::Own(self.own.iter().map(|policy| &policy.key).collect()));
        [tier(Tier::Admin, &self.admin), own, tier(Tier::Baseline, &self.baseline)]
    }

    fn endpoint(&self, sets: [u32; 3]) -> EndpointPolicy {
        let [inwards, outwards] = [Direction::In, Direction::Out].map(|direction| mode(&self.own, direction));
        let tiers = || self.admin.iter().chain(&self.baseline);
        EndpointPolicy {
            sets,
            isolated_in: inwards != Mode::Open,
            isolated_out: outwards != Mode::Open,
            audit_in: inwards == Mode::Audit,
            audit_out: outwards == Mode::Audit,
            ruled_in: inwards != Mode::Open || tiers().any(|policy| !policy.spec.ingress.is_empty()),
            ruled_out: outwards != Mode::Open || tiers().any(|policy| !policy.spec.egress.is_empty()),
        }
    }

    /// The rules of a tier's set, those that decide first in front.
    fn rules(&self, tier: usize, set: u32, tenant: &'a TenantName) -> Vec<Entry<'a>> {
        let policies = match tier {
            OWN => return rules_of_namespace(set, tenant, &self.own),
            ADMIN => &self.admin,
            _ => &self.baseline,
        };
        let rules = policies.iter().flat_map(|policy| rules_of_tier(policy).map(|rule| (*policy, rule)));
        let entry = |(order, (policy, (direction, index, rule))): (u32, (&'a TierPolicy, _))| {
            let rule: &'a crate::spec::v1::TierRule = rule;
            let (owner, action) = (Owner::Tier(&policy.key), rule.action);
            Entry { set, owner, tenant, direction, index, action, order, peers: &rule.peers, ports: &rule.ports }
        };
        (0..).zip(rules).map(entry).collect()
    }
}

fn rules_of_tier(policy: &TierPolicy) -> impl Iterator<Item = (Direction, usize, &crate::spec::v1::TierRule)> {
    let both = [(Direction::In, &policy.spec.ingress), (Direction::Out, &policy.spec.egress)];
    both.into_iter()
        .flat_map(|(direction, rules)| rules.iter().enumerate().map(move |(index, rule)| (direction, index, rule)))
}

fn rules_of(policy: &Policy, direction: Direction) -> Option<&Vec<PolicyRule>> {
    match direction {
        Direction::In => policy.spec.ingress.as_ref(),
        Direction::Out => policy.spec.egress.as_ref(),
    }
}

fn mode_of(policy: &Policy) -> Mode {
    if policy.spec.audit { Mode::Audit } else { Mode::Enforce }
}

fn mode(policies: &[&Policy], direction: Direction) -> Mode {
    let named = policies.iter().filter(|policy| rules_of(policy, direction).is_some());
    named.map(|policy| mode_of(policy)).max().unwrap_or(Mode::Open)
}

/// The rules of policies of a namespace that count, in the order of directions, policies and their rules. None is before
/// another: they only allow.
fn rules_of_namespace<'a>(set: u32, tenant: &'a TenantName, policies: &[&'a Policy]) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for direction in [Direction::In, Direction::Out] {
        let mode = mode(policies, direction);
        for policy in policies.iter().filter(|policy| mode_of(policy) == mode) {
            for (index, rule) in rules_of(policy, direction).into_iter().flatten().enumerate() {
                let owner = Owner::Policy(&policy.key);
                let (peers, ports) = (&rule.peers[..], &rule.ports[..]);
                let action = Action::Accept;
                entries.push(Entry { set, owner, tenant, direction, index, action, order: 0, peers, ports });
            }
        }
    }
    entries
}
