//! The two listeners: a root-only Unix socket, and TCP with a token.

use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::sys::{
    socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_fd, listen, socket},
    stat::{Mode, fchmod},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
};

use super::{
    ApiState,
    auth::{Door, Token},
    changes,
};
use hivemind_core::model::{ErrorCode, Problem};

/// How long open requests may take when the daemon stops; streams are ended at once.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a client may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are open at once at each listener; more wait in the kernel's queue.
const CONNECTIONS: usize = 1_024;
/// The pause after an accept that failed for a reason of ours, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bound, not yet serving.
#[derive(Debug)]
pub struct Listeners {
    unix: UnixListener,
    file: SocketFile,
    tcp: Option<(TcpListener, Token)>,
}

/// The socket's file. It goes with this, unless another daemon has put its own in its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the daemon is stopping. Streams end with it.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits for the stop.
    pub(super) async fn stopped(mut self) {
        // An error means that whoever would say it is gone, which is a stop as well.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Refuses if another daemon answers on the socket.
pub fn ensure_alone(path: &Path) -> Result<(), Problem> {
    if UnixStream::connect(path).is_err() {
        return Ok(());
    }
    let title = format!("another hivemind daemon answers on {}", path.display());
    Err(Problem::new(ErrorCode::DaemonRuns, title).hint("hivemind version   (shows the one that runs)"))
}

/// Binds both. A socket that nobody answers on is a leftover and replaced; one that answers is another daemon's.
pub async fn bind(path: &Path, tcp: Option<(SocketAddr, Token)>) -> Result<Listeners, Problem> {
    ensure_alone(path)?;
    let fail =
        |error: io::Error| Problem::new(ErrorCode::Internal, format!("cannot listen on {}: {error}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let title = format!("{} is there and is no socket", path.display());
            return Err(Problem::new(ErrorCode::Invalid, title).hint("name another file with --socket"));
        }
        Ok(_) => fs::remove_file(path).map_err(fail)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let unix = bind_private(path).map_err(fail)?;
    let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path).map_err(fail)?.ino() };
    let tcp = match tcp {
        None => None,
        Some((address, token)) => {
            let listener = TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))?;
            if !address.ip().is_loopback() {
                tracing::warn!(%address, "the API listens beyond this machine without TLS: the token travels in the clear");
            }
            Some((listener, token))
        }
    };
    Ok(Listeners { unix, file, tcp })
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::AddrInUse => Problem::new(
            ErrorCode::PortTaken,
            format!("port {} of {} is used by another process", address.port(), address.ip()),
        )
        .hint(format!("ss -ltnp 'sport = :{}'   (names it), or choose another with --web-port", address.port())),
        io::ErrorKind::AddrNotAvailable => Problem::new(
            ErrorCode::Invalid,
            format!("--listen: this machine does not have the address {}", address.ip()),
        )
        .hint("ip address   (shows those it has)"),
        _ => Problem::new(ErrorCode::Internal, format!("cannot listen on {address}: {error}")),
    }
}

/// A listening socket that only its owner may connect to, from its first moment on: the kernel takes the mode of the
/// new file from the socket (`unix_bind`), where it can be set before the file is there.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind_fd(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(1_024)?)?;
    UnixListener::from_std(fd.into())
}

/// Serves until `stop` becomes true, then gives open requests a moment.
pub async fn serve(listeners: Listeners, state: ApiState, stop: watch::Receiver<bool>) {
    let snapshots = state.control.subscribe();
    let (publish, history) = watch::channel(changes::History::begin(state.control.snapshot()));
    let stop = Stop(stop);
    let mut tasks = JoinSet::new();
    tasks.spawn(changes::follow(snapshots, publish));
    let routes = super::routes(state.clone(), history, stop.clone());
    if let Some((listener, token)) = listeners.tcp {
        let door = Door::tcp(token, listener.local_addr().ok(), state.node.clone());
        let routes = super::guarded(routes.clone(), &state, door);
        tasks.spawn(accept(Listener::Tcp(listener), routes, stop.clone()));
    }
    let routes = super::guarded(routes, &state, Door::Unix);
    tasks.spawn(accept(Listener::Unix(listeners.unix), routes, stop.clone()));
    stop.stopped().await;
    // Nobody finds the socket any more; a daemon that starts now binds its own.
    drop(listeners.file);
    let all = async {
        // The first to end is not the one that follows the snapshots: that one has no end of its own.
        while tasks.len() > 1 && tasks.join_next().await.is_some() {}
    };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::info!("open requests were ended");
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Listener {
    /// The next connection; `None` for one that may not come in.
    async fn next(&self) -> io::Result<Option<Box<dyn Io>>> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                // The file's mode keeps others out; whoever was handed an open socket is asked as well.
                let peer = stream.peer_cred()?.uid();
                let allowed = peer == 0 || peer == nix::unistd::geteuid().as_raw();
                Ok(allowed.then(|| Box::new(stream) as Box<dyn Io>))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Some(Box::new(stream)))
            }
        }
    }
}

/// Accepts until the stop, then waits for the connections; dropping it ends them.
async fn accept(listener: Listener, routes: Router, stop: Stop) {
    let mut connections = JoinSet::new();
    let mut stopped = pin!(stop.clone().stopped());
    loop {
        let full = connections.len() >= CONNECTIONS;
        tokio::select! {
            biased;
            () = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.next(), if !full => match accepted {
                Ok(Some(io)) => drop(connections.spawn(connection(io, routes.clone(), stop.clone()))),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(io: Box<dyn Io>, routes: Router, stop: Stop) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let service = TowerToHyperService::new(routes);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    // A client that breaks off or sends no HTTP is no fault of ours.
    let ended = |result: Result<(), hyper::Error>| {
        if let Err(error) = result {
            tracing::debug!(%error, "a connection has ended");
        }
    };
    tokio::select! {
        result = connection.as_mut() => return ended(result),
        () = stop.stopped() => connection.as_mut().graceful_shutdown(),
    }
    ended(connection.await);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_a_leftover_is_replaced_and_a_living_daemon_is_not() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("run/hivemind.sock");
        drop(bind(&path, None).await.expect("bound"));
        let listeners = bind(&path, None).await.expect("the leftover is replaced");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let refused = bind(&path, None).await.expect_err("the first one lives");
        assert_eq!(refused.code, ErrorCode::DaemonRuns);
        drop(listeners);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("precious");
        fs::write(&path, "data").expect("written");
        assert_eq!(bind(&path, None).await.expect_err("refused").code, ErrorCode::Invalid);
        assert_eq!(fs::read_to_string(&path).expect("still there"), "data");
    }

    #[tokio::test]
    async fn a_taken_port_is_named_and_nothing_is_left() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("hivemind.sock");
        let other = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = other.local_addr().expect("bound");
        let token = Token::read_or_create(&dir.path().join("token")).expect("made");
        let problem = bind(&path, Some((address, token))).await.expect_err("refused");
        assert_eq!(problem.code, ErrorCode::PortTaken);
        assert!(problem.title.contains(&address.port().to_string()), "{problem}");
        assert!(!path.exists());
    }
}
