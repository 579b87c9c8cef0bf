//! Datagrams in fragments to a published port: in whatever order they come, and whether their conversation is new.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use hivemind::model::Protocol;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};

use crate::{
    in_both_ways,
    lab::{FAMILIES, Lab, firewall, outside, uplink},
    traffic::{Echo, PATIENCE},
};

/// Bytes of the datagram in its first fragment: a multiple of 8.
const FIRST: usize = 1200;
/// In all: more than fits into one packet.
const LENGTH: usize = 1800;

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The UDP datagram, with its header.
fn datagram(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let length = u16::try_from(LENGTH).expect("short").to_be_bytes();
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes(), length, [0, 0]].concat();
    bytes.resize(LENGTH, b'x');
    let pseudo = sum(&octets(from.ip())) + sum(&octets(to.ip())) + 17 + LENGTH as u32;
    let mut total = pseudo + sum(&bytes);
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    bytes[6..8].copy_from_slice(&(!(total as u16)).to_be_bytes());
    bytes
}

/// One fragment, with its IP header: `data` stands at `offset`.
fn fragment(from: IpAddr, to: IpAddr, ident: u16, offset: usize, data: &[u8]) -> Vec<u8> {
    let more = offset + data.len() < LENGTH;
    let [at_high, at_low] = u16::try_from(offset).expect("short").to_be_bytes();
    let mut bytes = match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let field = (u16::try_from(offset / 8).expect("short") | u16::from(more) << 13).to_be_bytes();
            let length = u16::try_from(20 + data.len()).expect("short").to_be_bytes();
            // The kernel fills in the checksum.
            [&[0x45, 0], &length[..], &ident.to_be_bytes(), &field, &[64, 17, 0, 0]].concat()
        }
        _ => {
            let length = u16::try_from(8 + data.len()).expect("short").to_be_bytes();
            [&[0x60, 0, 0, 0], &length[..], &[44, 64]].concat()
        }
    };
    bytes.extend(octets(from));
    bytes.extend(octets(to));
    if from.is_ipv6() {
        bytes.extend([17, 0, at_high, at_low | u8::from(more), 0, 0]);
        bytes.extend(ident.to_be_bytes());
    }
    bytes.extend(data);
    bytes
}

fn send(from: SocketAddr, to: SocketAddr, ident: u16, reversed: bool) {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).expect("a raw socket");
    let bytes = datagram(from, to);
    let (first, second) = bytes.split_at(FIRST);
    let mut pieces = [(0, first), (FIRST, second)];
    if reversed {
        pieces.reverse();
    }
    for (offset, data) in pieces {
        let packet = fragment(from.ip(), to.ip(), ident, offset, data);
        let sent = match to {
            SocketAddr::V4(mut at) => {
                at.set_port(0);
                sendto(raw.as_raw_fd(), &packet, &SockaddrIn::from(at), MsgFlags::empty())
            }
            SocketAddr::V6(mut at) => {
                at.set_port(0);
                sendto(raw.as_raw_fd(), &packet, &SockaddrIn6::from(at), MsgFlags::empty())
            }
        };
        assert_eq!(sent.expect("to send a fragment"), packet.len());
    }
}

/// How much of the datagram the backend has got, by its answer.
fn answered(socket: &UdpSocket) -> usize {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer");
    buffer[..length].iter().filter(|byte| **byte == b'x').count()
}

#[test]
fn a_datagram_to_a_published_port_arrives_whatever_order_its_fragments_have() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 1, open);
        firewall("9000", 9001);
        lab.ready(0);
        lab.service(1, 80, 8080, Protocol::Udp, &[0]);
        lab.publish(1, 9000, 8080, Protocol::Udp, &[0]);
        lab.sync();
        let _echo = Echo::start(&lab.instances[0].ns, 8080, "i0");
        for family in FAMILIES {
            let to = SocketAddr::new(uplink(family), 9000);
            for (begins_reversed, goes_on_reversed) in [(false, false), (true, true), (false, true)] {
                let what = format!("{family:?}, the first reversed: {begins_reversed}, then: {goes_on_reversed}");
                lab.outside.run(|| {
                    let socket = UdpSocket::bind((outside(family), 0)).expect("a socket");
                    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    let from = socket.local_addr().expect("its address");
                    for (ident, reversed) in [(1, begins_reversed), (2, goes_on_reversed), (3, goes_on_reversed)] {
                        let ident = ident + from.port();
                        send(from, to, ident, reversed);
                        assert_eq!(answered(&socket), LENGTH - 8, "{what}: datagram {ident}");
                    }
                });
            }
        }
    });
}
