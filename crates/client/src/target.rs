//! Where the daemon is.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use hivemind_core::model::{ErrorCode, Problem};

/// Where the daemon is: the path of its socket, or `tcp://HOST:PORT`.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// Its Unix socket.
    Unix(PathBuf),
    /// Its TCP listener.
    Tcp {
        /// `HOST:PORT`.
        authority: String,
        /// The token; without one only the health questions are answered.
        token: Option<String>,
    },
}

/// Without the token.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { authority, .. } => write!(f, "tcp://{authority}"),
        }
    }
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(authority) = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://")) {
            let authority = authority.trim_end_matches('/');
            let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            return match port {
                Some(_) => Ok(Self::Tcp { authority: authority.to_owned(), token: None }),
                None => Err("write tcp://HOST:PORT, e.g. tcp://127.0.0.1:3000".into()),
            };
        }
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.is_empty() {
            return Err("is empty; write the path of the daemon's socket".into());
        }
        Ok(Self::Unix(path.into()))
    }
}

/// A connection of either kind.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Target {
    /// With this token, if it is reached over TCP.
    #[must_use]
    pub fn with_token(self, token: Option<String>) -> Self {
        match self {
            Self::Tcp { authority, .. } => Self::Tcp { authority, token },
            unix @ Self::Unix(_) => unix,
        }
    }

    /// Whether the daemon is on this machine: behind its socket, or on loopback.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { authority, .. } => {
                let at = authority.parse::<std::net::SocketAddr>();
                at.map_or_else(|_| authority.starts_with("localhost:"), |at| at.ip().is_loopback())
            }
        }
    }

    /// What requests name as their host.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "localhost",
            Self::Tcp { authority, .. } => authority,
        }
    }

    pub(super) fn token(&self) -> Option<&str> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp { token, .. } => token.as_deref(),
        }
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Io>, Problem> {
        match self {
            Self::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(unreachable(path, &error)),
            },
            Self::Tcp { authority, .. } => match TcpStream::connect(authority.as_str()).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => {
                    let title = format!("no hivemind daemon answers on {authority}: {error}");
                    Err(Problem::new(ErrorCode::Unreachable, title).hint("hivemind daemon --web-port PORT"))
                }
            },
        }
    }
}

fn unreachable(socket: &Path, error: &std::io::Error) -> Problem {
    let shown = socket.display();
    let (code, why, hint) = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            let title = format!("the daemon's socket {shown} is for root only");
            return Problem::new(ErrorCode::Forbidden, title).hint("repeat the command with sudo");
        }
        std::io::ErrorKind::NotFound => (
            ErrorCode::Unreachable,
            "there is no such socket".to_owned(),
            "hivemind daemon   (starts it; --socket names another socket)",
        ),
        std::io::ErrorKind::ConnectionRefused => (
            ErrorCode::Unreachable,
            "nobody listens on it any more".to_owned(),
            "hivemind daemon   (starts it again; the containers have gone on running)",
        ),
        _ => (ErrorCode::Unreachable, error.to_string(), "hivemind doctor"),
    };
    Problem::new(code, format!("the hivemind daemon does not answer on {shown}: {why}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_paths_or_addresses() {
        let tcp = |authority: &str| Ok(Target::Tcp { authority: authority.into(), token: None });
        for (text, expected) in [
            ("/run/h.sock", Ok(Target::Unix("/run/h.sock".into()))),
            ("unix:///run/h.sock", Ok(Target::Unix("/run/h.sock".into()))),
            ("tcp://127.0.0.1:3000", tcp("127.0.0.1:3000")),
            ("http://[::1]:3000/", tcp("[::1]:3000")),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in ["", "tcp://", "tcp://host", "http://host:99999"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_token_is_never_shown() {
        let target: Target = "tcp://127.0.0.1:3000".parse().expect("valid");
        let target = target.with_token(Some("secret".into()));
        assert!(!format!("{target:?} {target}").contains("secret"));
        assert_eq!(target.token(), Some("secret"));
    }
}
