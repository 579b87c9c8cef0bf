//! What is answered to whom. Pure.
//!
//! A name is a service's, or beneath one's: `<instance>.<service>`, `_<port>._<protocol>.<service>`. What is beneath the
//! zone `hivemind`, and every address of the node's ranges, is ours: who else is asked for it would only say no.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{networks::Seen, reverse, table::DnsTable};
use hivemind_core::model::{Backend, DNS_ZONE, Protocol, ServedService, ServicePort, in_dns_zone};

/// The longest part of a name (RFC 1035).
const MAX_LABEL: usize = 63;
/// The most addresses that are said besides what was asked for.
const MAX_ALSO: usize = 16;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Where a port is served.
    Srv,
    /// Whose an address is.
    Ptr,
    /// Where a zone begins.
    Soa,
    /// Whatever there is: that is addresses (RFC 8482 lets the server choose).
    Any,
    /// Something that no name here has.
    Other,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An address.
    Address(IpAddr),
    /// A port is served there.
    Server {
        /// Its share, 0 to 65535 (RFC 2782).
        weight: u16,
        /// The port there.
        port: u16,
        /// The name that has the address.
        target: String,
    },
    /// An address is of who has that name.
    Name(String),
    /// The zone begins here.
    Zone,
}

/// What the table says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name exists and has these records of the asked kind; none if no instance is Ready, or in the other family.
    Found {
        /// The records.
        records: Vec<Data>,
        /// Addresses of names in them.
        also: Vec<(String, IpAddr)>,
        /// Where its zone begins.
        zone: String,
    },
    /// The name would be ours and does not exist.
    NoSuchName {
        /// Where its zone begins.
        zone: String,
    },
    /// Not ours: ask upstream.
    NotOurs,
}

/// Who has a name.
enum Owner<'a> {
    /// These services. Who sees them directly is told of their instances instead of virtual addresses.
    Services(Vec<&'a Arc<ServedService>>, Sight),
    /// Nobody; there are names beneath it.
    Domain,
    Nobody,
    NotOurs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    Direct,
    Virtual,
}

impl DnsTable {
    /// What it says to `asker` of `name` (lower case, without a final dot).
    pub fn answer_to(&self, asker: IpAddr, name: &str, kind: Kind) -> Answer {
        if let Some(addresses) = reverse::addresses(name) {
            return self.pointer(asker, name, addresses, kind);
        }
        match self.owner(asker, name) {
            Owner::Services(services, sight) => found(addresses(&services, sight, kind), name, name, kind),
            Owner::Domain => found(vec![], DNS_ZONE, name, kind),
            Owner::Nobody => self.beneath(asker, name, kind).unwrap_or(Answer::NoSuchName { zone: DNS_ZONE.into() }),
            Owner::NotOurs => self.beneath(asker, name, kind).unwrap_or(Answer::NotOurs),
        }
    }

    fn owner(&self, asker: IpAddr, name: &str) -> Owner<'_> {
        let hidden = match self.networks.seen(asker, name) {
            Seen::Services(numbers) => {
                let services = numbers.iter().filter_map(|number| self.served.get(number)).collect();
                return Owner::Services(services, Sight::Direct);
            }
            Seen::Hidden => true,
            Seen::Elsewhere => false,
        };
        match self.names.get(name).and_then(|number| self.served.get(number)) {
            // Those of its namespace that are in networks are seen in these only.
            Some(served) if hidden && !served.service.networks.is_empty() => Owner::Nobody,
            Some(served) => Owner::Services(vec![served], Sight::Virtual),
            None if name == DNS_ZONE || self.domains.contains_key(name) => Owner::Domain,
            None if hidden || in_dns_zone(name) => Owner::Nobody,
            None => Owner::NotOurs,
        }
    }

    /// What it says of a name beneath a service's.
    fn beneath(&self, asker: IpAddr, name: &str, kind: Kind) -> Option<Answer> {
        let (label, rest) = name.split_once('.')?;
        if let Some(label) = label.strip_prefix('_') {
            return self.port(asker, name, label, rest, kind);
        }
        let Owner::Services(services, _) = self.owner(asker, rest) else { return None };
        let called = |backend: &&Backend, served: &ServedService| is_called(served, backend, label);
        let backends = services
            .iter()
            .filter(|served| !served.leaving)
            .flat_map(|served| served.backends.iter().filter(move |backend| called(backend, served)));
        let addresses: BTreeSet<_> = backends.flat_map(|backend| backend.addresses.iter()).collect();
        if addresses.is_empty() {
            return None;
        }
        let records = addresses.into_iter().filter(|address| asked(*address, kind)).map(Data::Address).collect();
        Some(found(records, rest, name, kind))
    }

    /// What it says of `_<label>.<rest>`: a port of a service, or a protocol of one.
    fn port(&self, asker: IpAddr, name: &str, label: &str, rest: &str, kind: Kind) -> Option<Answer> {
        if let (Some(protocol), Owner::Services(services, _)) = (protocol(label), self.owner(asker, rest)) {
            let has = |served: &&Arc<ServedService>| served.service.ports.iter().any(|port| port.protocol == protocol);
            return Some(match services.iter().any(has) {
                true => found(vec![], rest, name, kind),
                false => Answer::NoSuchName { zone: zone_of(rest) },
            });
        }
        let (protocol_label, service) = rest.split_once('.')?;
        let protocol = protocol_label.strip_prefix('_').and_then(protocol)?;
        let Owner::Services(services, sight) = self.owner(asker, service) else { return None };
        let is = |port: &&ServicePort| port.protocol == protocol && is_port(port, label);
        if !services.iter().any(|served| served.service.ports.iter().any(|port| is(&port))) {
            return Some(Answer::NoSuchName { zone: zone_of(service) });
        }
        let mut servers = BTreeSet::new();
        let mut also = BTreeSet::new();
        for served in services {
            if sight == Sight::Virtual && !served.service.is_headless() {
                let ready = !served.leaving && !served.backends.is_empty();
                for port in served.service.ports.iter().filter(|port| ready && is(port)) {
                    let target = served.service.own_dns_name();
                    also.extend(served.service.addresses.iter().map(|address| (target.clone(), address)));
                    servers.insert(Data::Server { weight: 0, port: port.port, target });
                }
                continue;
            }
            for backend in taking(served) {
                for port in served.ports_of(backend).iter().filter(is) {
                    let target = instance_name(served, backend);
                    also.extend(backend.addresses.iter().map(|address| (target.clone(), address)));
                    servers.insert(Data::Server { weight: backend.weight, port: port.target, target });
                }
            }
        }
        let wanted = kind == Kind::Srv && also.len() <= MAX_ALSO;
        let records = servers.into_iter().filter(|_| kind == Kind::Srv).collect();
        let mut answer = found(records, service, name, kind);
        if let Answer::Found { also: said, .. } = &mut answer {
            said.extend(also.into_iter().filter(|_| wanted));
        }
        Some(answer)
    }

    /// What it says of addresses.
    fn pointer(&self, asker: IpAddr, name: &str, addresses: IpNet, kind: Kind) -> Answer {
        let Some(range) = self.ranges.iter().find(|range| range.contains(&addresses)) else { return Answer::NotOurs };
        let (address, zone) = (addresses.addr(), reverse::zone(addresses.addr(), range));
        if addresses.prefix_len() < addresses.max_prefix_len() {
            // There are names beneath it, or there may be.
            return Answer::Found { records: at_its_top(&zone, name, kind), also: vec![], zone };
        }
        let owners = self.owners.get(&address).into_iter().flatten().filter_map(|number| self.served.get(number));
        let seen = owners.filter(|served| self.networks.shows(asker, &served.service));
        let seen: Vec<_> = seen.collect();
        // An instance is called by the service of its app's name, if there is one.
        let alone = |served: &&&Arc<ServedService>| {
            let own =
                |other: &&Arc<ServedService>| other.service.is_apps_own() && other.service.app == served.service.app;
            served.service.is_apps_own() || !seen.iter().any(own)
        };
        let names: BTreeSet<_> = seen
            .iter()
            .filter(|served| alone(served) || served.service.addresses.iter().any(|own| own == address))
            .filter_map(|served| {
                if served.service.addresses.iter().any(|own| own == address) {
                    return Some(served.service.own_dns_name());
                }
                let mut ready = served.backends.iter().filter(|_| !served.leaving);
                let has = |backend: &&Backend| backend.addresses.iter().any(|own| own == address);
                ready.find(has).map(|backend| instance_name(served, backend))
            })
            .collect();
        if names.is_empty() {
            return Answer::NoSuchName { zone };
        }
        let records = names.into_iter().filter(|_| matches!(kind, Kind::Ptr | Kind::Any)).map(Data::Name).collect();
        Answer::Found { records, also: vec![], zone }
    }
}

/// That `name` exists, beneath the service or the zone that is called `of`.
fn found(mut records: Vec<Data>, of: &str, name: &str, kind: Kind) -> Answer {
    let zone = zone_of(of);
    records.extend(at_its_top(&zone, name, kind));
    Answer::Found { records, also: vec![], zone }
}

/// What a zone has at its top.
fn at_its_top(zone: &str, name: &str, kind: Kind) -> Vec<Data> {
    if kind == Kind::Soa && zone == name { vec![Data::Zone] } else { vec![] }
}

/// The zone of a service's name: what is not beneath ours is one by itself.
fn zone_of(service: &str) -> String {
    if in_dns_zone(service) { DNS_ZONE.into() } else { service.to_owned() }
}

/// Whether an address is of the asked kind.
fn asked(address: IpAddr, kind: Kind) -> bool {
    match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        Kind::Any => true,
        Kind::Srv | Kind::Ptr | Kind::Soa | Kind::Other => false,
    }
}

/// The addresses that services' names stand for. Without a Ready instance there is none: clients then fail at once
/// instead of running into a timeout.
fn addresses(services: &[&Arc<ServedService>], sight: Sight, kind: Kind) -> Vec<Data> {
    let mut all = BTreeSet::new();
    for served in services {
        if sight == Sight::Direct || served.service.is_headless() {
            all.extend(taking(served).flat_map(|backend| backend.addresses.iter()));
        } else if !served.leaving && !served.backends.is_empty() {
            all.extend(served.service.addresses.iter());
        }
    }
    all.into_iter().filter(|address| asked(*address, kind)).map(Data::Address).collect()
}

/// The instances that are to get new connections.
fn taking(served: &ServedService) -> impl Iterator<Item = &Backend> {
    served.backends.iter().filter(|backend| !served.leaving && backend.weight > 0)
}

/// `_tcp` or `_udp`, without the `_`.
fn protocol(label: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.to_string() == label)
}

/// Whether a port is called so: by its number.
fn is_port(port: &ServicePort, label: &str) -> bool {
    port.port.to_string() == label
}

/// The name of an instance of a service: `<instance>.<service>.<namespace>.<tenant>.hivemind`.
fn instance_name(served: &ServedService, backend: &Backend) -> String {
    let (app, id) = (&served.service.app.name, backend.id.as_str());
    let label = format!("{app}-{}", &id[..5]);
    // An app's name may take all that a label has.
    let label = if label.len() > MAX_LABEL { id } else { &label };
    format!("{label}.{}", served.service.own_dns_name())
}

/// Whether an instance is called so: by its name, or by its id.
fn is_called(served: &ServedService, backend: &Backend, label: &str) -> bool {
    let id = backend.id.as_str();
    let named = || label.strip_prefix(served.service.app.name.as_str()).and_then(|rest| rest.strip_prefix('-'));
    label == id || named().is_some_and(|short| short == &id[..5])
}

#[cfg(test)]
pub(super) mod tests;
