//! A request of one operation: what is made of the description fills it, and [`super::Client`] sends it.

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde_json::Value;

use hivemind_core::model::{ErrorCode, Problem, Revision};

/// A request that is not sent yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    /// A JSON document, or nothing.
    pub(super) body: Bytes,
    /// On the condition that what it is about was last written at this revision.
    pub(super) if_match: Option<Revision>,
    /// Whether it takes a key, by which the daemon does it once: then it can be repeated.
    pub(super) keyed: bool,
}

impl Asked {
    /// Of a path with a part for each `{}`; parts are escaped.
    pub(super) fn new(method: Method, path: &str, parts: &[&str]) -> Self {
        let mut pieces = path.split("{}");
        let mut path = pieces.next().unwrap_or_default().to_owned();
        for (piece, part) in pieces.zip(parts) {
            path += &escape(part);
            path += piece;
        }
        Self { method, path, body: Bytes::new(), if_match: None, keyed: false }
    }

    /// With what the query has to say in any case.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path += &format!("{name}={}", escape(value));
        self
    }

    /// With the fields of a struct in its query; those that are not there are left out.
    pub(super) fn query(self, args: &impl Serialize) -> Result<Self, Problem> {
        let Value::Object(fields) = serde_json::to_value(args).map_err(|error| unwritable(&error))? else {
            return Ok(self);
        };
        Ok(fields.into_iter().fold(self, |asked, (name, value)| match value {
            Value::String(text) => asked.with(&name, &text),
            other => asked.with(&name, &other.to_string()),
        }))
    }

    /// With a document as its body.
    pub(super) fn json(self, body: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| unwritable(&error))?.into();
        Ok(Self { body, ..self })
    }

    /// With a document as its body, if there is one.
    pub(super) fn optional(self, body: Option<&impl Serialize>) -> Result<Self, Problem> {
        match body {
            Some(body) => self.json(body),
            None => Ok(self),
        }
    }

    /// Only if what it is about was last written at that revision.
    pub(super) fn only_if(self, if_match: Option<Revision>) -> Self {
        Self { if_match, ..self }
    }

    /// Done once, however often it is sent.
    pub(super) fn keyed(self) -> Self {
        Self { keyed: true, ..self }
    }
}

/// A part of a path, or of a query, as it travels: all that is not unreserved as `%XX` (RFC 3986, section 2.3).
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let letter = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(letter).collect()
}

fn unwritable(why: &serde_json::Error) -> Problem {
    Problem::new(ErrorCode::Internal, format!("the request cannot be written: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Args {
        #[serde(rename = "fieldSelector", skip_serializing_if = "Option::is_none")]
        fields: Option<String>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        follow: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u32>,
    }

    #[test]
    fn parts_of_paths_are_escaped() {
        for (path, parts, expected) in [
            ("/v1/version", &[][..], "/v1/version"),
            ("/v1/nodes/{}", &["a b/ü[\"x\"]"], "/v1/nodes/a%20b%2F%C3%BC%5B%22x%22%5D"),
            ("/v1/apps/{}/scale", &["../x?y#z&%"], "/v1/apps/..%2Fx%3Fy%23z%26%25/scale"),
            ("/v1/tenants/{}/namespaces/{}", &["red", "a-._~9"], "/v1/tenants/red/namespaces/a-._~9"),
        ] {
            assert_eq!(Asked::new(Method::GET, path, parts).path, expected);
        }
    }

    #[test]
    fn the_query_has_what_is_asked_and_nothing_else() {
        let asked = || Asked::new(Method::GET, "/v1/a", &[]);
        let args = |fields: Option<&str>, follow, port| Args { fields: fields.map(str::to_owned), follow, port };
        for (args, expected) in [
            (args(None, false, None), "/v1/a"),
            (args(None, true, None), "/v1/a?follow=true"),
            (args(Some("a!=b,c=d"), false, Some(80)), "/v1/a?fieldSelector=a%21%3Db%2Cc%3Dd&port=80"),
            (args(Some(""), false, None), "/v1/a?fieldSelector="),
        ] {
            assert_eq!(asked().query(&args).expect("written").path, expected);
        }
        let named = asked().with("name", "nginx:1").query(&args(None, true, None)).expect("written");
        assert_eq!(named.path, "/v1/a?name=nginx%3A1&follow=true");
    }

    #[test]
    fn a_body_that_may_be_left_out_is_empty_then() {
        let asked = || Asked::new(Method::PUT, "/v1/a", &[]);
        assert!(asked().optional(None::<&Value>).expect("written").body.is_empty());
        let with = asked().optional(Some(&serde_json::json!({"a": 1}))).expect("written");
        assert_eq!(with.body, &b"{\"a\":1}"[..]);
        let with = with.only_if(Some(3)).keyed();
        assert_eq!((with.if_match, with.keyed), (Some(3), true));
    }
}
