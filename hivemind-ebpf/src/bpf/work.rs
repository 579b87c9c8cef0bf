//! What a program knows of the packet it works on, in memory of its CPU.
//!
//! What lies on the stack the verifier follows byte by byte, on every path (it took ten times as many steps). Programs
//! of one CPU do not interrupt each other, and one has done with its packet before the next begins.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use hivemind_ebpf::{
    abi::{Addr, Captured, DropKey, Flow, FlowKey, Forward, FragmentKey, RuleKey, Tuple},
    packet::{self, FIRST, FOLLOWS, LATER, Packet},
    reason::Reason,
};

use super::{
    maps::FRAGMENTS,
    policy::{Asked, Judged},
    rewrite::Quoted,
    skb::Skb,
    verdicts::Asks,
    words,
};

#[map(name = "hm_work")]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// Bits of [`Work::tried`]: where it leaves an instance, where it enters one, and the same of the host.
pub(super) const TRIED_OUT: u32 = 1;
pub(super) const TRIED_IN: u32 = 2;
pub(super) const TRIED_HOST_OUT: u32 = 4;
pub(super) const TRIED_HOST_IN: u32 = 8;

#[repr(C)]
pub(super) struct Work {
    /// The packet's headers.
    pub(super) packet: Packet,
    /// Who talks with whom: as the packet says, but the backend in place of the service.
    pub(super) tuple: Tuple,
    /// Of `tuple`.
    pub(super) key: FlowKey,
    /// The side of `key` that has sent it: 0 or 1.
    pub(super) side: u32,
    /// What the packet asks for, if a backend takes its place; else none.
    pub(super) vip: Addr,
    /// Port of `vip`, in network order.
    pub(super) vip_port_be: u32,
    /// The host devices of who sends it and whom it is for, if they are instances of this node, else 0.
    pub(super) devices: [u32; 2],
    /// [`Flow::back`]
    pub(super) back: u32,
    /// [`Flow::service`]
    pub(super) service: u32,
    /// [`Flow::rule`]
    pub(super) rule: u32,
    /// [`Flow::forwarded`]
    pub(super) forwarded: u32,
    /// Not 0: it goes out by an uplink.
    pub(super) leaves: u32,
    /// Not 0: the table has a row of its flow.
    pub(super) there: u32,
    /// Not 0: the packet is of the flow of that row.
    pub(super) known: u32,
    /// Not 0: it answers what that flow's other side has sent.
    pub(super) answers: u32,
    /// The generation of the tables by which it is decided.
    pub(super) generation: u32,
    /// When, in nanoseconds of the monotonic clock.
    pub(super) now: u64,
    /// Not 0: without an entry in the table its answers would not pass.
    pub(super) restricted: u32,
    /// Not 0: the other end is the node itself.
    pub(super) with_node: u32,
    /// Not 0: it is counted as a connection of somebody who may have so many only.
    pub(super) capped: u32,
    /// Not 0: it begins a connection.
    pub(super) opens: u32,
    /// The account that may have no other connection, and which of its ends.
    pub(super) refuses: [u32; 2],
    /// Its bytes, as it is now.
    pub(super) length: u32,
    /// How many packets the kernel will make of it; 0 or 1: it is one.
    pub(super) segments: u32,
    /// What it costs: bytes and packets.
    pub(super) costs: [u32; 2],
    /// When, as buckets have it.
    pub(super) time: u64,
    /// Not 0: it may be kept until a time of departure.
    pub(super) may_wait: u32,
    /// For how long it is to be kept, as buckets have times.
    pub(super) wait: u64,
    /// The source of its frame, as [`Flow::macs`] has it.
    pub(super) mac: u64,
    /// Not 0: it came by a tunnel from another node.
    pub(super) tunnelled: u32,
    /// The most bytes that fit through the tunnel that it was to go by.
    pub(super) fits: u32,
    /// A row of what is sent to other nodes.
    pub(super) forward: Forward,
    /// What policies judge.
    pub(super) judged: Judged,
    /// What rules are looked up by.
    pub(super) asked: Asked,
    /// What is asked of the verdicts that are kept.
    pub(super) asks: Asks,
    /// The rules by which it leaves and enters, 0: none.
    pub(super) hits: [u32; 2],
    /// Where policies on trial have counted it: [`TRIED_OUT`] and its like.
    pub(super) tried: u32,
    /// The key of a rule.
    pub(super) rule_key: RuleKey,
    /// The packet that an ICMP error tells of.
    pub(super) quoted: Quoted,
    /// Its headers, one after the other.
    pub(super) words: [u32; 10],
    /// An answer from the network header on, as it lies in the packet.
    pub(super) reply: [u32; 26],
    /// What is decided about the packet.
    pub(super) way: Way,
    /// A row that is made.
    pub(super) fresh: Flow,
    /// What leads to a row that is removed.
    pub(super) leads: Tuple,
    /// The key of a drop.
    pub(super) dropped: DropKey,
    /// A row's key that is made.
    pub(super) fragment: FragmentKey,
    /// What stands before a captured packet.
    pub(super) captured: Captured,
}

/// Where a packet goes, as what, and who counts it.
#[repr(C)]
pub(super) struct Way {
    /// What takes the place of the source of an answer; else none.
    pub(super) vip: Addr,
    /// Its port, in network order.
    pub(super) vip_port_be: u32,
    /// The host device of the instance it is for, if that is one of this node, else 0.
    pub(super) far: u32,
    /// The device it goes out by if it is an answer of a published port, else 0.
    pub(super) back: u32,
    /// Where it is counted for who sends it, and for whom it is for.
    pub(super) slots: [u32; 2],
    /// Their accounts.
    pub(super) accounts: [u16; 2],
    /// Whose rates count: bits of [`super::limit`].
    pub(super) limited: u32,
}

/// Always there: the verifier does not know that.
#[inline(always)]
pub(super) fn work() -> Result<&'static mut Work, Reason> {
    // SAFETY: the CPU's own memory, see above.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work }).ok_or(Reason::Malformed)
}

/// For packets that are judged before their headers are read.
#[inline(always)]
pub(super) fn blank() -> Result<&'static mut Work, Reason> {
    let work = work()?;
    words::zero(&mut work.packet.tuple);
    Ok(work)
}

/// Reads the headers of an IP packet. The fragments of a packet get the ports of the first.
#[inline(never)]
pub(super) fn read(skb: Skb, ether_type: u16) -> Result<(), Reason> {
    let work = work()?;
    // All of a blank one is zero.
    words::zero(&mut work.packet);
    packet::parse(&skb, ether_type, &mut work.packet)?;
    if work.packet.fragment == FIRST || work.packet.fragment == LATER {
        follow(work, skb.ifindex());
    }
    words::copy(&work.packet.tuple, &mut work.tuple);
    words::zero(&mut work.vip);
    (work.vip_port_be, work.forwarded, work.leaves, work.tunnelled) = (0, 0, 0, 0);
    Ok(())
}

#[inline(always)]
fn follow(work: &mut Work, device: u32) {
    let packet = &mut work.packet;
    let Tuple { src, dst, protocol, .. } = packet.tuple;
    work.fragment = FragmentKey { src, dst, ident: packet.ident, protocol: protocol.into(), device };
    if packet.fragment == FIRST {
        let _ = FRAGMENTS.insert(&work.fragment, &[packet.tuple.sport_be, packet.tuple.dport_be], 0);
        return;
    }
    // SAFETY: one aligned word.
    if let Some([sport_be, dport_be]) = unsafe { FRAGMENTS.get(&work.fragment) }.copied() {
        (packet.tuple.sport_be, packet.tuple.dport_be) = (sport_be, dport_be);
        packet.fragment = FOLLOWS;
    }
}

impl Work {
    /// Brings `key` and `side` in line with `tuple`.
    #[inline(always)]
    pub(super) fn set_key(&mut self) {
        self.side = self.key.set(&self.tuple) as u32;
    }

    /// That a backend is to be put in place of what the packet asks for.
    #[inline(always)]
    pub(super) fn to_backend(&mut self, addr: Addr, port_be: u16) {
        words::copy(&self.packet.tuple.dst, &mut self.vip);
        self.vip_port_be = self.packet.tuple.dport_be.into();
        (self.tuple.dst, self.tuple.dport_be) = (addr, port_be);
    }
}
