//! Rows of [`Tables`](crate::tables::Tables) as keys and values of the ABI, and back.

use std::net::IpAddr;

use hivemind_ebpf::{
    abi::{self, Addr, Endpoint, FrontendKey, Node, Peer, SCOPE_PUBLISHED, ServedKey, Who},
    packet, policy,
};

use crate::tables::{EndpointRow, Frontend, NodeRow, PeerRow};
use hivemind_core::{
    model::Protocol,
    spec::v1::{Action, PolicyProtocol},
};
use hivemind_net::{Family, Mac};
use hivemind_policy::{Direction, EndpointPolicy, RuleKey, RuleRow};

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

/// The bits that the programs know an endpoint's policy by.
pub(super) fn flags(row: &EndpointRow) -> u32 {
    let of = &row.policy;
    let flags = [
        (of.isolated_in, policy::ISOLATED_IN),
        (of.isolated_out, policy::ISOLATED_OUT),
        (of.audit_in, policy::AUDIT_IN),
        (of.audit_out, policy::AUDIT_OUT),
        (row.blocks, policy::BLOCKS),
        (of.ruled_in, policy::RULED_IN),
        (of.ruled_out, policy::RULED_OUT),
        (of.reject_in, policy::REJECT_IN),
        (of.reject_out, policy::REJECT_OUT),
        (of.isolated_published, policy::ISOLATED_PUBLISHED),
        (of.ruled_published, policy::RULED_PUBLISHED),
        (of.reject_published, policy::REJECT_PUBLISHED),
        (of.audit_published, policy::AUDIT_PUBLISHED),
        (row.limited, policy::LIMITED),
    ];
    flags.into_iter().filter(|(set, _)| *set).fold(0, |flags, (_, bit)| flags | bit)
}

impl Row for EndpointRow {
    type Abi = Endpoint;
    fn encode(&self) -> Endpoint {
        let address = |ip: Option<IpAddr>| ip.map_or(Addr::default(), Addr::from);
        let mut frame_to = [0; 12];
        frame_to[..6].copy_from_slice(&self.instance_mac.0);
        frame_to[6..].copy_from_slice(&self.host_mac.0);
        let (v4, v6) = (address(self.v4.map(Into::into)), address(self.v6.map(Into::into)));
        let (sets, flags) = (self.policy.sets, flags(self));
        // Where it is counted and its account are not in the tables: see `slots` and `accounts`.
        let who = Who { class: self.class, tenant: self.tenant };
        Endpoint { v4, v6, frame_to, who, sets, flags, slot: 0, account: 0 }
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
            class: abi.who.class,
            tenant: abi.who.tenant,
            policy: EndpointPolicy {
                sets: abi.sets,
                isolated_in: abi.flags & policy::ISOLATED_IN != 0,
                isolated_out: abi.flags & policy::ISOLATED_OUT != 0,
                audit_in: abi.flags & policy::AUDIT_IN != 0,
                audit_out: abi.flags & policy::AUDIT_OUT != 0,
                ruled_in: abi.flags & policy::RULED_IN != 0,
                ruled_out: abi.flags & policy::RULED_OUT != 0,
                reject_in: abi.flags & policy::REJECT_IN != 0,
                reject_out: abi.flags & policy::REJECT_OUT != 0,
                isolated_published: abi.flags & policy::ISOLATED_PUBLISHED != 0,
                ruled_published: abi.flags & policy::RULED_PUBLISHED != 0,
                reject_published: abi.flags & policy::REJECT_PUBLISHED != 0,
                audit_published: abi.flags & policy::AUDIT_PUBLISHED != 0,
            },
            blocks: abi.flags & policy::BLOCKS != 0,
            limited: abi.flags & policy::LIMITED != 0,
        })
    }
}

impl Row for PeerRow {
    type Abi = Peer;
    fn encode(&self) -> Peer {
        let node = self.node.map_or(Addr::default(), Addr::from);
        Peer { who: Who { class: self.class, tenant: self.tenant }, ifindex: self.ifindex, node }
    }
    fn decode(abi: Peer) -> Option<Self> {
        let node = (!abi.node.is_none()).then(|| abi.node.into());
        Some(Self { class: abi.who.class, tenant: abi.who.tenant, ifindex: abi.ifindex, node })
    }
}

impl Row for NodeRow {
    type Abi = Node;
    fn encode(&self) -> Node {
        Node { device: self.device, mtu: self.mtu }
    }
    fn decode(abi: Node) -> Option<Self> {
        Some(Self { device: abi.device, mtu: abi.mtu })
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

impl Row for RuleKey {
    type Abi = abi::RuleKey;
    fn encode(&self) -> abi::RuleKey {
        let direction = match self.direction {
            Direction::In | Direction::Published => abi::IN,
            Direction::Out => abi::OUT,
        };
        let protocol = self.protocol.map_or(0, number);
        abi::RuleKey { set: self.set, peer: self.peer, port: self.port, protocol, direction, pad: 0 }
    }
    fn decode(abi: abi::RuleKey) -> Option<Self> {
        let protocol = match abi.protocol {
            0 => None,
            other => Some(PROTOCOLS.into_iter().find(|protocol| number(*protocol) == other)?),
        };
        let direction = match abi.direction {
            abi::IN => Direction::In,
            abi::OUT => Direction::Out,
            _ => return None,
        };
        let row = Self { set: abi.set, direction, peer: abi.peer, protocol, port: abi.port };
        (row.encode() == abi).then_some(row)
    }
}

impl Row for RuleRow {
    type Abi = abi::Rule;
    fn encode(&self) -> abi::Rule {
        let action = match self.action {
            Action::Accept => 0,
            Action::Deny => policy::DENIES,
            Action::Reject => policy::DENIES | policy::REJECTS,
            Action::Pass => policy::PASSES,
        };
        abi::Rule { number: self.number | action, order: self.order }
    }
    fn decode(abi: abi::Rule) -> Option<Self> {
        const REJECTS: u32 = policy::DENIES | policy::REJECTS;
        let action = match abi.number & !policy::LAST_RULE {
            0 => Action::Accept,
            policy::DENIES => Action::Deny,
            REJECTS => Action::Reject,
            policy::PASSES => Action::Pass,
            _ => return None,
        };
        Some(Self { number: abi.number & policy::LAST_RULE, action, order: abi.order })
    }
}

/// Every protocol of policies.
pub(super) const PROTOCOLS: [PolicyProtocol; 4] =
    [PolicyProtocol::Tcp, PolicyProtocol::Udp, PolicyProtocol::Sctp, PolicyProtocol::Icmp];

/// The number by which the programs know it.
pub(super) const fn number(protocol: PolicyProtocol) -> u8 {
    match protocol {
        PolicyProtocol::Tcp => packet::TCP,
        PolicyProtocol::Udp => packet::UDP,
        PolicyProtocol::Sctp => packet::SCTP,
        PolicyProtocol::Icmp => packet::ICMP,
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
            let policy = EndpointPolicy {
                sets: [9, 0, 8, 0, 7],
                reject_out: true,
                isolated_published: true,
                audit_published: true,
                isolated_in: true,
                audit_out: true,
                ruled_out: true,
                ..EndpointPolicy::default()
            };
            comes_back(EndpointRow {
                v4,
                v6,
                instance_mac,
                host_mac,
                class: 300,
                tenant: 4,
                policy,
                blocks: true,
                limited: true,
            });
        }
        for node in [None, Some(IpAddr::from([192, 0, 2, 3])), "2001:db8::3".parse().ok()] {
            comes_back(PeerRow { class: 300, tenant: 4, ifindex: 3, node });
        }
        for protocol in [None, Some(PolicyProtocol::Icmp), Some(PolicyProtocol::Sctp)] {
            for direction in [Direction::In, Direction::Out] {
                comes_back(RuleKey { set: 1, direction, peer: 300, protocol, port: 80 });
            }
        }
        for action in [Action::Accept, Action::Deny, Action::Reject, Action::Pass] {
            comes_back(RuleRow { number: policy::LAST_RULE, action, order: u32::MAX });
        }
        comes_back(NodeRow { device: 3, mtu: 1500 });
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
