//! Names and addresses. Pure.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use imbl::{HashMap, OrdMap, OrdSet, ordmap::DiffItem};
use ipnet::IpNet;

use super::networks::Networks;
use hivemind_core::{
    model::{Addresses, Instance, InstanceId, NodeDesired, Scope, ServedService, Service, ServiceKey},
    spec::v1::DnsSpec,
};

/// All names of services, in lower case without a final dot. A clone is cheap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DnsTable {
    /// The numbers of the services that have them.
    pub(super) names: HashMap<String, u32>,
    /// Names that services have theirs beneath, with how many do.
    pub(super) domains: HashMap<String, u32>,
    /// Services by their numbers.
    pub(super) served: HashMap<u32, Arc<ServedService>>,
    /// The services that have an address, or instances with it.
    pub(super) owners: HashMap<IpAddr, OrdSet<u32>>,
    /// The blocks in which every address is an instance's or a service's, or nobody's.
    pub(super) ranges: Arc<[IpNet]>,
    pub(super) networks: Networks,
    /// What the names were made from.
    services: OrdMap<ServiceKey, Arc<ServedService>>,
    /// Who is asked for other names, by the address of the instance that asks; the node's servers for who is not here.
    servers: HashMap<IpAddr, Vec<IpAddr>>,
    /// What the servers were made from.
    instances: OrdMap<InstanceId, Arc<Instance>>,
    complete: bool,
}

impl DnsTable {
    /// The names of all that is told.
    pub fn new(desired: &NodeDesired) -> Self {
        let mut table = Self::default();
        table.follow(desired);
        table
    }

    /// A table without a name yet. Of addresses in `ranges` nobody else is asked.
    pub fn of(ranges: impl IntoIterator<Item = IpNet>) -> Self {
        Self { ranges: ranges.into_iter().collect(), ..Self::default() }
    }

    /// Takes in what is told now, and costs by what differs from before. Whether another answer is given to anything.
    pub fn follow(&mut self, desired: &NodeDesired) -> bool {
        let complete = desired.revision > 0;
        let mut differs = std::mem::replace(&mut self.complete, complete) != complete;
        differs |= self.networks.follow(&desired.instances);
        let before = std::mem::replace(&mut self.services, desired.services.clone());
        let changes = before.diff(&desired.services).map(|change| match change {
            DiffItem::Add(_, new) => (None, Some(new)),
            DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
            DiffItem::Remove(_, old) => (Some(old), None),
        });
        let changes: Vec<_> = changes.collect();
        differs |= !changes.is_empty();
        for (old, new) in &changes {
            self.networks.follow_service(old.map(|old| &old.service), new.map(|new| &new.service));
            if let Some(old) = old {
                self.forget(old, *new);
            }
        }
        // After all that go: a name may go over from one service to another at once.
        for (old, new) in &changes {
            if let Some(new) = new {
                self.learn(*old, new);
            }
        }
        self.follow_servers(desired) || differs
    }

    /// Takes away what a service had, but for what it has still.
    fn forget(&mut self, old: &ServedService, new: Option<&Arc<ServedService>>) {
        let id = old.service.id;
        let kept = new.filter(|new| new.service.id == id);
        if kept.is_none() {
            self.served.remove(&id);
        }
        let names = kept.map(|kept| names(&kept.service)).unwrap_or_default();
        for name in self::names(&old.service).difference(&names) {
            // A name that has gone over to another service is that one's.
            if self.names.get(name) == Some(&id) {
                self.names.remove(name);
            }
        }
        let addresses = kept.map(|kept| addresses(kept)).unwrap_or_default();
        for address in self::addresses(old).difference(&addresses) {
            if let Some(owners) = self.owners.get_mut(address) {
                owners.remove(&id);
                if owners.is_empty() {
                    self.owners.remove(address);
                }
            }
        }
        if new.is_none() {
            for domain in domains(&old.service.key.scope) {
                let count = self.domains.get(&domain).copied().unwrap_or_default();
                match count {
                    0 | 1 => self.domains.remove(&domain),
                    more => self.domains.insert(domain, more - 1),
                };
            }
        }
    }

    /// Adds what a service has, but for what it had.
    fn learn(&mut self, old: Option<&Arc<ServedService>>, new: &Arc<ServedService>) {
        let id = new.service.id;
        let kept = old.filter(|old| old.service.id == id);
        self.served.insert(id, Arc::clone(new));
        let names = kept.map(|kept| names(&kept.service)).unwrap_or_default();
        for name in self::names(&new.service).difference(&names) {
            self.names.insert(name.clone(), id);
        }
        let addresses = kept.map(|kept| addresses(kept)).unwrap_or_default();
        for address in self::addresses(new).difference(&addresses) {
            self.owners.entry(*address).or_default().insert(id);
        }
        if old.is_none() {
            for domain in domains(&new.service.key.scope) {
                *self.domains.entry(domain).or_default() += 1;
            }
        }
    }

    fn follow_servers(&mut self, desired: &NodeDesired) -> bool {
        let before = std::mem::replace(&mut self.instances, desired.instances.clone());
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for change in before.diff(&self.instances) {
            let (old, new) = match change {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            let own = |instance: &&Arc<Instance>| !instance.spec.container.dns.servers.is_empty();
            gone.extend(old.filter(own).into_iter().flat_map(|instance| instance.addresses.iter()));
            if let Some(instance) = new.filter(own) {
                let servers = &instance.spec.container.dns.servers;
                come.extend(instance.addresses.iter().map(|address| (address, servers.clone())));
            }
        }
        let differs = !gone.is_empty() || !come.is_empty();
        gone.iter().for_each(|address| drop(self.servers.remove(address)));
        self.servers.extend(come);
        differs
    }

    /// Who is asked for names that are not ours when the instance of that address asks; empty: whom the node asks.
    pub fn servers_of(&self, asker: IpAddr) -> &[IpAddr] {
        self.servers.get(&asker).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether it was made from a complete state: before, a name that is missing may still come.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

/// All names of a service.
fn names(service: &Service) -> BTreeSet<String> {
    service.all_dns_names().map(|name| name.to_ascii_lowercase()).collect()
}

/// The addresses of a service and of its instances.
fn addresses(served: &ServedService) -> HashSet<IpAddr> {
    let instances = served.backends.iter().flat_map(|backend| backend.addresses.iter());
    served.service.addresses.iter().chain(instances).collect()
}

/// The names that those of a namespace's services are beneath, but for the top one, which is there always.
fn domains(scope: &Scope) -> [String; 2] {
    let namespace = scope.dns_domain();
    let tenant = namespace.split_once('.').map(|(_, tenant)| tenant.to_owned()).unwrap_or_default();
    [namespace, tenant]
}

/// The `/etc/resolv.conf` of an instance: the node's own addresses, and short names of its own namespace unless the app
/// says others.
pub fn resolv_conf(servers: &Addresses, scope: &Scope, own: &DnsSpec) -> String {
    let mut text = String::new();
    for server in servers.iter() {
        text += &format!("nameserver {server}\n");
    }
    let search = if own.search.is_empty() { scope.dns_domain() } else { own.search.join(" ") };
    let options = if own.options.is_empty() { "ndots:1 timeout:2 attempts:2".into() } else { own.options.join(" ") };
    text + &format!("search {search}\noptions {options}\n")
}

#[cfg(test)]
mod tests;
