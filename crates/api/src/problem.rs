//! Errors on the wire: RFC 9457.

use axum::{
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::describe::PROBLEM;
use hivemind_control::ControlError;
use hivemind_core::model::{ErrorCode, InvalidName, Problem, Scope};
use hivemind_dataplane::DataplaneError;
use hivemind_runtime::RuntimeError;

/// A handler's error.
#[derive(Debug)]
pub(super) struct ApiError(pub(super) Problem);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.0;
        let status = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(code = %problem.code, "{}", problem.title);
        }
        let mut body = serde_json::to_value(&problem).unwrap_or_default();
        body["status"] = json!(status.as_u16());
        body["type"] = json!(format!("urn:hivemind:{}", problem.code));
        let mut response = (status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hivemind\""));
        }
        response
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        Self(error.into())
    }
}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        Self(Problem::new(ErrorCode::Invalid, error.to_string()))
    }
}

impl From<DataplaneError> for ApiError {
    fn from(error: DataplaneError) -> Self {
        Self(Problem::new(error.code(), error.to_string()).hint("hivemind doctor"))
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        Self(Problem::new(error.code(), error.to_string()))
    }
}

impl From<JsonRejection> for ApiError {
    fn from(error: JsonRejection) -> Self {
        let code = match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
            // The document is JSON, but not this document: an unknown field, a wrong type.
            StatusCode::UNPROCESSABLE_ENTITY => ErrorCode::Invalid,
            _ => ErrorCode::BadRequest,
        };
        Self(Problem::new(code, error.body_text()))
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self(Problem::new(ErrorCode::BadRequest, error.body_text()))
    }
}

impl From<PathRejection> for ApiError {
    fn from(error: PathRejection) -> Self {
        Self(Problem::new(ErrorCode::BadRequest, error.body_text()))
    }
}

/// The problem of an object that is not there, with the nearest name of those that are. `scope` is where it was
/// looked for, and `None` for what belongs to the whole cluster.
pub(super) fn not_found<'a>(
    kind: &str,
    name: &str,
    scope: Option<&Scope>,
    there: impl Iterator<Item = &'a str>,
) -> ApiError {
    let (place, flags) = match scope {
        None => (String::new(), String::new()),
        Some(scope) if *scope == Scope::default() => (format!(" in {scope}"), String::new()),
        Some(scope) => (format!(" in {scope}"), format!(" -T {} -n {}", scope.tenant, scope.namespace)),
    };
    let list = match kind {
        "instance" => "ps".to_owned(),
        "table" => "dataplane dump --help".to_owned(),
        _ => format!("{kind} ls"),
    };
    let problem = Problem::new(ErrorCode::NotFound, format!("{kind} {name} does not exist{place}"));
    with_nearest(problem, name, there).hint(format!("hivemind {list}{flags}")).into()
}

/// The problem of a name that is not there, with the nearest of those that are.
pub(super) fn with_nearest<'a>(problem: Problem, name: &str, there: impl Iterator<Item = &'a str>) -> Problem {
    match nearest(name, there) {
        Some(near) => problem.detail(format!("did you mean {near}?")),
        None => problem,
    }
}

/// The name that `name` was probably meant to be.
fn nearest<'a>(name: &str, there: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = |other: &&str| {
        let within = name.len() >= 2 && (other.contains(name) || name.contains(*other));
        within || distance(name, other) <= if name.len() > 3 { 2 } else { 1 }
    };
    there.filter(near).min_by_key(|other| distance(name, other))
}

/// Edit distance (Levenshtein), for short names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(128).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let here = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], here);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_near() {
        for (a, b, d) in
            [("web", "web", 0), ("web", "wep", 1), ("web-ap", "web-app", 1), ("", "abc", 3), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        let there = ["web-app", "web-api", "db"];
        for (name, meant) in [
            ("web-ap", Some("web-app")),
            ("web-apo", Some("web-app")),
            ("wbe-api", Some("web-api")),
            ("bd", None),
            ("d", Some("db")),
            ("cache", None),
        ] {
            assert_eq!(nearest(name, there.into_iter()), meant, "{name}");
        }
    }

    #[test]
    fn what_is_not_there_says_where_and_what_to_try() {
        let scope = Scope { namespace: "prod".parse().expect("valid"), ..Scope::default() };
        let ApiError(problem) = not_found("app", "web-ap", Some(&scope), ["web-app"].into_iter());
        assert_eq!(
            problem.to_string(),
            "error[E-OBJ-001]: app web-ap does not exist in default/prod\n  did you mean web-app?\n\
             try: hivemind app ls -T default -n prod"
        );
    }
}
