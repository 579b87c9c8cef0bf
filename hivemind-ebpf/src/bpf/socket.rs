//! Services where sockets name their peer: the backend's address is put in its place before the first packet, and
//! what was asked for is shown wherever a program asks for its peer. No packet is rewritten afterwards.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr},
    btf_maps::SkStorage,
    helpers::{
        bpf_get_prandom_u32,
        generated::{
            bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval, bpf_sk_storage_delete, bpf_sk_storage_get,
        },
    },
    macros::{btf_map, cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use hivemind_ebpf::{
    abi::{ASKS, Addr, Answering, Asked, ClientKey, Connected, FrontendKey, LEAST, OPENED},
    choose::mix,
    packet::{TCP, UDP},
    reason::Reason,
};

use super::{
    maps::{FRONTENDS, NODE_ADDRS, config, count},
    service::{self, Asks, Choice},
};

/// What goes with its socket: nobody else's flood pushes it out, and it ends when the socket does.
#[btf_map(name = "hm_connected")]
static CONNECTED: SkStorage<Connected> = SkStorage::new();
/// The same of a socket that is not connected.
#[btf_map(name = "hm_answering")]
static ANSWERING: SkStorage<Asked> = SkStorage::new();

/// The programs' return codes.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
/// What the calling program sees.
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// An address that a socket call names.
struct Call(*mut bpf_sock_addr);

// The fields are read and written one by one and at fixed offsets: the verifier allows nothing else on a context.
impl Call {
    #[inline(always)]
    fn addr_v4(&self) -> Addr {
        // SAFETY: the context is valid for the run of the program.
        Addr::v4(unsafe { ptr::read_volatile(&raw const (*self.0).user_ip4) })
    }

    #[inline(always)]
    fn addr_v6(&self) -> Addr {
        // SAFETY: as above.
        unsafe {
            let words = &raw const (*self.0).user_ip6;
            Addr::v6([
                ptr::read_volatile(&raw const (*words)[0]),
                ptr::read_volatile(&raw const (*words)[1]),
                ptr::read_volatile(&raw const (*words)[2]),
                ptr::read_volatile(&raw const (*words)[3]),
            ])
        }
    }

    #[inline(always)]
    fn port_be(&self) -> u16 {
        // SAFETY: as above.
        (unsafe { ptr::read_volatile(&raw const (*self.0).user_port) }) as u16
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: as above.
        (unsafe { ptr::read_volatile(&raw const (*self.0).protocol) }) as u8
    }

    #[inline(always)]
    fn set(&self, v4: bool, addr: &Addr, port_be: u16) {
        // SAFETY: as above.
        unsafe {
            if v4 {
                ptr::write_volatile(&raw mut (*self.0).user_ip4, addr.v4_be());
            } else {
                let words = &raw mut (*self.0).user_ip6;
                ptr::write_volatile(&raw mut (*words)[0], addr.words_be[0]);
                ptr::write_volatile(&raw mut (*words)[1], addr.words_be[1]);
                ptr::write_volatile(&raw mut (*words)[2], addr.words_be[2]);
                ptr::write_volatile(&raw mut (*words)[3], addr.words_be[3]);
            }
            ptr::write_volatile(&raw mut (*self.0).user_port, port_be.into());
        }
    }

    #[inline(always)]
    fn socket(&self) -> *mut c_void {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(&raw const (*self.0).__bindgen_anon_1.sk) }.cast()
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn namespace(&self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }
}

/// The call connects a socket.
#[inline(always)]
fn connect(call: &Call, v4: bool, addr: &Addr) -> i32 {
    towards(call, v4, addr, true)
}

/// The call sends one message by a socket that is not connected.
#[inline(always)]
fn send(call: &Call, v4: bool, addr: &Addr) -> i32 {
    towards(call, v4, addr, false)
}

/// The call names a peer: replaces it by a backend if it is a service.
#[inline(always)]
fn towards(call: &Call, v4: bool, addr: &Addr, connects: bool) -> i32 {
    let (protocol, port_be) = (call.protocol(), call.port_be());
    if protocol != TCP && protocol != UDP {
        return ALLOW;
    }
    let config = config();
    let namespace = call.namespace();
    let virtually = config.services[0].contains(addr) || config.services[1].contains(addr);
    let key = if virtually {
        FrontendKey::service(*addr, port_be, protocol)
    } else if namespace == config.host_netns && is_of_node(addr) {
        FrontendKey::published(addr.is_v4(), port_be, protocol)
    } else {
        return itself(call, addr, port_be, connects);
    };
    let mut asks = Asks {
        client: ClientKey::namespace(namespace),
        // A UDP socket stays with its backend as long as the set of backends does.
        // SAFETY: a helper without arguments.
        random: if protocol == TCP { unsafe { bpf_get_prandom_u32() } } else { mix(call.cookie()) },
        flow: 0,
        avoid: Addr { words_be: [0; 4] },
        // The node itself may always use what it publishes.
        outside: false,
        counted: connects,
        here: false,
    };
    let mut choice = Choice::NONE;
    match service::choose(&key, &mut asks, &mut choice) {
        Ok(()) => {}
        Err(Reason::NoSuchPort) => {
            return if virtually { unknown(addr) } else { itself(call, addr, port_be, connects) };
        }
        Err(reason) => return refuse(choice.service, reason, ECONNREFUSED),
    }
    // When it cannot be noted the program sees the backend's address as its peer's: the connection itself works.
    if connects {
        note(call, &choice, addr, port_be);
    } else {
        answers(call, &choice, addr, port_be);
    }
    call.set(v4, &choice.addr, choice.port_be);
    count(0, choice.service, OPENED, 0, 0);
    ALLOW
}

/// The call names a peer that is no service: what was noted of that one does not hold any more.
#[inline(always)]
fn itself(call: &Call, addr: &Addr, port_be: u16, connects: bool) -> i32 {
    if connects {
        unnote(call.socket());
    } else if let Some(known) = find(asked_of(call.socket(), 0), addr, port_be) {
        known.peer_port_be = 0;
    }
    ALLOW
}

/// What was noted of a socket's peer before, and counted for it, does not hold any more. A row is removed by one, also if
/// the socket is connected by two threads at the same moment: that decides who counts.
#[inline(always)]
fn unnote(socket: *mut c_void) {
    let map = connected();
    // SAFETY: the helper takes the map and the context's socket; no value means that none is made.
    let before = unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), 0) }.cast::<Connected>();
    if !before.is_null() {
        // SAFETY: the storage of this socket, which is copied before it goes.
        let before = unsafe { *before };
        // SAFETY: as above.
        if unsafe { bpf_sk_storage_delete(map, socket) } == 0 && before.counted != 0 {
            service::closed(&before.peer);
        }
    }
}

/// The backends that are known of a socket. `flags`: whether the storage is made if there is none.
#[inline(always)]
fn asked_of(socket: *mut c_void, flags: u64) -> Option<&'static mut Asked> {
    let map = (&raw const ANSWERING).cast::<c_void>().cast_mut();
    // SAFETY: the helper takes the map and the context's socket; without a value what is made is zeroes. The storage lives
    // as long as the run of the program.
    unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), flags).cast::<Asked>().as_mut() }
}

/// The backend of this address and port among them.
#[inline(always)]
fn find<'a>(asked: Option<&'a mut Asked>, addr: &Addr, port_be: u16) -> Option<&'a mut Answering> {
    asked?.answering.iter_mut().find(|known| known.peer_port_be == port_be && known.peer == *addr)
}

/// Notes with the socket whom it asks, and in whose name that one answers. Of two threads that send at once one may note
/// what the other does: then one of the two services is shown as its backend.
#[inline(always)]
fn answers(call: &Call, choice: &Choice, original: &Addr, original_port_be: u16) {
    let Some(asked) = asked_of(call.socket(), BPF_SK_STORAGE_GET_F_CREATE.into()) else { return };
    let mut free = ASKS;
    for (index, known) in asked.answering.iter_mut().enumerate() {
        if known.peer_port_be == choice.port_be && known.peer == choice.addr {
            (known.original, known.original_port_be) = (*original, original_port_be);
            return;
        }
        if known.peer_port_be == 0 && free == ASKS {
            free = index;
        }
    }
    if free == ASKS {
        free = asked.next as usize;
        asked.next = asked.next.wrapping_add(1);
    }
    asked.answering[free % ASKS] =
        Answering { peer: choice.addr, original: *original, peer_port_be: choice.port_be, original_port_be };
}

/// Notes with the socket whom it reaches, and counts it for that backend. A row is made by one, see [`unnote`].
#[inline(always)]
fn note(call: &Call, choice: &Choice, original: &Addr, original_port_be: u16) {
    let (map, socket) = (connected(), call.socket());
    unnote(socket);
    let counted = choice.flags & LEAST != 0 && service::opened(&choice.addr);
    let mut row = Connected {
        peer: choice.addr,
        original: *original,
        peer_port_be: choice.port_be,
        original_port_be,
        counted: counted.into(),
    };
    // SAFETY: as above; the value is copied.
    let made =
        unsafe { bpf_sk_storage_get(map, socket, (&raw mut row).cast::<c_void>(), BPF_SK_STORAGE_GET_F_CREATE.into()) };
    if made.is_null() && counted {
        service::closed(&choice.addr);
    }
}

#[inline(always)]
fn connected() -> *mut c_void {
    (&raw const CONNECTED).cast::<c_void>().cast_mut()
}

/// What a connected socket has asked for, if a backend was put in its place.
#[inline(always)]
pub(super) fn asked(socket: *mut c_void) -> Option<(Addr, u16)> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: the helper takes the map and a socket; no value means that none is made.
    let row = unsafe { bpf_sk_storage_get(connected(), socket, ptr::null_mut(), 0) }.cast::<Connected>();
    // SAFETY: the storage of this socket, copied at once.
    let row = unsafe { row.as_ref() }?;
    Some((row.original, row.original_port_be))
}

/// The last descriptor of a socket is closed, also because its process was killed.
#[cgroup_sock(sock_release)]
fn hm_release(context: SockContext) -> i32 {
    // SAFETY: as above; here the context itself is the socket.
    let row = unsafe { bpf_sk_storage_get(connected(), context.sock.cast(), ptr::null_mut(), 0) }.cast::<Connected>();
    if !row.is_null() {
        // SAFETY: the storage of this socket.
        let row = unsafe { &mut *row };
        if row.counted != 0 {
            row.counted = 0;
            service::closed(&row.peer);
        }
    }
    1
}

/// A virtual address or port that is nobody's.
#[inline(always)]
fn unknown(addr: &Addr) -> i32 {
    // SAFETY: copied.
    match unsafe { FRONTENDS.get(&FrontendKey::address(*addr)) } {
        Some(row) => refuse(row.service, Reason::NoSuchPort, ECONNREFUSED),
        None => refuse(0, Reason::NoSuchService, EHOSTUNREACH),
    }
}

#[inline(always)]
fn refuse(service: u32, reason: Reason, errno: i32) -> i32 {
    count(0, service, OPENED, reason as u8, 0);
    // SAFETY: a helper without pointers.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}

#[inline(always)]
fn is_of_node(addr: &Addr) -> bool {
    // SAFETY: only whether it is there.
    addr.is_own_machine() || unsafe { NODE_ADDRS.get(addr) }.is_some()
}

/// The call tells a peer: shows what was asked for if it is a backend that was put in its place.
#[inline(always)]
fn from(call: &Call, v4: bool, addr: &Addr) -> i32 {
    let port_be = call.port_be();
    // SAFETY: the helper takes the map and the context's socket; no value means that none is made.
    let row = unsafe { bpf_sk_storage_get(connected(), call.socket(), ptr::null_mut(), 0) }.cast::<Connected>();
    if !row.is_null() {
        // SAFETY: the storage of this socket.
        let row = unsafe { &*row };
        if row.peer == *addr && row.peer_port_be == port_be {
            call.set(v4, &row.original, row.original_port_be);
            return ALLOW;
        }
    }
    if call.protocol() == TCP {
        return ALLOW;
    }
    if let Some(known) = find(asked_of(call.socket(), 0), addr, port_be) {
        let (original, original_port_be) = (known.original, known.original_port_be);
        call.set(v4, &original, original_port_be);
    }
    ALLOW
}

macro_rules! hooks {
    ($($hook:ident $name:ident: $direction:ident $family:ident $v4:literal;)+) => { $(
        #[cgroup_sock_addr($hook)]
        fn $name(context: SockAddrContext) -> i32 {
            let call = Call(context.sock_addr);
            $direction(&call, $v4, &call.$family())
        }
    )+ };
}

hooks! {
    connect4 hm_connect4: connect addr_v4 true;
    connect6 hm_connect6: connect addr_v6 false;
    sendmsg4 hm_sendmsg4: send addr_v4 true;
    sendmsg6 hm_sendmsg6: send addr_v6 false;
    recvmsg4 hm_recvmsg4: from addr_v4 true;
    recvmsg6 hm_recvmsg6: from addr_v6 false;
    getpeername4 hm_peername4: from addr_v4 true;
    getpeername6 hm_peername6: from addr_v6 false;
}
