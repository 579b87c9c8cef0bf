//! Published ports are held as a process that listens on them would hold them: no other process can take them, one
//! that has them already is noticed, and `ss -ltnup` names us.
//!
//! Nothing is ever accepted here: what is sent to a published port is handed to an instance before it gets to a socket
//! (`docs/adr/0002-published-ports.md`).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use super::{NetError, PublishedPort};
use hivemind_core::model::Protocol;

/// A port that is held until this is dropped.
#[derive(Debug)]
pub struct HeldPort {
    _socket: Socket,
}

#[derive(Debug)]
#[expect(dead_code, reason = "they are kept open, nothing else")]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl HeldPort {
    /// Holds a port on every address of both families, in the network namespace of the calling thread.
    /// Fails with [`NetError::PortTaken`] if any process has it on any address.
    pub fn hold(port: PublishedPort) -> Result<Self, NetError> {
        hold(port)
    }
}

fn hold(port: PublishedPort) -> Result<HeldPort, NetError> {
    let both: SocketAddr = (Ipv6Addr::UNSPECIFIED, port.port).into();
    let socket = match open(both, port.protocol) {
        // A kernel without IPv6.
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            open((Ipv4Addr::UNSPECIFIED, port.port).into(), port.protocol)
        }
        other => other,
    };
    match socket {
        Ok(socket) => Ok(HeldPort { _socket: socket }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(NetError::PortTaken { port }),
        Err(source) => Err(NetError::Port { port, source }),
    }
}

fn open(address: SocketAddr, protocol: Protocol) -> io::Result<Socket> {
    match protocol {
        // The library sets SO_REUSEADDR: connections that are over do not count, those who listen do.
        Protocol::Tcp => TcpListener::bind(address).map(Socket::Tcp),
        Protocol::Udp => UdpSocket::bind(address).map(Socket::Udp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_held_until_it_is_let_go_and_one_that_is_taken_is_refused() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let loopback: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
            let (port, other): (u16, Box<dyn std::any::Any>) = match protocol {
                Protocol::Tcp => {
                    let socket = TcpListener::bind(loopback).expect("bound");
                    (socket.local_addr().expect("bound").port(), Box::new(socket))
                }
                Protocol::Udp => {
                    let socket = UdpSocket::bind(loopback).expect("bound");
                    (socket.local_addr().expect("bound").port(), Box::new(socket))
                }
            };
            let port = PublishedPort { port, protocol };
            assert!(matches!(hold(port), Err(NetError::PortTaken { .. })), "{protocol}: on one address is enough");
            drop(other);
            let held = hold(port).expect("free again");
            assert!(open((Ipv4Addr::LOCALHOST, port.port).into(), protocol).is_err(), "{protocol}: it is held");
            drop(held);
            drop(hold(port).expect("let go"));
        }
    }
}
