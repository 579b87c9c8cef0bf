//! Connections to what listens in an instance's network namespace, as a process there would make them: to loopback first,
//! then to its own addresses. No packet passes the instance's device, and no policy is asked: who may do this may run
//! commands there as well.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use super::netns;
use crate::NetError;
use hivemind_core::model::Addresses;

/// Longer than a listener that is there needs, within one machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to a port in the network namespace of a process. What the kernel said to the last try is the inner error.
///
/// # Errors
/// If the namespace cannot be entered.
pub async fn connect(pid: u32, addresses: Addresses, port: u16) -> Result<io::Result<TcpStream>, NetError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    netns::in_existing(path, move || {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut last = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in loopback.into_iter().chain(addresses.iter()) {
            last = TcpStream::connect_timeout(&SocketAddr::new(address, port), TIMEOUT);
            if last.is_ok() {
                break;
            }
        }
        Ok(last)
    })
    .await
}
