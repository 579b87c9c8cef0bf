//! The constants of the programs.

use std::{net::IpAddr, os::fd::AsRawFd};

use hivemind_ebpf::abi::{Addr, Config, Range};
use ipnet::IpNet;

use super::{DataplaneError, chain};
use hivemind_net::NodeNet;

/// What the programs know of the node from the start: its ranges, its own addresses, which namespace is the host's.
pub(super) fn constants(network: &NodeNet) -> Result<Config, DataplaneError> {
    let range = |net: Option<IpNet>| {
        net.map_or(Range::NONE, |net| {
            let mask = match net {
                // The 96 bits before an IPv4 address must match as well.
                IpNet::V4(net) => {
                    let Addr { words_be } = Addr::from(IpAddr::V4(net.netmask()));
                    Addr { words_be: [u32::MAX, u32::MAX, u32::MAX, words_be[3]] }
                }
                IpNet::V6(net) => Addr::from(IpAddr::V6(net.netmask())),
            };
            Range { network: Addr::from(net.network()), mask }
        })
    };
    let own = |address: Option<IpAddr>| address.map_or(Addr::default(), Addr::from);
    let host_netns = netns_cookie()
        .map_err(|error| DataplaneError::Kernel { what: "cookies of network namespaces", why: chain(&error) })?;
    Ok(Config {
        host_netns,
        services: [range(network.services_v4.map(Into::into)), range(network.services_v6.map(Into::into))],
        instances: [range(network.instances_v4.map(Into::into)), range(network.instances_v6.map(Into::into))],
        gateways: [own(network.gateway.v4.map(Into::into)), own(network.gateway.v6.map(Into::into))],
        ..Config::EMPTY
    })
}

/// The cookie of this thread's network namespace. Without it no process would be on the host, so 0 is not good enough.
fn netns_cookie() -> std::io::Result<u64> {
    /// SO_NETNS_COOKIE of asm-generic/socket.h, Linux 5.14 (e8b9eab99232).
    const SO_NETNS_COOKIE: i32 = 71;
    let (socket, _) = std::os::unix::net::UnixDatagram::pair()?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    let option = (&raw mut cookie).cast();
    // SAFETY: the option writes at most `length` bytes to `cookie`, which has as many.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, option, &raw mut length) };
    if result == 0 { Ok(cookie) } else { Err(std::io::Error::last_os_error()) }
}
