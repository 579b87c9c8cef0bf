//! What a network device does for the stack, switched on and off.

use std::{ffi::CString, io, net::UdpSocket, os::fd::AsRawFd, path::Path, thread};

use anyhow::{Context, Result, anyhow, ensure};

use crate::lab;

/// Something that a device can do (linux/ethtool.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Cutting what TCP hands it in one piece.
    Tso,
    /// Putting together what it receives. A veth with it has a queue that is polled.
    Gro,
}

impl Feature {
    /// The command that sets it.
    const fn command(self) -> u32 {
        match self {
            Self::Tso => 0x1f,
            Self::Gro => 0x2c,
        }
    }
}

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ifreq` with a pointer in it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    rest: [u64; 2],
}

/// Switches a feature of a device in a network namespace.
pub(crate) fn set(netns: &Path, device: &str, feature: Feature, on: bool) -> Result<()> {
    let name = CString::new(device)?;
    let bytes = name.as_bytes_with_nul();
    ensure!(bytes.len() <= libc::IFNAMSIZ, "{device} is no name of a device");
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            lab::join(netns)?;
            let mut value = Value { command: feature.command(), data: on.into() };
            let mut request = Request { name: [0; libc::IFNAMSIZ], value: &raw mut value, rest: [0; 2] };
            request.name[..bytes.len()].copy_from_slice(bytes);
            let socket = UdpSocket::bind("127.0.0.1:0").context("no socket to ask the kernel by")?;
            // SAFETY: a name that ends with a zero, and a value of the command; both outlive the call.
            let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
            let done = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
            done.with_context(|| format!("cannot switch {feature:?} of {device}"))
        });
        inside.join().map_err(|_| anyhow!("the thread in {} ended in a panic", netns.display()))?
    })
}
