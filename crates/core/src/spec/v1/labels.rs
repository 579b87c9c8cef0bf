//! The form of labels: Kubernetes' rules, so that its documents can be taken as they are.

use std::collections::BTreeMap;

/// The longest name of a label, and the longest value.
const LONGEST: usize = 63;
/// The longest DNS name before the `/` of a label.
const LONGEST_PREFIX: usize = 253;

/// Every fault of these labels.
pub fn validate_labels(labels: &BTreeMap<String, String>) -> Vec<String> {
    let key = |key: &String| check_label_key(key).err().map(|why| format!("{key:?} is not a label's name: {why}"));
    let value = |(key, value): (&String, &String)| {
        check_label_value(value).err().map(|why| format!("{key}: {value:?} is not a label's value: {why}"))
    };
    labels.keys().filter_map(key).chain(labels.iter().filter_map(value)).collect()
}

/// `team`, `example.org/team`.
pub(super) fn check_label_key(key: &str) -> Result<(), &'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if let Some(prefix) = prefix {
        let part = |part: &str| check_word(part, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-').is_ok();
        if prefix.len() > LONGEST_PREFIX || !prefix.split('.').all(part) {
            return Err("what is before '/' must be a DNS name in lower case");
        }
    }
    check_word(name, label_byte)
}

/// Empty, or `blue-1.0_x`.
pub(super) fn check_label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() { Ok(()) } else { check_word(value, label_byte) }
}

fn label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

fn check_word(word: &str, allowed: impl Fn(u8) -> bool) -> Result<(), &'static str> {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = word.as_bytes();
    if bytes.is_empty() || bytes.len() > LONGEST {
        return Err("it must have 1 to 63 characters");
    }
    if !bytes.iter().all(|byte| allowed(*byte)) {
        return Err("use letters, digits, '-', '_' and '.'");
    }
    if !edge(bytes.first()) || !edge(bytes.last()) {
        return Err("it must begin and end with a letter or a digit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_the_form_of_kubernetes() {
        let long = "a".repeat(64);
        for (key, value, good) in [
            ("team", "blue", true),
            ("Team_1.x", "", true),
            ("example.org/team", "B.l-u_e", true),
            ("kubernetes.io/metadata.name", "prod", true),
            (&long[..63], &long[..63], true),
            ("", "x", false),
            (&long, "x", false),
            ("x", &long, false),
            ("a b", "x", false),
            ("a/b/c", "x", false),
            ("/a", "x", false),
            ("Example.org/a", "x", false),
            ("-a", "x", false),
            ("a", "x.", false),
            ("a", "ü", false),
        ] {
            let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            assert_eq!(validate_labels(&labels).is_empty(), good, "{key} {value}");
        }
    }
}
