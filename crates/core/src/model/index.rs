//! What the rows of a snapshot hold, so that one question does not go through all of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use imbl::{OrdMap, OrdSet};

use super::{Addresses, App, AppKey, Instance, InstanceId, NodeName, Protocol, Service, ServiceKey};

/// What the instances of a node hold of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The sum of their CPU limits, in thousandths.
    pub cpu_milli: u64,
    /// The sum of their memory limits.
    pub memory_bytes: u64,
    /// How many there are.
    pub instances: usize,
}

/// The addresses that rows hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldAddresses {
    /// IPv4.
    pub v4: OrdSet<Ipv4Addr>,
    /// IPv6.
    pub v6: OrdSet<Ipv6Addr>,
}

impl HeldAddresses {
    /// Adds a row's.
    pub fn add(&mut self, addresses: &Addresses) {
        addresses.v4.map(|v4| self.v4.insert(v4));
        addresses.v6.map(|v6| self.v6.insert(v6));
    }

    fn remove(&mut self, addresses: &Addresses) {
        addresses.v4.map(|v4| self.v4.remove(&v4));
        addresses.v6.map(|v6| self.v6.remove(&v6));
    }
}

/// Kept by the methods of [`super::ClusterSnapshot`] that write rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    pub(super) by_app: OrdMap<AppKey, OrdSet<InstanceId>>,
    pub(super) nodes: OrdMap<NodeName, Held>,
    pub(super) addresses: HeldAddresses,
    /// Lower case.
    pub(super) dns_names: OrdMap<String, AppKey>,
    /// The services that apps have.
    pub(super) services: OrdMap<AppKey, OrdSet<ServiceKey>>,
    /// The services that apps are to have besides their own.
    pub(super) serving: OrdMap<ServiceKey, AppKey>,
    pub(super) published: OrdMap<(u16, Protocol), AppKey>,
    /// Who waits for whom.
    pub(super) dependents: OrdMap<AppKey, OrdSet<AppKey>>,
}

impl Index {
    pub(super) fn add_instance(&mut self, instance: &Instance) {
        self.by_app.entry(instance.app.clone()).or_default().insert(instance.id.clone());
        let held = self.nodes.entry(instance.node.clone()).or_default();
        held.cpu_milli += cpu_of(instance);
        held.memory_bytes += memory_of(instance);
        held.instances += 1;
        self.addresses.add(&instance.addresses);
    }

    pub(super) fn remove_instance(&mut self, instance: &Instance) {
        if let Some(ids) = self.by_app.get_mut(&instance.app) {
            ids.remove(&instance.id);
            if ids.is_empty() {
                self.by_app.remove(&instance.app);
            }
        }
        if let Some(held) = self.nodes.get_mut(&instance.node) {
            held.cpu_milli -= cpu_of(instance);
            held.memory_bytes -= memory_of(instance);
            held.instances -= 1;
        }
        self.addresses.remove(&instance.addresses);
    }

    pub(super) fn add_service(&mut self, service: &Service) {
        self.addresses.add(&service.addresses);
        self.services.entry(service.app.clone()).or_default().insert(service.key.clone());
    }

    pub(super) fn remove_service(&mut self, service: &Service) {
        self.addresses.remove(&service.addresses);
        if let Some(keys) = self.services.get_mut(&service.app) {
            keys.remove(&service.key);
            if keys.is_empty() {
                self.services.remove(&service.app);
            }
        }
    }

    pub(super) fn add_app(&mut self, app: &App) {
        for name in dns_names(app) {
            self.dns_names.insert(name, app.key.clone());
        }
        for service in served(app) {
            self.serving.insert(service, app.key.clone());
        }
        for port in &app.spec.ports {
            port.published.map(|published| self.published.insert((published, port.protocol), app.key.clone()));
        }
        for first in firsts(app) {
            self.dependents.entry(first).or_default().insert(app.key.clone());
        }
    }

    /// Only what is the app's: a name may have gone to another before the row of the first is seen to go.
    pub(super) fn remove_app(&mut self, app: &App) {
        for name in dns_names(app) {
            if self.dns_names.get(&name) == Some(&app.key) {
                self.dns_names.remove(&name);
            }
        }
        for service in served(app) {
            if self.serving.get(&service) == Some(&app.key) {
                self.serving.remove(&service);
            }
        }
        for port in &app.spec.ports {
            let Some(published) = port.published.map(|published| (published, port.protocol)) else { continue };
            if self.published.get(&published) == Some(&app.key) {
                self.published.remove(&published);
            }
        }
        for first in firsts(app) {
            if let Some(dependents) = self.dependents.get_mut(&first) {
                dependents.remove(&app.key);
                if dependents.is_empty() {
                    self.dependents.remove(&first);
                }
            }
        }
    }
}

/// The DNS names of an app's services besides their own, in lower case.
fn dns_names(app: &App) -> impl Iterator<Item = String> {
    app.spec.all_dns_names().map(|name| name.to_ascii_lowercase())
}

/// The services that an app is to have besides its own.
fn served(app: &App) -> impl Iterator<Item = ServiceKey> {
    app.spec.more_services.keys().map(|name| ServiceKey::new(app.key.scope.clone(), name.clone()))
}

/// The apps that come before one.
fn firsts(app: &App) -> impl Iterator<Item = AppKey> {
    app.spec.depends_on.keys().map(|name| AppKey::new(app.key.scope.clone(), name.clone()))
}

fn cpu_of(instance: &Instance) -> u64 {
    instance.spec.resources.cpu.map_or(0, |cpu| cpu.0.into())
}

fn memory_of(instance: &Instance) -> u64 {
    instance.spec.resources.memory.map_or(0, |memory| memory.0)
}
