//! Streams of numbered messages that are sent back: what is lost on the way, and the longest silence. A stream is one
//! flow, or many that take turns.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket, tcp::OwnedWriteHalf},
    runtime::Builder,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{LocalSet, spawn_local},
    time::{sleep_until, timeout},
};

use crate::clock::Moment;

/// Bytes of a message: its number.
const MESSAGE: usize = 8;
/// What it says when all flows are there.
pub(crate) const OPENED: &str = "opened";
/// How long a connection may take that is made while others are.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long answers are waited for after the last message.
const GRACE: Duration = Duration::from_secs(2);

/// A stream of numbered messages, each of which is answered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// The server.
    pub(crate) to: SocketAddr,
    /// Over TCP, or else over UDP.
    pub(crate) tcp: bool,
    /// On how many connections, or from how many sockets, in turns; at least one.
    pub(crate) flows: u64,
    /// Of the sockets that are not connected, the first one's port; those of the others follow.
    pub(crate) ports: u16,
    /// How many, on all of them together.
    pub(crate) messages: u64,
    /// Messages per second, on all of them together.
    pub(crate) rate: u64,
}

/// What came of a [`Stream`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Messages that should be sent.
    pub(crate) sent: u64,
    /// Answers that never came.
    pub(crate) lost: u64,
    /// Connections that broke.
    pub(crate) broken: u64,
    /// Answers of UDP that came from another address than was asked; they are lost as well.
    pub(crate) strange: u64,
    /// The longest time between two answers, milliseconds.
    pub(crate) gap: f64,
}

/// What a flow says.
enum Heard {
    Number([u8; MESSAGE]),
    /// The connection broke: nothing comes of it any more.
    Broken,
    /// An answer of somebody else's address: for who is connected to the server it is none.
    Strange,
    Failed(String),
}

/// How a flow is written to.
enum Flow {
    Tcp(OwnedWriteHalf),
    Udp(Rc<UdpSocket>),
    Broken,
}

impl Stream {
    /// Sends and counts.
    pub(crate) fn run(self) -> Result<Counted> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let (heard, hears) = unbounded_channel();
            let mut flows = Vec::new();
            for _ in 0..self.flows.max(1) {
                let (heard, port) = (heard.clone(), self.ports + u16::try_from(flows.len())?);
                flows.push(if self.tcp { self.connect(heard).await? } else { self.bind(heard, port).await? });
            }
            drop(heard);
            println!("{OPENED}");
            let counting = spawn_local(count(self.messages, hears, self.lasts()));
            self.send(&mut flows).await?;
            counting.await?
        })
    }

    /// When the last message is sent.
    fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.messages as f64 / self.rate.max(1) as f64)
    }

    /// Sends every number at its time.
    async fn send(&self, flows: &mut [Flow]) -> Result<()> {
        let interval = self.lasts() / u32::try_from(self.messages.max(1))?;
        let (start, count) = (Moment::now(), flows.len());
        for number in 0..self.messages {
            let due = interval * u32::try_from(number)?;
            // Whole milliseconds are slept; what is left is not worth waiting for.
            if due.saturating_sub(start.elapsed()).as_millis() > 0 {
                sleep_until(start + due).await;
            }
            let flow = &mut flows[usize::try_from(number)? % count];
            let message = number.to_be_bytes();
            match flow {
                Flow::Tcp(writer) => {
                    // Who reads it counts that it is broken.
                    if writer.write_all(&message).await.is_err() {
                        *flow = Flow::Broken;
                    }
                }
                // Not connected: every message goes through the hook for sending, and its answer through that for
                // receiving.
                Flow::Udp(socket) => {
                    socket.send_to(&message, self.to).await.context("a message could not be sent")?;
                }
                Flow::Broken => {}
            }
        }
        Ok(())
    }

    /// No address of the server's family.
    fn any(&self, port: u16) -> SocketAddr {
        let any: IpAddr = if self.to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
        SocketAddr::new(any, port)
    }

    async fn connect(&self, heard: UnboundedSender<Heard>) -> Result<Flow> {
        let socket = if self.to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A port that no other connection of this namespace has, wherever that leads: one to the service and one to its
        // instance with the same port could not be told apart, and the second is refused.
        socket.bind(self.any(0))?;
        let connected = timeout(PATIENCE, socket.connect(self.to)).await;
        let stream = connected.with_context(|| format!("no way to {}", self.to))?;
        let stream = stream.with_context(|| format!("no way to {}", self.to))?;
        stream.set_nodelay(true)?;
        let (mut reader, writer) = stream.into_split();
        spawn_local(async move {
            let mut message = [0; MESSAGE];
            while reader.read_exact(&mut message).await.is_ok() {
                if heard.send(Heard::Number(message)).is_err() {
                    return;
                }
            }
            let _ = heard.send(Heard::Broken);
        });
        Ok(Flow::Tcp(writer))
    }

    async fn bind(&self, heard: UnboundedSender<Heard>, port: u16) -> Result<Flow> {
        let socket = Rc::new(UdpSocket::bind(self.any(port)).await?);
        with_room(&*socket)?;
        let (reader, to) = (Rc::clone(&socket), self.to);
        spawn_local(async move {
            let mut message = [0; MESSAGE];
            loop {
                let said = match reader.recv_from(&mut message).await {
                    Ok((MESSAGE, from)) if from == to => Heard::Number(message),
                    Ok(_) => Heard::Strange,
                    Err(e) => Heard::Failed(e.to_string()),
                };
                if heard.send(said).is_err() {
                    return;
                }
            }
        });
        Ok(Flow::Udp(socket))
    }
}

/// Counts the different numbers that come, until all have or none comes any more, and the longest wait between two.
async fn count(messages: u64, mut hears: UnboundedReceiver<Heard>, lasts: Duration) -> Result<Counted> {
    let mut seen = vec![false; usize::try_from(messages)?];
    let mut counted = Counted { sent: messages, lost: messages, broken: 0, strange: 0, gap: 0.0 };
    let (start, mut last) = (Moment::now(), None::<Moment>);
    while counted.lost > 0 {
        // Longer than a retransmission takes, and until the last message is out.
        let patience = lasts.saturating_sub(start.elapsed()) + GRACE;
        let number = match timeout(patience, hears.recv()).await {
            Ok(Some(Heard::Number(number))) => usize::try_from(u64::from_be_bytes(number))?,
            Ok(Some(Heard::Broken)) => {
                counted.broken += 1;
                continue;
            }
            Ok(Some(Heard::Strange)) => {
                counted.strange += 1;
                continue;
            }
            Ok(Some(Heard::Failed(why))) => anyhow::bail!("{why}"),
            Ok(None) | Err(_) => break,
        };
        let gap = last.map_or(0.0, |last| last.elapsed().as_secs_f64() * 1000.0);
        (counted.gap, last) = (counted.gap.max(gap), Some(Moment::now()));
        let entry = seen.get_mut(number).context("a number that was never sent")?;
        if !std::mem::replace(entry, true) {
            counted.lost -= 1;
        }
    }
    Ok(counted)
}

/// Bytes that a socket keeps until they are read: what comes in a second in which its reader does not run. Else what the
/// machine has no time for would count as lost.
const ROOM: usize = 8 << 20;

/// Gives a socket that room.
pub(crate) fn with_room(socket: &impl AsFd) -> Result<()> {
    setsockopt(socket, RcvBufForce, &ROOM).context("cannot make room for what is received")
}

/// Sends every datagram back to where it came from.
pub(crate) fn echo_datagrams(socket: &std::net::UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        // An error is that of an earlier answer (its port is closed), and says nothing about the next message.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
