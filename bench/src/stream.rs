//! Streams of numbered messages that are sent back: what is lost on the way, and the longest silence.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::clock::{Moment, pause};

/// Bytes of a message: its number.
const MESSAGE: usize = 8;
/// How long answers are waited for after the last message.
const GRACE: Duration = Duration::from_secs(2);

/// A stream of numbered messages, each of which is answered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// The server.
    pub(crate) to: SocketAddr,
    /// Over TCP, or else over UDP.
    pub(crate) tcp: bool,
    /// How many.
    pub(crate) messages: u64,
    /// Messages per second.
    pub(crate) rate: u64,
}

/// What came of a [`Stream`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Messages that were sent.
    pub(crate) sent: u64,
    /// Answers that never came.
    pub(crate) lost: u64,
    /// The longest time between two answers, milliseconds.
    pub(crate) gap: f64,
}

impl Stream {
    /// Sends and counts.
    pub(crate) fn run(self) -> Result<Counted> {
        let (answers, gap) = if self.tcp { self.over_tcp()? } else { self.over_udp()? };
        Ok(Counted { sent: self.messages, lost: self.messages - answers, gap: gap.as_secs_f64() * 1000.0 })
    }

    /// Calls `send` with every number at its time.
    fn pace(&self, mut send: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let interval = Duration::from_secs(1) / u32::try_from(self.rate)?;
        let start = Moment::now();
        for number in 0..self.messages {
            let due = interval * u32::try_from(number)?;
            // Whole milliseconds are slept; what is left is not worth waiting for.
            while let Some(rest) = due.checked_sub(start.elapsed()).filter(|rest| rest.as_millis() > 0) {
                pause(rest);
            }
            send(number)?;
        }
        Ok(())
    }

    fn over_tcp(self) -> Result<(u64, Duration)> {
        let mut stream = TcpStream::connect_timeout(&self.to, GRACE)?;
        stream.set_nodelay(true)?;
        let mut reader = stream.try_clone()?;
        reader.set_read_timeout(Some(GRACE))?;
        thread::scope(|scope| {
            let counting = scope.spawn(move || {
                count(self.messages, |message| match reader.read_exact(message) {
                    Ok(()) => Ok(true),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::UnexpectedEof) => Ok(false),
                    Err(e) => Err(e.into()),
                })
            });
            self.pace(|number| stream.write_all(&number.to_be_bytes()).context("the connection broke"))?;
            counting.join().map_err(|_| anyhow::anyhow!("the counting thread ended in a panic"))?
        })
    }

    fn over_udp(self) -> Result<(u64, Duration)> {
        // Not connected: every message goes through the hook for sending, and its answer through that for receiving.
        let any: IpAddr = if self.to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(GRACE))?;
        let reader = socket.try_clone()?;
        thread::scope(|scope| {
            let counting = scope.spawn(move || {
                count(self.messages, |message| match reader.recv_from(message) {
                    Ok((MESSAGE, from)) => {
                        anyhow::ensure!(from == self.to, "an answer of {from} instead of {}", self.to);
                        Ok(true)
                    }
                    Ok((length, _)) => anyhow::bail!("an answer of {length} bytes"),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
                    Err(e) => Err(e.into()),
                })
            });
            self.pace(|number| {
                socket.send_to(&number.to_be_bytes(), self.to).map(drop).context("a message could not be sent")
            })?;
            counting.join().map_err(|_| anyhow::anyhow!("the counting thread ended in a panic"))?
        })
    }
}

/// Counts the different numbers that come, until all have or none comes any more, and the longest wait between two.
fn count(messages: u64, mut next: impl FnMut(&mut [u8; MESSAGE]) -> Result<bool>) -> Result<(u64, Duration)> {
    let mut seen = vec![false; usize::try_from(messages)?];
    let (mut answers, mut gap, mut last) = (0, Duration::ZERO, None::<Moment>);
    let mut message = [0; MESSAGE];
    while answers < messages && next(&mut message)? {
        gap = gap.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
        last = Some(Moment::now());
        let number = usize::try_from(u64::from_be_bytes(message))?;
        let entry = seen.get_mut(number).context("a number that was never sent")?;
        if !std::mem::replace(entry, true) {
            answers += 1;
        }
    }
    Ok((answers, gap))
}

/// Sends every datagram back to where it came from.
pub(crate) fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        // An error is that of an earlier answer (its port is closed), and says nothing about the next message.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
