//! From where published ports are reached: ranges by service.

use std::net::IpAddr;

use aya::maps::{LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use hivemind_ebpf::{
    abi::{Addr, SOURCE_PREFIX, source},
    map,
};
use imbl::OrdSet;
use ipnet::IpNet;

use super::maps::{failed, named};
use crate::DataplaneError;
use hivemind_core::lifecycle::killpoint;

/// Bits before those of an IPv4 address, as mapped into IPv6.
const MAPPED: u32 = 96;

/// See the module.
#[derive(Debug)]
pub(super) struct Sources(LpmTrie<MapData, [u32; 5], u32>);

impl Sources {
    pub(super) fn take(map: Map) -> Result<Self, DataplaneError> {
        Ok(Self(LpmTrie::try_from(map).map_err(|error| failed("use", map::SOURCES, &error))?))
    }

    pub(super) fn insert(&mut self, service: u32, range: IpNet) -> Result<(), MapError> {
        killpoint::before("writing a row of a map");
        self.0.insert(&key(service, range), 1, 0)
    }

    pub(super) fn remove(&mut self, service: u32, range: IpNet) -> Result<(), MapError> {
        killpoint::before("removing a row of a map");
        named(self.0.remove(&key(service, range)))
    }

    pub(super) fn rows(&self) -> Result<OrdSet<(u32, IpNet)>, DataplaneError> {
        let keys = self.0.keys().map(|key| key.map(|key| read(&key)));
        let rows: Result<Vec<_>, _> = keys.collect();
        Ok(rows.map_err(|error| failed("read", map::SOURCES, &error))?.into_iter().flatten().collect())
    }
}

fn key(service: u32, range: IpNet) -> Key<[u32; 5]> {
    let bits = u32::from(range.prefix_len()) + if range.addr().is_ipv4() { MAPPED } else { 0 };
    Key::new(SOURCE_PREFIX + bits, source(service, &Addr::from(range.network())))
}

/// A prefix that is shorter than a service's number is no row of ours.
fn read(key: &Key<[u32; 5]>) -> Option<(u32, IpNet)> {
    let ([service_be, a, b, c, d], bits) = (key.data(), key.prefix_len().checked_sub(SOURCE_PREFIX)?);
    let addr = IpAddr::from(Addr { words_be: [a, b, c, d] });
    let bits = if addr.is_ipv4() && bits >= MAPPED { bits - MAPPED } else { bits };
    Some((u32::from_be(service_be), IpNet::new(addr, u8::try_from(bits).ok()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_back_as_they_went() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32", "::/0", "2001:db8::/32", "fd00::1/128"] {
            let range: IpNet = text.parse().expect("a range");
            assert_eq!(read(&key(0x0102_0304, range)), Some((0x0102_0304, range)), "{text}");
        }
    }
}
