//! Why a packet was dropped or a connection refused.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $words:literal;)*) => {
        /// A reason. Numbers are never used again for another meaning: dashboards keep them. They are not the kernel's
        /// verdicts; 0 stands for "forwarded" in counters.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Reason { $($(#[$doc])* $variant = $number),* }

        impl Reason {
            /// All reasons, by number.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$variant),*];

            /// The name that metrics and tables show.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $name),* } }

            /// The reason in words that follow "dropped: ".
            pub const fn words(self) -> &'static str { match self { $(Self::$variant => $words),* } }
        }
    };
}

// A reason's number, its name, and its words.
reasons! {
    /// The instance is not ready for traffic: the daemon has not written its row yet, or has removed it.
    NotReady = 1, "not-ready", "the instance is not ready for traffic";
    /// The packet is shorter than its headers say, or contradicts itself.
    Malformed = 2, "malformed", "shorter than its headers say, or in contradiction to itself";
    /// The Ethernet protocol is neither IPv4, IPv6 nor ARP, or the frame has a VLAN tag.
    EtherType = 3, "ether-type", "neither IPv4, IPv6 nor ARP, or with a VLAN tag";
    /// The source Ethernet address is not the instance's.
    SpoofedMac = 4, "spoofed-mac", "the Ethernet address is not the instance's";
    /// The source address is not the instance's.
    SpoofedAddress = 5, "spoofed-address", "the source address is not the sender's";
    /// The destination is a multicast or broadcast address.
    Multicast = 6, "multicast", "multicast and broadcast are not forwarded";
    /// The destination cannot be routed: loopback, link-local, unspecified; or a cloud answers machines there.
    Unroutable = 7, "unroutable", "that destination cannot be routed";
    /// A router advertisement, redirect or other neighbour message that an instance may not send or receive.
    Neighbour = 8, "neighbour", "neighbour messages of this kind are not allowed";
    /// An IPv6 routing header, or more extension headers than are looked at.
    ExtensionHeader = 9, "extension-header", "an IPv6 routing header, or too many extension headers";
    /// A fragment to a service: only the first carries the port.
    Fragment = 10, "fragment", "a fragment whose first was not seen";
    /// No service has this virtual address.
    NoSuchService = 11, "no-such-service", "no service has this address";
    /// The service has no such port.
    NoSuchPort = 12, "no-such-port", "the service has no such port";
    /// No instance of the service is ready.
    NoBackend = 13, "no-backend", "no instance of the service is ready";
    /// A packet of a TCP connection to a service that is not in the table and does not begin one.
    NoConnection = 14, "no-connection", "of no known connection, and does not begin one";
    /// The connection table is full.
    TableFull = 15, "table-full", "the table of flows is full";
    /// The backend of the TCP connection is gone.
    BackendGone = 16, "backend-gone", "the instance that served this connection is gone";
    /// The client's port is in use towards the same backend, through another address of the service.
    TupleClash = 17, "tuple-clash", "the client uses this port towards the same instance already";
    /// The destination is in the instance ranges, but no instance has it.
    NoSuchInstance = 18, "no-such-instance", "no instance has this address";
    /// The instance the packet is for is not ready for traffic.
    PeerNotReady = 19, "peer-not-ready", "the instance that it is for is not ready for traffic";
    /// The packet is on its way into an instance that does not have its destination address.
    NotForInstance = 20, "not-for-instance", "the instance does not have this address";
    /// The packet could not be rewritten: the kernel refused.
    Rewrite = 21, "rewrite", "the kernel refused to change the packet";
    /// No policy's rule allows it into the instance.
    PolicyIn = 22, "policy-in", "no policy allows it into the instance";
    /// No policy's rule allows it out of the instance.
    PolicyOut = 23, "policy-out", "no policy allows it out of the instance";
    /// It comes from an instance of another tenant, and no policy allows that.
    OtherTenant = 24, "other-tenant", "from another tenant, which no policy allows";
    /// It passed, because the policies that do not allow it are in audit mode.
    Audit = 25, "audit", "passes, but no policy allows it";
    /// An ICMP error about a packet that is of no known flow.
    Unrelated = 26, "unrelated", "an ICMP error about no known flow";
    /// It passed, but the table of flows is full: its answers are judged for themselves.
    Untracked = 27, "untracked", "passes, but the table of flows is full";
    /// Nothing was dropped: a flow that was never answered, or is over, made room for another in the full table.
    Evicted = 28, "evicted", "a flow made room for another";
    /// Only instances of this node may be used, and none of them is ready.
    NoLocalBackend = 29, "no-local-backend", "no instance of the service on this node is ready";
    /// The client of a published port is in none of its source ranges.
    SourceRange = 30, "source-range", "the client is in none of the source ranges";
    /// More bytes or packets in a second than the instance or its tenant may send or get, or more fragments of packets
    /// that do not become whole than the host keeps for an instance.
    RateLimited = 31, "rate-limited", "more in a second than its limit";
    /// The instance or its tenant has as many connections as it may, or has begun as many in a second.
    ConnectionLimit = 32, "connection-limit", "as many connections as its limit";
    /// The instance holds its share of the table of flows.
    FlowShare = 33, "flow-share", "the instance holds its share of the table of flows";
    /// No rule of a policy of the host allows it into the host.
    HostIn = 34, "host-in", "no policy of the host allows it in";
    /// No rule of a policy of the host allows it out of the host.
    HostOut = 35, "host-out", "no policy of the host allows it out";
    /// No rule of a policy of the host allows it to a published port.
    Published = 36, "published", "no policy of the host allows it to a published port";
    /// A policy denies it, and says so to the sender.
    Rejected = 37, "rejected", "a policy rejects it";
    /// A packet for another node's published port in a tunnel that is not from that node, or a tunnel to a node that
    /// begins at an instance.
    Stranger = 38, "stranger", "in a tunnel that is not from the node which it says";
    /// Longer than what fits through the tunnel to the node that has the backend.
    TooLong = 39, "too-long", "longer than what fits through the tunnel to the node that has the instance";
    /// The sender is who it is for: it asks its own address by its device, or a service of which it is the only instance
    /// without the socket hooks. No instance takes packets from outside that have its own address.
    Hairpin = 40, "hairpin", "the sender itself is the only one that could take it";
}

impl Reason {
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

    /// Whether it is a policy's word, and [`crate::abi::Drops::rule`] may name its rule.
    #[inline(always)]
    pub const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::PolicyIn | Self::PolicyOut | Self::HostIn | Self::HostOut | Self::Published | Self::Rejected
        )
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
