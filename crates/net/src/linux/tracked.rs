//! What the kernel's connection tracking knows (ctnetlink of Linux 2.6.14): of what goes through the host with an address
//! of the host's nobody else knows who has begun it.
//!
//! One request, and of its answers a few attributes (linux/netfilter/nfnetlink_conntrack.h): they are read here.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    libc::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

use super::sockets::{ANSWER, DONE, ERROR, HEADER, acknowledged, code, messages};

/// `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// Bytes of `struct nfgenmsg`.
const FAMILY: usize = 4;
/// What is no part of an attribute's type.
const FLAGS: u16 = 0xc000;
/// `NLA_F_NESTED`: there are attributes in it.
const NESTED: u16 = 0x8000;
/// `CTA_TUPLE_ORIG` and `CTA_TUPLE_REPLY`, and in each `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const IP: u16 = 1;
const PROTO: u16 = 2;
/// `CTA_ID` and `CTA_ZONE`.
const NUMBER: u16 = 12;
const ZONE: u16 = 18;

/// `CTA_PROTOINFO`, in it `CTA_PROTOINFO_TCP`, in that `CTA_PROTOINFO_TCP_STATE` and `CTA_PROTOINFO_TCP_FLAGS_ORIGINAL`.
const PROTO_INFO: u16 = 4;
const TCP_INFO: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS: u16 = 4;
/// `TCP_CONNTRACK_FIN_WAIT` and `TCP_CONNTRACK_CLOSE_WAIT`: one side has finished. From the next one on both have, or one
/// has reset it; but for the last, in which both begin.
const FINISHING: [u8; 2] = [4, 5];
const OVER: [u8; 3] = [6, 7, 8];
/// `IP_CT_TCP_FLAG_BE_LIBERAL`: it was first seen in its middle.
const LIBERAL: u8 = 8;

/// A packet's protocol, source and destination.
pub(super) type Tuple = (u8, SocketAddr, SocketAddr);

/// A connection that is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tracked {
    /// A packet of who has begun it, before any translation.
    pub(super) there: Tuple,
    /// An answer, as it comes.
    pub(super) back: Tuple,
    /// Its beginning was not seen: who has begun it is a guess.
    pub(super) guessed: bool,
    /// One side has finished.
    pub(super) closing: bool,
}

/// Every connection with ports that the calling thread's network namespace tracks; none where the kernel tracks nothing.
pub(super) fn all() -> io::Result<Vec<Tracked>> {
    let fd = open()?;
    let mut found = Vec::new();
    dump(&fd, |body| found.extend(read(body)))?;
    Ok(found)
}

/// Forgets everything that is tracked of these addresses in the calling thread's network namespace, whoever has begun it,
/// of whatever protocol, in every zone. Returns how much that was. What comes afterwards is of nobody's conversation.
pub(super) fn forget(addresses: &[IpAddr]) -> io::Result<u64> {
    if addresses.is_empty() {
        return Ok(0);
    }
    let fd = open()?;
    let mut requests = Vec::new();
    dump(&fd, |body| requests.extend(of(body, addresses).map(|which| request(DELETE, NLM_F_ACK, which))))?;
    let mut forgotten = 0;
    for bytes in requests {
        send(fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        forgotten += u64::from(acknowledged(fd.as_raw_fd())?);
    }
    Ok(forgotten)
}

fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?)
}

/// Everything that is tracked, each as the body of a message.
fn dump(fd: &OwnedFd, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    send(fd, &request(GET, NLM_F_DUMP, vec![0; FAMILY]), MsgFlags::empty())?;
    let mut bytes = vec![0; ANSWER];
    loop {
        let length = recv(fd, &mut bytes, MsgFlags::empty())?;
        for (kind, body) in messages(&bytes[..length.min(ANSWER)]) {
            match kind {
                DONE => return Ok(()),
                ERROR => return Err(io::Error::from_raw_os_error(code(body))),
                _ => each(body),
            }
        }
    }
}

/// A request with what is behind its header: the family (0: all), the version and the resource, then attributes.
fn request(kind: u16, flags: i32, body: Vec<u8>) -> Vec<u8> {
    let length = (HEADER + body.len()) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(((NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    // Sequence and port: one request at a time on a socket of its own.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// What names one that is tracked if it is of one of these addresses: family, original direction, zone and number, as the
/// kernel has told them.
fn of(body: &[u8], addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let attributes = body.get(FAMILY..)?;
    let (original, reply) = (find(attributes, ORIGINAL)?, find(attributes, REPLY)?);
    let ends = [original, reply].map(ends);
    if !ends.iter().flatten().flatten().any(|address| addresses.contains(address)) {
        return None;
    }
    let mut which = vec![*body.first()?, 0, 0, 0];
    put(&mut which, ORIGINAL | NESTED, original);
    for kind in [ZONE, NUMBER] {
        if let Some(value) = find(attributes, kind) {
            put(&mut which, kind, value);
        }
    }
    Some(which)
}

/// Adds an attribute.
fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    // The next one begins at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// None: it is of no protocol with ports, or over.
fn read(body: &[u8]) -> Option<Tracked> {
    let attributes = body.get(FAMILY..)?;
    let tcp = |kind| find(find(find(attributes, PROTO_INFO)?, TCP_INFO)?, kind)?.first().copied();
    let (state, flags) = (tcp(TCP_STATE).unwrap_or_default(), tcp(TCP_FLAGS).unwrap_or_default());
    let (there, back) = (tuple(find(attributes, ORIGINAL)?)?, tuple(find(attributes, REPLY)?)?);
    let tracked = Tracked { there, back, guessed: flags & LIBERAL != 0, closing: FINISHING.contains(&state) };
    (!OVER.contains(&state)).then_some(tracked)
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let ([from, to], proto) = (ends(bytes)?, find(bytes, PROTO)?);
    // 1 is the protocol's number, 2 and 3 are ports.
    let port = |kind| find(proto, kind)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
    Some((*find(proto, 1)?.first()?, SocketAddr::new(from, port(2)?), SocketAddr::new(to, port(3)?)))
}

/// Source and destination of a direction.
fn ends(bytes: &[u8]) -> Option<[IpAddr; 2]> {
    let ip = find(bytes, IP)?;
    // IPv4's are 1 and 2, IPv6's 3 and 4.
    let v4 = |kind| find(ip, kind)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes));
    let v6 = |kind| find(ip, kind)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
    Some([v4(1).or_else(|| v6(3))?, v4(2).or_else(|| v6(4))?])
}

/// What is in the first attribute of that type.
fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = bytes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) & !FLAGS == wanted {
            return Some(value);
        }
        // Each begins at a multiple of four.
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, value);
        bytes
    }

    fn message(kind: u16, addresses: [&[u8]; 2], first: u16, ports: [u16; 2]) -> Vec<u8> {
        let ip = [attribute(first, addresses[0]), attribute(first + 1, addresses[1])].concat();
        let ports = ports.map(u16::to_be_bytes);
        let proto = [attribute(1, &[6]), attribute(2, &ports[0]), attribute(3, &ports[1])].concat();
        attribute(kind | 0x8000, &[attribute(IP | 0x8000, &ip), attribute(PROTO | 0x8000, &proto)].concat())
    }

    #[test]
    fn both_directions_are_read_and_what_is_short_is_nothing() {
        let v4 = |last: u8| [10, 0, 0, last];
        let there = message(ORIGINAL, [&v4(1), &v4(2)], 1, [5000, 80]);
        let six = [0x20; 16];
        let back = message(REPLY, [&six, &six], 3, [80, 6000]);
        let body = [&[0; FAMILY][..], &attribute(3, &[0; 4]), &there, &back].concat();
        let v6 = IpAddr::from(six);
        let expected = Tracked {
            there: (6, SocketAddr::from((v4(1), 5000)), SocketAddr::from((v4(2), 80))),
            back: (6, SocketAddr::new(v6, 80), SocketAddr::new(v6, 6000)),
            guessed: false,
            closing: false,
        };
        assert_eq!(read(&body), Some(expected));
        for length in 0..body.len() - 1 {
            assert_eq!(read(&body[..length]), None, "{length}");
            assert_eq!(of(&body[..length], &[v6]), None, "{length}");
        }
        // It is named by its original direction, whichever has the address; what is told of its zone goes with it.
        let zoned = [&body[..], &attribute(ZONE, &[0, 7])].concat();
        for address in [v6, v4(1).into(), v4(2).into()] {
            let which = of(&zoned, &[v4(9).into(), address]).expect("one of them");
            assert_eq!(which, [&[0; FAMILY][..], &there, &attribute(ZONE, &[0, 7])].concat(), "{address}");
        }
        assert_eq!(of(&zoned, &[v4(9).into()]), None);
        let with = |state, flags| {
            let tcp = [attribute(TCP_STATE, &[state]), attribute(TCP_FLAGS, &[flags, 0])].concat();
            let info = attribute(PROTO_INFO | 0x8000, &attribute(TCP_INFO | 0x8000, &tcp));
            read(&[&body[..], &info].concat())
        };
        for (flags, guessed) in [(3, false), (LIBERAL | 2, true)] {
            assert_eq!(with(3, flags), Some(Tracked { guessed, ..expected }));
        }
        assert_eq!(with(5, 0), Some(Tracked { closing: true, ..expected }));
        assert_eq!(with(7, 0), None, "it is over");
    }
}
