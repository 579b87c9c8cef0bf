//! Where a packet is seen, and where what its first fragment says is kept.

use std::net::IpAddr;

use super::parse::Packet;

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Device {
    Instance(usize),
    Uplink,
    Publish,
}

/// Where it is seen, addresses, identification and protocol.
pub(super) type Place = (Device, IpAddr, IpAddr, u32, u8);

/// Where the ports of a packet in fragments are kept.
pub(super) fn place(device: Device, packet: &Packet) -> Place {
    (device, packet.from.0, packet.to.0, packet.ident, packet.protocol)
}
