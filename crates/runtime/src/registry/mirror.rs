//! Mirrors, as they are configured: `REGISTRY=HOST[:PORT][/PATH]`.

use std::{fmt, str::FromStr};

/// A registry that is asked before another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Whose images it has, e.g. `docker.io`; `*`: everybody's.
    pub registry: String,
    /// `host` or `host:port`.
    pub host: String,
    /// What comes before the repositories there; empty if nothing does.
    pub path: String,
}

impl Mirror {
    /// Whether it is asked for what `registry` has. It is no mirror of itself.
    pub(super) fn is_of(&self, registry: &str) -> bool {
        (self.registry == "*" || self.registry == registry) && self.host != registry
    }

    /// What a repository is called there.
    pub(super) fn repository(&self, repository: &str) -> String {
        match &*self.path {
            "" => repository.to_owned(),
            path => format!("{path}/{repository}"),
        }
    }
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write REGISTRY=HOST[:PORT][/PATH], e.g. docker.io=mirror.local:5000";
        if text.contains("://") {
            return Err(format!("no http:// or https:// here: --plain-http-registry names who has no TLS; {example}"));
        }
        let (registry, place) = text.split_once('=').ok_or(example)?;
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let path = path.trim_end_matches('/');
        if registry != "*" && !is_host(registry) {
            return Err(format!("{registry:?} is no host of a registry; {example}"));
        }
        if !is_host(host) {
            return Err(format!("{host:?} is no host of a mirror; {example}"));
        }
        // As parts of a repository's name (distribution-spec 1.1).
        let part = |part: &str| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            edge(part.chars().next()) && edge(part.chars().last()) && part.chars().all(inner)
        };
        if !path.is_empty() && !path.split('/').all(part) {
            return Err(format!("{path:?} cannot come before names of repositories; {example}"));
        }
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        Ok(Self { registry: registry.to_owned(), host: host.to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joint = if self.path.is_empty() { "" } else { "/" };
        write!(f, "{}={}{joint}{}", self.registry, self.host, self.path)
    }
}

/// `host`, `host:port` or `[address]:port`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let name = |host: &str| {
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)) && !host.contains("..")
    };
    let well = address.map_or_else(|| name(host), |address| address.parse::<std::net::Ipv6Addr>().is_ok());
    well && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_read_and_written_the_same() {
        for text in ["docker.io=mirror.local:5000", "*=cache", "ghcr.io=[::1]:5000/hub/one", "a:1=b:2/c-d"] {
            assert_eq!(text.parse::<Mirror>().map(|mirror| mirror.to_string()).as_deref(), Ok(text));
        }
        let hub: Mirror = "index.docker.io=m/hub/".parse().expect("a mirror");
        assert_eq!(
            (hub.to_string(), hub.repository("library/nginx")),
            ("docker.io=m/hub".into(), "hub/library/nginx".into())
        );
        assert!(hub.is_of("docker.io") && !hub.is_of("ghcr.io"));
        let all: Mirror = "*=m:1".parse().expect("a mirror");
        assert!(all.is_of("ghcr.io") && !all.is_of("m:1"), "a mirror of itself");
    }

    #[test]
    fn what_is_none_is_refused() {
        for (text, why) in [
            ("mirror.local", "write REGISTRY="),
            ("docker.io=https://m", "no http://"),
            ("=m", "is no host of a registry"),
            ("docker.io=", "is no host of a mirror"),
            ("docker.io=m:0", "is no host of a mirror"),
            ("docker.io=m:x", "is no host of a mirror"),
            ("docker.io=a b", "is no host of a mirror"),
            ("docker.io=user@m", "is no host of a mirror"),
            ("docker.io=m/../x", "cannot come before"),
            ("docker.io=m/a?b", "cannot come before"),
            ("docker.io=m//b", "cannot come before"),
        ] {
            let said = text.parse::<Mirror>().expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
