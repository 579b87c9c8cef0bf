//! What the answers mean with which registries refuse.

use reqwest::Response;
use serde::Deserialize;

use super::host::{Host, Trouble};
use crate::RuntimeError;

/// Bytes of a refusal that are looked at.
const LIMIT: usize = 64 << 10;

/// Characters of what a registry says that are passed on.
const SAID: usize = 300;

/// The form that the distribution specification gives to errors.
#[derive(Default, Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The error of an answer that is a refusal.
pub(super) async fn of(host: &Host, answer: Response) -> RuntimeError {
    let status = answer.status().as_u16();
    let body = match host.body(answer, LIMIT).await {
        Ok(body) => body,
        // What it would have said does not matter.
        Err(Trouble::Passing(_) | Trouble::Lasting(_)) => bytes::Bytes::new(),
    };
    meaning(host, status, &body)
}

fn meaning(host: &Host, status: u16, body: &[u8]) -> RuntimeError {
    let Envelope { errors } = serde_json::from_slice(body).unwrap_or_default();
    let has = |codes: &[&str]| errors.iter().any(|entry| codes.contains(&entry.code.as_str()));
    let said = clean(&errors.iter().map(|entry| entry.message.as_str()).collect::<Vec<_>>().join(", "));
    let not_found = || RuntimeError::ImageNotFound { registry: host.name().to_owned(), reference: host.image.clone() };
    if has(&["BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"]) {
        let why = format!("the registry lacks a part of it: {said}");
        return RuntimeError::Corrupt { reference: host.image.clone(), why };
    }
    if has(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"]) {
        return not_found();
    }
    let with = |why: &str| if said.is_empty() { why.to_owned() } else { format!("{why}: {said}") };
    match status {
        401 | 403 if !host.wallet.is_empty() => {
            host.forbidden(with("the credentials are wrong, or do not allow this image"))
        }
        401 | 403 => host.forbidden(with("it asks for credentials and none are configured; or no such image")),
        404 if errors.is_empty() => not_found(),
        _ => host.refused(with(&format!("it answers with HTTP {status}"))),
    }
}

/// What a registry says, without what would play with a terminal, and not too much of it.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registries;
    use hivemind_core::model::ErrorCode;

    #[tokio::test]
    async fn refusals_are_told_apart() {
        let client = super::super::host::client(None).await.expect("a client");
        let host = Host::new(client, "r.io", "web", &Registries::default(), "r.io/web:1".into()).expect("a host");
        let coded = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"for \u001b[1mreasons"}}]}}"#);
        for (status, body, code, why) in [
            (404, String::new(), ErrorCode::ImageNotFound, "not found"),
            (404, coded("MANIFEST_UNKNOWN"), ErrorCode::ImageNotFound, "not found"),
            (404, coded("NAME_UNKNOWN"), ErrorCode::ImageNotFound, "not found"),
            (404, coded("BLOB_UNKNOWN"), ErrorCode::ImageCorrupt, "lacks a part of it: for [1mreasons"),
            (404, coded("SOMETHING"), ErrorCode::RegistryDown, "HTTP 404: for [1mreasons"),
            (401, String::new(), ErrorCode::RegistryAuth, "none are configured"),
            (403, coded("DENIED"), ErrorCode::RegistryAuth, "for [1mreasons"),
            (400, "<html>".into(), ErrorCode::RegistryDown, "HTTP 400"),
            (405, coded("UNSUPPORTED"), ErrorCode::RegistryDown, "HTTP 405: for"),
        ] {
            let error = meaning(&host, status, body.as_bytes());
            assert_eq!(error.code(), code, "{status} {body}");
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(clean(&"x".repeat(SAID * 2)).len(), SAID);
    }
}
