//! The last compilation, and whether it still holds: it costs by policies and instances, and most changes are neither.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;

use super::{Compiled, EndpointPolicy, Failsafe, KnownNames, OWN, PeerClass, Retired, compile::compile_after};
use hivemind_core::model::{InstanceId, NodeDesired, NodeName, Scope};

type Labels = BTreeMap<String, String>;

/// What instances of a namespace with the same labels are to policies.
#[derive(Debug, Default)]
struct Alike {
    class: PeerClass,
    /// Of those on this node, if there are any.
    here: Option<Option<EndpointPolicy>>,
}

/// What policies make of the newest view, compiled only if policies, namespaces, or which labels there are have changed.
#[derive(Debug, Default)]
pub struct Cache {
    desired: Arc<NodeDesired>,
    node: Option<NodeName>,
    known: Arc<KnownNames>,
    failsafe: Failsafe,
    compiled: Arc<Compiled>,
    /// The names of rules that were compiled before.
    retired: Retired,
    alike: BTreeMap<Scope, BTreeMap<Labels, Alike>>,
    /// How often everything was compiled.
    runs: u64,
    /// How often it was compiled, or assigned to other instances.
    version: u64,
}

impl Cache {
    /// Of a node where these ports are always open.
    pub fn new(failsafe: Failsafe) -> Self {
        Self { failsafe, ..Self::default() }
    }

    /// The ports that are always open.
    pub const fn failsafe(&self) -> &Failsafe {
        &self.failsafe
    }

    /// Begins where another daemon has left off: numbers stay with the instances that have them in the maps. For a cache
    /// that has compiled nothing.
    pub fn take_over(&mut self, peers: BTreeMap<InstanceId, PeerClass>, sets: BTreeMap<InstanceId, u32>) {
        let own = |set| {
            let mut endpoint = EndpointPolicy::NONE;
            endpoint.sets[OWN] = set;
            endpoint
        };
        let endpoints = sets.into_iter().map(|(id, set)| (id, own(set))).collect();
        self.compiled = Arc::new(Compiled { peers, endpoints, ..Compiled::default() });
    }

    /// The same as [`compile_with`](super::compile_with) of `desired`, `known` and the fail-safe ports, but for numbers:
    /// they stay with those who have them.
    pub fn compile(&mut self, desired: &Arc<NodeDesired>, node: &NodeName, known: &Arc<KnownNames>) -> Arc<Compiled> {
        let known_alike = Arc::ptr_eq(&self.known, known) || self.known == *known;
        if self.node.as_ref() == Some(node) && known_alike && Arc::ptr_eq(&self.desired, desired) {
            return Arc::clone(&self.compiled);
        }
        let (before, now) = (&self.desired, desired);
        let ruled_alike = self.node.as_ref() == Some(node)
            && known_alike
            && same(&before.policies, &now.policies)
            && same(&before.tiers, &now.tiers)
            && same(&before.namespaces, &now.namespaces);
        let peers_alike = same(&before.peers, &now.peers);
        self.version += u64::from(!ruled_alike || !peers_alike);
        if !ruled_alike || !(peers_alike || self.assign(now, node)) {
            let compiled = Arc::new(compile_after(&self.compiled, desired, node, known, &self.failsafe));
            self.retired.changed(&self.compiled.names, &compiled.names);
            self.compiled = compiled;
            self.runs += 1;
            self.sort(desired, node);
        }
        self.desired = Arc::clone(desired);
        self.node = Some(node.clone());
        self.known = Arc::clone(known);
        Arc::clone(&self.compiled)
    }

    /// Another number when what was compiled is another.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How often everything was compiled since the start.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// The names of rules that are gone.
    pub const fn retired(&self) -> &Retired {
        &self.retired
    }

    /// Forgets those of them whose numbers are none of these, see [`Retired::keep`].
    pub fn forget(&mut self, named: &BTreeSet<u32>) {
        self.retired.keep(named);
    }

    /// Gives all instances the classes and sets of those with the same labels. False if there are labels that were not
    /// there, or not on this node, or if some are gone: then rows come or go.
    fn assign(&mut self, desired: &NodeDesired, node: &NodeName) -> bool {
        let mut peers = BTreeMap::new();
        let mut endpoints = BTreeMap::new();
        let mut seen: BTreeSet<(&Scope, &Labels)> = BTreeSet::new();
        let mut seen_here = BTreeSet::new();
        for (id, peer) in &desired.peers {
            let Some(alike) = self.alike.get(&peer.scope).and_then(|of| of.get(&peer.labels)) else { return false };
            peers.insert(id.clone(), alike.class);
            seen.insert((&peer.scope, &peer.labels));
            if peer.node == *node {
                let Some(policy) = alike.here else { return false };
                seen_here.insert((&peer.scope, &peer.labels));
                endpoints.extend(policy.map(|policy| (id.clone(), policy)));
            }
        }
        let known = || self.alike.values().flat_map(BTreeMap::values);
        if seen.len() != known().count() || seen_here.len() != known().filter(|alike| alike.here.is_some()).count() {
            return false;
        }
        let compiled = Arc::make_mut(&mut self.compiled);
        (compiled.peers, compiled.endpoints) = (peers, endpoints);
        true
    }

    fn sort(&mut self, desired: &NodeDesired, node: &NodeName) {
        self.alike.clear();
        for (id, peer) in &desired.peers {
            let of: &mut BTreeMap<Labels, Alike> = match self.alike.get_mut(&peer.scope) {
                Some(of) => of,
                None => self.alike.entry(peer.scope.clone()).or_default(),
            };
            let alike = match of.get_mut(&peer.labels) {
                Some(alike) => alike,
                None => of.entry(peer.labels.clone()).or_default(),
            };
            alike.class = self.compiled.peers.get(id).copied().unwrap_or_default();
            if peer.node == *node {
                alike.here = Some(self.compiled.endpoints.get(id).copied());
            }
        }
    }
}

/// Whether two maps hold the same rows, without looking into them: a row that was told again counts as changed.
fn same<K: Ord, V>(before: &OrdMap<K, Arc<V>>, now: &OrdMap<K, Arc<V>>) -> bool {
    if before.ptr_eq(now) {
        return true;
    }
    let mut rows = before.iter().zip(now);
    before.len() == now.len() && rows.all(|((key, row), (other, new))| Arc::ptr_eq(row, new) && key == other)
}
