//! A sender of raw frames, as many as one processor can make: beginnings of TCP connections, each of a client of its
//! own, and datagrams of flows that are known, in a fixed proportion. The clients do not exist; what is answered to them
//! is not looked at.

use std::{
    ffi::CString,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::SndBufForce};
use serde::{Deserialize, Serialize};

use crate::clock::Moment;

/// Where the clients are: a range for benchmarks (RFC 2544).
pub(crate) const CLIENTS: &str = "198.18.0.0/15";
/// The client of all known flows, each of which has a port of its own from this one on.
const KNOWN: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 18, 0, 1), 20_000);
/// The first of those that begin something.
const STRANGERS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
/// Frames that one system call sends.
const BATCH: usize = 64;
/// Bytes of a frame that holds any of ours.
const FRAME: usize = 64;
/// Bytes of the headers: Ethernet, IPv4; then TCP's or UDP's.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const TCP: usize = 20;
const UDP: usize = 8;
/// Bytes that may be on their way: frames that wait in the receiver's queue are the sender's for so long, and it must not
/// wait for them.
const ROOM: usize = 64 << 20;
/// Bytes of a datagram's data.
const DATA: usize = 8;

/// What is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Flood {
    /// The device.
    pub(crate) device: String,
    /// Ethernet addresses: the receiver's and the sender's.
    pub(crate) macs: [[u8; 6]; 2],
    /// The port that everything goes to.
    pub(crate) to: SocketAddrV4,
    /// Beginnings per second.
    pub(crate) new: u64,
    /// Datagrams of known flows per second.
    pub(crate) known: u64,
    /// How many known flows there are.
    pub(crate) flows: u16,
    /// How long.
    pub(crate) millis: u64,
    /// Which beginning is the first: so that no two floods have the same.
    pub(crate) seed: u32,
}

/// What was sent, whether the device took it or not.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// Beginnings.
    pub(crate) new: u64,
    /// Datagrams of known flows.
    pub(crate) known: u64,
    /// How long it took.
    pub(crate) seconds: f64,
}

impl Flood {
    /// Sends.
    pub(crate) fn run(&self) -> Result<Sent> {
        let socket = open(&self.device).with_context(|| format!("cannot send frames by {}", self.device))?;
        let mut frames = Box::new([[0_u8; FRAME]; BATCH]);
        let mut lengths = [0; BATCH];
        let rate = self.new + self.known;
        let mut sent = Sent { new: 0, known: 0, seconds: 0.0 };
        let all = rate * self.millis / 1000;
        let start = Moment::now();
        while sent.new + sent.known < all {
            let done = sent.new + sent.known;
            let due = ((start.elapsed().as_secs_f64() * rate as f64) as u64).min(all) - done.min(all);
            // Whole batches, but for the last: a system call for each frame would be what is measured.
            if due < BATCH as u64 && done + due < all {
                std::hint::spin_loop();
                continue;
            }
            let count = usize::try_from(due)?.clamp(1, BATCH);
            for (frame, length) in frames.iter_mut().zip(&mut lengths).take(count) {
                // So many of all, whatever the batch.
                *length = if sent.known * rate < (sent.new + sent.known) * self.known || self.new == 0 {
                    sent.known += 1;
                    self.datagram(frame, sent.known)
                } else {
                    sent.new += 1;
                    self.beginning(frame, self.seed.wrapping_add(u32::try_from(sent.new)?))
                };
            }
            send(&socket, &mut frames[..count], &lengths[..count])?;
        }
        sent.seconds = start.elapsed().as_secs_f64();
        Ok(sent)
    }

    /// The first packet of a connection, of client number `n`.
    fn beginning(&self, frame: &mut [u8; FRAME], n: u32) -> usize {
        // Neighbours in time are no neighbours in the tables.
        let host = n.wrapping_mul(0x9e37_79b1) >> 16;
        let source = Ipv4Addr::from_bits(STRANGERS.to_bits() + host);
        let port = 1024 + (n % 60_000) as u16;
        let length = self.headers(frame, source, 6, TCP);
        let tcp = &mut frame[ETHERNET + IPV4..length];
        tcp[..2].copy_from_slice(&port.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&n.to_be_bytes());
        // Five words of header, SYN, and the window.
        tcp[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
        // The pseudo header: addresses, protocol, length.
        let [source, to] = [source, *self.to.ip()].map(Ipv4Addr::to_bits);
        let halves = [source, to].map(|address| (address >> 16) + (address & 0xffff));
        let pseudo = halves[0] + halves[1] + 6 + TCP as u32;
        let sum = checksum(tcp, pseudo);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        length
    }

    /// A packet of one of the known flows, in turns. Without a checksum, which UDP allows.
    fn datagram(&self, frame: &mut [u8; FRAME], n: u64) -> usize {
        let (source, first) = KNOWN;
        let length = self.headers(frame, source, 17, UDP + DATA);
        let udp = &mut frame[ETHERNET + IPV4..length];
        let port = first + (n % u64::from(self.flows.max(1))) as u16;
        udp[..2].copy_from_slice(&port.to_be_bytes());
        udp[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        udp[4..6].copy_from_slice(&((UDP + DATA) as u16).to_be_bytes());
        length
    }

    /// Ethernet and IPv4 in front of `payload` bytes of a protocol; returns the frame's length.
    fn headers(&self, frame: &mut [u8; FRAME], source: Ipv4Addr, protocol: u8, payload: usize) -> usize {
        *frame = [0; FRAME];
        frame[..6].copy_from_slice(&self.macs[0]);
        frame[6..12].copy_from_slice(&self.macs[1]);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let ip = &mut frame[ETHERNET..ETHERNET + IPV4];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&((IPV4 + payload) as u16).to_be_bytes());
        ip[8..10].copy_from_slice(&[64, protocol]);
        ip[12..16].copy_from_slice(&source.octets());
        ip[16..20].copy_from_slice(&self.to.ip().octets());
        let sum = checksum(ip, 0);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ETHERNET + IPV4 + payload
    }
}

/// The Internet's checksum (RFC 1071) of these bytes, an even number, and of what `sum` has.
fn checksum(bytes: &[u8], sum: u32) -> u16 {
    let (words, _) = bytes.as_chunks::<2>();
    let sum = words.iter().fold(sum, |sum, word| sum + u32::from(u16::from_be_bytes(*word)));
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// A socket that sends whole frames by a device, past its queue.
fn open(device: &str) -> Result<OwnedFd> {
    let name = CString::new(device)?;
    let index = nix::net::if_::if_nametoindex(name.as_c_str())?;
    // SAFETY: no pointers. With protocol 0 it receives nothing.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the kernel has just made it for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address))?;
    // SAFETY: an address of that length, read only.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on))?;
    let option = libc::PACKET_QDISC_BYPASS;
    // SAFETY: an integer of that length, read only.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length) };
    if bound < 0 || set < 0 {
        return Err(io::Error::last_os_error().into());
    }
    setsockopt(&socket, SndBufForce, &ROOM)?;
    Ok(socket)
}

/// Sends frames of these lengths, each once: what the device has no room for is lost, as on a cable.
fn send(socket: &OwnedFd, frames: &mut [[u8; FRAME]], lengths: &[usize]) -> io::Result<()> {
    let part = |(frame, length): (&mut [u8; FRAME], &usize)| libc::iovec {
        iov_base: frame.as_mut_ptr().cast(),
        iov_len: *length,
    };
    let mut parts: Vec<libc::iovec> = frames.iter_mut().zip(lengths).map(part).collect();
    let header = |part: &mut libc::iovec| {
        // SAFETY: plain data, of which zeroes are an empty value.
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (part, 1);
        header
    };
    let mut headers: Vec<libc::mmsghdr> = parts.iter_mut().map(header).collect();
    let mut rest = &mut headers[..];
    while !rest.is_empty() {
        let count = libc::c_uint::try_from(rest.len()).unwrap_or(libc::c_uint::MAX);
        // SAFETY: as many headers, each with a part that points to a frame; all of them outlive the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), count, 0) };
        // It ends at the first that finds no room, which is lost then.
        let done = match usize::try_from(sent) {
            Ok(sent) => (sent + 1).min(rest.len()),
            Err(_) => {
                let error = io::Error::last_os_error();
                if !matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR)) {
                    return Err(error);
                }
                1
            }
        };
        rest = &mut std::mem::take(&mut rest)[done..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flood() -> Flood {
        Flood {
            device: "eth0".into(),
            macs: [[2; 6], [4; 6]],
            to: "192.0.2.1:80".parse().expect("an address"),
            new: 1,
            known: 1,
            flows: 3,
            millis: 0,
            seed: 0,
        }
    }

    #[test]
    fn headers_have_the_right_checksums() {
        let mut frame = [0; FRAME];
        let length = flood().beginning(&mut frame, 7);
        assert_eq!((length, frame[23]), (54, 6));
        assert_eq!(checksum(&frame[ETHERNET..ETHERNET + IPV4], 0), 0);
        // Source and destination, protocol and length are summed as well.
        let pseudo = checksum(&frame[26..34], 6 + TCP as u32);
        assert_eq!(checksum(&frame[ETHERNET + IPV4..length], u32::from(!pseudo)), 0);
        let length = flood().datagram(&mut frame, 7);
        assert_eq!((length, frame[23]), (50, 17));
        assert_eq!(checksum(&frame[ETHERNET..ETHERNET + IPV4], 0), 0);
    }

    #[test]
    fn every_beginning_is_of_another_client_and_known_flows_take_turns() {
        let mut frame = [0; FRAME];
        let ends = |frame: &[u8; FRAME]| (frame[26..30].to_vec(), frame[34..36].to_vec());
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..200_000 {
            flood().beginning(&mut frame, n);
            seen.insert(ends(&frame));
        }
        assert!(seen.len() > 199_000, "{}", seen.len());
        let mut known = std::collections::BTreeSet::new();
        for n in 0..10 {
            flood().datagram(&mut frame, n);
            known.insert(ends(&frame));
        }
        assert_eq!(known.len(), 3);
    }
}
