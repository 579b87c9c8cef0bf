//! Lists the sockets of a network namespace, and closes those whose peer is gone, by the kernel's socket diagnostics
//! (sock_diag(7), `SOCK_DESTROY` of Linux 4.5).
//!
//! Requests and answers are few and of fixed size (`struct inet_diag_req_v2` and `struct inet_diag_msg` of
//! linux/inet_diag.h), so they are put together here.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::{
    errno::Errno,
    libc::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

use crate::types::Gone;

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// Bytes of `struct inet_diag_sockid`: ports, two addresses, device, cookie.
const ID: usize = 48;
/// States of TCP that have a peer: not closed, listening, or only waiting for late segments. Of UDP: connected.
const TCP_STATES: u32 = 0xfff & !(1 << 6 | 1 << 7 | 1 << 10);
const UDP_STATES: u32 = 1 << 1;
/// States in which somebody may begin to them: TCP's listening, UDP's without a peer.
const TCP_LISTEN: u32 = 1 << 10;
const UDP_UNCONNECTED: u32 = 1 << 7;
/// More than the kernel puts into one answer.
pub(super) const ANSWER: usize = 64 << 10;

/// States of TCP in which one side has finished, or both.
const CLOSING: u32 = 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// A socket as the kernel names it.
struct Found {
    family: u8,
    state: u8,
    id: [u8; ID],
    local: SocketAddr,
    peer: SocketAddr,
}

/// A socket with a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) protocol: u8,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    /// One side has finished, or both.
    pub(super) closing: bool,
}

/// Protocol and address of a socket without one.
pub(super) type Waiting = (u8, SocketAddr);

/// The sockets of TCP and UDP of the calling thread's network namespace: those that have a peer, and those that
/// wait for one.
pub(super) fn all() -> io::Result<(Vec<Ends>, Vec<Waiting>)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
    let fd = fd.as_raw_fd();
    let (mut connected, mut waiting) = (Vec::new(), Vec::new());
    for (protocol, peers, alone) in [(IPPROTO_TCP, TCP_STATES, TCP_LISTEN), (IPPROTO_UDP, UDP_STATES, UDP_UNCONNECTED)]
    {
        for family in [AF_INET, AF_INET6] {
            for states in [peers, alone] {
                let all = request(BY_FAMILY, NLM_F_DUMP, family as u8, protocol as u8, states, &[0; ID]);
                send(fd, &all, MsgFlags::empty())?;
                for Found { state, local, peer, .. } in dumped(fd)? {
                    if states == peers {
                        let closing = protocol == IPPROTO_TCP && CLOSING >> state & 1 != 0;
                        connected.push(Ends { protocol: protocol as u8, local, peer, closing });
                    } else {
                        waiting.push((protocol as u8, local));
                    }
                }
            }
        }
    }
    Ok((connected, waiting))
}

/// How many connections of TCP from elsewhere live in the network namespace of the calling thread, at ports on which
/// somebody listens.
pub(super) fn accepted() -> io::Result<usize> {
    let (connected, waiting) = all()?;
    let tcp = IPPROTO_TCP as u8;
    let ports: BTreeSet<u16> =
        waiting.iter().filter(|(protocol, _)| *protocol == tcp).map(|(_, local)| local.port()).collect();
    let theirs = |ends: &&Ends| {
        let from_outside = ends.protocol == tcp && !ends.closing && !ends.peer.ip().is_loopback();
        from_outside && ends.peer.ip() != ends.local.ip() && ports.contains(&ends.local.port())
    };
    Ok(connected.iter().filter(theirs).count())
}

/// Closes what is connected to somebody who is gone, in the network namespace of the calling thread. The programs that
/// have the sockets see ECONNABORTED. Returns how many.
pub(super) fn close(gone: &Gone) -> io::Result<usize> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
    let fd = fd.as_raw_fd();
    let mut closed = 0;
    for (protocol, states) in [(IPPROTO_TCP, TCP_STATES), (IPPROTO_UDP, UDP_STATES)] {
        for family in [AF_INET, AF_INET6] {
            let all = request(BY_FAMILY, NLM_F_DUMP, family as u8, protocol as u8, states, &[0; ID]);
            send(fd, &all, MsgFlags::empty())?;
            for Found { family, id, .. } in dumped(fd)?.into_iter().filter(|found| gone.has(&found.peer.ip())) {
                let one = request(DESTROY, NLM_F_ACK, family, protocol as u8, states, &id);
                send(fd, &one, MsgFlags::empty())?;
                closed += usize::from(acknowledged(fd)?);
            }
        }
    }
    Ok(closed)
}

/// A request about the socket with this id, or about all.
fn request(kind: u16, flags: i32, family: u8, protocol: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let length = (HEADER + 8 + ID) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(((NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    // Sequence and port: one request at a time on a socket of its own.
    bytes.extend([0; 8]);
    bytes.extend([family, protocol, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

/// Reads the answers to a request for all, up to its end.
fn dumped(fd: i32) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    loop {
        let mut bytes = vec![0; ANSWER];
        let length = recv(fd, &mut bytes, MsgFlags::empty())?;
        for (kind, body) in messages(&bytes[..length.min(ANSWER)]) {
            match kind {
                DONE => return Ok(found),
                // There is no such kind of socket in this kernel, so there are none to be closed.
                ERROR if code(body) == Errno::ENOENT as i32 => return Ok(found),
                ERROR => return Err(io::Error::from_raw_os_error(code(body))),
                _ => found.extend(read(body)),
            }
        }
    }
}

/// Whether the socket was closed, or what else was to go has gone; what had gone by itself was not there.
pub(super) fn acknowledged(fd: i32) -> io::Result<bool> {
    let mut bytes = vec![0; ANSWER];
    let length = recv(fd, &mut bytes, MsgFlags::empty())?;
    let code =
        messages(&bytes[..length.min(ANSWER)]).find(|(kind, _)| *kind == ERROR).map_or(0, |(_, body)| code(body));
    match code {
        0 => Ok(true),
        gone if gone == Errno::ENOENT as i32 => Ok(false),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The messages of one answer: kind and body.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = bytes.get(HEADER..length)?;
        // Each begins at a multiple of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[4], header[5]]), body))
    })
}

/// The number of the error that a message tells; 0: none.
pub(super) fn code(body: &[u8]) -> i32 {
    body.first_chunk().map_or(Errno::EBADMSG as i32, |code| -i32::from_ne_bytes(*code))
}

/// The socket that the body of a message tells of.
fn read(body: &[u8]) -> Option<Found> {
    let (family, state) = (*body.first()?, body.get(1)? & 31);
    let id = *body.get(4..)?.first_chunk::<ID>()?;
    // Ports, then addresses.
    let end = |port: usize, address: usize| {
        let address: [u8; 16] = *id[address..].first_chunk()?;
        let v4: [u8; 4] = *address.first_chunk()?;
        let ip = if i32::from(family) == AF_INET { v4.into() } else { IpAddr::from(address).to_canonical() };
        Some(SocketAddr::new(ip, u16::from_be_bytes([id[port], id[port + 1]])))
    };
    Some(Found { family, state, id, local: end(0, 4)?, peer: end(2, 20)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_answer_is_no_socket() {
        let mut body = [0; 4 + ID];
        (body[0], body[7], body[24]) = (AF_INET as u8, 80, 10);
        assert_eq!(read(&body).map(|found| found.peer), Some(SocketAddr::from(([10, 0, 0, 0], 80))));
        for length in 0..body.len() {
            assert!(read(&body[..length]).is_none(), "{length}");
        }
        let whole = request(BY_FAMILY, 0, 0, 0, 0, &[0; ID]);
        assert_eq!(messages(&whole).count(), 1);
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0, "{length}");
        }
    }
}
