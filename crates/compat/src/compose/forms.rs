//! The small grammars inside of texts: durations, sizes, truth values, words of a command, addresses.
//!
//! Each reader says in a sentence what it wanted. [`check`] is what the schema's formats ask; the typed model and the
//! short forms ask the same readers, so that nothing passes the one and fails the other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{scalar, short, value::Data};

/// The formats of `schema.json`.
pub(super) const FORMATS: &[&str] = &[
    "address",
    "all-or-count",
    "count",
    "device",
    "duration",
    "exposed",
    "flag",
    "host",
    "micros",
    "mode",
    "mount",
    "number",
    "port",
    "ports",
    "pull-policy",
    "restart",
    "size",
    "subnet",
    "v4",
    "v6",
    "whole",
    "words",
];

/// Whether a text has a format of the schema, and if not, why.
pub(super) fn check(format: &str, text: &str) -> Result<(), String> {
    match format {
        "address" => address(text).map(drop),
        "all-or-count" if text == "all" => Ok(()),
        "all-or-count" | "count" => count(text).map(drop),
        "device" => short::device(text).map(drop),
        "duration" => duration(text).map(drop),
        "exposed" => short::exposed(text).map(drop),
        "flag" => flag(text).map(drop),
        "host" => short::host(text).map(drop),
        "micros" => micros(text).map(drop),
        "mode" => mode(text).map(drop),
        "mount" => short::mount(text).map(drop),
        "number" => number(text).map(drop),
        "port" => short::port(text).map(drop),
        "ports" => short::ports(text).map(drop),
        "pull-policy" => pull_policy(text),
        "restart" => restart(text),
        "size" => size(text).map(drop),
        "subnet" => subnet(text),
        "v4" => text.parse::<Ipv4Addr>().map(drop).map_err(|_| format!("\"{text}\" is no IPv4 address, e.g. 10.5.0.2")),
        "v6" => text.parse::<Ipv6Addr>().map(drop).map_err(|_| format!("\"{text}\" is no IPv6 address, e.g. fd00::2")),
        "whole" => whole(text).map(drop),
        "words" => words(text).map(drop),
        _ => Ok(()),
    }
}

/// A truth value.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    scalar::flag(text).ok_or_else(|| format!("\"{text}\" is no truth value: write true or false"))
}

/// A whole number.
pub(super) fn whole(text: &str) -> Result<i64, String> {
    match scalar::resolve(text.trim()) {
        Data::Int(value) => Ok(value),
        _ => Err(format!("\"{text}\" is no whole number")),
    }
}

/// A whole number from 0.
pub(super) fn count(text: &str) -> Result<u64, String> {
    let value = whole(text)?;
    u64::try_from(value).map_err(|_| format!("{value} is less than 0"))
}

/// A number.
pub(super) fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("\"{text}\" is no number")),
    }
}

/// A duration of one or more numbers with units: `us`, `ms`, `s`, `m`, `h`, `d`, `w`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is no duration: write numbers with units, e.g. 1m30s (us, ms, s, m, h, d, w)");
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_digit()) {
        return Err(format!("\"{text}\" has no unit: write {rest}s for seconds"));
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
        let value: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += value
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                _ => return Err(wrong()),
            };
        rest = &rest[end..];
    }
    // Whole nanoseconds: 0.1 s is not 100.000000001 ms.
    let nanoseconds = (seconds * 1e9).round();
    if nanoseconds > 1e18 {
        return Err(format!("\"{text}\" is longer than 30 years"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1e18, without a fraction")]
    Ok(Duration::from_nanos(nanoseconds as u64))
}

/// Bytes with a unit of 1024: `b`, `k`, `m`, `g`, `t`, each also with `b` or `ib`. -1 is no limit.
pub(super) fn size(text: &str) -> Result<i64, String> {
    let wrong = || format!("\"{text}\" is no size: write bytes, or a number with a unit, e.g. 512m (b, k, m, g, t)");
    let plain = text.trim().to_ascii_lowercase();
    if plain == "-1" {
        return Ok(-1);
    }
    let end = plain.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(plain.len());
    let value: f64 = plain[..end].parse().map_err(|_| wrong())?;
    let shift = match plain[end..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(wrong()),
    };
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    let bytes = value * (1_i64 << shift) as f64;
    if bytes > 9e18 {
        return Err(format!("\"{text}\" is more than 8 EiB"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "from 0 to 9e18")]
    Ok(bytes as i64)
}

/// Microseconds: a number, or a duration.
pub(super) fn micros(text: &str) -> Result<i64, String> {
    whole(text).or_else(|_| {
        let long = duration(text)?.as_micros();
        i64::try_from(long).map_err(|_| format!("\"{text}\" is too long"))
    })
}

/// Rights of a file in octal digits.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let value = u32::from_str_radix(digits, 8).ok().filter(|value| *value <= 0o7777 && !digits.starts_with('+'));
    value.ok_or_else(|| format!("\"{text}\" are no rights of a file: write octal digits, e.g. 0440"))
}

/// An address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    plain.parse().map_err(|_| format!("\"{text}\" is no IP address"))
}

/// A range of addresses.
fn subnet(text: &str) -> Result<(), String> {
    let good = text.split_once('/').is_some_and(|(ip, bits)| {
        let most = match ip.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if good { Ok(()) } else { Err(format!("\"{text}\" is no range of addresses, e.g. 172.28.0.0/16")) }
}

fn pull_policy(text: &str) -> Result<(), String> {
    let every = |text: &str| text.strip_prefix("every_").is_some_and(|every| duration(every).is_ok());
    match text {
        "always" | "never" | "build" | "if_not_present" | "missing" | "refresh" | "daily" | "weekly" => Ok(()),
        _ if every(text) => Ok(()),
        _ => Err(format!(
            "\"{text}\" is no pull policy: write always, never, missing, if_not_present, build, refresh, daily, weekly or every_12h"
        )),
    }
}

fn restart(text: &str) -> Result<(), String> {
    let tries = |text: &str| text.strip_prefix("on-failure:").is_some_and(|tries| count(tries).is_ok());
    match text {
        "no" | "always" | "on-failure" | "unless-stopped" => Ok(()),
        _ if tries(text) => Ok(()),
        _ => Err(format!(
            "\"{text}\" is no restart policy: write \"no\", always, on-failure, on-failure:3 or unless-stopped"
        )),
    }
}

/// The words of a command, split as a shell does; no shell runs it, so nothing else of a shell has a meaning.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    let open = |quote: char| format!("the command has a {quote} without the one that ends it");
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or_else(|| open('\''))? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or_else(|| open('"'))? {
                        '"' => break,
                        '\\' => match chars.next().ok_or_else(|| open('"'))? {
                            '\n' => {}
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next() {
                // A line that goes on.
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("the command ends with a backslash, which nothing follows".to_owned()),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// The first word that only a shell would understand.
pub(super) fn shell_word(words: &[String]) -> Option<&str> {
    words
        .iter()
        .map(String::as_str)
        .find(|word| matches!(*word, "&&" | "||" | "|" | ";" | ">" | ">>" | "<" | "&" | "2>&1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let rows = [
            ("1m30s", 90_000_000),
            ("1.5s", 1_500_000),
            ("10us", 10),
            ("0.1s", 100_000),
            ("1d", 86_400_000_000),
            ("0", 0),
            ("1h5m30s20ms", 3_930_020_000),
        ];
        for (text, micros) in rows {
            assert_eq!(duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "s", "1", "1x", "1.2.3s", "-1s", "1s2", "99999999999999w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        let rows = [("512m", 512 << 20), ("1.5g", 3 << 29), ("64", 64), ("2KiB", 2048), ("1 GB", 1 << 30), ("-1", -1)];
        for (text, bytes) in rows {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "1x", "-5m", "1e3", "99999999t"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        let rows: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("  a  b ", &["a", "b"]),
            ("sh -c 'echo \"$A\" b'", &["sh", "-c", "echo \"$A\" b"]),
            ("a\"b c\"d ''", &["ab cd", ""]),
            ("a\\ b \\\n c", &["a b", "c"]),
            ("\"a\\\"b\\n\"", &["a\"b\\n"]),
            ("a && b", &["a", "&&", "b"]),
            ("--x='y z' -- #c", &["--x=y z", "--", "#c"]),
        ];
        for (text, wanted) in rows {
            assert_eq!(words(text).unwrap(), wanted, "{text}");
        }
        for text in ["'a", "\"a", "a\\", "\"a\\"] {
            assert!(words(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_format_of_the_schema_is_known() {
        let schema = include_str!("schema.json");
        let used: std::collections::BTreeSet<_> =
            schema.split("\"format\": \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(used.into_iter().collect::<Vec<_>>(), FORMATS);
        for format in FORMATS {
            let odd = if *format == "words" { "'" } else { "\u{1}:" };
            assert!(check(format, odd).is_err(), "{format}");
        }
    }
}
