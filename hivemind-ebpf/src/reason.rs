//! Why a packet was dropped or a connection refused.

/// A reason. Numbers are never used again for another meaning: dashboards keep them. They are not the kernel's
/// verdicts; 0 stands for "forwarded" in counters.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The instance is not ready for traffic: the daemon has not written its row yet, or has removed it.
    NotReady = 1,
    /// The packet is shorter than its headers say, or contradicts itself.
    Malformed = 2,
    /// The Ethernet protocol is neither IPv4, IPv6 nor ARP, or the frame has a VLAN tag.
    EtherType = 3,
    /// The source Ethernet address is not the instance's.
    SpoofedMac = 4,
    /// The source address is not the instance's.
    SpoofedAddress = 5,
    /// The destination is a multicast or broadcast address.
    Multicast = 6,
    /// The destination cannot be routed: loopback, link-local, unspecified; or a cloud answers machines there.
    Unroutable = 7,
    /// A router advertisement, redirect or other neighbour message that an instance may not send or receive.
    Neighbour = 8,
    /// An IPv6 routing header, or more extension headers than are looked at.
    ExtensionHeader = 9,
    /// A fragment to a service: only the first carries the port.
    Fragment = 10,
    /// No service has this virtual address.
    NoSuchService = 11,
    /// The service has no such port.
    NoSuchPort = 12,
    /// No instance of the service is ready.
    NoBackend = 13,
    /// A packet of a TCP connection to a service that is not in the table and does not begin one.
    NoConnection = 14,
    /// The connection table is full.
    TableFull = 15,
    /// The backend of the TCP connection is gone.
    BackendGone = 16,
    /// The client's port is in use towards the same backend, through another address of the service.
    TupleClash = 17,
    /// The destination is in the instance ranges, but no instance has it.
    NoSuchInstance = 18,
    /// The instance the packet is for is not ready for traffic.
    PeerNotReady = 19,
    /// The packet is on its way into an instance that does not have its destination address.
    NotForInstance = 20,
    /// The packet could not be rewritten: the kernel refused.
    Rewrite = 21,
    /// No policy's rule allows it into the instance.
    PolicyIn = 22,
    /// No policy's rule allows it out of the instance.
    PolicyOut = 23,
    /// It comes from an instance of another tenant, and no policy allows that.
    OtherTenant = 24,
    /// It passed, because the policies that do not allow it are in audit mode.
    Audit = 25,
    /// An ICMP error about a packet that is of no known flow.
    Unrelated = 26,
    /// It passed, but the table of flows is full: its answers are judged for themselves.
    Untracked = 27,
    /// Nothing was dropped: a flow that was never answered, or is over, made room for another in the full table.
    Evicted = 28,
    /// Only instances of this node may be used, and none of them is ready.
    NoLocalBackend = 29,
    /// The client of a published port is in none of its source ranges.
    SourceRange = 30,
    /// More bytes or packets in a second than the instance or its tenant may send or get, or more fragments of packets
    /// that do not become whole than the host keeps for an instance.
    RateLimited = 31,
    /// The instance or its tenant has as many connections as it may, or has begun as many in a second.
    ConnectionLimit = 32,
    /// The instance holds its share of the table of flows.
    FlowShare = 33,
    /// No rule of a policy of the host allows it into the host.
    HostIn = 34,
    /// No rule of a policy of the host allows it out of the host.
    HostOut = 35,
    /// No rule of a policy of the host allows it to a published port.
    Published = 36,
    /// A policy denies it, and says so to the sender.
    Rejected = 37,
    /// A packet for another node's published port in a tunnel that is not from that node, or a tunnel to a node that
    /// begins at an instance.
    Stranger = 38,
    /// Longer than what fits through the tunnel to the node that has the backend.
    TooLong = 39,
    /// The sender is who it is for: it asks its own address by its device, or a service of which it is the only instance
    /// without the socket hooks. No instance takes packets from outside that have its own address.
    Hairpin = 40,
}

impl Reason {
    /// All reasons, by number.
    pub const ALL: [Self; 40] = [
        Self::NotReady,
        Self::Malformed,
        Self::EtherType,
        Self::SpoofedMac,
        Self::SpoofedAddress,
        Self::Multicast,
        Self::Unroutable,
        Self::Neighbour,
        Self::ExtensionHeader,
        Self::Fragment,
        Self::NoSuchService,
        Self::NoSuchPort,
        Self::NoBackend,
        Self::NoConnection,
        Self::TableFull,
        Self::BackendGone,
        Self::TupleClash,
        Self::NoSuchInstance,
        Self::PeerNotReady,
        Self::NotForInstance,
        Self::Rewrite,
        Self::PolicyIn,
        Self::PolicyOut,
        Self::OtherTenant,
        Self::Audit,
        Self::Unrelated,
        Self::Untracked,
        Self::Evicted,
        Self::NoLocalBackend,
        Self::SourceRange,
        Self::RateLimited,
        Self::ConnectionLimit,
        Self::FlowShare,
        Self::HostIn,
        Self::HostOut,
        Self::Published,
        Self::Rejected,
        Self::Stranger,
        Self::TooLong,
        Self::Hairpin,
    ];

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    /// What a number stands for that was made of a reason; 0 of none.
    ///
    /// # Safety
    /// `number` is 0, or a reason as a number.
    #[inline(always)]
    pub const unsafe fn check(number: u32) -> Result<(), Self> {
        if number == 0 {
            return Ok(());
        }
        // SAFETY: as above.
        Err(unsafe { core::mem::transmute::<u8, Self>(number as u8) })
    }

    /// The name that metrics and tables show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "not-ready",
            Self::Malformed => "malformed",
            Self::EtherType => "ether-type",
            Self::SpoofedMac => "spoofed-mac",
            Self::SpoofedAddress => "spoofed-address",
            Self::Multicast => "multicast",
            Self::Unroutable => "unroutable",
            Self::Neighbour => "neighbour",
            Self::ExtensionHeader => "extension-header",
            Self::Fragment => "fragment",
            Self::NoSuchService => "no-such-service",
            Self::NoSuchPort => "no-such-port",
            Self::NoBackend => "no-backend",
            Self::NoConnection => "no-connection",
            Self::TableFull => "table-full",
            Self::BackendGone => "backend-gone",
            Self::TupleClash => "tuple-clash",
            Self::NoSuchInstance => "no-such-instance",
            Self::PeerNotReady => "peer-not-ready",
            Self::NotForInstance => "not-for-instance",
            Self::Rewrite => "rewrite",
            Self::PolicyIn => "policy-in",
            Self::PolicyOut => "policy-out",
            Self::OtherTenant => "other-tenant",
            Self::Audit => "audit",
            Self::Unrelated => "unrelated",
            Self::Untracked => "untracked",
            Self::Evicted => "evicted",
            Self::NoLocalBackend => "no-local-backend",
            Self::SourceRange => "source-range",
            Self::RateLimited => "rate-limited",
            Self::ConnectionLimit => "connection-limit",
            Self::FlowShare => "flow-share",
            Self::HostIn => "host-in",
            Self::HostOut => "host-out",
            Self::Published => "published",
            Self::Rejected => "rejected",
            Self::Stranger => "stranger",
            Self::TooLong => "too-long",
            Self::Hairpin => "hairpin",
        }
    }

    /// Whether it is a policy's word, and [`crate::abi::Drops::rule`] may name its rule.
    #[inline(always)]
    pub const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::PolicyIn | Self::PolicyOut | Self::HostIn | Self::HostOut | Self::Published | Self::Rejected
        )
    }
}

impl Reason {
    /// The reason in words that follow "dropped: ".
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotReady => "the instance is not ready for traffic",
            Self::Malformed => "shorter than its headers say, or in contradiction to itself",
            Self::EtherType => "neither IPv4, IPv6 nor ARP, or with a VLAN tag",
            Self::SpoofedMac => "the Ethernet address is not the instance's",
            Self::SpoofedAddress => "the source address is not the sender's",
            Self::Multicast => "multicast and broadcast are not forwarded",
            Self::Unroutable => "that destination cannot be routed",
            Self::Neighbour => "neighbour messages of this kind are not allowed",
            Self::ExtensionHeader => "an IPv6 routing header, or too many extension headers",
            Self::Fragment => "a fragment whose first was not seen",
            Self::NoSuchService => "no service has this address",
            Self::NoSuchPort => "the service has no such port",
            Self::NoBackend => "no instance of the service is ready",
            Self::NoConnection => "of no known connection, and does not begin one",
            Self::TableFull => "the table of flows is full",
            Self::BackendGone => "the instance that served this connection is gone",
            Self::TupleClash => "the client uses this port towards the same instance already",
            Self::NoSuchInstance => "no instance has this address",
            Self::PeerNotReady => "the instance that it is for is not ready for traffic",
            Self::NotForInstance => "the instance does not have this address",
            Self::Rewrite => "the kernel refused to change the packet",
            Self::PolicyIn => "no policy allows it into the instance",
            Self::PolicyOut => "no policy allows it out of the instance",
            Self::OtherTenant => "from another tenant, which no policy allows",
            Self::Audit => "passes, but no policy allows it",
            Self::Unrelated => "an ICMP error about no known flow",
            Self::Untracked => "passes, but the table of flows is full",
            Self::Evicted => "a flow made room for another",
            Self::NoLocalBackend => "no instance of the service on this node is ready",
            Self::SourceRange => "the client is in none of the source ranges",
            Self::RateLimited => "more in a second than its limit",
            Self::ConnectionLimit => "as many connections as its limit",
            Self::FlowShare => "the instance holds its share of the table of flows",
            Self::HostIn => "no policy of the host allows it in",
            Self::HostOut => "no policy of the host allows it out",
            Self::Published => "no policy of the host allows it to a published port",
            Self::Rejected => "a policy rejects it",
            Self::Stranger => "in a tunnel that is not from the node which it says",
            Self::TooLong => "longer than what fits through the tunnel to the node that has the instance",
            Self::Hairpin => "the sender itself is the only one that could take it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn numbers_and_names_are_unique_and_come_back() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert!(Reason::ALL.is_sorted_by_key(|reason| *reason as u8));
        for reason in &Reason::ALL {
            assert_eq!(Reason::from_number(*reason as u8), Some(*reason));
            assert!(reason.words().ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_uppercase()), "{reason:?}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        assert_eq!(Reason::from_number(0), None);
        assert_eq!(Reason::from_number(u8::MAX), None);
    }
}
