//! Who may ask: the one place where requests are authorised.
//!
//! Whoever reaches the root-only Unix socket is the operator. Over TCP the token is needed, and the request must name
//! this daemon as its host: a web page whose own name was made to point here names another one (DNS rebinding).
//!
//! Both doors let in the operator, and nobody else yet. What comes in says so ([`Caller`]), and what only the operator may is
//! asked of that: a user of a tenant, once there is one, gets no right that was forgotten.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::problem::ApiError;
use hivemind_core::{
    model::{AppName, ErrorCode, NodeName, Problem, TenantName},
    spec::v1::AppSpec,
};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The tenant whose user it is; none: the operator.
    tenant: Option<TenantName>,
}

impl Caller {
    const OPERATOR: Self = Self { tenant: None };

    /// Whether it is the operator.
    pub(super) const fn is_operator(&self) -> bool {
        self.tenant.is_none()
    }

    /// Whether it may have these apps run as they are.
    ///
    /// # Errors
    /// `E-AUTH-003` with every field that gives rights on the machine itself, if it is not the operator.
    pub(super) fn may_run<'a>(
        &self,
        apps: impl IntoIterator<Item = (&'a AppName, &'a AppSpec)>,
    ) -> Result<(), Problem> {
        let Some(tenant) = &self.tenant else { return Ok(()) };
        let fields = |(app, spec): (_, &AppSpec)| {
            spec.operator_only().into_iter().map(|field| format!("{app}: {field}")).collect::<Vec<_>>()
        };
        let mut fields = apps.into_iter().flat_map(fields).peekable();
        if fields.peek().is_none() {
            return Ok(());
        }
        let title =
            format!("only the operator may give rights on the machine itself, not a user of the tenant {tenant}");
        Err(fields.fold(Problem::new(ErrorCode::OperatorOnly, title), Problem::detail))
    }
}

/// Who has come in. Without one, nobody has: a route that is reached past [`guard`] gives nothing away.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let nobody = || Problem::new(ErrorCode::Unauthenticated, "nobody knows who asks");
        parts.extensions.get().cloned().ok_or_else(|| nobody().into())
    }
}

/// The token that requests over TCP must carry. Never shown.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Reads the token, or makes one at the first start. The file is root-only and complete, or not there.
    pub fn read_or_create(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) if !text.trim().is_empty() => {
                // A copied file may have come without its mode.
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
                return Ok(Self(text.trim().into()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let token: String = (0..4).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
        let part = path.with_extension("part");
        // One that a crash left may have another mode.
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        io::Write::write_all(&mut file, token.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        Ok(Self(token.into()))
    }

    /// Compares in a time that does not tell how much is right.
    fn is(&self, given: &str) -> bool {
        let (own, given) = (self.0.as_bytes(), given.as_bytes());
        let differs = own.iter().zip(given).fold(0, |differs, (a, b)| differs | (a ^ b));
        own.len() == given.len() && std::hint::black_box(differs) == 0
    }
}

/// The way by which a request comes in.
#[derive(Clone, Debug)]
pub(super) enum Door {
    /// The root-only socket: local root.
    Unix,
    /// TCP: whoever has the token.
    Tcp {
        /// The token.
        token: Token,
        /// Host names that mean this daemon, besides addresses and `localhost`.
        names: Arc<[String]>,
    },
}

impl Door {
    /// TCP at `address` of the node `node`.
    pub(super) fn tcp(token: Token, address: Option<SocketAddr>, node: NodeName) -> Self {
        tracing::info!(address = address.map(tracing::field::display), "the API listens with TCP");
        Self::Tcp { token, names: Arc::new([node.to_string()]) }
    }

    /// Whether the request may come in, and whose it is; nobody's is one that probes make.
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<Option<Caller>, Problem> {
        let Self::Tcp { token, names } = self else { return Ok(Some(Caller::OPERATOR)) };
        let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or_default());
        let host = text(header::HOST).or_else(|| uri.authority().map(|authority| authority.as_str()));
        if !host.is_some_and(|host| is_ours(host, names)) {
            let title = format!("{:?} is not a name of this daemon", host.unwrap_or_default());
            return Err(Problem::new(ErrorCode::WrongHost, title));
        }
        if let Some(origin) = text(header::ORIGIN) {
            let from = origin.split_once("://").map_or(origin, |(_, host)| host);
            if !host.is_some_and(|host| host.eq_ignore_ascii_case(from)) {
                return Err(Problem::new(ErrorCode::WrongHost, format!("a page of {origin:?} may not ask")));
            }
        }
        // The two questions that probes ask tell nothing.
        if matches!(uri.path(), "/healthz" | "/readyz") {
            return Ok(None);
        }
        let given = text(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        match given {
            Some(given) if token.is(given) => Ok(Some(Caller::OPERATOR)),
            Some(_) => Err(Problem::new(ErrorCode::Forbidden, "the token is not the right one")),
            None => Err(Problem::new(ErrorCode::Unauthenticated, "the request carries no token")),
        }
    }
}

/// Whether a `Host` means this daemon: an address, `localhost`, or one of its names, with or without a port.
fn is_ours(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _port)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _port)| name),
    };
    let name = name.trim_end_matches('.');
    let local = name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    local || name.parse::<IpAddr>().is_ok() || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Lets through what may come in by this door.
pub(super) async fn guard(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    match door.check(request.uri(), request.headers()) {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(problem) => ApiError(problem).into_response(),
    }
}

/// A user of this tenant; without a name, the operator.
#[cfg(test)]
pub(super) fn of_tenant(name: &str) -> Caller {
    Caller { tenant: name.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("api-token");
        fs::write(path.with_extension("part"), "left by a crash").expect("written");
        let first = Token::read_or_create(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("opened up");
        let again = Token::read_or_create(&path).expect("read");
        assert!(first.is(&again.0) && first.0.len() == 64);
        assert!(!first.is("") && !first.is(&"0".repeat(64)) && !first.is(&first.0[..63]));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{first:?}"), "Token(…)");
    }

    #[test]
    fn only_names_of_this_daemon_are_ours() {
        let names = ["node-1".to_owned()];
        for host in ["127.0.0.1:3000", "127.0.0.1", "[::1]:3000", "[::1]", "localhost:3000", "Node-1", "ui.localhost."]
        {
            assert!(is_ours(host, &names), "{host}");
        }
        for host in ["", "evil.example", "evil.example:3000", "localhost.evil.example", "node-1.evil.example", "[evil]"]
        {
            assert!(!is_ours(host, &names), "{host}");
        }
    }

    #[test]
    fn over_tcp_the_token_is_needed_for_all_but_the_probes() {
        let door = Door::Tcp { token: Token("secret".into()), names: Arc::new([]) };
        let operator = || Ok(Some(Caller::OPERATOR));
        let ask = |path: &'static str, headers: &[(&str, &str)]| {
            let mut map = HeaderMap::new();
            map.insert(header::HOST, header::HeaderValue::from_static("localhost:3000"));
            for (name, value) in headers {
                let name: header::HeaderName = name.parse().expect("a name");
                map.insert(name, value.parse().expect("a value"));
            }
            door.check(&Uri::from_static(path), &map).map_err(|problem| problem.code)
        };
        let right = ("authorization", "Bearer secret");
        for (path, headers, expected) in [
            ("/healthz", vec![], Ok(None)),
            ("/readyz", vec![], Ok(None)),
            ("/readyz/", vec![], Err(ErrorCode::Unauthenticated)),
            ("/metrics", vec![], Err(ErrorCode::Unauthenticated)),
            ("/v1/nodes", vec![right], operator()),
            ("/v1/nodes", vec![("authorization", "bearer  secret ")], operator()),
            ("/v1/nodes", vec![("authorization", "Bearer Secret")], Err(ErrorCode::Forbidden)),
            ("/v1/nodes", vec![("authorization", "Basic secret")], Err(ErrorCode::Unauthenticated)),
            ("/v1/nodes", vec![("authorization", "secret")], Err(ErrorCode::Unauthenticated)),
            ("/v1/nodes", vec![right, ("host", "evil.example")], Err(ErrorCode::WrongHost)),
            ("/healthz", vec![("host", "evil.example")], Err(ErrorCode::WrongHost)),
            ("/v1/nodes", vec![right, ("origin", "http://evil.example")], Err(ErrorCode::WrongHost)),
            ("/v1/nodes", vec![right, ("origin", "null")], Err(ErrorCode::WrongHost)),
            ("/v1/nodes", vec![right, ("origin", "http://localhost:3000")], operator()),
        ] {
            assert_eq!(ask(path, &headers), expected, "{path} {headers:?}");
        }
        assert_eq!(Door::Unix.check(&Uri::from_static("/v1/nodes"), &HeaderMap::new()), Ok(Some(Caller::OPERATOR)));
    }

    #[tokio::test]
    async fn a_request_that_did_not_come_through_a_door_is_nobodys() {
        let request = Request::new(axum::body::Body::empty());
        let (mut parts, _) = request.into_parts();
        let ApiError(problem) = Caller::from_request_parts(&mut parts, &()).await.expect_err("nobody");
        assert_eq!(problem.code, ErrorCode::Unauthenticated);
        parts.extensions.insert(Caller::OPERATOR);
        assert!(Caller::from_request_parts(&mut parts, &()).await.is_ok_and(|caller| caller.is_operator()));
    }

    #[test]
    fn what_reaches_the_host_is_the_operators_and_each_field_is_named() {
        let spec = |fields: serde_json::Value| {
            let mut document = serde_json::json!({"image": "web"});
            document.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
            serde_json::from_value::<AppSpec>(document).expect("a specification")
        };
        let (web, db): (AppName, AppName) = ("web".parse().expect("a name"), "db".parse().expect("a name"));
        let plain = spec(serde_json::json!({
            "container": {"cap_add": ["CHOWN"], "cap_drop": ["ALL"], "read_only": true, "tty": true},
            "mounts": [{"target": "/d", "source": {"type": "volume", "name": "data"}}],
            "ports": [{"target": 80, "published": 8080}],
        }));
        let own = spec(serde_json::json!({
            "container": {"privileged": true, "security": {"seccomp": "unconfined"}, "devices": [{"host": "/dev/kvm"}]},
            "mounts": [
                {"target": "/d", "source": {"type": "volume", "name": "data"}},
                {"target": "/etc", "source": {"type": "bind", "path": "/etc"}, "read_only": true},
            ],
        }));
        let user = of_tenant("red");
        assert_eq!(Caller::OPERATOR.may_run([(&web, &own)]), Ok(()));
        assert_eq!(user.may_run([(&web, &plain)]), Ok(()));
        let problem = user.may_run([(&db, &plain), (&web, &own)]).expect_err("refused");
        assert_eq!((problem.code, problem.code.status()), (ErrorCode::OperatorOnly, 403));
        let fields = ["container.privileged", "container.security.seccomp", "container.devices", "mounts[1].source"];
        assert_eq!(problem.details, fields.map(|field| format!("web: {field}")));
    }
}
