//! Classes: what the selectors of rules tell apart among the instances of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    PeerClass,
    keep::Before,
    matching::Matching,
    number::{Kind, fingerprint, numbers},
    sets::Owner,
};
use hivemind_core::{
    model::{InstanceId, Namespace, NamespaceName, NodeDesired, Peer, Scope, TenantName},
    spec::v1::{InstancePeer, Selector},
};

/// A selector of peers with all it depends on. Two rules that say the same share it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerSelector<'a> {
    /// None: in all tenants.
    tenant: Option<&'a TenantName>,
    namespaces: Namespaces<'a>,
    instances: &'a Selector,
}

/// In which namespaces of the tenants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Namespaces<'a> {
    All,
    Own(&'a NamespaceName),
    Labelled(&'a Selector),
}

impl<'a> PeerSelector<'a> {
    /// What `peer` means in a policy.
    pub(super) fn new(policy: Owner<'a>, peer: &'a InstancePeer) -> Self {
        let (tenant, own) = match policy {
            Owner::Policy(key) => (Some(&key.scope.tenant), Namespaces::Own(&key.scope.namespace)),
            Owner::Tier(key) => (key.tenant.as_ref(), Namespaces::All),
            Owner::Failsafe => (None, Namespaces::All),
        };
        Self {
            tenant,
            namespaces: peer.namespaces.as_ref().map_or(own, Namespaces::Labelled),
            instances: &peer.instances,
        }
    }

    fn in_namespace(&self, scope: &Scope, labels: &Labels) -> bool {
        let named = match self.namespaces {
            Namespaces::All => true,
            Namespaces::Own(name) => *name == scope.namespace,
            Namespaces::Labelled(selector) => selector.matches(labels),
        };
        // A tenant's selectors never look into another one: its labels are not their author's to rely on.
        self.tenant.is_none_or(|tenant| *tenant == scope.tenant) && named
    }
}

type Labels = BTreeMap<String, String>;

/// The classes of all instances, and whom selectors and tenants mean by class.
#[derive(Default)]
pub(super) struct Classes<'a> {
    pub(super) peers: BTreeMap<InstanceId, PeerClass>,
    by_selector: BTreeMap<PeerSelector<'a>, BTreeSet<u32>>,
    by_tenant: BTreeMap<&'a TenantName, BTreeSet<u32>>,
    /// The classes by their fingerprints.
    pub(super) given: BTreeMap<u64, u32>,
}

impl<'a> Classes<'a> {
    /// Sorts all instances by what `selectors` say of them.
    pub(super) fn new(desired: &'a NodeDesired, selectors: &BTreeSet<PeerSelector<'a>>, before: Before<'_>) -> Self {
        let mut scopes: BTreeMap<&Scope, Matching<'a, PeerSelector<'a>>> = BTreeMap::new();
        // Many instances have the same labels; the selectors are asked once for all of them.
        let mut matched: BTreeMap<(&Scope, &Labels), Vec<PeerSelector<'a>>> = BTreeMap::new();
        for peer in desired.peers.values() {
            let looking = scopes.entry(&peer.scope).or_insert_with(|| looking_into(desired, &peer.scope, selectors));
            matched.entry((&peer.scope, &peer.labels)).or_insert_with(|| looking.of(&peer.labels));
        }
        let tenants = numbers(Kind::Tenant, scopes.keys().map(|scope| &scope.tenant));
        let mut prints: BTreeMap<(&Scope, &Vec<PeerSelector<'a>>), u64> = BTreeMap::new();
        for ((scope, _), selectors) in &matched {
            prints.entry((*scope, selectors)).or_insert_with(|| fingerprint(&(*scope, selectors)));
        }
        let print = |peer: &Peer| {
            let selectors = matched.get(&(&peer.scope, &peer.labels))?;
            prints.get(&(&peer.scope, selectors)).copied()
        };
        let mut groups: BTreeMap<u64, Vec<&InstanceId>> = BTreeMap::new();
        for (id, peer) in &desired.peers {
            if let Some(print) = print(peer) {
                groups.entry(print).or_default().push(id);
            }
        }
        let mut classes = Self { given: before.classes(&groups), ..Self::default() };
        for ((scope, selectors), print) in &prints {
            let Some(class) = classes.given.get(print) else { continue };
            classes.by_tenant.entry(&scope.tenant).or_default().insert(*class);
            for selector in *selectors {
                classes.by_selector.entry(*selector).or_default().insert(*class);
            }
        }
        for (id, peer) in &desired.peers {
            let class = print(peer).and_then(|print| classes.given.get(&print));
            if let (Some(class), Some(tenant)) = (class, tenants.get(&peer.scope.tenant)) {
                classes.peers.insert(id.clone(), PeerClass { class: *class, tenant: *tenant });
            }
        }
        classes
    }

    /// The classes that a selector matches.
    pub(super) fn selected(&self, selector: &PeerSelector<'a>) -> impl Iterator<Item = u32> {
        self.by_selector.get(selector).into_iter().flatten().copied()
    }

    /// The classes of the tenants that `of` is true for.
    pub(super) fn of_tenants(&self, of: impl Fn(&TenantName) -> bool) -> impl Iterator<Item = u32> {
        self.by_tenant.iter().filter(move |(tenant, _)| of(tenant)).flat_map(|(_, classes)| classes.iter().copied())
    }
}

/// The selectors that may match instances of a namespace.
fn looking_into<'a>(
    desired: &NodeDesired,
    scope: &Scope,
    selectors: &BTreeSet<PeerSelector<'a>>,
) -> Matching<'a, PeerSelector<'a>> {
    let none = Labels::new();
    let row = desired.namespaces.get(scope);
    let labels = Namespace::all_labels(scope, row.map_or(&none, |namespace| &namespace.labels));
    let looking = selectors.iter().filter(|selector| selector.in_namespace(scope, &labels));
    Matching::new(looking.map(|selector| (selector.instances, *selector)))
}
