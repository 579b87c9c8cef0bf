//! Names in networks: who asks decides what there is. Pure.
//!
//! An instance that is in networks sees of other such apps those that are in one with it, by their names there. A name
//! stands for the Ready instances themselves and not for the service's virtual address: whoever knows an app by its name
//! in a network reaches all of its ports, also those that nobody has declared.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdMap, OrdSet, ordmap::DiffItem};

use hivemind_core::{
    model::{Instance, InstanceId, Scope, Service},
    spec::v1::SHARED_NETWORK,
};

/// Names in networks, and who asks for them. A clone is cheap.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Networks {
    /// By network and name: the numbers of the services that have it.
    members: HashMap<(String, String), OrdSet<u32>>,
    /// The instances of this node that are in networks.
    askers: HashMap<IpAddr, Arc<Asker>>,
    /// What they were made from.
    instances: OrdMap<InstanceId, Arc<Instance>>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asker {
    networks: BTreeSet<String>,
    scope: Scope,
    /// `.<namespace>.<tenant>.hivemind`: what a resolver puts behind a short name.
    domain: String,
}

/// What an asker that is in networks is told of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// These services have it, each of them in a network of the asker's.
    Services(BTreeSet<u32>),
    /// No app in its networks has the name, which is one of its own namespace.
    Hidden,
    /// It asks for something else, or is in no network.
    Elsewhere,
}

impl Networks {
    /// Takes in the instances of this node. Whether another answer is given to anything.
    pub(super) fn follow(&mut self, instances: &OrdMap<InstanceId, Arc<Instance>>) -> bool {
        let before = std::mem::replace(&mut self.instances, instances.clone());
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for change in before.diff(instances) {
            let (old, new) = match change {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            gone.extend(old.into_iter().flat_map(asker));
            come.extend(new.into_iter().flat_map(asker));
        }
        if gone == come {
            return false;
        }
        for (address, _) in gone {
            self.askers.remove(&address);
        }
        self.askers.extend(come.into_iter().map(|(address, asker)| (address, Arc::new(asker))));
        true
    }

    /// Takes in what a service was, and what it is.
    pub(super) fn follow_service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        if old.map(|old| (old.id, &old.key, &old.networks)) == new.map(|new| (new.id, &new.key, &new.networks)) {
            return;
        }
        for (name, service) in old.into_iter().flat_map(names) {
            if let Some(services) = self.members.get_mut(&name) {
                services.remove(&service);
                if services.is_empty() {
                    self.members.remove(&name);
                }
            }
        }
        for (name, service) in new.into_iter().flat_map(names) {
            self.members.entry(name).or_default().insert(service);
        }
    }

    /// What `asker` is told of `name` (lower case, without a final dot).
    pub(super) fn seen(&self, asker: IpAddr, name: &str) -> Seen {
        let Some(asker) = self.askers.get(&asker) else { return Seen::Elsewhere };
        let own = name.strip_suffix(&asker.domain);
        let short = own.unwrap_or(name);
        let of = |network: &String| self.members.get(&(network.clone(), short.to_owned()));
        // One that has the name in several networks is there once.
        let found: BTreeSet<u32> = asker.networks.iter().filter_map(of).flatten().copied().collect();
        match (found.is_empty(), own) {
            (false, _) => Seen::Services(found),
            (true, Some(_)) => Seen::Hidden,
            (true, None) => Seen::Elsewhere,
        }
    }

    /// Whether `asker` may know of a service: in its own namespace, one that is in networks sees of the others that are
    /// only those that are in one with it.
    pub(super) fn shows(&self, asker: IpAddr, service: &Service) -> bool {
        let Some(asker) = self.askers.get(&asker) else { return true };
        let scope = &service.key.scope;
        let mut theirs = service.networks.keys().map(|network| known(scope, network));
        service.networks.is_empty() || asker.scope != *scope || theirs.any(|network| asker.networks.contains(&network))
    }
}

/// A network as it is known here: one of a project is its namespace's, a shared one is its tenant's.
fn known(scope: &Scope, network: &str) -> String {
    match network.strip_prefix(SHARED_NETWORK) {
        Some(shared) => format!("{}//{shared}", scope.tenant),
        None => format!("{scope}/{network}"),
    }
}

/// The addresses from which an instance asks; none if it is in no network.
fn asker(instance: &Arc<Instance>) -> Vec<(IpAddr, Asker)> {
    let scope = &instance.app.scope;
    if instance.spec.networks.is_empty() {
        return Vec::new();
    }
    let networks = instance.spec.networks.keys().map(|network| known(scope, network)).collect();
    let asker = Asker { networks, scope: scope.clone(), domain: format!(".{}", scope.dns_domain()) };
    instance.addresses.iter().map(|address| (address, asker.clone())).collect()
}

/// All names of a service in its networks.
fn names(service: &Service) -> impl Iterator<Item = ((String, String), u32)> {
    service.networks.iter().flat_map(move |(network, names)| {
        let network = known(&service.key.scope, network);
        names.iter().map(move |name| ((network.clone(), name.clone()), service.id))
    })
}
