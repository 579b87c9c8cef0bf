//! Names of hosts in policies: `api.example.com`, or `*.example.com` for all names beneath one.

/// The most characters of a name (RFC 1035), without the final dot.
const MAX_NAME: usize = 253;

/// A name as policies have it: in lower case, without a final dot. An error says what to write instead.
///
/// # Errors
/// If it is no name of two labels or more, or has a `*` that is not its whole first label.
pub fn dns_name(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let labels = name.strip_prefix("*.").unwrap_or(name);
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let label = |label: &str| {
        let bytes = label.as_bytes();
        // A label may begin with '_' (RFC 8552).
        bytes.len() <= 63
            && bytes.iter().all(|b| inner(*b))
            && (edge(bytes.first()) || bytes.first() == Some(&b'_'))
            && edge(bytes.last())
    };
    if name.len() > MAX_NAME || !labels.contains('.') && labels == name || !labels.split('.').all(label) {
        let why = "write a full name as api.example.com, or *.example.com for all names beneath example.com";
        return Err(format!("{text:?} is not a name of a host; {why}"));
    }
    if labels.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!("{text:?} is an address; write it as a block, {labels}/32"));
    }
    Ok(name.to_owned())
}

/// Whether a name of a policy (as [`dns_name`] gives it) is about `name` (lower case, no final dot). `*.` stands for one
/// or more labels.
pub fn dns_name_covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        // With its dot: `*.example.com` is neither `example.com` nor `badexample.com`.
        Some(end) => name.len() > end.len() && name.ends_with(end) && !name.starts_with('.'),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_in_one_way() {
        for (text, name) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.com.", "api.example.com"),
            ("*.example.org", "*.example.org"),
            ("*.com", "*.com"),
            ("_srv.example.com", "_srv.example.com"),
        ] {
            assert_eq!(dns_name(text).as_deref(), Ok(name));
        }
        let long = format!("{}.com", "a.".repeat(126));
        for text in
            ["", ".", "*", "*.", "localhost", "a.*.com", "a*.com", "a..com", "-a.com", "a b.com", "10.0.0.1", &long]
        {
            assert!(dns_name(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_star_is_one_or_more_labels() {
        for (pattern, name, covered) in [
            ("api.example.com", "api.example.com", true),
            ("api.example.com", "x.api.example.com", false),
            ("*.example.com", "api.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "badexample.com", false),
            ("*.example.com", ".example.com", false),
        ] {
            assert_eq!(dns_name_covers(pattern, name), covered, "{pattern} {name}");
        }
    }
}
