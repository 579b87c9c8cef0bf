//! Published ports.

use std::net::IpAddr;

use super::{
    super::{
        forms,
        model::{Service, service::Port},
        short::Ports,
    },
    Work,
};
use hivemind_core::{
    model::Protocol,
    spec::v1::{AppSpec, PortSpec},
};

/// Where a port is published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Everywhere,
    Loopback,
    Address,
}

fn reach(port: &Port) -> Reach {
    match port.host_ip.as_deref().filter(|ip| !ip.is_empty()).and_then(|ip| forms::address(ip).ok()) {
        None => Reach::Everywhere,
        Some(ip) if ip.is_unspecified() => Reach::Everywhere,
        Some(IpAddr::V4(ip)) if ip.is_loopback() => Reach::Loopback,
        Some(IpAddr::V6(ip)) if ip.is_loopback() => Reach::Loopback,
        Some(_) => Reach::Address,
    }
}

impl Work<'_> {
    pub(super) fn ports(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        let mut loopback = 0;
        for (at, port) in service.ports.iter().enumerate() {
            let index = at.to_string();
            let steps = ["services", name, "ports", &index];
            let protocol = match port.protocol.as_deref() {
                None | Some("tcp") => Protocol::Tcp,
                Some("udp") => Protocol::Udp,
                Some(other) => {
                    self.fault(&steps, format!("{other} is not published: only tcp and udp are. Remove it"));
                    continue;
                }
            };
            let Some(target) = port.target else { continue };
            let published = port.published.filter(|ports| ports.first > 0);
            if published.is_none() {
                let message = "no port of the node is chosen by itself: other services reach it, the outside does not. \
                               Write PUBLISHED:PORT";
                self.warn(&steps, message);
            }
            match reach(port) {
                Reach::Address => {
                    let message = "a port is published on all addresses of the node, or on its loopback (127.0.0.1): \
                                   remove the address, and let a policy or the firewall say who may come";
                    self.fault(&steps, message);
                }
                Reach::Loopback if published.is_some() => loopback += 1,
                Reach::Loopback | Reach::Everywhere => {}
            }
            if published.is_some_and(|ports| ports.count() > target.count()) {
                self.warn(&steps, "of a range of published ports for one port the first is taken");
            }
            spec.ports.extend(
                each(target, published, protocol).filter(|port| !spec.ports.contains(port)).collect::<Vec<_>>(),
            );
        }
        let published = spec.ports.iter().filter(|port| port.published.is_some()).count();
        if loopback == 0 {
            return;
        }
        if service.ports.iter().any(|port| port.published.is_some() && reach(port) == Reach::Everywhere) {
            let message = format!(
                "{loopback} of {published} ports are for the node's loopback only, and it is all of a service's or none: \
                 publish the others in a service of their own, or remove the address"
            );
            self.fault(&["services", name, "ports"], message);
        }
        // The node's own processes always reach a published port; nobody else has such an address.
        spec.balance.source_ranges = ["127.0.0.0/8", "::1/128"].iter().filter_map(|range| range.parse().ok()).collect();
    }
}

/// Each port of a range with the one it is published at.
fn each(target: Ports, published: Option<Ports>, protocol: Protocol) -> impl Iterator<Item = PortSpec> {
    (target.first..=target.last).enumerate().map(move |(at, target)| PortSpec {
        target,
        published: published.map(|ports| ports.first.saturating_add(u16::try_from(at).unwrap_or(u16::MAX))),
        protocol,
    })
}
