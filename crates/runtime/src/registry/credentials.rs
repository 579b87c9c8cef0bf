//! Credentials of a host, from a file in the format of Docker's `config.json`: what it holds itself (`auths`), and what
//! helpers keep that it names (`credHelpers`, `credsStore`).

use std::{
    collections::BTreeMap,
    fmt,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::helper::{self, Helper, Owner};
use crate::RuntimeError;

/// The name that Docker keeps its own registry's credentials under.
const HUB: &str = "https://index.docker.io/v1/";

/// What a host is told to know who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Nothing.
    None,
    /// A name and a password.
    Password { user: String, password: String },
    /// What a token server gives tokens for (OAuth2's refresh token).
    Identity(String),
    /// A token for the registry itself.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
            Self::Token(_) => "Token",
        })
    }
}

/// The credentials of one host, looked up when it asks for them and kept for one image.
#[derive(Debug)]
pub(super) struct Wallet {
    file: Option<PathBuf>,
    host: String,
    opened: OnceCell<Credentials>,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// Where a file says that a host's credentials are.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Here(Credentials),
    /// The helper of this name has them.
    With(String),
}

impl Wallet {
    pub(super) fn new(file: Option<PathBuf>, host: &str) -> Self {
        Self { file, host: host.to_owned(), opened: OnceCell::new() }
    }

    /// Whether nothing is known that the host could be told; also before it has asked.
    pub(super) fn is_empty(&self) -> bool {
        self.opened.get().is_none_or(|credentials| *credentials == Credentials::None)
    }

    /// The credentials. The file is read anew for each image, so that a changed password needs no restart; a file that is
    /// not there holds none.
    pub(super) async fn open(&self) -> Result<Credentials, RuntimeError> {
        self.opened.get_or_try_init(|| self.look()).await.cloned()
    }

    async fn look(&self) -> Result<Credentials, RuntimeError> {
        let Some(path) = &self.file else { return Ok(Credentials::None) };
        let refuse = |source| RuntimeError::File { action: "read credentials from", path: path.clone(), source };
        let bytes = match tokio::fs::read(path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Credentials::None),
            Err(error) => return Err(refuse(error)),
        };
        let name = match find(&bytes, &self.host).map_err(|why| refuse(std::io::Error::other(why)))? {
            Found::Here(credentials) => return Ok(credentials),
            Found::With(name) => name,
        };
        let server = if host(&self.host) == "docker.io" { HUB } else { &self.host };
        let asked = match owner(path).await {
            Ok(owner) => helper::ask(&Helper { name: name.clone(), owner }, server).await,
            Err(why) => Err(why),
        };
        asked.map_err(|why| RuntimeError::CredentialHelper { helper: name, registry: self.host.clone(), why })
    }
}

/// Whose the file is: as whom its helpers run. Nobody else may be able to name programs.
async fn owner(path: &Path) -> Result<Owner, String> {
    let file = tokio::fs::metadata(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
    if file.mode() & 0o022 != 0 {
        return Err(format!("others than its owner may write {}: chmod go-w it", path.display()));
    }
    Ok(Owner { uid: file.uid(), gid: file.gid() })
}

fn find(json: &[u8], registry: &str) -> Result<Found, String> {
    let config: DockerConfig = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let own = |key: &str| host(key) == host(registry);
    if let Some((_, name)) = config.helpers.into_iter().find(|(key, _)| own(key)) {
        return Ok(Found::With(name));
    }
    let entry = config.auths.into_iter().find(|(key, _)| own(key)).map(|(_, entry)| entry);
    match entry.map_or(Ok(Credentials::None), |entry| entry.read(registry))? {
        // Docker leaves an empty entry where a store has the credentials.
        Credentials::None if !config.store.is_empty() => Ok(Found::With(config.store)),
        credentials => Ok(Found::Here(credentials)),
    }
}

impl Entry {
    fn read(self, registry: &str) -> Result<Credentials, String> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = given(self.registrytoken) {
            return Ok(Credentials::Token(token));
        }
        if let Some(token) = given(self.identitytoken) {
            return Ok(Credentials::Identity(token));
        }
        if let (Some(user), Some(password)) = (given(self.username), self.password) {
            return Ok(credentials(user, password));
        }
        let Some(auth) = given(self.auth) else { return Ok(Credentials::None) };
        let pair = base64(&auth).and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, password) = pair
            .as_deref()
            .and_then(|pair| pair.split_once(':'))
            .ok_or(format!("the auth of {registry} is not base64 of user:password"))?;
        // Docker ends the password with a zero.
        Ok(credentials(user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

/// A user of this name has a token instead of a password (docker-credential-helpers).
pub(super) fn credentials(user: String, password: String) -> Credentials {
    if user == "<token>" { Credentials::Identity(password) } else { Credentials::Password { user, password } }
}

/// `https://host:port/v1/` and `host:port` name the same; Docker Hub has three names.
fn host(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// Either alphabet, padding optional; `None` if it is none.
fn base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let read = |alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok();
    read(&STANDARD).or_else(|| read(&URL_SAFE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(json: &str, registry: &str) -> Credentials {
        match find(json.as_bytes(), registry) {
            Ok(Found::Here(credentials)) => credentials,
            other => panic!("{registry}: {other:?}"),
        }
    }

    #[test]
    fn finds_the_registry_by_any_of_its_names() {
        let json = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwYTpzcw=="},
            "127.0.0.1:5000":{"username":"a","password":"b"},"empty.io":{},"z.io":{"auth":"dXNlcjpwYXNzAA"},
            "azure.io":{"auth":"MDAwMDo=","identitytoken":"secret"},"token.io":{"registrytoken":"t"},
            "other.io":{"username":"<token>","password":"secret"}}}"#;
        let basic = |u: &str, p: &str| Credentials::Password { user: u.to_owned(), password: p.to_owned() };
        assert_eq!(here(json, "docker.io"), basic("user", "pa:ss"));
        assert_eq!(here(json, "index.docker.io"), basic("user", "pa:ss"));
        assert_eq!(here(json, "127.0.0.1:5000"), basic("a", "b"));
        assert_eq!(here(json, "z.io"), basic("user", "pass"));
        for identity in ["azure.io", "other.io"] {
            assert_eq!(here(json, identity), Credentials::Identity("secret".into()));
        }
        assert_eq!(here(json, "token.io"), Credentials::Token("t".into()));
        for none in ["127.0.0.1:5001", "empty.io"] {
            assert_eq!(here(json, none), Credentials::None);
        }
        assert!(find(b"{", "x").is_err());
        assert!(find(br#"{"auths":{"x":{"auth":"!"}}}"#, "x").is_err());
        assert!(!format!("{:?}", here(json, "docker.io")).contains("pa:ss"));
    }

    #[test]
    fn helpers_are_asked_where_the_file_has_nothing_itself() {
        let json = br#"{"auths":{"a.io":{"auth":"dXNlcjpwYXNz"},"b.io":{},"c.io":{"auth":"dXNlcjpwYXNz"}},
            "credHelpers":{"c.io":"special","https://index.docker.io/v1/":"hub"},"credsStore":"general"}"#;
        let with = |registry: &str| find(json, registry).expect("is read");
        assert!(matches!(with("a.io"), Found::Here(Credentials::Password { .. })));
        for (registry, helper) in [("b.io", "general"), ("c.io", "special"), ("docker.io", "hub"), ("d.io", "general")]
        {
            assert_eq!(with(registry), Found::With(helper.into()), "{registry}");
        }
    }
}
