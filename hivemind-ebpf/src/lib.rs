//! The kernel half of hivemind: the ABI, and the pure code that both sides use.
//!
//! The library is compiled twice: for the host, where it is tested, and for the kernel, where the programs of the
//! binary use it. One Rust type serves both sides of every map, so that there is nothing to keep in step.
//!
//! Rules of the ABI: `repr(C)`; every byte is a named field, padding included (the kernel compares keys byte by
//! byte); numbers in network order end in `_be`; no `bool`, `enum`, `Option` or `usize`; size, alignment and offsets
//! are asserted. Any change of a key, a value or of what a map means raises [`ABI_VERSION`].
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod abi;
pub mod begun;
pub mod choose;
pub mod flow;
pub mod limit;
pub mod packet;
pub mod pieces;
pub mod policy;
pub mod reason;
pub mod refusal;
pub mod tunnel;

/// Version of keys, values and map meanings. It is part of the path under which everything is pinned.
pub const ABI_VERSION: u32 = 7;

/// Names of the maps: at most 15 bytes, which is what the kernel keeps.
pub mod map {
    /// Interface index of a host device → [`super::abi::Endpoint`].
    pub const ENDPOINTS: &str = "hm_endpoints";
    /// [`super::abi::Addr`] → [`super::abi::Peer`].
    pub const PEERS: &str = "hm_peers";
    /// [`super::abi::Addr`] of the node → 1.
    pub const NODE_ADDRS: &str = "hm_node_addrs";
    /// [`super::abi::FrontendKey`] → [`super::abi::Frontend`].
    pub const FRONTENDS: &str = "hm_frontends";
    /// [`super::abi::SlotKey`] → [`super::abi::Backend`].
    pub const SLOTS: &str = "hm_slots";
    /// [`super::abi::ServedKey`] → [`super::abi::Served`].
    pub const SERVED: &str = "hm_served";
    /// [`super::abi::FlowKey`] → [`super::abi::Flow`].
    pub const FLOWS: &str = "hm_flows";
    /// [`super::abi::Tuple`] → [`super::abi::Translation`].
    pub const TRANSLATIONS: &str = "hm_translations";
    /// [`super::abi::Tuple`] → [`super::abi::Forward`].
    pub const FORWARDS: &str = "hm_forwards";
    /// [`super::abi::BY_DRIVER`] or [`super::abi::BY_STACK`] → [`super::abi::Count`] of each CPU: packets that were sent to
    /// other nodes.
    pub const FORWARDED: &str = "hm_forwarded";
    /// [`super::abi::Addr`] of another node → [`super::abi::Node`].
    pub const NODES: &str = "hm_nodes";
    /// [`super::abi::Addr`] of another node → [`super::abi::Hop`].
    pub const HOPS: &str = "hm_hops";
    /// Place of a list ([`super::begun`]) → [`super::abi::FlowKey`] of one of the flows that have begun last.
    pub const RECENT: &str = "hm_recent";
    /// List → how many flows it was given so far.
    pub const RECENT_NEXT: &str = "hm_recent_next";
    /// [`super::abi::FragmentKey`] → ports.
    pub const FRAGMENTS: &str = "hm_fragments";
    /// 0 → the generation of the tables: a flow that was decided at another one is decided anew; 1 → the flags of the
    /// host's endpoint, 0 if no policy is about it; 2 → how many addresses other nodes have.
    pub const GENERATION: &str = "hm_generation";
    /// [`super::abi::DropKey`] → [`super::abi::Drops`]: the latest.
    pub const DROPS: &str = "hm_drops";
    /// [`super::abi::Event`], one after the other, while somebody watches.
    pub const EVENTS: &str = "hm_events";
    /// 0 → how many watch; 1 → how many events found no room.
    pub const WATCH: &str = "hm_watch";
    /// [`super::abi::total`] → [`super::abi::Count`] of each CPU.
    pub const TOTALS: &str = "hm_totals";
    /// [`super::abi::CounterKey`] → [`super::abi::Count`] of each CPU.
    pub const COUNTERS: &str = "hm_counters";
    /// [`super::abi::RuleKey`] → [`super::abi::Rule`].
    pub const RULES: &str = "hm_rules";
    /// [`super::policy::port_index`] / [`super::policy::PORTS_PER_ROW`] → numbers of intervals.
    pub const PORTS: &str = "hm_ports";
    /// Prefix → block class.
    pub const BLOCKS: &str = "hm_blocks";
    /// Number of a rule → [`super::abi::Count`] of each CPU: of what it has allowed, or denied.
    pub const HITS: &str = "hm_hits";
    /// [`super::policy::near`] → [`super::abi::Hits`] of each CPU: what is not in [`HITS`] yet.
    pub const HITS_NEAR: &str = "hm_hits_near";
    /// [`super::abi::PartKey`] → [`super::abi::Part`].
    pub const PARTS: &str = "hm_parts";
    /// [`super::abi::MemberKey`] → index of the slot.
    pub const MEMBERS: &str = "hm_members";
    /// [`super::abi::ClientKey`] → [`super::abi::Sticky`].
    pub const STICKY: &str = "hm_sticky";
    /// [`super::abi::source`] prefix → 1.
    pub const SOURCES: &str = "hm_sources";
    /// A socket → [`super::abi::Connected`].
    pub const CONNECTED: &str = "hm_connected";
    /// A socket → [`super::abi::Asked`].
    pub const ANSWERING: &str = "hm_answering";
    /// [`super::abi::Addr`] of a backend → how many sockets are counted for it.
    pub const LOADS: &str = "hm_loads";
    /// Account → [`super::abi::Limit`].
    pub const LIMITS: &str = "hm_limits";
    /// Account → [`super::abi::Use`].
    pub const USES: &str = "hm_uses";
    /// [`super::abi::RttKey`] → [`super::abi::Rtt`] of each CPU.
    pub const RTT: &str = "hm_rtt";
    /// Cookie of a socket → [`super::abi::RttKey`]
    pub const RTT_OF: &str = "hm_rtt_of";
    /// 0 → how many sockets each CPU has taken.
    pub const RTT_TAKEN: &str = "hm_rtt_taken";

    /// All of them.
    pub const ALL: [&str; 38] = [
        ENDPOINTS,
        PEERS,
        NODE_ADDRS,
        FRONTENDS,
        SLOTS,
        SERVED,
        FLOWS,
        TRANSLATIONS,
        FORWARDS,
        FORWARDED,
        NODES,
        HOPS,
        RECENT,
        RECENT_NEXT,
        FRAGMENTS,
        GENERATION,
        DROPS,
        EVENTS,
        WATCH,
        TOTALS,
        COUNTERS,
        RULES,
        PORTS,
        BLOCKS,
        HITS,
        HITS_NEAR,
        PARTS,
        MEMBERS,
        STICKY,
        SOURCES,
        CONNECTED,
        ANSWERING,
        LOADS,
        LIMITS,
        USES,
        RTT,
        RTT_OF,
        RTT_TAKEN,
    ];

    /// What the programs remember of connections. A daemon goes on with those of another ABI's: a group of them if keys and
    /// values of all of it have the same sizes, however many there is room for. So a row means the same in every version in
    /// which its map has that name and these sizes: who changes what it means gives the map another name, and converts. New
    /// meanings of what was always 0, and of what is decided anew with the flow, are none.
    pub const KEPT: [&[&str]; 6] = [
        // By the generation of the tables, the same word in all versions.
        &[FLOWS, TRANSLATIONS, FORWARDS],
        // What a place says is looked at before it is believed, and a place that is not there is not used.
        &[RECENT, RECENT_NEXT],
        &[CONNECTED, LOADS],
        &[ANSWERING],
        &[STICKY],
        &[FRAGMENTS],
    ];

    /// Number of a capture → [`super::abi::Capture`].
    pub const CAPTURES: &str = "hm_captures";
    /// [`super::abi::Captured`] and bytes, one packet after the other.
    pub const PACKETS: &str = "hm_packets";
    /// 0 → how many packets found no room.
    pub const UNCAPTURED: &str = "hm_uncaptured";
    /// 0 → not 0 while anything is captured. The section that the compiler puts it in.
    pub const CAPTURING: &str = ".bss";

    /// Those that are not pinned: they live as long as the programs of one daemon, and nothing is captured when the next
    /// one begins.
    pub const OWN: [&str; 3] = [CAPTURES, PACKETS, UNCAPTURED];
}

/// Names of the programs: at most 15 bytes.
pub mod program {
    /// Ingress of an instance's host device.
    pub const FROM_CONTAINER: &str = "hm_from_cont";
    /// Egress of an instance's host device.
    pub const TO_CONTAINER: &str = "hm_to_cont";
    /// Ingress of an uplink.
    pub const FROM_UPLINK: &str = "hm_from_uplink";
    /// Egress of an uplink.
    pub const TO_UPLINK: &str = "hm_to_uplink";
    /// Egress of the device that the firewall hands accepted connections to.
    pub const PUB_SELECT: &str = "hm_pub_select";

    /// The driver of an uplink.
    pub const UPLINK_DRIVER: &str = "hm_xdp";

    /// The programs of network devices, in the kernel's traffic control.
    pub const DEVICE: [&str; 5] = [FROM_CONTAINER, TO_CONTAINER, FROM_UPLINK, TO_UPLINK, PUB_SELECT];
    /// The programs of the cgroup.
    pub const SOCKET: [&str; 10] = [
        "hm_connect4",
        "hm_connect6",
        "hm_sendmsg4",
        "hm_sendmsg6",
        "hm_recvmsg4",
        "hm_recvmsg6",
        "hm_peername4",
        "hm_peername6",
        "hm_release",
        "hm_sock_ops",
    ];

    /// Every program.
    pub fn all() -> impl Iterator<Item = &'static str> {
        DEVICE.into_iter().chain([UPLINK_DRIVER]).chain(SOCKET)
    }
}

/// Name of the read-only [`abi::Config`] in the object.
pub const CONFIG: &str = "HM_CONFIG";

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_keeps_every_name_whole() {
        let names = super::map::ALL.iter().chain(&super::map::OWN).copied().chain(super::program::all());
        for name in names {
            assert!(name.len() <= 15 && name.starts_with("hm_"), "{name}");
        }
    }
}
