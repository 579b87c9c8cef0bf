//! Connections to published ports whose backend is on another node: they are sent there as they are, in a tunnel, and
//! that node answers the client itself (`docs/adr/0013-xdp.md`).
//!
//! What is decided here is done by [`super::xdp`] for the packets after it, where the uplink's driver lets it.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh,
    },
    helpers::generated::{bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_store_bytes},
};
use hivemind_ebpf::{
    abi::{Addr, BY_STACK, Forward, Hop, Node, Tuple},
    flow::{ANSWERED_NS, TCP_NS},
    packet::{self, Bytes, ETH, Packet, TCP, UDP, WHOLE},
    reason::Reason,
    tunnel::{self as header, V4_HEADER, V6_HEADER},
};

use super::{
    host,
    maps::{FORWARDS, HOPS, NODES, PEERS, TRANSLATIONS, config, generation, has_nodes, now, sent_on},
    policy::is_node,
    skb::Skb,
    words,
    work::{Work, read},
};

/// Puts the packet into a tunnel to `node`, from the node's address that it was sent to.
#[inline(never)]
fn send(skb: Skb, work: &mut Work, node: &Addr, verdict: &mut i32) -> Result<(), Reason> {
    let v4 = work.packet.is_v4();
    let [first, second] = skb.words::<2>(ETH).ok_or(Reason::Malformed)?;
    let length = header::length(v4, first, second);
    // SAFETY: copied at once.
    let Some(Node { device, mtu }) = (unsafe { NODES.get(node) }).copied() else { return Err(Reason::PeerNotReady) };
    if device == 0 {
        return Err(Reason::PeerNotReady);
    }
    let fits = mtu.saturating_sub(header::overhead(v4));
    if skb.segments() <= 1 && length > fits {
        work.fits = fits;
        return Err(Reason::TooLong);
    }
    let bytes = u64::from(skb.len());
    // What the kernel will cut it cuts shorter, so that the pieces fit; datagrams it may not.
    let cut = if work.packet.tuple.protocol == UDP { u64::from(BPF_F_ADJ_ROOM_FIXED_GSO) } else { 0 };
    let (room, family) =
        if v4 { (V4_HEADER, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) } else { (V6_HEADER, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) };
    // SAFETY: no pointers but the packet's.
    if unsafe { bpf_skb_adjust_room(skb.raw(), room as i32, BPF_ADJ_ROOM_MAC, u64::from(family) | cut) } != 0 {
        return Err(Reason::Rewrite);
    }
    let from = &work.packet.tuple.dst;
    let stored = if v4 {
        let outer = header::v4(first, length, from.v4_be(), node.v4_be());
        work.reply[..5].copy_from_slice(&outer);
        // SAFETY: as many bytes as there are; the helper checks the packet's bounds.
        unsafe { bpf_skb_store_bytes(skb.raw(), ETH, work.reply.as_ptr().cast(), V4_HEADER, 0) }
    } else {
        let outer = header::v6(first, length, from.words_be, node.words_be);
        work.reply[..10].copy_from_slice(&outer);
        // SAFETY: as above.
        unsafe { bpf_skb_store_bytes(skb.raw(), ETH, work.reply.as_ptr().cast(), V6_HEADER, 0) }
    };
    if stored != 0 {
        return Err(Reason::Rewrite);
    }
    sent_on(BY_STACK, bytes);
    let none: *mut bpf_redir_neigh = core::ptr::null_mut();
    // SAFETY: no parameters are passed.
    *verdict = unsafe { bpf_redirect_neigh(device, none, 0, 0) } as i32;
    Ok(())
}

/// Egress of an uplink: remembers the next hop of a packet to another node, for the driver.
#[inline(never)]
pub(super) fn learn(skb: Skb) {
    let found = match skb.ether_type() {
        Some(packet::IPV4) => {
            skb.words::<5>(ETH).map(|words| (u32::from_be(words[2]) >> 16, header::IPV4, Addr::v4(words[4])))
        }
        Some(packet::IPV6) => skb.words::<10>(ETH).map(|words| {
            (u32::from_be(words[1]) >> 8, header::IPV6, Addr::v6([words[6], words[7], words[8], words[9]]))
        }),
        _ => None,
    };
    let Some((protocol, wanted, node)) = found else { return };
    // SAFETY: only whether it is there.
    if protocol as u8 != wanted || unsafe { NODES.get(&node) }.is_none() {
        return;
    }
    let Some(macs) = skb.words::<3>(0) else { return };
    let hop = Hop { since_ns: now(), macs, device: skb.ifindex() };
    if let Some(row) = HOPS.get_ptr_mut(&node) {
        // SAFETY: a row of the table. Of two writers the last wins.
        unsafe { *row = hop };
    } else {
        let _ = HOPS.insert(&node, &hop, 0);
    }
}

/// The node that has the backend, if there is a tunnel to it.
#[inline(always)]
fn node_of(backend: &Addr) -> Option<Addr> {
    // SAFETY: copied at once.
    let node = unsafe { PEERS.get(backend) }?.node;
    if node.is_none() { None } else { Some(node) }
}

/// The longest packet that gets there.
#[inline(always)]
fn mtu_to(node: &Addr) -> u32 {
    // SAFETY: one aligned word.
    unsafe { NODES.get(node) }.map_or(0, |way| way.mtu)
}

/// The firewall has accepted a packet, and another node has its backend, `work.tuple.dst`.
#[inline(never)]
pub(super) fn begins(skb: Skb, work: &mut Work, verdict: &mut i32) -> Result<(), Reason> {
    // Of an instance of this node the answer would be to go back to it.
    if work.devices[0] != 0 || !has_nodes() {
        return Err(Reason::PeerNotReady);
    }
    let device = skb.came_by();
    let generation = generation();
    let backend = work.tuple.dst;
    let node = node_of(&backend).ok_or(Reason::PeerNotReady)?;
    may(work)?;
    let tag = work.packet.tuple.tag();
    work.forward = Forward { last_ns: now(), tag, backend, node, device, generation, mtu: mtu_to(&node), pad: 0 };
    // The client may have had another backend by this port, before that connection was over.
    let _ = TRANSLATIONS.remove(&work.packet.tuple);
    // Without a row each packet goes this way.
    let _ = FORWARDS.insert(&work.packet.tuple, &work.forward, 0);
    send(skb, work, &node, verdict)
}

/// What begins has its backend here. The client may have had one elsewhere by this port.
#[inline(always)]
pub(super) fn is_here(work: &Work) {
    if has_nodes() {
        let _ = FORWARDS.remove(&work.packet.tuple);
    }
}

/// May the client still reach the port, by its source ranges and the policies of this host?
#[inline(always)]
fn may(work: &mut Work) -> Result<(), Reason> {
    (work.known, work.answers, work.rule) = (0, 0, 0);
    words::copy(&work.tuple, &mut work.judged.tuple);
    work.judged.detail = work.packet.detail.into();
    host::judge(work, false, 0, 0)
}

/// A packet at an uplink, of a connection whose backend is on another node, or about one: it is sent there. False: it is
/// of none, or a new one. (The stack and the firewall see what begins, and what goes on after too long a silence.)
#[inline(never)]
pub(super) fn follows(skb: Skb, work: &mut Work, about: bool, verdict: &mut i32) -> Result<bool, Reason> {
    let asked: &Tuple = if about { &work.judged.tuple } else { &work.packet.tuple };
    let Some(row) = FORWARDS.get_ptr_mut(asked) else { return Ok(false) };
    // SAFETY: a row of the table; what is copied is compared with the key afterwards.
    let row = unsafe { &mut *row };
    let (backend, mut node, tag) = (row.backend, row.node, asked.tag());
    if row.tag != tag {
        return Ok(false);
    }
    let time = now();
    let tcp = work.packet.tuple.protocol == TCP;
    let life = if tcp || about { TCP_NS } else { ANSWERED_NS };
    if work.packet.opens() || time.saturating_sub(row.last_ns) > life {
        return Ok(false);
    }
    let generation = generation();
    if !about && row.generation != generation {
        let Some(there) = node_of(&backend) else {
            let _ = FORWARDS.remove(&work.packet.tuple);
            return if tcp { Err(Reason::BackendGone) } else { Ok(false) };
        };
        work.to_backend(backend, 0);
        may(work)?;
        node = there;
        (row.node, row.generation, row.mtu) = (node, generation, mtu_to(&node));
    }
    if !about {
        (row.last_ns, row.device) = (time, skb.ifindex());
    }
    send(skb, work, &node, verdict)?;
    Ok(true)
}

/// Whether it is a packet between two nodes, with another one in it.
#[inline(always)]
pub(super) fn is_between_nodes(packet: &Packet) -> bool {
    // SAFETY: only whether it is there.
    is_tunnel(packet) && unsafe { NODES.get(&packet.tuple.dst) }.is_some()
}

#[inline(always)]
fn is_tunnel(packet: &Packet) -> bool {
    let v4 = packet.is_v4();
    has_nodes()
        && packet.tuple.protocol == header::protocol(v4)
        && packet.fragment == WHOLE
        && packet.l4 == ETH + header::overhead(v4)
}

/// Takes a packet that another node has sent out of its tunnel; then it is the one that `work` is about. False: it is
/// none, and not ours to judge.
///
/// What is in it is for an address of the node that has sent it, where the client believes to be: nobody else has a reason
/// to send us that.
#[inline(never)]
pub(super) fn comes_out(skb: Skb, work: &mut Work) -> Result<bool, Reason> {
    let packet = &work.packet;
    let v4 = packet.is_v4();
    if !is_tunnel(packet) || !is_node(&packet.tuple.dst) {
        return Ok(false);
    }
    let inner = if v4 {
        skb.words::<1>(packet.l4 + 16).map(|[word]| Addr::v4(word))
    } else {
        skb.words::<4>(packet.l4 + 24).map(Addr::v6)
    };
    let Some(inner) = inner else { return Ok(false) };
    // SAFETY: only whether it is there.
    if unsafe { NODES.get(&inner) }.is_none() {
        return Ok(false);
    }
    if inner != packet.tuple.src {
        return Err(Reason::Stranger);
    }
    let room = -(header::overhead(v4) as i32);
    // SAFETY: no pointers but the packet's.
    let shorter =
        unsafe { bpf_skb_adjust_room(skb.raw(), room, BPF_ADJ_ROOM_MAC, u64::from(BPF_F_ADJ_ROOM_FIXED_GSO)) };
    if shorter != 0 {
        return Err(Reason::Rewrite);
    }
    read(skb, skb.ether_type().ok_or(Reason::Malformed)?)?;
    work.tunnelled = 1;
    // The same that is asked of what comes without a tunnel.
    if config().is_inside(&work.packet.tuple.src) { Err(Reason::SpoofedAddress) } else { Ok(true) }
}
