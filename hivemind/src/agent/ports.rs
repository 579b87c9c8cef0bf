//! The published ports this node holds. An instance takes its app's before it is made; they are let go when nothing is
//! published there any more.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Mutex, PoisonError},
};

use crate::net::{HeldPort, Net, NetError, PublishedPort};

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

    /// Lets go what is not wanted, and holds what is; what could not be held.
    pub(super) fn keep(&self, net: &dyn Net, wanted: &BTreeSet<PublishedPort>) -> Vec<NetError> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).retain(|port, _| wanted.contains(port));
        wanted.iter().filter_map(|port| self.hold(net, [*port].into_iter()).err()).collect()
    }
}
