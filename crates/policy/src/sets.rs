//! Sets: which rules count for an instance, tier by tier.
//!
//! In a tier the operator and the tenant have a set each. Whoever stands higher decides first in `Admin` and last in
//! `Baseline`: so a tenant overrules no operator, and says what holds for itself where the operator says nothing.
//!
//! The set of a tier is numbered by what its policies say, not only by their names: a change of one is a new set, and an
//! instance goes from the old list to the new one in a single write. An order that is half old and half new would let
//! pass what both lists deny. Policies of a namespace only allow: their rows may come and go one by one, and a set of
//! theirs keeps its number as long as the same instances have it (`keep`).

use std::collections::BTreeMap;

use super::{
    ADMIN, BASELINE, Direction, EndpointPolicy, FAILSAFE, Failsafe, HOST_RULES, OWN, PUBLISHED_RULES, PUBLISHED_TRIAL,
    PolicyRef, SETS, TENANT_ADMIN, TENANT_BASELINE, TRIAL_RULES, keep::Before, matching::Matching, number::fingerprint,
};
use hivemind_core::{
    model::{InstanceId, Namespace, NodeDesired, NodeName, Policy, PolicyKey, Scope, TenantName, TierKey, TierPolicy},
    spec::v1::{Action, Entity, PolicyPeer, PolicyPort, PolicyRule, Selector, Tier, TierRule, Way},
};

/// A policy of either kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner<'a> {
    Policy(&'a PolicyKey),
    Tier(&'a TierKey),
    Failsafe,
}

/// A rule that counts in a set.
pub(super) struct Entry<'a> {
    pub(super) set: u32,
    pub(super) owner: Owner<'a>,
    /// The tenant of the instances that the set is about; the host has none.
    pub(super) tenant: Option<&'a TenantName>,
    pub(super) direction: Direction,
    pub(super) index: usize,
    pub(super) action: Action,
    /// Of all rules of the set that match, the lowest decides.
    pub(super) order: u32,
    pub(super) peers: &'a [PolicyPeer],
    pub(super) ports: &'a [PolicyPort],
}

impl From<Owner<'_>> for PolicyRef {
    fn from(owner: Owner<'_>) -> Self {
        match owner {
            Owner::Policy(key) => Self::Namespace(key.clone()),
            Owner::Tier(key) => Self::Tier(key.clone()),
            Owner::Failsafe => Self::Failsafe,
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
    /// By index of set. With the tenant, if a rule speaks of the same or of other tenants: then it means others in each.
    Tier(usize, Option<&'a TenantName>, Vec<(&'a TierKey, u64)>),
    /// Of the host, by index of set.
    Host(usize, Vec<(&'a TierKey, u64)>),
    Failsafe(u64),
}

/// The policies about the instances of a namespace with the same labels.
struct About<'a> {
    own: Vec<&'a Policy>,
    /// By index of set; at that of `own` none.
    tiers: [Vec<&'a TierPolicy>; SETS],
}

/// What is in sets, and who has which.
pub(super) struct Sets<'a> {
    /// Instances that some policy is about.
    pub(super) endpoints: BTreeMap<InstanceId, EndpointPolicy>,
    /// The host, if some policy is about it.
    pub(super) host: Option<EndpointPolicy>,
    pub(super) entries: Vec<Entry<'a>>,
    /// The numbers of sets by their fingerprints.
    pub(super) given: BTreeMap<u64, u32>,
}

/// Whom the fail-safe ports are open to.
static OUTSIDE: [PolicyPeer; 1] = [PolicyPeer::Entity(Entity::World)];

/// The sets of the node's instances and of the node itself, and the rules in them. Whom no policy is about is in none.
pub(super) fn of_node<'a>(
    desired: &'a NodeDesired,
    node: &NodeName,
    failsafe: &'a Failsafe,
    before: Before<'_>,
) -> Sets<'a> {
    let index = Index::new(desired, node);
    let mut alike: BTreeMap<(&Scope, &BTreeMap<String, String>), Vec<&InstanceId>> = BTreeMap::new();
    for (id, peer) in desired.peers.iter().filter(|(_, peer)| peer.node == *node) {
        alike.entry((&peer.scope, &peer.labels)).or_default().push(id);
    }
    let about: Vec<_> = alike
        .into_iter()
        .map(|((scope, labels), ids)| {
            let about = index.about(scope, labels);
            let prints = about.identities(&scope.tenant, &index).map(|identity| identity.map(|of| fingerprint(&of)));
            (scope, ids, about, prints)
        })
        .collect();
    let of_host = index.identities_of_host(failsafe).map(|identity| identity.map(|of| fingerprint(&of)));
    let mut groups: BTreeMap<u64, Vec<&InstanceId>> = of_host.iter().flatten().map(|print| (*print, vec![])).collect();
    for (_, ids, _, prints) in &about {
        for (set, print) in prints.iter().enumerate().filter_map(|(set, print)| Some((set, (*print)?))) {
            let members = groups.entry(print).or_default();
            // Those of tiers are numbered by what they say and never become something else.
            if set == OWN {
                members.extend(ids);
            }
        }
    }
    let given = before.sets(&groups, about.iter().flat_map(|(_, ids, ..)| ids.iter().copied()));
    let number = |print: &Option<u64>| print.and_then(|print| given.get(&print)).copied().unwrap_or_default();
    let mut endpoints = BTreeMap::new();
    let mut entries: BTreeMap<u32, Vec<Entry<'a>>> = BTreeMap::new();
    for (scope, ids, about, prints) in &about {
        let endpoint = about.endpoint(prints.each_ref().map(number));
        if endpoint.sets == [0; SETS] {
            continue;
        }
        endpoints.extend(ids.iter().map(|id| ((*id).clone(), endpoint)));
        for (tier, set) in endpoint.sets.into_iter().enumerate().filter(|(_, set)| *set != 0) {
            entries.entry(set).or_insert_with(|| about.rules(tier, set, &scope.tenant));
        }
    }
    let host = (!index.host.is_empty()).then(|| index.host_endpoint(of_host.each_ref().map(number)));
    let mut entries: Vec<Entry<'a>> = entries.into_values().flatten().collect();
    entries.extend(host.iter().flat_map(|host| index.rules_of_host(host.sets, failsafe)));
    Sets { endpoints, host, entries, given }
}

/// The policies by where they look.
struct Index<'a> {
    desired: &'a NodeDesired,
    own: BTreeMap<&'a Scope, Matching<'a, &'a Policy>>,
    tiers: [Vec<&'a TierPolicy>; SETS],
    /// Those of the tier `host` about the node.
    host: Vec<&'a TierPolicy>,
    prints: BTreeMap<&'a TierKey, u64>,
}

impl<'a> Index<'a> {
    fn new(desired: &'a NodeDesired, node: &NodeName) -> Self {
        let mut own: BTreeMap<&Scope, Vec<(&Selector, &Policy)>> = BTreeMap::new();
        for policy in desired.policies.values() {
            own.entry(&policy.key.scope).or_default().push((&policy.spec.instances, policy));
        }
        let own = own.into_iter().map(|(scope, policies)| (scope, Matching::new(policies))).collect();
        let tiers = || desired.tiers.values().map(|policy| &**policy);
        let of = |tier, operators: bool| {
            let is = |policy: &&TierPolicy| policy.spec.tier == tier && policy.key.tenant.is_none() == operators;
            let mut found: Vec<&TierPolicy> = tiers().filter(is).collect();
            found.sort_by_key(|policy| (policy.spec.priority, &policy.key));
            found
        };
        let mut sets: [Vec<&TierPolicy>; SETS] = Default::default();
        for (set, tier, operators) in [
            (ADMIN, Tier::Admin, true),
            (TENANT_ADMIN, Tier::Admin, false),
            (TENANT_BASELINE, Tier::Baseline, false),
            (BASELINE, Tier::Baseline, true),
        ] {
            sets[set] = of(tier, operators);
        }
        let mut host = of(Tier::Host, true);
        host.retain(|policy| policy.spec.nodes.is_empty() || policy.spec.nodes.contains(node));
        let prints = tiers().map(|policy| (&policy.key, fingerprint(&policy.spec))).collect();
        Self { desired, own, tiers: sets, host, prints }
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
        About {
            own: self.own.get(scope).map_or_else(Vec::new, |policies| policies.of(labels)),
            tiers: self.tiers.each_ref().map(|policies| tier(policies)),
        }
    }

    fn printed(&self, policies: &[&'a TierPolicy]) -> Vec<(&'a TierKey, u64)> {
        let print = |policy: &&'a TierPolicy| (&policy.key, self.prints.get(&policy.key).copied().unwrap_or(0));
        policies.iter().map(print).collect()
    }

    /// Nothing always passes where nothing is denied.
    fn identities_of_host(&self, failsafe: &Failsafe) -> [Option<Identity<'a>>; SETS] {
        let mut identities = [const { None }; SETS];
        if self.host.is_empty() {
            return identities;
        }
        identities[FAILSAFE] = Some(Identity::Failsafe(fingerprint(failsafe)));
        let enforced: Vec<_> = self.enforced().collect();
        for (set, policies, asked) in [
            (HOST_RULES, &enforced, !enforced.is_empty()),
            (PUBLISHED_RULES, &enforced, !enforced.is_empty()),
            (TRIAL_RULES, &self.host, self.tries([Way::Ingress, Way::Egress])),
            (PUBLISHED_TRIAL, &self.host, self.tries([Way::Published])),
        ] {
            identities[set] = asked.then(|| Identity::Host(set, self.printed(policies)));
        }
        identities
    }

    /// The policies of the host that are not on trial.
    fn enforced(&self) -> impl Iterator<Item = &'a TierPolicy> {
        self.host.iter().copied().filter(|policy| !policy.spec.audit)
    }

    /// Whether a policy of the host on trial speaks of one of these ways.
    fn tries<const N: usize>(&self, ways: [Way; N]) -> bool {
        self.host.iter().any(|policy| policy.spec.audit && ways.iter().any(|way| policy.spec.speaks_of(*way)))
    }

    fn host_endpoint(&self, sets: [u32; SETS]) -> EndpointPolicy {
        let closing = |way: Way| self.enforced().filter(move |policy| policy.spec.closes.contains(&way));
        let isolated = |way| closing(way).next().is_some();
        // Those on trial are asked as well.
        let ruled = |way| self.host.iter().any(|policy| policy.spec.speaks_of(way));
        let audit = |way| self.host.iter().any(|policy| policy.spec.audit && policy.spec.closes.contains(&way));
        let reject = |way| isolated(way) && closing(way).all(|policy| !policy.spec.otherwise.is_deny());
        EndpointPolicy {
            sets,
            isolated_in: isolated(Way::Ingress),
            isolated_out: isolated(Way::Egress),
            isolated_published: isolated(Way::Published),
            ruled_in: ruled(Way::Ingress),
            ruled_out: ruled(Way::Egress),
            ruled_published: ruled(Way::Published),
            reject_in: reject(Way::Ingress),
            reject_out: reject(Way::Egress),
            reject_published: reject(Way::Published),
            audit_in: audit(Way::Ingress),
            audit_out: audit(Way::Egress),
            audit_published: audit(Way::Published),
        }
    }

    fn rules_of_host(&self, sets: [u32; SETS], failsafe: &'a Failsafe) -> Vec<Entry<'a>> {
        let mut entries = Vec::new();
        for (direction, ports) in [(Direction::In, &failsafe.inbound), (Direction::Out, &failsafe.outbound)] {
            // Without a port it would be all of them.
            if !ports.is_empty() {
                let (set, owner, action) = (sets[FAILSAFE], Owner::Failsafe, Action::Accept);
                let (index, order, tenant, peers) = (0, 0, None, &OUTSIDE[..]);
                entries.push(Entry { set, owner, tenant, direction, index, action, order, peers, ports });
            }
        }
        let mut order = 0;
        for policy in &self.host {
            for (way, direction, decides, tries) in [
                (Way::Ingress, Direction::In, HOST_RULES, TRIAL_RULES),
                (Way::Egress, Direction::Out, HOST_RULES, TRIAL_RULES),
                (Way::Published, Direction::Published, PUBLISHED_RULES, PUBLISHED_TRIAL),
            ] {
                let sets = [if policy.spec.audit { 0 } else { sets[decides] }, sets[tries]];
                for (index, rule) in policy.spec.rules(way).iter().enumerate() {
                    for set in sets.into_iter().filter(|set| *set != 0) {
                        let (owner, tenant) = (Owner::Tier(&policy.key), None);
                        let (action, peers, ports) = (rule.action, &rule.peers[..], &rule.ports[..]);
                        entries.push(Entry { set, owner, tenant, direction, index, action, order, peers, ports });
                    }
                    order += 1;
                }
            }
        }
        entries
    }
}

impl<'a> About<'a> {
    fn identities(&self, tenant: &'a TenantName, index: &Index<'a>) -> [Option<Identity<'a>>; SETS] {
        let tier = |(set, policies): (usize, &Vec<&'a TierPolicy>)| {
            let relative = policies.iter().flat_map(|policy| rules_of_tier(policy)).any(|(.., rule)| {
                let relative =
                    |peer: &PolicyPeer| matches!(peer, PolicyPeer::Entity(Entity::SameTenant | Entity::OtherTenants));
                rule.peers.iter().any(relative)
            });
            let printed = index.printed(policies);
            (!policies.is_empty()).then(|| Identity::Tier(set, relative.then_some(tenant), printed))
        };
        let mut identities = [const { None }; SETS];
        for (identity, policies) in identities.iter_mut().zip(self.tiers.iter().enumerate()) {
            *identity = tier(policies);
        }
        identities[OWN] =
            (!self.own.is_empty()).then(|| Identity::Own(self.own.iter().map(|policy| &policy.key).collect()));
        identities
    }

    fn endpoint(&self, sets: [u32; SETS]) -> EndpointPolicy {
        let [inwards, outwards] = [Direction::In, Direction::Out].map(|direction| mode(&self.own, direction));
        let tiers = || self.tiers.iter().flatten();
        EndpointPolicy {
            sets,
            isolated_in: inwards != Mode::Open,
            isolated_out: outwards != Mode::Open,
            audit_in: inwards == Mode::Audit,
            audit_out: outwards == Mode::Audit,
            ruled_in: inwards != Mode::Open || tiers().any(|policy| !policy.spec.ingress.is_empty()),
            ruled_out: outwards != Mode::Open || tiers().any(|policy| !policy.spec.egress.is_empty()),
            reject_in: rejects(&self.own, Direction::In),
            reject_out: rejects(&self.own, Direction::Out),
            ..EndpointPolicy::NONE
        }
    }

    /// The rules of a tier's set, those that decide first in front.
    fn rules(&self, tier: usize, set: u32, tenant: &'a TenantName) -> Vec<Entry<'a>> {
        if tier == OWN {
            return rules_of_namespace(set, tenant, &self.own);
        }
        let tenant = Some(tenant);
        let rules = self.tiers[tier].iter().flat_map(|policy| rules_of_tier(policy).map(|rule| (*policy, rule)));
        let entry = |(order, (policy, (direction, index, rule))): (u32, (&'a TierPolicy, _))| {
            let rule: &'a TierRule = rule;
            let (owner, action) = (Owner::Tier(&policy.key), rule.action);
            Entry { set, owner, tenant, direction, index, action, order, peers: &rule.peers, ports: &rule.ports }
        };
        (0..).zip(rules).map(entry).collect()
    }
}

fn rules_of_tier(policy: &TierPolicy) -> impl Iterator<Item = (Direction, usize, &TierRule)> {
    let both = [(Direction::In, &policy.spec.ingress), (Direction::Out, &policy.spec.egress)];
    both.into_iter()
        .flat_map(|(direction, rules)| rules.iter().enumerate().map(move |(index, rule)| (direction, index, rule)))
}

fn rules_of(policy: &Policy, direction: Direction) -> Option<&Vec<PolicyRule>> {
    match direction {
        Direction::In | Direction::Published => policy.spec.ingress.as_ref(),
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

/// Whether whoever is denied in this direction is told: the policy that is silent decides.
fn rejects(policies: &[&Policy], direction: Direction) -> bool {
    let mut closing = policies.iter().filter(|policy| rules_of(policy, direction).is_some() && !policy.spec.audit);
    mode(policies, direction) == Mode::Enforce && closing.all(|policy| !policy.spec.otherwise.is_deny())
}

/// The rules of policies of a namespace that count, in the order of directions, policies and their rules. None is before
/// another: they only allow.
fn rules_of_namespace<'a>(set: u32, tenant: &'a TenantName, policies: &[&'a Policy]) -> Vec<Entry<'a>> {
    let (mut entries, tenant) = (Vec::new(), Some(tenant));
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
