//! Clients and servers.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::lab::Ns;

/// How long a client waits for an answer that should come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// How often a server looks whether it is to stop.
const TURN: Duration = Duration::from_millis(20);

/// Bytes that a socket of datagrams keeps until they are read: what the machine has no time for is not lost on the way.
const ROOM: usize = 8 << 20;

fn with_room(socket: UdpSocket) -> UdpSocket {
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &ROOM).expect("room");
    socket
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The server's name.
    pub(crate) name: String,
    /// Whom the server saw.
    pub(crate) client: IpAddr,
    /// Whom the client saw.
    pub(crate) peer: SocketAddr,
}

/// A server of both families, TCP and UDP, that answers with its name and the address it sees. Over TCP it answers every
/// line, with the line's bytes; a message `x` over UDP too.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn start(ns: &Ns, port: u16, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (listener, socket) = ns.run(|| {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            (TcpListener::bind(any).expect("a listener"), with_room(UdpSocket::bind(any).expect("a socket")))
        });
        let tcp = {
            let (stop, name) = (Arc::clone(&stop), name.to_owned());
            ns.spawn(move || serve_tcp(&listener, &name, &stop))
        };
        let udp = {
            let (stop, name) = (Arc::clone(&stop), name.to_owned());
            ns.spawn(move || serve_udp(&socket, &name, &stop))
        };
        Self { stop, threads: vec![tcp, udp] }
    }

    /// The same in the calling thread's namespace.
    pub(crate) fn here(port: u16, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let (listener, socket) = (TcpListener::bind(any).expect("a listener"), UdpSocket::bind(any).expect("a socket"));
        let (both, names) = ([Arc::clone(&stop), Arc::clone(&stop)], [name.to_owned(), name.to_owned()]);
        let ([first, second], [one, two]) = (both, names);
        let tcp = std::thread::spawn(move || serve_tcp(&listener, &one, &first));
        let udp = std::thread::spawn(move || serve_udp(&socket, &two, &second));
        Self { stop, threads: vec![tcp, udp] }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    listener.set_nonblocking(true).expect("nonblocking");
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            wait_readable(listener);
            let Ok((mut stream, from)) = listener.accept() else { continue };
            scope.spawn(move || {
                stream.set_nonblocking(false).expect("blocking");
                stream.set_read_timeout(Some(TURN)).expect("a timeout");
                let (mut buffer, mut bytes) = ([0; 2048], 0);
                while !stop.load(Ordering::Relaxed) {
                    match stream.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(n) if buffer[..n].ends_with(b"\n") => {
                            let line = std::mem::take(&mut bytes) + n;
                            let answer = format!("{name} {} {line}\n", from.ip().to_canonical());
                            if stream.write_all(answer.as_bytes()).is_err() {
                                return;
                            }
                        }
                        Ok(n) => bytes += n,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
            });
        }
    });
}

fn serve_udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    socket.set_read_timeout(Some(TURN)).expect("a timeout");
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let text = String::from_utf8_lossy(&buffer[..length]);
        let _ = socket.send_to(format!("{name} {} {text}", from.ip().to_canonical()).as_bytes(), from);
    }
}

fn wait_readable(listener: &TcpListener) {
    use std::os::fd::AsFd;
    let mut fds = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
    let _ = nix::poll::poll(&mut fds, nix::poll::PollTimeout::try_from(TURN).expect("short"));
}

fn parse(text: &str, peer: SocketAddr) -> Answer {
    let mut words = text.split_whitespace();
    let (Some(name), Some(client)) = (words.next(), words.next()) else { panic!("an odd answer: {text:?}") };
    Answer { name: name.into(), client: client.parse().expect("an address"), peer: canonical(peer) }
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

/// Asks over TCP, in the calling thread's namespace.
pub(crate) fn tcp_ask(to: SocketAddr) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    tcp_ask_on(&stream)
}

/// Asks over an open connection.
pub(crate) fn tcp_ask_on(mut stream: &TcpStream) -> io::Result<Answer> {
    stream.write_all(b"who\n")?;
    let text = read_line(stream)?;
    Ok(parse(&text, stream.peer_addr()?))
}

/// Asks over UDP, with a connected socket or an unconnected one.
pub(crate) fn udp_ask(to: SocketAddr, connected: bool) -> io::Result<Answer> {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 2048];
    let (length, from) = if connected {
        socket.connect(to)?;
        socket.send(b"who\n")?;
        (socket.recv(&mut buffer)?, socket.peer_addr()?)
    } else {
        socket.send_to(b"who\n", to)?;
        socket.recv_from(&mut buffer)?
    };
    Ok(parse(&String::from_utf8_lossy(&buffer[..length]), from))
}

/// Whether a connection comes about in that time.
pub(crate) fn tcp_connects_within(to: SocketAddr, time: Duration) -> bool {
    TcpStream::connect_timeout(&to, time).is_ok()
}

/// Sends a line of at least so many bytes to an echo server: how many were sent, and how many came there.
pub(crate) fn tcp_bulk(to: SocketAddr, bytes: usize) -> io::Result<(usize, usize)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    // Whoever does not read any more keeps nobody waiting.
    stream.set_write_timeout(Some(PATIENCE))?;
    let block = [b'x'; 16 * 1024];
    let blocks = bytes.div_ceil(block.len());
    for _ in 0..blocks {
        stream.write_all(&block)?;
    }
    stream.write_all(b"\n")?;
    let text = read_line(&stream)?;
    let came = text.split_whitespace().nth(2).and_then(|number| number.parse().ok());
    Ok((blocks * block.len() + 1, came.unwrap_or_else(|| panic!("an odd answer: {text:?}"))))
}

fn read_line(mut stream: &TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    while !text.ends_with('\n') {
        let mut buffer = [0; 256];
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => text += &String::from_utf8_lossy(&buffer[..n]),
        }
    }
    Ok(text)
}

/// Sends `count` numbered datagrams to an echo server, one each millisecond, and returns those that were not answered.
pub(crate) fn udp_stream(to: SocketAddr, count: u32) -> io::Result<Vec<u32>> {
    udp_stream_while(to, |n| n < count)
}

/// The same as long as `goes_on` says so of the next number.
pub(crate) fn udp_stream_while(to: SocketAddr, goes_on: impl Fn(u32) -> bool) -> io::Result<Vec<u32>> {
    use tokio::time::Instant;
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
    let socket = with_room(UdpSocket::bind(any)?);
    socket.connect(to)?;
    let mut missing = std::collections::BTreeSet::new();
    let mut buffer = [0; 256];
    let mut take_until = |at: Instant, missing: &mut std::collections::BTreeSet<u32>, all: bool| -> io::Result<()> {
        while !all || !missing.is_empty() {
            // Who is late takes one for each that is sent all the same: what waits has room for so many only.
            let left = at.saturating_duration_since(Instant::now());
            socket.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    let number = text.split(' ').nth(2).and_then(|number| number.trim().parse().ok());
                    assert!(missing.remove(&number.expect("an echo")), "answered twice: {text}");
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            if left.is_zero() {
                break;
            }
        }
        Ok(())
    };
    let start = Instant::now();
    for n in (0..).take_while(|n| goes_on(*n)) {
        take_until(start + Duration::from_millis(n.into()), &mut missing, false)?;
        missing.insert(n);
        socket.send(format!("{n}\n").as_bytes())?;
    }
    take_until(Instant::now() + PATIENCE, &mut missing, true)?;
    Ok(missing.into_iter().collect())
}
