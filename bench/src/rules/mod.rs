//! The same services in the words of every contestant: one of them is the server's, the others lead nowhere.

pub(crate) mod iptables;
pub(crate) mod nft;
pub(crate) mod policies;
pub(crate) mod tables;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::lab::{SERVER, pick};

/// The port of every virtual address.
pub(crate) const SERVICE_PORT: u16 = 80;
/// The ports on which the server answers: the measured service's backends.
pub(crate) const ANSWERING: [u16; 3] = [8080, 8081, 8082];
/// Where the server swallows bulk data.
pub(crate) const BULK_PORT: u16 = 5001;
/// Where the server sends numbered messages back.
pub(crate) const ECHO_PORT: u16 = 7007;

/// A TCP service with three backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its number, from 0.
    pub(crate) number: u32,
    /// Its virtual address; the port is [`SERVICE_PORT`].
    pub(crate) address: IpAddr,
    /// Where it leads.
    pub(crate) backends: Vec<SocketAddr>,
}

/// `count` services. The measured one is in the middle: where rules are tried in turn that is the mean position.
pub(crate) fn services(count: u32, ipv6: bool) -> Vec<Service> {
    let measured = measured(count);
    (0..count).map(|number| if number == measured { served(number, ipv6) } else { other(number, ipv6) }).collect()
}

/// The number of the measured one of `count` services.
pub(crate) const fn measured(count: u32) -> u32 {
    count / 2
}

/// The virtual address of service `number`.
pub(crate) fn virtual_address(number: u32, ipv6: bool) -> IpAddr {
    if ipv6 {
        IpAddr::from(Ipv6Addr::from_bits(
            Ipv6Addr::new(0xfd68, 0x6d00, 0, 2, 0, 0, 0, 0x100).to_bits() + u128::from(number),
        ))
    } else {
        IpAddr::from(Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 1, 0).to_bits() + number))
    }
}

/// The service that the server serves.
fn served(number: u32, ipv6: bool) -> Service {
    let backends = ANSWERING.map(|port| SocketAddr::new(pick(SERVER, ipv6), port)).to_vec();
    Service { number, address: virtual_address(number, ipv6), backends }
}

/// A service of somebody else.
pub(crate) fn other(number: u32, ipv6: bool) -> Service {
    let backend = |k: u32| -> IpAddr {
        let offset = 3 * number + k;
        if ipv6 {
            Ipv6Addr::from_bits(Ipv6Addr::new(0xfd68, 0x6d00, 0, 1, 0, 0, 1, 0).to_bits() + u128::from(offset)).into()
        } else {
            Ipv4Addr::from_bits(Ipv4Addr::new(10, 88, 16, 0).to_bits() + offset).into()
        }
    };
    let backends = (0..3).map(|k| SocketAddr::new(backend(k), ANSWERING[0])).collect();
    Service { number, address: virtual_address(number, ipv6), backends }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{iptables, measured, nft, services};
    use crate::lab::{SERVER, pick};

    #[test]
    fn one_service_is_the_servers_and_no_address_is_used_twice() {
        for ipv6 in [false, true] {
            let services = services(10_000, ipv6);
            let server = pick(SERVER, ipv6);
            let ours: Vec<_> = services.iter().filter(|s| s.backends.iter().any(|b| b.ip() == server)).collect();
            assert_eq!(ours.len(), 1);
            assert_eq!(ours[0].number, measured(10_000));
            let addresses: BTreeSet<_> = services.iter().map(|s| s.address).collect();
            let backends: BTreeSet<_> = services.iter().flat_map(|s| &s.backends).collect();
            assert_eq!((addresses.len(), backends.len()), (10_000, 30_000));
        }
    }

    #[test]
    fn every_rule_set_names_every_backend_once() {
        let services = services(10, false);
        for (rules, name) in [(nft::load(&services), "dnat to"), (iptables::load(&services), "--to-destination")] {
            assert_eq!(rules.matches(name).count(), 30, "{rules}");
        }
    }
}
