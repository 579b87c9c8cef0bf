//! The published ports this node holds. An instance takes its app's before it is made; they are let go when nothing is
//! published there any more. What is not held is not published: whoever has the port keeps its clients.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    model::{NodeDesired, ServicePort},
    net::{HeldPort, Net, NetError, PublishedPort},
};

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

/// All that is to be published.
pub(super) fn wanted(desired: &NodeDesired) -> BTreeSet<PublishedPort> {
    desired.services.values().flat_map(|served| &served.service.ports).filter_map(place).collect()
}

/// Takes the publication, and nothing else, from every port of a service that is published in one of these places.
pub(super) fn withhold(desired: &mut NodeDesired, places: &BTreeSet<PublishedPort>) {
    let withheld = |port: &ServicePort| place(port).is_some_and(|place| places.contains(&place));
    for served in desired.services.values_mut().filter(|served| served.service.ports.iter().any(withheld)) {
        let ports = &mut Arc::make_mut(served).service.ports;
        ports.iter_mut().filter(|port| withheld(port)).for_each(|port| port.published = None);
    }
}
