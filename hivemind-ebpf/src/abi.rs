//! Keys and values of the maps.

use core::mem::{align_of, offset_of, size_of};

use crate::policy::SETS;

/// A network address of either family, IPv4 as `::ffff:a.b.c.d`, in four words of network order.
/// The zero address stands for none.
#[repr(C)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "the same equality, spelled out")]
#[derive(Clone, Copy, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Addr {
    /// The 128 bits, most significant word first.
    pub words_be: [u32; 4],
}

impl PartialEq for Addr {
    /// Without a loop: the derived comparison calls one over 16 bytes, each an exit for the verifier to follow.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.words_be, other.words_be);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }
}

/// The word before the 32 bits of an IPv4 address.
const MAPPED_BE: u32 = 0xffff_u32.to_be();

impl Addr {
    /// The IPv4 address `word_be`.
    #[inline(always)]
    pub const fn v4(word_be: u32) -> Self {
        Self { words_be: [0, 0, MAPPED_BE, word_be] }
    }

    /// The IPv6 address of these words.
    #[inline(always)]
    pub const fn v6(words_be: [u32; 4]) -> Self {
        Self { words_be }
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == MAPPED_BE
    }

    /// Whether it stands for none.
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.words_be[0] | self.words_be[1] | self.words_be[2] | self.words_be[3] == 0
    }

    /// The IPv4 address, of one that [`Addr::is_v4`].
    #[inline(always)]
    pub const fn v4_be(&self) -> u32 {
        self.words_be[3]
    }

    /// What a program that connects to it reaches on its own machine: `127.0.0.0/8`, `0.0.0.0`, `::1`, `::`.
    #[inline(always)]
    pub const fn is_own_machine(&self) -> bool {
        if self.is_v4() {
            let host = u32::from_be(self.v4_be());
            return host >> 24 == 127 || host == 0;
        }
        let [a, b, c, d] = self.words_be;
        a | b | c == 0 && u32::from_be(d) <= 1
    }
}

#[cfg(not(target_arch = "bpf"))]
mod host {
    use core::net::{IpAddr, Ipv6Addr};

    use super::Addr;

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            let octets = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let (words, _) = octets.as_chunks::<4>();
            Self { words_be: [0, 1, 2, 3].map(|i| u32::from_ne_bytes(words[i])) }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            let mut octets = [0; 16];
            for (chunk, word) in octets.chunks_exact_mut(4).zip(addr.words_be) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            Self::V6(Ipv6Addr::from(octets)).to_canonical()
        }
    }
}

/// A range of addresses: those whose bits under `mask` are `network`. An absent range matches nothing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The bits.
    pub network: Addr,
    /// Which bits.
    pub mask: Addr,
}

impl Range {
    /// Matches nothing: no address has a bit where the mask has none.
    pub const NONE: Self = Self { network: Addr { words_be: [u32::MAX; 4] }, mask: Addr { words_be: [0; 4] } };

    /// Whether `addr` is in it.
    #[inline(always)]
    pub const fn contains(&self, addr: &Addr) -> bool {
        let (n, m, a) = (&self.network.words_be, &self.mask.words_be, &addr.words_be);
        // The words that differ most come last in most addresses of a range.
        (a[3] & m[3] == n[3]) & (a[2] & m[2] == n[2]) & (a[1] & m[1] == n[1]) & (a[0] & m[0] == n[0])
    }
}

/// What the programs know as constants. The loader sets it; to change it the programs are replaced.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The cookie of the network namespace in which loopback means the node.
    pub host_netns: u64,
    /// Virtual addresses, IPv4 and IPv6.
    pub services: [Range; 2],
    /// Instances' addresses, IPv4 and IPv6.
    pub instances: [Range; 2],
    /// The node's own addresses in the instance ranges, IPv4 and IPv6.
    pub gateways: [Addr; 2],
    /// How many rows of the table of flows one instance may hold; 0: all.
    pub share: u32,
    /// Always 0.
    pub pad: u32,
}

impl Config {
    /// A node without ranges.
    pub const EMPTY: Self = Self {
        host_netns: 0,
        services: [Range::NONE; 2],
        instances: [Range::NONE; 2],
        gateways: [Addr { words_be: [0; 4] }; 2],
        share: 0,
        pad: 0,
    };

    /// Whether `addr` is a service's, an instance's or the node's own in these ranges: nobody outside has it.
    #[inline(always)]
    pub const fn is_inside(&self, addr: &Addr) -> bool {
        self.is_instance(addr) || self.is_service(addr)
    }

    /// Whether `addr` is in the instance ranges.
    #[inline(always)]
    pub const fn is_instance(&self, addr: &Addr) -> bool {
        self.instances[0].contains(addr) || self.instances[1].contains(addr)
    }

    /// Whether `addr` is in the service ranges.
    #[inline(always)]
    pub const fn is_service(&self, addr: &Addr) -> bool {
        self.services[0].contains(addr) || self.services[1].contains(addr)
    }
}

/// An instance of this node; the key is the interface index of its host device. With the key
/// [`crate::policy::HOST_ENDPOINT`] the host itself, if policies are about it: of that, sets and flags are used only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its IPv4 address, or none.
    pub v4: Addr,
    /// Its IPv6 address, or none.
    pub v6: Addr,
    /// Destination and source Ethernet address of a frame to it: its own, then the host device's.
    pub frame_to: [u8; 12],
    /// What it is to others.
    pub who: Who,
    /// The numbers of its sets of rules, by tier ([`crate::policy::ADMIN`] and so on); 0: none.
    pub sets: [u32; SETS],
    /// Bits of [`crate::policy`].
    pub flags: u32,
    /// Where its packets are counted: the number of a pair of totals, see [`total`].
    pub slot: u32,
    /// Its account, see [`Limit`].
    pub account: u32,
}

/// What somebody is to policies.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    /// The class: [`crate::policy::HOST`], [`crate::policy::WORLD`], or that of instances.
    pub class: u32,
    /// The tenant's number; 0: of no tenant.
    pub tenant: u32,
}

/// Whose an address is; the key is an [`Addr`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// What it is to others.
    pub who: Who,
    /// The interface index of its host device if it is on this node, else 0.
    pub ifindex: u32,
    /// The address of the node that it is on, if that is another one and there is a tunnel to it; else none. Of the
    /// instance's family.
    pub node: Addr,
}

/// What a rule of policies is looked up by.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleKey {
    /// One of [`Endpoint::sets`].
    pub set: u32,
    /// A class, a block class, [`crate::policy::OTHERS`], or 0: anybody.
    pub peer: u32,
    /// The number of an interval of ports, or [`crate::policy::ALL_PORTS`].
    pub port: u32,
    /// A protocol by its number, ICMP of both families as 1; 0: all.
    pub protocol: u8,
    /// [`IN`] or [`OUT`].
    pub direction: u8,
    /// Always 0.
    pub pad: u16,
}

/// What a rule says.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The rule's number, with [`crate::policy::DENIES`], [`crate::policy::REJECTS`] or [`crate::policy::PASSES`] if it
    /// does not accept.
    pub number: u32,
    /// Of all rules of a set that match, the one with the lowest decides.
    pub order: u32,
}

/// [`FrontendKey::scope`]: a virtual address.
pub const SCOPE_VIRTUAL: u8 = 0;
/// [`FrontendKey::scope`]: any address of the node; `addr` is the family's unspecified one.
pub const SCOPE_PUBLISHED: u8 = 1;

/// Where a service is reached. With port and protocol 0: that the virtual address exists.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrontendKey {
    /// The address.
    pub addr: Addr,
    /// The port.
    pub port_be: u16,
    /// TCP (6) or UDP (17).
    pub protocol: u8,
    /// Virtual (0) or published (1).
    pub scope: u8,
}

impl FrontendKey {
    /// A virtual address, port and protocol.
    #[inline(always)]
    pub const fn service(addr: Addr, port_be: u16, protocol: u8) -> Self {
        Self { addr, port_be, protocol, scope: SCOPE_VIRTUAL }
    }

    /// The row that says that `addr` is some service's.
    #[inline(always)]
    pub const fn address(addr: Addr) -> Self {
        Self { addr, port_be: 0, protocol: 0, scope: SCOPE_VIRTUAL }
    }

    /// A port on the node's addresses of one family.
    #[inline(always)]
    pub const fn published(v4: bool, port_be: u16, protocol: u8) -> Self {
        let addr = if v4 { Addr::v4(0) } else { Addr { words_be: [0; 4] } };
        Self { addr, port_be, protocol, scope: SCOPE_PUBLISHED }
    }
}

/// A port that an instance of this node serves, although its packets carry no virtual address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServedKey {
    /// The interface index of the instance's host device.
    pub ifindex: u32,
    /// The instance's port.
    pub port_be: u16,
    /// TCP (6) or UDP (17).
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// The service of such a port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    /// The service's number.
    pub service: u32,
    /// Where its packets are counted, see [`total`].
    pub slot: u32,
}

/// What a connected socket asked for, and the backend that was put in its place. It is kept with the socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connected {
    /// The backend.
    pub peer: Addr,
    /// What was asked for.
    pub original: Addr,
    /// The backend's port.
    pub peer_port_be: u16,
    /// The port that was asked for.
    pub original_port_be: u16,
    /// Whether the socket is counted for the backend: 1 or 0.
    pub counted: u32,
}

/// A backend that was put in the place of what a socket asked for with one message.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answering {
    /// The backend.
    pub peer: Addr,
    /// What was asked for.
    pub original: Addr,
    /// The backend's port; 0: there is nothing here.
    pub peer_port_be: u16,
    /// The port that was asked for.
    pub original_port_be: u16,
}

/// How many backends are known of a socket that is not connected.
pub const ASKS: usize = 8;

/// The last backends of a socket that is not connected. It is kept with the socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// In any order.
    pub answering: [Answering; ASKS],
    /// Which of them the next one takes the place of, modulo their number, once all are taken.
    pub next: u32,
}

/// Addresses, ports and protocol of a packet, as it is sent.
// Aligned so that the compiler copies it in whole words.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port; the identifier of an ICMP echo; 0 where there is neither.
    pub sport_be: u16,
    /// Destination port, or as above.
    pub dport_be: u16,
    /// The protocol's number.
    pub protocol: u8,
    /// Always 0.
    pub pad: [u8; 3],
}

/// [`CounterKey::direction`]: packets out of the instance.
pub const OUT: u8 = 0;
/// [`CounterKey::direction`]: packets into the instance.
pub const IN: u8 = 1;
/// [`CounterKey::direction`]: connections opened by sockets; they are counted as packets without bytes.
pub const OPENED: u8 = 2;

/// The entry of the totals in which packets of a slot in this direction ([`OUT`] or [`IN`]) are counted. Slot 0 is
/// nobody's.
#[inline(always)]
pub const fn total(slot: u32, direction: u8) -> u32 {
    slot * 2 + direction as u32
}

/// How many slots there are: as many as rows of endpoints and of served ports, and the first.
pub const SLOTS: u32 = 4096 + 16_384 + 1;

/// [`CounterKey::endpoint`] of what was counted for instances that are gone. Written by the daemon only.
pub const RETIRED: u32 = u32::MAX;

/// What a counter counts: drops, and what sockets do. What is forwarded is counted in totals, by slot.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CounterKey {
    /// Interface index of the instance's host device; 0: the node.
    pub endpoint: u32,
    /// The service's number; 0: none.
    pub service: u32,
    /// [`OUT`], [`IN`] or [`OPENED`].
    pub direction: u8,
    /// 0: forwarded; else a [`crate::reason::Reason`].
    pub reason: u8,
    /// Always 0.
    pub pad: u16,
}

/// A counter of one CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Packets; a packet that the kernel will still cut (GSO) is one.
    pub packets: u64,
    /// Bytes, with the Ethernet header.
    pub bytes: u64,
}

/// What a rule has decided on one CPU, kept where it is found without a call.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// How often.
    pub packets: u64,
    /// The number of the rule; 0: none has this place.
    pub rule: u32,
    /// The generation of the tables at which it was last counted: at another one the next rule has the place.
    pub generation: u32,
}

/// Asserts size and alignment of a type and the offsets of its fields.
macro_rules! layout {
    ($type:ty, $size:literal, $align:literal, $($field:ident: $offset:literal),+) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(align_of::<$type>() == $align);
            $(assert!(offset_of!($type, $field) == $offset);)+
        };
        // SAFETY: `repr(C)` of integers without implicit padding: every bit pattern is a value.
        #[cfg(not(target_arch = "bpf"))]
        unsafe impl aya::Pod for $type {}
    };
}

layout!(Addr, 16, 4, words_be: 0);
layout!(Range, 32, 4, network: 0, mask: 16);
layout!(Hits, 16, 8, packets: 0, rule: 8, generation: 12);
layout!(Config, 176, 8, host_netns: 0, services: 8, instances: 72, gateways: 136, share: 168, pad: 172);
layout!(Endpoint, 84, 4, v4: 0, v6: 16, frame_to: 32, who: 44, sets: 52, flags: 72, slot: 76, account: 80);
layout!(Rule, 8, 4, number: 0, order: 4);
layout!(Who, 8, 4, class: 0, tenant: 4);
layout!(RuleKey, 16, 4, set: 0, peer: 4, port: 8, protocol: 12, direction: 13, pad: 14);
layout!(Peer, 28, 4, who: 0, ifindex: 8, node: 12);
layout!(FrontendKey, 20, 4, addr: 0, port_be: 16, protocol: 18, scope: 19);
layout!(ServedKey, 8, 4, ifindex: 0, port_be: 4, protocol: 6, pad: 7);
layout!(Served, 8, 4, service: 0, slot: 4);
layout!(Connected, 40, 4, peer: 0, original: 16, peer_port_be: 32, original_port_be: 34, counted: 36);
layout!(Answering, 36, 4, peer: 0, original: 16, peer_port_be: 32, original_port_be: 34);
layout!(Asked, 292, 4, answering: 0, next: 288);
layout!(Tuple, 40, 8, src: 0, dst: 16, sport_be: 32, dport_be: 34, protocol: 36, pad: 37);
layout!(CounterKey, 12, 4, endpoint: 0, service: 4, direction: 8, reason: 9, pad: 10);
layout!(Count, 16, 8, packets: 0, bytes: 8);

mod capture;
mod flow;
mod forward;
mod limit;
mod rtt;
mod service;
pub use capture::*;
pub use flow::{BEGUN, DROPPED, DropKey, Drops, ENDED, Event, Flow, FlowKey, FragmentKey, Translation};
pub use forward::*;
pub use limit::*;
pub use rtt::*;
pub use service::*;

#[cfg(test)]
mod tests;
