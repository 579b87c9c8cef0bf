//! What `deny.toml` says about dependencies, checked with nothing but `cargo metadata`: licences, sources, bans.
//! Advisories need a database from the network and are left to cargo-deny.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::shell;

/// Where every dependency comes from.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The part of `deny.toml` that is checked here.
struct Rules {
    allowed: BTreeSet<String>,
    banned: BTreeSet<String>,
}

/// Adds a fault for every dependency that is not as it should be.
pub(crate) fn check(faults: &mut Vec<String>) -> Result<()> {
    let rules = Rules::read(&fs::read_to_string(shell::root().join("deny.toml")).context("cannot read deny.toml")?);
    let mut metadata = shell::cargo();
    metadata.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata: Value = serde_json::from_str(&shell::output(&mut metadata)?)?;
    // Those that are not for this platform are in the list of packages, but resolve to nothing.
    let used: BTreeSet<&str> = list(&metadata["resolve"]["nodes"]).filter_map(|node| node["id"].as_str()).collect();
    for package in list(&metadata["packages"]).filter(|p| p["id"].as_str().is_some_and(|id| used.contains(id))) {
        faults.extend(rules.fault(package));
    }
    Ok(())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl Rules {
    fn read(text: &str) -> Self {
        let section = |title: &str, key: &str| {
            let part = text.split(&format!("\n[{title}]")).nth(1)?.split("\n[").next()?;
            part.split(&format!("\n{key} = [")).nth(1)?.split("\n]").next()
        };
        let quoted = |text: Option<&str>| {
            text.unwrap_or_default().split('"').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        Self { allowed: quoted(section("licenses", "allow")), banned: quoted(section("bans", "deny")) }
    }

    /// What is wrong with a package of `cargo metadata`.
    fn fault(&self, package: &Value) -> Option<String> {
        let name = package["name"].as_str().unwrap_or_default();
        if package["source"].as_str().is_some_and(|source| source != SOURCE) {
            return Some(format!("{name} comes from {}, not from crates.io", package["source"]));
        }
        if self.banned.contains(name) {
            return Some(format!("{name} is banned by deny.toml"));
        }
        match package["license"].as_str() {
            None => Some(format!("{name} names no licence")),
            Some(license) if !self.allows(license) => {
                Some(format!("{name}: the licence {license} is not in deny.toml"))
            }
            Some(_) => None,
        }
    }

    /// Whether an SPDX expression can be satisfied: an allowed licence, one of an `OR`, all of an `AND`. `AND` binds
    /// tighter (SPDX 2.3, annex D); `/` is what crates wrote for `OR` before.
    fn allows(&self, expression: &str) -> bool {
        let text = expression.replace('/', " OR ");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.any(&text)
    }

    fn any(&self, text: &str) -> bool {
        split(text, " OR ").into_iter().any(|part| self.all(part))
    }

    fn all(&self, text: &str) -> bool {
        split(text, " AND ").into_iter().all(|part| {
            match part.strip_prefix('(').and_then(|part| part.strip_suffix(')')) {
                Some(inner) => self.any(inner),
                // "+" is "or any later version".
                None => self.allowed.contains(part.trim_end_matches('+')),
            }
        })
    }
}

/// Splits at a word that is not inside parentheses.
fn split<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && text[at..].starts_with(word) => {
                parts.push(text[start..at].trim());
                start = at + word.len();
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules() -> Rules {
        Rules::read(
            "\n[licenses]\n# why\nallow = [\n  \"MIT\",\n  \"ISC\",\n]\n[bans]\ndeny = [\n  { name = \"bad\" },\n]\n",
        )
    }

    #[test]
    fn expressions() {
        for (license, allowed) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("GPL-3.0 / MIT", true),
            ("MIT AND GPL-3.0", false),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("(MIT OR ISC) AND GPL-3.0", false),
            ("GPL-3.0 AND MIT OR ISC", true),
            ("ISC+", true),
        ] {
            assert_eq!(rules().allows(license), allowed, "{license}");
        }
    }

    #[test]
    fn packages() {
        let fault = |source: &str, name: &str, license: Value| {
            rules().fault(&json!({ "name": name, "source": source, "license": license }))
        };
        assert_eq!(fault(SOURCE, "good", json!("MIT")), None);
        assert!(fault("git+https://example.org/x", "good", json!("MIT")).is_some());
        assert!(fault(SOURCE, "bad", json!("MIT")).is_some());
        assert!(fault(SOURCE, "good", Value::Null).is_some());
    }
}
