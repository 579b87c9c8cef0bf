//! Names in networks: who asks decides what there is. Pure.
//!
//! An instance that is in networks sees of other such apps those that are in one with it, by their names there. A name
//! stands for the Ready instances themselves and not for the service's virtual address: whoever knows an app by its name
//! in a network reaches all of its ports, also those that nobody has declared.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdMap, ordmap::DiffItem};

use crate::{
    model::{Addresses, Instance, InstanceId, Scope, ServedService},
    spec::v1::SHARED_NETWORK,
};

/// Names in networks, and who asks for them. A clone is cheap.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Networks {
    /// By network and name: the services that have it, with the addresses of their Ready instances.
    members: HashMap<(String, String), Services>,
    /// The instances of this node that are in networks.
    askers: HashMap<IpAddr, Arc<Asker>>,
    /// What they were made from.
    instances: OrdMap<InstanceId, Arc<Instance>>,
}

/// Services by their numbers, with the addresses of their Ready instances.
type Services = OrdMap<u32, Arc<Vec<Addresses>>>;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asker {
    networks: BTreeSet<String>,
    /// `.<namespace>.<tenant>.hivemind`: what a resolver puts behind a short name.
    domain: String,
}

/// What an asker that is in networks is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Addresses of instances; none if there is no Ready one.
    Addresses(Vec<IpAddr>),
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

    /// Takes in a change of a service. Whether another answer is given to anything.
    pub(super) fn follow_service(&mut self, old: Option<&ServedService>, new: Option<&ServedService>) -> bool {
        let (gone, come) = (old.map(names).unwrap_or_default(), new.map(names).unwrap_or_default());
        if gone == come {
            return false;
        }
        for (name, service, _) in gone {
            if let Some(services) = self.members.get_mut(&name) {
                services.remove(&service);
                if services.is_empty() {
                    self.members.remove(&name);
                }
            }
        }
        for (name, service, addresses) in come {
            self.members.entry(name).or_default().insert(service, addresses);
        }
        true
    }

    /// What `asker` is told of `name` (lower case, without a final dot), in one family.
    pub(super) fn seen(&self, asker: IpAddr, name: &str, v4: bool) -> Seen {
        let Some(asker) = self.askers.get(&asker) else { return Seen::Elsewhere };
        let own = name.strip_suffix(&asker.domain);
        let short = own.unwrap_or(name);
        let of = |network: &String| self.members.get(&(network.clone(), short.to_owned()));
        let found: Vec<_> = asker.networks.iter().filter_map(of).flat_map(|services| services.values()).collect();
        if found.is_empty() {
            return if own.is_some() { Seen::Hidden } else { Seen::Elsewhere };
        }
        let all = found.iter().flat_map(|addresses| addresses.iter()).flat_map(|addresses| addresses.iter());
        // One that has the name in several networks is there once.
        let all: BTreeSet<IpAddr> = all.filter(|address| address.is_ipv4() == v4).collect();
        Seen::Addresses(all.into_iter().collect())
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
    let asker = Asker { networks, domain: format!(".{}", scope.dns_domain()) };
    instance.addresses.iter().map(|address| (address, asker.clone())).collect()
}

type Member = ((String, String), u32, Arc<Vec<Addresses>>);

/// All names of a service in its networks, with the addresses of its Ready instances.
fn names(served: &ServedService) -> Vec<Member> {
    let service = &served.service;
    let ready = served.backends.iter().filter(|_| !served.leaving).map(|backend| backend.addresses);
    let addresses = Arc::new(ready.collect::<Vec<_>>());
    let each = |(network, names): (&String, &BTreeSet<String>)| {
        let network = known(&service.key.scope, network);
        names
            .iter()
            .map(|name| ((network.clone(), name.clone()), service.id, Arc::clone(&addresses)))
            .collect::<Vec<_>>()
    };
    service.networks.iter().flat_map(each).collect()
}
