//! How a change is to be made: on a condition, once, or only checked.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::{Body as HttpBody, to_bytes},
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, Method, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use utoipa::{
    IntoParams,
    openapi::{OpenApi, RefOr, path::Operation},
};

use super::{
    BODY_LIMIT,
    extract::{Args, if_match},
    problem::ApiError,
};
use hivemind_control::{IfMatch, Once};
use hivemind_core::model::{ErrorCode, Problem};

/// The header with the key of a request.
const KEY: &str = "idempotency-key";
/// The longest key.
const LONGEST: usize = 255;

/// How a change is to be made.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Only if it is as it was read.
    pub(super) if_match: IfMatch,
    /// Once, however often it is asked for.
    pub(super) once: Option<Once>,
    /// Only checked.
    pub(super) dry_run: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DryRun {
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(default, rename = "dryRun", alias = "dry_run")]
    #[param(rename = "dryRun", value_type = Option<bool>)]
    pub(super) dry_run: bool,
}

/// The headers of changes, as they are described; they are read by [`Terms::new`] and [`once`].
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct Conditions {
    /// Only if it is as it was read: the `ETag` of that answer, e.g. `"17"`.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// The header by which a change is made once.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct Key {
    /// A key that was drawn for this change: whoever repeats the request with it gets the same answer, and nothing is done twice. 1
    /// to 255 visible characters of ASCII.
    #[param(rename = "Idempotency-Key", max_length = 255)]
    idempotency_key: Option<String>,
}

impl Terms {
    /// Of a request whose query was read.
    pub(super) fn new(parts: &Parts, dry_run: bool) -> Result<Self, ApiError> {
        Ok(Self { if_match: if_match(&parts.headers)?, once: parts.extensions.get().cloned(), dry_run })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Terms {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Args(DryRun { dry_run }) = Args::from_request_parts(parts, state).await?;
        Self::new(parts, dry_run)
    }
}

/// The operations by method and path, and whether they take a key: whether their description has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyed(Arc<BTreeMap<(&'static str, String), bool>>);

impl Keyed {
    /// Of a description.
    pub(super) fn of(document: &OpenApi) -> Self {
        let takes = |operation: &Operation| {
            let mut all = operation.parameters.iter().flatten();
            all.any(|one| matches!(one, RefOr::T(one) if one.name.eq_ignore_ascii_case(KEY)))
        };
        let mut keyed = BTreeMap::new();
        for (path, item) in &document.paths.paths {
            let operations = [("PUT", &item.put), ("POST", &item.post), ("DELETE", &item.delete)];
            let there = operations.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)));
            keyed.extend(there.map(|(method, operation)| ((method, path.clone()), takes(operation))));
        }
        Self(Arc::new(keyed))
    }

    /// Whether the operation takes a key; `None` if there is no such operation.
    fn takes(&self, method: &Method, route: &str) -> Option<bool> {
        self.0.iter().find(|((name, path), _)| *name == method.as_str() && path == route).map(|(_, takes)| *takes)
    }
}

/// Reads the key of a request, and what tells the request from others. A key that would not be heeded is refused: who sends one
/// relies on it.
pub(super) async fn once(State(keyed): State<Keyed>, request: Request, next: Next) -> Response {
    if !request.headers().contains_key(KEY) || request.method().is_safe() {
        return next.run(request).await;
    }
    let route = request.extensions().get::<MatchedPath>();
    match route.and_then(|route| keyed.takes(request.method(), route.as_str())) {
        // There is no such path, or it does not take the method; that is refused further in.
        None => return next.run(request).await,
        Some(false) => {
            let title = format!("{} {} keeps no Idempotency-Key", request.method(), request.uri().path());
            return refused(title, "leave the header out: the answer would not be kept, and a repetition done again");
        }
        Some(true) => {}
    }
    let key = match key(request.headers()) {
        Ok(key) => key,
        Err(title) => return refused(title, "one key of 1 to 255 visible characters, e.g. of a UUID, for each change"),
    };
    let (mut parts, body) = request.into_parts();
    let body = match to_bytes(body, BODY_LIMIT).await {
        Ok(body) => body,
        Err(error) => {
            let problem = Problem::new(ErrorCode::TooLarge, format!("the request cannot be read: {error}"));
            return ApiError(problem).into_response();
        }
    };
    let uri = parts.uri.path_and_query().map(|it| it.as_str()).unwrap_or_default();
    let condition = parts.headers.get("if-match").map(|value| value.as_bytes()).unwrap_or_default();
    let request = [parts.method.as_str().as_bytes(), uri.as_bytes(), condition, &body];
    let once = Once { key: digest(&[key.as_bytes()]), request: digest(&request) };
    parts.extensions.insert(once);
    next.run(Request::from_parts(parts, HttpBody::from(body))).await
}

fn refused(title: String, hint: &str) -> Response {
    ApiError(Problem::new(ErrorCode::BadRequest, title).hint(hint)).into_response()
}

/// The one key of the headers.
fn key(headers: &HeaderMap) -> Result<String, String> {
    let mut all = headers.get_all(KEY).iter();
    let (first, more) = (all.next(), all.next());
    let text = first.filter(|_| more.is_none()).and_then(|value| value.to_str().ok()).map(str::trim);
    let fits = |text: &&str| (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    text.filter(fits).map(str::to_owned).ok_or_else(|| "the header Idempotency-Key has no key".to_owned())
}

/// The digest of parts, each with its length: no two lists of parts have the same.
fn digest(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEY, value.parse().expect("a header's value"));
            }
            key(&headers)
        };
        assert_eq!(
            read(&["8e03978e-40d5-43e8-bc93-6894a57f9324"]).as_deref(),
            Ok("8e03978e-40d5-43e8-bc93-6894a57f9324")
        );
        assert_eq!(read(&[" \"k\" "]).as_deref(), Ok("\"k\""));
        let long = "x".repeat(LONGEST + 1);
        for wrong in [&["" as &str][..], &["a b"], &[&long], &["a", "b"], &[]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_control_writes_takes_a_key_and_a_dry_run_and_the_rest_is_known() {
        let document = crate::openapi();
        let keyed = Keyed::of(&document);
        // Streams, questions, and what containerd does: `docs/api.md` says so.
        let images = ["/v1/images", "tag", "prune", "pull", "push", "missing", "import"];
        let without = [&["why", "kill", "pause", "unpause", "files", "exec"][..], &images].concat();
        for (path, item) in &document.paths.paths {
            for (method, operation) in [("PUT", &item.put), ("POST", &item.post), ("DELETE", &item.delete)] {
                let Some(operation) = operation else { continue };
                let known = without.iter().any(|end| path.ends_with(end));
                let takes = keyed.takes(&method.parse().expect("a method"), path);
                assert_eq!(takes, Some(!known), "{method} {path}");
                let mut all = operation.parameters.iter().flatten();
                let dry = all.any(|one| matches!(one, RefOr::T(one) if one.name == "dryRun"));
                let never =
                    ["why", "files", "exec", "pull", "push", "missing", "import"].iter().any(|end| path.ends_with(end));
                assert_eq!(dry, !never, "{method} {path}");
            }
        }
    }

    #[test]
    fn a_method_that_a_path_does_not_take_is_not_one_that_keeps_no_key() {
        let keyed = Keyed::of(&crate::openapi());
        let app = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}";
        assert_eq!(keyed.takes(&Method::PUT, app), Some(true));
        assert_eq!(keyed.takes(&Method::POST, app), None);
        assert_eq!(keyed.takes(&Method::PUT, &format!("{app}/scale")), None);
        assert_eq!(keyed.takes(&Method::POST, "/v1/images/pull"), Some(false));
    }

    #[test]
    fn requests_that_differ_have_other_digests() {
        let all = [&[&b"ab"[..], b"c"][..], &[b"a", b"bc"], &[b"abc"], &[b"abc", b""]].map(digest);
        assert_eq!(std::collections::BTreeSet::from(all).len(), 4);
    }
}
