//! The published ports this node holds. An instance takes its app's before it is made; they are let go when nothing is
//! published there any more. What is not held is not published: whoever has the port keeps its clients.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use imbl::{OrdMap, ordmap::DiffItem};

use hivemind_core::model::{NodeDesired, ServedService, ServiceKey, ServicePort};
use hivemind_net::{HeldPort, Net, NetError, PublishedPort};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ports {
    held: Mutex<BTreeMap<PublishedPort, HeldPort>>,
}

impl Ports {
    /// Holds `ports`, some of which may be held already. Fails at the first that is taken.
    pub(super) fn hold(&self, net: &dyn Net, ports: impl Iterator<Item = PublishedPort>) -> Result<(), NetError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for port in ports {
            if let Entry::Vacant(free) = held.entry(port) {
                free.insert(net.hold_port(port)?);
            }
        }
        Ok(())
    }

    /// Lets go what is not wanted, and holds what is; what could not be held, and why.
    pub(super) fn keep(&self, net: &dyn Net, wanted: &BTreeSet<PublishedPort>) -> BTreeMap<PublishedPort, NetError> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).retain(|port, _| wanted.contains(port));
        wanted.iter().filter_map(|port| Some((*port, self.hold(net, [*port].into_iter()).err()?))).collect()
    }
}

/// Where a port of a service is published.
fn place(port: &ServicePort) -> Option<PublishedPort> {
    Some(PublishedPort { port: port.published?, protocol: port.protocol })
}

/// All that is to be published, kept in step with the services.
#[derive(Debug, Default)]
pub(super) struct Published {
    services: OrdMap<ServiceKey, Arc<ServedService>>,
    /// Each place, and how many ports of services have it.
    places: BTreeMap<PublishedPort, usize>,
}

impl Published {
    /// Takes in what changed since the last time. Whether other places than before are to be published.
    pub(super) fn follow(&mut self, desired: &NodeDesired) -> bool {
        let mut differs = false;
        for change in self.services.diff(&desired.services) {
            let (old, new) = match change {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            let places = |served: Option<&Arc<ServedService>>| -> Vec<PublishedPort> {
                served.into_iter().flat_map(|served| &served.service.ports).filter_map(place).collect()
            };
            let (old, new) = (places(old), places(new));
            differs |= old != new;
            for place in new {
                *self.places.entry(place).or_default() += 1;
            }
            for place in old {
                if let Entry::Occupied(mut held) = self.places.entry(place) {
                    *held.get_mut() -= 1;
                    if *held.get() == 0 {
                        held.remove();
                    }
                }
            }
        }
        self.services.clone_from(&desired.services);
        differs
    }

    /// The places.
    pub(super) fn places(&self) -> BTreeSet<PublishedPort> {
        self.places.keys().copied().collect()
    }
}

/// Takes the publication, and nothing else, from every port of a service that is published in one of these places.
pub(super) fn withhold(desired: &mut NodeDesired, places: &BTreeSet<PublishedPort>) {
    let withheld = |port: &ServicePort| place(port).is_some_and(|place| places.contains(&place));
    if places.is_empty() {
        return;
    }
    let with = desired.services.iter().filter(|(_, served)| served.service.ports.iter().any(withheld));
    let keys: Vec<_> = with.map(|(key, _)| key.clone()).collect();
    for key in keys {
        let Some(served) = desired.services.get_mut(&key) else { continue };
        let ports = &mut Arc::make_mut(served).service.ports;
        ports.iter_mut().filter(|port| withheld(port)).for_each(|port| port.published = None);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use hivemind_core::{
        model::{Addresses, AppKey, Protocol, Scope, Service, Shares, Timestamp},
        spec::v1::BalanceSpec,
    };
    use hivemind_fakes::{journal::Journal, net::FakeNet};

    fn listen(port: u16) -> std::io::Result<TcpListener> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
    }

    #[test]
    fn what_is_withheld_keeps_its_service_and_its_other_ports() {
        let port = |protocol, published| ServicePort { port: 80, target: 8080, protocol, published };
        let service = |name: &str, ports| {
            let service = Service {
                key: ServiceKey::new(Scope::default(), name.parse().expect("a name")),
                app: AppKey::new(Scope::default(), name.parse().expect("a name")),
                id: 1,
                addresses: Addresses::default(),
                dns_names: Vec::new(),
                networks: Default::default(),
                ports,
                balance: BalanceSpec::default(),
                shares: Shares::default(),
                created_at: Timestamp::default(),
            };
            (service.key.clone(), Arc::new(ServedService { service, backends: Vec::new(), leaving: false }))
        };
        let web = vec![
            port(Protocol::Tcp, Some(9000)),
            port(Protocol::Udp, Some(9000)),
            port(Protocol::Tcp, Some(9001)),
            port(Protocol::Tcp, None),
        ];
        let (one, other) = (service("web", web), service("other", vec![port(Protocol::Tcp, Some(9002))]));
        let before =
            NodeDesired { services: [one.clone(), other.clone()].into_iter().collect(), ..NodeDesired::default() };
        let mut desired = before.clone();
        withhold(&mut desired, &BTreeSet::new());
        assert_eq!(desired.services, before.services);
        withhold(&mut desired, &BTreeSet::from([PublishedPort { port: 9000, protocol: Protocol::Tcp }]));
        let published = |key: &ServiceKey| -> Vec<_> {
            desired.services[key].service.ports.iter().map(|port| (port.port, port.target, port.published)).collect()
        };
        let ports = [None, Some(9000), Some(9001), None].map(|published| (80, 8080, published));
        assert_eq!(published(&one.0), ports);
        assert_eq!(desired.services[&other.0], other.1);
        assert_eq!(before.services[&one.0], one.1, "the state that was told is as it was");
    }

    #[test]
    fn a_port_is_held_while_it_is_published_and_let_go_afterwards() {
        let [first, second] = [(); 2].map(|()| listen(0).expect("a free port"));
        let [first, second] = [first, second].map(|socket| socket.local_addr().expect("bound").port());
        let (net, ports) = (FakeNet::new(Journal::default()), Ports::default());
        let published = |port: u16| PublishedPort { port, protocol: Protocol::Tcp };
        let [one, both] = [vec![second], vec![first, second]].map(|ports| ports.into_iter().map(published).collect());
        assert!(ports.keep(&net, &both).is_empty());
        assert!(listen(first).is_err() && listen(second).is_err(), "both are held");
        assert!(ports.keep(&net, &one).is_empty());
        let other = listen(first).expect("nobody publishes it any more");
        assert!(listen(second).is_err(), "this one is published still");
        let faults = ports.keep(&net, &both);
        assert!(matches!(faults.get(&published(first)), Some(NetError::PortTaken { .. })), "{faults:?}");
        drop(other);
        assert!(ports.keep(&net, &BTreeSet::new()).is_empty());
        drop(listen(second).expect("nothing is published any more"));
    }
}
