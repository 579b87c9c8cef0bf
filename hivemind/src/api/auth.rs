//! Who may ask: the one place where requests are authorised.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::problem::ApiError;
use crate::model::{ErrorCode, Problem};

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
            Ok(text) if !text.trim().is_empty() => return Ok(Self(text.trim().into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let token: String = (0..4).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
        let part = path.with_extension("part");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        io::Write::write_all(&mut file, token.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        Ok(Self(token.into()))
    }

    /// Compares in a time that does not tell how much is right.
    fn is(&self, given: &str) -> bool {
        let (own, given) = (self.0.as_bytes(), given.as_bytes());
        own.len() == given.len() && own.iter().zip(given).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

/// Lets through what carries the token, and the two questions that probes ask without one.
pub(super) async fn require_token(State(token): State<Token>, request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = value.and_then(|value| value.strip_prefix("Bearer "));
    match given {
        Some(given) if token.is(given.trim()) => next.run(request).await,
        Some(_) => ApiError(Problem::new(ErrorCode::Forbidden, "the token is not the right one")).into_response(),
        None => ApiError(Problem::new(ErrorCode::Unauthenticated, "the request carries no token")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_token_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("api-token");
        let first = Token::read_or_create(&path).expect("made");
        let again = Token::read_or_create(&path).expect("read");
        assert!(first.is(&again.0) && first.0.len() == 64);
        assert!(!first.is("") && !first.is(&"0".repeat(64)));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{first:?}"), "Token(…)");
    }
}
