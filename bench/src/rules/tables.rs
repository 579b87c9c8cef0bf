//! The services as the rows of hivemind's own data plane.

use hivemind::{
    dataplane::tables::{EndpointRow, Frontend, PeerRow, ServiceRow, Tables},
    model::Protocol,
    net::Mac,
    policy::EndpointPolicy,
};

use super::{ANSWERING, BULK_PORT, ECHO_PORT, SERVICE_PORT, Service};
use crate::lab::{CLIENT, MACS, SERVER};

/// The class and tenant of every container: as for an instance, and neither the node's class nor the world's.
const IDENTITY: u32 = 300;

/// The rows of a lab whose host ends have these interface indices (client's, server's), with `services`.
/// `measured` is the number of the one that the server serves; it has its streams' ports as well.
pub(crate) fn tables(host_ends: [u32; 2], services: &[Service], measured: u32) -> Tables {
    let mut tables = Tables::default();
    for ((ifindex, (v4, v6)), [host, own]) in host_ends.into_iter().zip([CLIENT, SERVER]).zip(MACS) {
        let row = EndpointRow {
            v4: Some(v4),
            v6: Some(v6),
            instance_mac: Mac(own),
            host_mac: Mac(host),
            class: IDENTITY,
            tenant: IDENTITY,
            policy: EndpointPolicy::default(),
            blocks: false,
            limited: false,
        };
        tables.endpoints.insert(ifindex, row);
        for address in [v4.into(), v6.into()] {
            tables.peers.insert(address, PeerRow { class: IDENTITY, tenant: IDENTITY, ifindex, node: None });
        }
    }
    for service in services {
        add(&mut tables, service);
    }
    if let Some(service) = services.iter().find(|service| service.number == measured) {
        let requests = ANSWERING.map(|port| (port, Protocol::Tcp));
        let streams = [(BULK_PORT, Protocol::Tcp), (ECHO_PORT, Protocol::Tcp), (ECHO_PORT, Protocol::Udp)];
        for (port, protocol) in requests.into_iter().chain(streams) {
            tables.served.insert((host_ends[1], port, protocol), id(service));
        }
        for (port, protocol) in streams {
            let backends = service.backends.iter().take(1).map(|backend| (backend.ip(), port));
            let row = ServiceRow::equal(id(service), backends);
            tables.services.insert(Frontend::Virtual(service.address, port, protocol), row);
        }
    }
    tables
}

/// Adds a service, with its backends as instances of another node if they are not of this one.
pub(crate) fn add(tables: &mut Tables, service: &Service) {
    let backends = service.backends.iter().map(|backend| (backend.ip(), backend.port()));
    let row = ServiceRow::equal(id(service), backends);
    tables.services.insert(Frontend::Virtual(service.address, SERVICE_PORT, Protocol::Tcp), row);
    let address = ServiceRow::equal(id(service), []);
    tables.services.insert(Frontend::Address(service.address), address);
    for backend in &service.backends {
        tables.peers.entry(backend.ip()).or_insert(PeerRow {
            class: IDENTITY,
            tenant: IDENTITY,
            ifindex: 0,
            node: None,
        });
    }
}

/// Removes a service of other nodes, with its backends.
pub(crate) fn remove(tables: &mut Tables, service: &Service) {
    tables.services.remove(&Frontend::Virtual(service.address, SERVICE_PORT, Protocol::Tcp));
    tables.services.remove(&Frontend::Address(service.address));
    for backend in &service.backends {
        tables.peers.remove(&backend.ip());
    }
}

/// Rows of a node without instances.
pub(crate) fn elsewhere(services: &[Service]) -> Tables {
    let mut tables = Tables::default();
    services.iter().for_each(|service| add(&mut tables, service));
    tables
}

/// Numbers of services begin with 1.
const fn id(service: &Service) -> u32 {
    service.number + 1
}
