//! A flow that lives: it asks every millisecond, and notes when its answers cease or begin to come.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::clock::{Moment, pause};

/// How often it asks.
const EACH: Duration = Duration::from_millis(1);
/// Without an answer for so long, there are none any more.
const SILENCE: Duration = Duration::from_millis(400);
/// Longer than any change takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Until {
    /// There are answers; until there are none any more.
    Cut,
    /// There are none; until there are.
    Open,
}

/// A flow to a server that sends back what it gets.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Live {
    /// The server.
    pub(crate) to: SocketAddr,
    /// Over TCP, or else over UDP.
    pub(crate) tcp: bool,
    /// What is waited for.
    pub(crate) until: Until,
}

/// When it happened.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Happened {
    /// Of the last answer, or of the first: milliseconds since 1970.
    pub(crate) at: f64,
}

/// Wall-clock time, which two processes have in common: milliseconds since 1970.
pub(crate) fn now() -> f64 {
    hivemind::lifecycle::clock::now().as_millis() as f64
}

/// A socket of either kind.
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Socket {
    fn open(live: &Live) -> Result<Self> {
        let socket = if live.tcp {
            let stream = TcpStream::connect_timeout(&live.to, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Self::Tcp(stream)
        } else {
            let any: IpAddr = if live.to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(live.to)?;
            socket.set_nonblocking(true)?;
            Self::Udp(socket)
        };
        Ok(socket)
    }

    /// Asks, if it can.
    fn ask(&mut self) -> io::Result<()> {
        let asked = match self {
            Self::Tcp(stream) => stream.write(b"question"),
            Self::Udp(socket) => socket.send(b"question"),
        };
        match asked {
            // What has not been taken by the other side fills the buffer.
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other.map(drop),
        }
    }

    /// Whether there is an answer.
    fn answered(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let read = match self {
            Self::Tcp(stream) => stream.read(&mut buffer),
            Self::Udp(socket) => socket.recv(&mut buffer),
        };
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Live {
    /// Says `live` as soon as the flow is as it should be at first, then waits for what it waits for.
    pub(crate) fn run(&self) -> Result<Happened> {
        let mut socket = Socket::open(self).with_context(|| format!("no way to {}", self.to))?;
        let (start, mut last, mut said) = (Moment::now(), Moment::now(), false);
        let mut at = None;
        while start.elapsed() < PATIENCE {
            socket.ask().context("the flow broke")?;
            pause(EACH);
            let answered = socket.answered().context("the flow broke")?;
            let silent = last.elapsed() > SILENCE;
            match (self.until, answered) {
                (_, true) if self.until == Until::Cut || said => {
                    last = Moment::now();
                    at = Some(now());
                    if self.until == Until::Open {
                        break;
                    }
                    if !said {
                        say();
                        said = true;
                    }
                }
                (Until::Open, true) => bail!("there are answers already"),
                (Until::Cut, _) if said && silent => break,
                (Until::Open, _) if !said && silent => {
                    say();
                    said = true;
                }
                _ => {}
            }
        }
        let at = at.filter(|_| start.elapsed() < PATIENCE).with_context(|| format!("waited {PATIENCE:?} in vain"))?;
        Ok(Happened { at })
    }
}

fn say() {
    println!("live");
}
