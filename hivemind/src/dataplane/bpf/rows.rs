//! Rows of [`Tables`](crate::dataplane::tables::Tables) as keys and values of the ABI, and back.

use std::net::IpAddr;

use hivemind_ebpf::abi::{Addr, Endpoint, FrontendKey, Peer, SCOPE_PUBLISHED, ServedKey};

use crate::{
    dataplane::tables::{EndpointRow, Frontend, PeerRow},
    model::Protocol,
    net::{Family, Mac},
};

/// A type of the tables that has a counterpart in the maps. What cannot be read back was not written by a daemon of
/// this version.
pub(super) trait Row: Sized {
    /// The counterpart.
    type Abi: aya::Pod;
    fn encode(&self) -> Self::Abi;
    fn decode(abi: Self::Abi) -> Option<Self>;
}

impl Row for u32 {
    type Abi = Self;
    fn encode(&self) -> Self {
        *self
    }
    fn decode(abi: Self) -> Option<Self> {
        Some(abi)
    }
}

impl Row for IpAddr {
    type Abi = Addr;
    fn encode(&self) -> Addr {
        Addr::from(*self)
    }
    fn decode(abi: Addr) -> Option<Self> {
        Some(abi.into())
    }
}

impl Row for EndpointRow {
    type Abi = Endpoint;
    fn encode(&self) -> Endpoint {
        let address = |ip: Option<IpAddr>| ip.map_or(Addr::default(), Addr::from);
        let mut frame_to = [0; 12];
        frame_to[..6].copy_from_slice(&self.instance_mac.0);
        frame_to[6..].copy_from_slice(&self.host_mac.0);
        let (v4, v6) = (address(self.v4.map(Into::into)), address(self.v6.map(Into::into)));
        Endpoint { v4, v6, frame_to, identity: self.identity }
    }
    fn decode(abi: Endpoint) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = abi.frame_to;
        let address = |addr: Addr| (!addr.is_none()).then(|| IpAddr::from(addr));
        Some(Self {
            v4: match address(abi.v4) {
                Some(IpAddr::V4(v4)) => Some(v4),
                None => None,
                Some(IpAddr::V6(_)) => return None,
            },
            v6: match address(abi.v6) {
                Some(IpAddr::V6(v6)) => Some(v6),
                None => None,
                Some(IpAddr::V4(_)) => return None,
            },
            instance_mac: Mac([a, b, c, d, e, f]),
            host_mac: Mac([g, h, i, j, k, l]),
            identity: abi.identity,
        })
    }
}

impl Row for PeerRow {
    type Abi = Peer;
    fn encode(&self) -> Peer {
        Peer { identity: self.identity, ifindex: self.ifindex }
    }
    fn decode(abi: Peer) -> Option<Self> {
        Some(Self { identity: abi.identity, ifindex: abi.ifindex })
    }
}

impl Row for (u32, u16, Protocol) {
    type Abi = ServedKey;
    fn encode(&self) -> ServedKey {
        ServedKey { ifindex: self.0, port_be: self.1.to_be(), protocol: self.2.number(), pad: 0 }
    }
    fn decode(abi: ServedKey) -> Option<Self> {
        Some((abi.ifindex, u16::from_be(abi.port_be), protocol(abi.protocol)?))
    }
}

impl Row for Frontend {
    type Abi = FrontendKey;
    fn encode(&self) -> FrontendKey {
        match self {
            Self::Address(ip) => FrontendKey::address(Addr::from(*ip)),
            Self::Virtual(ip, port, protocol) => FrontendKey::service(Addr::from(*ip), port.to_be(), protocol.number()),
            Self::Published(family, port, protocol) => {
                FrontendKey::published(*family == Family::V4, port.to_be(), protocol.number())
            }
        }
    }
    fn decode(abi: FrontendKey) -> Option<Self> {
        let port = u16::from_be(abi.port_be);
        let family = if abi.addr.is_v4() { Family::V4 } else { Family::V6 };
        let row = match (abi.scope, abi.protocol) {
            (SCOPE_PUBLISHED, number) => Self::Published(family, port, protocol(number)?),
            (_, 0) => Self::Address(abi.addr.into()),
            (_, number) => Self::Virtual(abi.addr.into(), port, protocol(number)?),
        };
        (row.encode() == abi).then_some(row)
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.number() == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn comes_back<R: Row + PartialEq + std::fmt::Debug>(row: R) {
        assert_eq!(R::decode(row.encode()).as_ref(), Some(&row));
    }

    #[test]
    fn rows_come_back_as_they_went() {
        let (v4, v6) = ([10, 88, 0, 5].into(), "fd68::5".parse().expect("an address"));
        let (instance_mac, host_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        for (v4, v6) in [(Some(v4), Some(v6)), (Some(v4), None), (None, Some(v6)), (None, None)] {
            comes_back(EndpointRow { v4, v6, instance_mac, host_mac, identity: 7 });
        }
        comes_back(PeerRow { identity: 7, ifindex: 3 });
        comes_back((3u32, 8080u16, Protocol::Udp));
        for ip in [IpAddr::V4(v4), IpAddr::V6(v6)] {
            comes_back(ip);
            comes_back(Frontend::Address(ip));
            comes_back(Frontend::Virtual(ip, 80, Protocol::Tcp));
        }
        for family in [Family::V4, Family::V6] {
            comes_back(Frontend::Published(family, 8080, Protocol::Tcp));
        }
    }

    #[test]
    fn what_no_daemon_of_this_version_writes_is_not_read() {
        let good = Frontend::Published(Family::V4, 80, Protocol::Tcp).encode();
        assert_eq!(Frontend::decode(FrontendKey { protocol: 132, ..good }), None);
        assert_eq!(Frontend::decode(FrontendKey { scope: 9, ..good }), None);
        let other = Addr::from(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(Frontend::decode(FrontendKey { addr: other, ..good }), None);
    }
}
