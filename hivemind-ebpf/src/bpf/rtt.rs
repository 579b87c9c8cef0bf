//! Round-trip times of TCP between instances, by who has connected with which service: what the kernel measures anyway,
//! counted where it measures it. Only sockets that have connected to an instance, directly or as a service's backend, are
//! looked at, and of these on each CPU only so many in a moment: what is asked of the others would cost as much as a
//! tenth of a short connection.

use core::{ffi::c_void, mem::offset_of};

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::{bpf_sock_ops_cb_flags_set, generated::bpf_get_socket_cookie},
    macros::{map, sock_ops},
    maps::{LruHashMap, PerCpuArray, PerCpuHashMap},
    programs::SockOpsContext,
};
use hivemind_ebpf::{
    abi::{Addr, FrontendKey, RTT_BUCKETS, Rtt, RttKey, rtt_bucket},
    packet::TCP,
    policy::{HOST, WORLD},
};

use super::{
    maps::{BY_ROW, FRONTENDS, NEW, NODE_ADDRS, PEERS, config, now},
    socket,
};

/// A socket has connected (`BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB`).
const CONNECTED: u32 = 4;
/// A round trip was measured (`BPF_SOCK_OPS_RTT_CB`, Linux 5.3).
const MEASURED: u32 = 12;
/// Asks for the latter.
const MEASURES: i32 = 1 << 3;
/// What programs of this kind return.
const DONE: u32 = 1;
/// `AF_INET`
const INET: u32 = 2;

#[map(name = "hm_rtt")]
static RTT: PerCpuHashMap<RttKey, Rtt> = PerCpuHashMap::with_max_entries(4096, BY_ROW);
/// By the socket's cookie. The oldest make room: their round trips are not counted any more.
#[map(name = "hm_rtt_of")]
static OF: LruHashMap<u64, RttKey> = LruHashMap::with_max_entries(4096, 0);
/// How many sockets a CPU has taken, and in which moment.
#[map(name = "hm_rtt_taken")]
static TAKEN: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);
/// Nanoseconds of a moment: a tenth of a second.
const MOMENT: u64 = 100_000_000;
/// How many sockets that connect in one moment on one CPU are looked at.
const MOST: u64 = 32;

/// What happens to a socket of the cgroup.
#[sock_ops]
fn hm_sock_ops(context: SockOpsContext) -> u32 {
    let ops = context.ops;
    match word::<{ offset_of!(bpf_sock_ops, op) }>(ops) {
        CONNECTED => connected(ops),
        MEASURED => measured(ops),
        _ => {}
    }
    DONE
}

#[inline(always)]
fn connected(ops: *mut bpf_sock_ops) {
    let (local, remote) = ends(ops);
    if !config().is_instance(&remote) || !is_taken() {
        return;
    }
    let Some(to) = class(&remote) else { return };
    // SAFETY: the context is valid for the run of the program.
    let cookie = unsafe { bpf_get_socket_cookie(ops.cast()) };
    let service = socket::asked(socket_of(ops)).map_or(0, |(addr, port_be)| service(&addr, port_be));
    let from = class(&local).unwrap_or_else(|| {
        // SAFETY: only whether it is there.
        let own = config().is_instance(&local) || unsafe { NODE_ADDRS.get(&local) }.is_some();
        if own { HOST } else { WORLD }
    });
    if OF.insert(&cookie, &RttKey { from, to, service }, 0).is_ok() {
        // SAFETY: as above.
        unsafe { bpf_sock_ops_cb_flags_set(ops, MEASURES) };
    }
}

/// Whether this socket is one of those that are looked at.
#[inline(always)]
fn is_taken() -> bool {
    let Some(taken) = TAKEN.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's. Of two at once the last counts.
    let [moment, count] = unsafe { &mut *taken };
    let this = now() / MOMENT;
    if *moment != this {
        (*moment, *count) = (this, 0);
    }
    *count += 1;
    *count <= MOST
}

/// The socket, or null.
#[inline(always)]
fn socket_of(ops: *mut bpf_sock_ops) -> *mut c_void {
    let socket: *mut c_void;
    // SAFETY: as in `word`.
    unsafe {
        core::arch::asm!(
            "{socket} = *(u64 *)({ops} + {offset})", ops = in(reg) ops, socket = lateout(reg) socket,
            offset = const offset_of!(bpf_sock_ops, __bindgen_anon_2), options(readonly, nostack)
        )
    };
    socket
}

/// The service that a socket has asked for: by a virtual address, or by a published port of the node.
#[inline(always)]
fn service(addr: &Addr, port_be: u16) -> u32 {
    let key = if config().is_service(addr) {
        FrontendKey::service(*addr, port_be, TCP)
    } else {
        FrontendKey::published(addr.is_v4(), port_be, TCP)
    };
    // SAFETY: one aligned word.
    unsafe { FRONTENDS.get(&key) }.map_or(0, |row| row.service)
}

#[inline(always)]
fn class(addr: &Addr) -> Option<u32> {
    // SAFETY: one aligned word.
    unsafe { PEERS.get(addr) }.map(|peer| peer.who.class)
}

#[inline(always)]
fn measured(ops: *mut bpf_sock_ops) {
    // SAFETY: the context is valid for the run of the program.
    let cookie = unsafe { bpf_get_socket_cookie(ops.cast()) };
    let eighths = word::<{ offset_of!(bpf_sock_ops, srtt_us) }>(ops);
    // SAFETY: copied at once.
    let Some(key) = (unsafe { OF.get(&cookie) }).copied() else { return };
    let us = eighths >> 3;
    let bucket = rtt_bucket(us);
    if RTT.get_ptr_mut(&key).is_none() {
        let _ = RTT.insert(&key, &EMPTY, NEW);
    }
    let Some(row) = RTT.get_ptr_mut(&key) else { return };
    // SAFETY: the row of this CPU; the index is in bounds.
    unsafe {
        let row = &mut *row;
        if bucket < RTT_BUCKETS {
            row.buckets[bucket] += 1;
        }
        row.sum_us += u64::from(us);
    }
}

/// A row without round trips.
static EMPTY: Rtt = Rtt { buckets: [0; RTT_BUCKETS], sum_us: 0 };

/// The addresses of this side and of the other one.
#[inline(always)]
fn ends(ops: *mut bpf_sock_ops) -> (Addr, Addr) {
    const LOCAL: usize = offset_of!(bpf_sock_ops, local_ip6);
    const REMOTE: usize = offset_of!(bpf_sock_ops, remote_ip6);
    if word::<{ offset_of!(bpf_sock_ops, family) }>(ops) == INET {
        let local = word::<{ offset_of!(bpf_sock_ops, local_ip4) }>(ops);
        return (Addr::v4(local), Addr::v4(word::<{ offset_of!(bpf_sock_ops, remote_ip4) }>(ops)));
    }
    let local =
        [word::<LOCAL>(ops), word::<{ LOCAL + 4 }>(ops), word::<{ LOCAL + 8 }>(ops), word::<{ LOCAL + 12 }>(ops)];
    let remote =
        [word::<REMOTE>(ops), word::<{ REMOTE + 4 }>(ops), word::<{ REMOTE + 8 }>(ops), word::<{ REMOTE + 12 }>(ops)];
    (Addr::v6(local), Addr::v6(remote))
}

/// A word of the context. Written out, for the compiler makes one read at a variable offset of two at fixed ones, and the
/// verifier allows only those.
#[inline(always)]
fn word<const OFFSET: usize>(ops: *mut bpf_sock_ops) -> u32 {
    let word: u64;
    // SAFETY: the context is valid for the run of the program, and the offset that of a field.
    unsafe {
        core::arch::asm!(
            "{word} = *(u32 *)({ops} + {offset})", ops = in(reg) ops, word = lateout(reg) word,
            offset = const OFFSET, options(readonly, nostack)
        )
    };
    word as u32
}
