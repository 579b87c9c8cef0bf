//! The services as the rows of hivemind's own data plane.

use std::collections::{BTreeMap, BTreeSet};

use hivemind::{
    dataplane::tables::{EndpointRow, Frontend, PeerRow, ServiceRow, Tables},
    model::Protocol,
    net::Mac,
};

use super::{BULK_PORT, ECHO_PORT, SERVICE_PORT, Service};
use crate::lab::{CLIENT, MACS, SERVER};

/// The identity of both containers.
const IDENTITY: u32 = 1;

/// The rows of a lab whose host ends have these interface indices (client's, server's), with `services`.
pub(crate) fn tables(host_ends: [u32; 2], services: &[Service]) -> Tables {
    let mut endpoints = BTreeMap::new();
    let mut peers = BTreeMap::new();
    for ((ifindex, (v4, v6)), [host, own]) in host_ends.into_iter().zip([CLIENT, SERVER]).zip(MACS) {
        let row =
            EndpointRow { v4: Some(v4), v6: Some(v6), instance_mac: Mac(own), host_mac: Mac(host), identity: IDENTITY };
        endpoints.insert(ifindex, row);
        for address in [v4.into(), v6.into()] {
            peers.insert(address, PeerRow { identity: IDENTITY, ifindex });
        }
    }
    let mut frontends = BTreeMap::new();
    for service in services {
        frontends.insert(Frontend::Virtual(service.address, SERVICE_PORT, Protocol::Tcp), row(service));
    }
    Tables { endpoints, peers, services: frontends, node_addresses: BTreeSet::new(), served: BTreeMap::new() }
}

/// Adds to `tables` the measured service's other ports: bulk data over TCP, numbered messages over TCP and UDP.
pub(crate) fn add_streams(tables: &mut Tables, service: &Service) {
    let Some(server) = service.backends.first().map(std::net::SocketAddr::ip) else { return };
    for (port, protocol) in [(BULK_PORT, Protocol::Tcp), (ECHO_PORT, Protocol::Tcp), (ECHO_PORT, Protocol::Udp)] {
        let row = ServiceRow { id: service.number + 1, backends: vec![(server, port)] };
        tables.services.insert(Frontend::Virtual(service.address, port, protocol), row);
    }
}

/// What is behind a service; numbers of services begin with 1.
pub(crate) fn row(service: &Service) -> ServiceRow {
    let backends = service.backends.iter().map(|backend| (backend.ip(), backend.port())).collect();
    ServiceRow { id: service.number + 1, backends }
}
