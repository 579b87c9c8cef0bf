//! The two listeners: a root-only Unix socket, and TCP with a token.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::middleware;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
};

use super::{ApiState, auth, auth::Token};
use crate::model::{ErrorCode, Problem};

/// How long open requests may take when the daemon stops; streams would never end by themselves.
const DRAIN: Duration = Duration::from_secs(2);

/// Bound, not yet serving.
#[derive(Debug)]
pub struct Listeners {
    unix: UnixListener,
    socket: PathBuf,
    tcp: Option<(TcpListener, Token)>,
}

/// Binds both. A socket that nobody answers on is a leftover and replaced; one that answers is another daemon's.
pub async fn bind(socket: &Path, tcp: Option<(SocketAddr, Token)>) -> Result<Listeners, Problem> {
    if UnixStream::connect(socket).is_ok() {
        let title = format!("another hivemind daemon answers on {}", socket.display());
        return Err(Problem::new(ErrorCode::Taken, title).hint("hivemind node ls"));
    }
    let fail =
        |error: io::Error| Problem::new(ErrorCode::Internal, format!("cannot listen on {}: {error}", socket.display()));
    if let Some(dir) = socket.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let unix = UnixListener::bind(socket).map_err(fail)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(fail)?;
    let tcp = match tcp {
        None => None,
        Some((address, token)) => {
            let listener = TcpListener::bind(address).await.map_err(|error| {
                let code =
                    if error.kind() == io::ErrorKind::AddrInUse { ErrorCode::PortTaken } else { ErrorCode::Internal };
                Problem::new(code, format!("cannot listen on {address}: {error}"))
                    .hint("choose another port with --web-port")
            })?;
            Some((listener, token))
        }
    };
    Ok(Listeners { unix, socket: socket.to_owned(), tcp })
}

/// Serves until `stop` becomes true, then gives open requests a moment.
pub async fn serve(listeners: Listeners, state: ApiState, stop: watch::Receiver<bool>) {
    let routes = super::routes(state);
    let stopped = |mut stop: watch::Receiver<bool>| async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let mut servers = JoinSet::new();
    if let Some((listener, token)) = listeners.tcp {
        let guarded = routes.clone().layer(middleware::from_fn_with_state(token, auth::require_token));
        let server = axum::serve(listener, guarded).with_graceful_shutdown(stopped(stop.clone()));
        servers.spawn(async move { server.await });
    }
    let server = axum::serve(listeners.unix, routes).with_graceful_shutdown(stopped(stop.clone()));
    servers.spawn(async move { server.await });
    stopped(stop).await;
    let all = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::info!("open requests were ended");
    }
    let _ = fs::remove_file(&listeners.socket);
}
