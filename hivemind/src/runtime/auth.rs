//! Registry credentials from a Docker `config.json`: its `auths` only. Credential helpers are programs of the user's
//! desktop and are deliberately not called by a daemon.

use std::{collections::BTreeMap, path::Path};

use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use super::RuntimeError;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    registrytoken: Option<String>,
}

/// The credentials for `registry` (`host` or `host:port`). The file is read anew each time, so that a changed
/// password needs no restart; a file that is not there holds none.
pub(super) async fn credentials(file: Option<&Path>, registry: &str) -> Result<RegistryAuth, RuntimeError> {
    let Some(path) = file else { return Ok(RegistryAuth::Anonymous) };
    let refuse = |source| RuntimeError::File { action: "read credentials from", path: path.to_owned(), source };
    match tokio::fs::read(path).await {
        Ok(bytes) => find(&bytes, registry).map_err(|e| refuse(std::io::Error::other(e))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(RegistryAuth::Anonymous),
        Err(e) => Err(refuse(e)),
    }
}

fn find(json: &[u8], registry: &str) -> Result<RegistryAuth, String> {
    let config: DockerConfig = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let entry = config.auths.into_iter().find(|(key, _)| host(key) == host(registry)).map(|(_, entry)| entry);
    let Some(entry) = entry else { return Ok(RegistryAuth::Anonymous) };
    if let Some(token) = entry.registrytoken {
        return Ok(RegistryAuth::Bearer(token));
    }
    if let (Some(user), Some(password)) = (entry.username, entry.password) {
        return Ok(RegistryAuth::Basic(user, password));
    }
    let Some(auth) = entry.auth else { return Ok(RegistryAuth::Anonymous) };
    let pair = base64(&auth).and_then(|b| String::from_utf8(b).ok());
    let (user, password) = pair
        .as_deref()
        .and_then(|p| p.split_once(':'))
        .ok_or(format!("the auth of {registry} is not base64 of user:password"))?;
    Ok(RegistryAuth::Basic(user.to_owned(), password.to_owned()))
}

/// `https://host:port/v1/` and `host:port` name the same; Docker Hub has three names.
fn host(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// Standard base64, padding optional; `None` if it is none.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0u32);
    for b in text.trim_end_matches('=').bytes() {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_registry_by_any_of_its_names() {
        let json = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwYTpzcw=="},
            "127.0.0.1:5000":{"username":"a","password":"b"},"empty.io":{}}, "credsStore":"desktop"}"#;
        let basic = |u: &str, p: &str| RegistryAuth::Basic(u.to_owned(), p.to_owned());
        assert_eq!(find(json, "docker.io"), Ok(basic("user", "pa:ss")));
        assert_eq!(find(json, "index.docker.io"), Ok(basic("user", "pa:ss")));
        assert_eq!(find(json, "127.0.0.1:5000"), Ok(basic("a", "b")));
        for none in ["127.0.0.1:5001", "empty.io"] {
            assert_eq!(find(json, none), Ok(RegistryAuth::Anonymous));
        }
        assert!(find(b"{", "x").is_err());
        assert!(find(br#"{"auths":{"x":{"auth":"!"}}}"#, "x").is_err());
    }
}
