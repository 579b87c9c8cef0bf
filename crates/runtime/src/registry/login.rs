//! Logging in: what a host asks for (RFC 9110, section 11), and tokens of its token server (distribution, "Token
//! Authentication" and "OAuth2 Token Authentication").

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_auth::parser::ChallengeParser;
use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{
    credentials::Credentials,
    host::{Host, Trouble},
    refusal::clean,
};

/// The longest answer of a token server, bytes.
const MAX_TOKEN: usize = 1 << 20;

/// What a host asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// What is asked for; tokens are preferred to passwords.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for header in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
        for asked in ChallengeParser::new(header).filter_map(Result::ok) {
            let param = |name: &str| {
                let mut params = asked.params.iter();
                params.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
            };
            if asked.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = param("realm") {
                    return Some(Challenge::Bearer { realm, service: param("service") });
                }
            } else if asked.scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

fn header(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    header(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// As forms and queries are written.
fn encoded(pairs: &[(&str, &str)]) -> String {
    let Ok(mut url) = Url::parse("http://localhost/") else { return String::new() };
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

impl Host {
    /// The header that an answer with status 401 asks for. `used` was sent and was not enough; if another task has logged in
    /// meanwhile, what it was given.
    pub(super) async fn log_in(&self, asked: &HeaderMap, used: Option<&HeaderValue>) -> Result<HeaderValue, Trouble> {
        let mut authorization = self.authorization.lock().await;
        if let Some(given) = authorization.as_ref().filter(|given| Some(*given) != used) {
            return Ok(given.clone());
        }
        let credentials = self.wallet.open().await?;
        let nothing = || self.forbidden("it refuses, and does not say how to log in".to_owned());
        let value = match (challenge(asked).ok_or_else(nothing)?, &credentials) {
            (Challenge::Bearer { .. }, Credentials::Token(token)) => header(format!("Bearer {token}")),
            (Challenge::Bearer { realm, service }, credentials) => {
                let token = self.token(&realm, service.as_deref(), credentials).await?;
                header(format!("Bearer {token}"))
            }
            (Challenge::Basic, Credentials::Password { user, password }) => basic(user, password),
            (Challenge::Basic, Credentials::None) => {
                let why = "it asks for credentials and none are configured; or no such image";
                return Err(self.forbidden(why.to_owned()).into());
            }
            (Challenge::Basic, Credentials::Identity(_) | Credentials::Token(_)) => {
                let why = "it asks for a password, and what is configured for it is a token";
                return Err(self.forbidden(why.to_owned()).into());
            }
        };
        let value = value.ok_or_else(|| self.forbidden("its token cannot be sent in a header".to_owned()))?;
        *authorization = Some(value.clone());
        Ok(value)
    }

    /// A token for what is to be done.
    async fn token(&self, realm: &str, service: Option<&str>, credentials: &Credentials) -> Result<String, Trouble> {
        let mut url: Url = realm
            .parse()
            .map_err(|error| self.refused(format!("its token server {:?} is no address: {error}", clean(realm))))?;
        let server = url.host_str().unwrap_or_default().to_owned();
        if !(url.scheme() == "https" || url.scheme() == "http" && !self.has_tls()) {
            let why = format!("its token server {server} has no TLS; no credentials are sent there");
            return Err(self.forbidden(why).into());
        }
        let service = service.map(|service| ("service", service));
        let request = match credentials {
            Credentials::Identity(token) => {
                let scope = self.scopes.join(" ");
                let fixed = [("grant_type", "refresh_token"), ("client_id", "hivemind"), ("scope", &scope)];
                let pairs: Vec<_> =
                    fixed.into_iter().chain(service).chain([("refresh_token", token.as_str())]).collect();
                let form = "application/x-www-form-urlencoded";
                self.client.post(url).header(CONTENT_TYPE, form).body(encoded(&pairs)).build()
            }
            _ => {
                url.query_pairs_mut().extend_pairs(service);
                url.query_pairs_mut().extend_pairs(self.scopes.iter().map(|scope| ("scope", scope)));
                self.get_token(&self.client, url, credentials)
            }
        };
        // Not with redirects: credentials are in it.
        let answer = self.judge(self.execute(request.map_err(|error| self.transport(&error))?).await?)?;
        let status = answer.status();
        let body = self.body(answer, MAX_TOKEN).await?;
        if !status.is_success() {
            let said = clean(&String::from_utf8_lossy(&body));
            let why = format!("its token server {server} refuses (HTTP {}): {said}", status.as_u16());
            return Err(self.forbidden(why).into());
        }
        let given: Option<Answer> = serde_json::from_slice(&body).ok();
        let token = given.and_then(|Answer { token, access_token }| token.or(access_token));
        let none = || self.forbidden(format!("its token server {server} gives no token"));
        Ok(token.filter(|token| !token.is_empty()).ok_or_else(none)?)
    }

    fn get_token(&self, client: &Client, url: Url, credentials: &Credentials) -> reqwest::Result<reqwest::Request> {
        let mut request = client.get(url).build()?;
        if let Credentials::Password { user, password } = credentials
            && let Some(value) = basic(user, password)
        {
            request.headers_mut().insert(reqwest::header::AUTHORIZATION, value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_preferred_to_passwords() {
        let asked = |values: &[&'static str]| {
            let pairs = values.iter().map(|value| (WWW_AUTHENTICATE, HeaderValue::from_static(value)));
            challenge(&pairs.collect())
        };
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        assert_eq!(asked(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        let both = r#"Basic realm="x", Bearer realm="https://a/token",service="s",scope="repository:x:pull""#;
        assert_eq!(asked(&[both]), bearer("https://a/token", Some("s")));
        assert_eq!(asked(&[r#"Basic realm="x""#, r#"bearer Realm="https://a""#]), bearer("https://a", None));
        assert_eq!(asked(&["Negotiate"]), None);
        assert_eq!(asked(&[]), None);
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(encoded(&[("a", "x y&z"), ("b", "=")]), "a=x+y%26z&b=%3D");
    }
}
