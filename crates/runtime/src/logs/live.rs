//! What a container writes, for those who look on: the log writer has a socket beside the log's files, and sends everybody who
//! is connected what it reads, as it is, before it makes lines of it.
//!
//! A message is a channel's byte and what it carries: [`OUT`] and [`ERR`] bytes of the container, [`LOST`] the number of
//! bytes (64 bits, little-endian) that a listener has not got because it did not read fast enough. Nobody is waited for:
//! a listener gets whole messages as long as its socket has room, the log gets everything. What it has missed it is told when
//! there is room again, and at the latest when the container has ended.
//!
//! The input of the container, if it asked for one, is a pipe with a name beside the socket ([`make_input`]). The writer does
//! not touch what is in it, but holds it open for as long as the container runs: without that the shim would take the last
//! one who leaves for the end of the input, and hang the terminal up.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::Path,
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags},
    sys::socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen,
        send, setsockopt, socket, sockopt,
    },
    sys::stat::Mode,
    unistd::mkfifo,
};
use tokio::net::UnixDatagram;

use super::LogStream;

/// Standard output.
const OUT: u8 = 1;
/// Standard error.
const ERR: u8 = 2;
/// What was left out.
const LOST: u8 = 3;

/// The socket in the folder of the log.
const SOCKET: &str = "live";
/// The pipe of the container's input, beside it.
pub(crate) const INPUT: &str = "stdin";
/// So many may look on at once; who comes then is sent away.
const LISTENERS: usize = 32;
/// The longest message: a channel, and what the writer reads at once.
const MESSAGE: usize = 1 + (64 << 10);

/// The writer's end.
#[derive(Debug, Default)]
pub(super) struct Live {
    socket: Option<OwnedFd>,
    listeners: Vec<Listener>,
    message: Vec<u8>,
    /// Held, and neither read nor written.
    _input: Option<File>,
}

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    lost: u64,
}

impl Live {
    /// Waits for listeners. Without a socket nobody can look on, and the log is written all the same.
    pub(super) fn open(dir: &Path) -> Self {
        // For both, or opening a pipe would wait for the other end.
        let input = File::options().read(true).write(true).open(dir.join(INPUT)).ok();
        Self { socket: offered(dir).ok(), _input: input, ..Self::default() }
    }

    /// What to wait for, besides the container.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let socket = self.socket.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        let of = |listener: &Listener| if listener.lost > 0 { PollFlags::POLLOUT } else { PollFlags::empty() };
        // They have nothing to say; that they go is told in any case.
        socket.chain(self.listeners.iter().map(move |one| PollFd::new(one.socket.as_fd(), of(one))))
    }

    /// Takes in who comes, lets those go who have gone, and tells those who have room again what they missed: `events` are
    /// those of [`Live::fds`].
    pub(super) fn look(&mut self, events: &[PollFlags]) {
        let (comes, others) = events.split_at(events.len().min(usize::from(self.socket.is_some())));
        let mut others = others.iter();
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        self.listeners.retain_mut(|one| match others.next() {
            Some(events) if events.intersects(gone) => false,
            Some(events) if events.contains(PollFlags::POLLOUT) => one.note(),
            _ => true,
        });
        let Some(socket) = self.socket.as_ref().filter(|_| comes.first().is_some_and(|events| !events.is_empty()))
        else {
            return;
        };
        while let Ok(fd) = accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
            // SAFETY: the kernel has just made it, and nobody else knows of it.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            if self.listeners.len() < LISTENERS {
                self.listeners.push(Listener { socket, lost: 0 });
            }
        }
    }

    /// Tells everybody.
    pub(super) fn say(&mut self, stream: LogStream, bytes: &[u8]) {
        if self.listeners.is_empty() {
            return;
        }
        let channel = if stream == LogStream::Stdout { OUT } else { ERR };
        self.message.clear();
        self.message.push(channel);
        self.message.extend_from_slice(bytes);
        let message = &self.message;
        self.listeners.retain_mut(|listener| listener.hear(message));
    }

    /// Nothing more will come: who has missed something is told, also if it has not yet taken what was sent before.
    pub(super) fn end(self) {
        for mut listener in self.listeners.into_iter().filter(|listener| listener.lost > 0) {
            // The kernel makes twice of it what may be under way, so that there is room.
            let more = getsockopt(&listener.socket, sockopt::SndBuf).unwrap_or_default();
            let _ = setsockopt(&listener.socket, sockopt::SndBuf, &more);
            listener.note();
        }
    }
}

impl Listener {
    /// Sends it a message, or counts what it misses; whether it is still there.
    fn hear(&mut self, message: &[u8]) -> bool {
        if !self.note() {
            return false;
        }
        // Behind a note that did not fit, nothing may pass.
        let sent = if self.lost > 0 { Err(Errno::EAGAIN) } else { self.send(message) };
        match sent {
            Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                self.lost += message.len() as u64 - 1;
                true
            }
            sent => sent.is_ok(),
        }
    }

    /// Tells it what it has missed, if there is room; whether it is still there.
    fn note(&mut self) -> bool {
        if self.lost == 0 {
            return true;
        }
        match self.send(&[&[LOST][..], &self.lost.to_le_bytes()].concat()) {
            Ok(()) => {
                self.lost = 0;
                true
            }
            Err(errno) => matches!(errno, Errno::EAGAIN | Errno::ENOBUFS),
        }
    }

    fn send(&self, message: &[u8]) -> nix::Result<()> {
        send(self.socket.as_raw_fd(), message, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).map(drop)
    }
}

/// The address of the socket in a folder, whose own path may be longer than an address.
fn address(dir: &File) -> nix::Result<UnixAddr> {
    UnixAddr::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).as_str())
}

fn new_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

fn offered(dir: &Path) -> io::Result<OwnedFd> {
    fs::create_dir_all(dir)?;
    let path = dir.join(SOCKET);
    // Left by a writer that was killed.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (folder, socket) = (File::open(dir)?, new_socket()?);
    bind(socket.as_raw_fd(), &address(&folder)?)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

/// Makes the pipe of a container's input in the folder of its log, for its next writer to hold. The folder keeps other users
/// of the machine out; who runs in the container may be any user.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn make_input(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = dir.join(INPUT);
    match mkfifo(&path, Mode::S_IRUSR) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    // The umask would have taken some of it.
    fs::set_permissions(&path, Permissions::from_mode(0o666))
}

/// What a container writes from now on.
#[derive(Debug)]
pub(crate) struct Listening {
    /// One of whole messages, and connected: reading it is the same for both kinds.
    socket: UnixDatagram,
    buffer: Vec<u8>,
}

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Bytes of the container.
    Said(LogStream, Bytes),
    /// So many bytes were left out.
    Lost(u64),
}

impl Listening {
    /// Connects to the writer of the log in `dir`.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` if there is none, or one of a version that does not know this.
    pub(crate) fn begin(dir: &Path) -> io::Result<Self> {
        let (folder, socket) = (File::open(dir)?, new_socket()?);
        connect(socket.as_raw_fd(), &address(&folder)?)?;
        Ok(Self { socket: UnixDatagram::from_std(socket.into())?, buffer: vec![0; MESSAGE] })
    }

    /// The next; none if the container has closed all that it writes to. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Heard>> {
        loop {
            let read = self.socket.recv(&mut self.buffer).await?;
            let message = &self.buffer[..read];
            let Some((channel, rest)) = message.split_first() else { return Ok(None) };
            return Ok(Some(match *channel {
                OUT => Heard::Said(LogStream::Stdout, Bytes::copy_from_slice(rest)),
                ERR => Heard::Said(LogStream::Stderr, Bytes::copy_from_slice(rest)),
                LOST => Heard::Lost(rest.try_into().map_or(0, u64::from_le_bytes)),
                _ => continue,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`Live::look`] is told when something has happened.
    fn look(live: &mut Live) {
        let mut fds: Vec<_> = live.fds().collect();
        nix::poll::poll(&mut fds, 0_u8).expect("polls");
        let events: Vec<_> = fds.iter().map(|fd| fd.revents().expect("known")).collect();
        drop(fds);
        live.look(&events);
    }

    #[tokio::test]
    async fn everybody_hears_it_as_it_is_and_who_goes_is_forgotten() {
        let dir = tempfile::tempdir().expect("makes one");
        // A path that is longer than an address may be.
        let deep = dir.path().join("x".repeat(120));
        let mut live = Live::open(&deep);
        live.say(LogStream::Stdout, b"nobody hears it");
        let mut one = Listening::begin(&deep).expect("connects");
        let mut two = Listening::begin(&deep).expect("connects");
        look(&mut live);
        live.say(LogStream::Stdout, b"no end");
        live.say(LogStream::Stderr, b"\xff\n");
        for listener in [&mut one, &mut two] {
            let said = Heard::Said(LogStream::Stdout, Bytes::from_static(b"no end"));
            assert_eq!(listener.next().await.expect("hears"), Some(said));
            let said = Heard::Said(LogStream::Stderr, Bytes::from_static(b"\xff\n"));
            assert_eq!(listener.next().await.expect("hears"), Some(said));
        }
        drop(one);
        look(&mut live);
        assert_eq!(live.listeners.len(), 1);
        // Another writer takes the place of one that was killed.
        drop(live);
        assert_eq!(two.next().await.expect("hears"), None);
        let _next = Live::open(&deep);
        Listening::begin(&deep).expect("connects");
    }

    #[tokio::test]
    async fn who_does_not_read_is_not_waited_for_and_told_what_is_missing() {
        let dir = tempfile::tempdir().expect("makes one");
        let mut live = Live::open(dir.path());
        let mut slow = Listening::begin(dir.path()).expect("connects");
        look(&mut live);
        let chunk = vec![b'x'; 32 << 10];
        let round = |live: &mut Live| (0..100).for_each(|_| live.say(LogStream::Stdout, &chunk));
        let all = 200 * chunk.len() as u64;
        round(&mut live);
        look(&mut live);
        assert!(live.listeners[0].lost > 0, "it has room for everything");
        let (mut heard, mut lost) = (0, 0);
        // It takes all that there was room for: then there is room for the note, though the container says no more.
        while lost == 0 {
            look(&mut live);
            match slow.next().await.expect("hears").expect("goes on") {
                Heard::Said(_, bytes) => heard += bytes.len() as u64,
                Heard::Lost(bytes) => lost = bytes,
            }
        }
        assert_eq!(heard + lost, all / 2);
        // Once more, and the container ends before anything is taken.
        round(&mut live);
        live.end();
        while let Some(one) = slow.next().await.expect("hears") {
            match one {
                Heard::Said(_, bytes) => heard += bytes.len() as u64,
                Heard::Lost(bytes) => lost += bytes,
            }
        }
        assert_eq!(heard + lost, all);
    }

    #[test]
    fn the_input_lasts_when_nobody_writes_any_more() {
        use io::{Read as _, Write as _};
        let dir = tempfile::tempdir().expect("makes one");
        make_input(dir.path()).expect("makes it");
        make_input(dir.path()).expect("is there");
        let path = dir.path().join(INPUT);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o666);
        let live = Live::open(dir.path());
        let mut container = File::open(&path).expect("opens without waiting");
        File::options().write(true).open(&path).expect("opens").write_all(b"word").expect("writes");
        let mut word = [0; 4];
        container.read_exact(&mut word).expect("reads");
        assert_eq!(&word, b"word");
        let ready = |timeout: u8| {
            let mut fds = [PollFd::new(container.as_fd(), PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, timeout).expect("polls")
        };
        assert_eq!(ready(50), 0, "the input has ended");
        drop(live);
        assert_eq!(ready(50), 1, "it has not ended with the writer");
    }
}
