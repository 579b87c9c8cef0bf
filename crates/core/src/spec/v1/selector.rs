//! Selectors as text, in the words of `kubectl --selector`: conditions with commas between them, and all must hold.
//! `a=b`, `a==b`, `a!=b`, `a in (b, c)`, `a notin (b, c)`, `a`, `!a`.

use super::{
    labels::{check_label_key, check_label_value},
    policy::{Operator, Requirement, Selector},
};

/// How a condition is written, for messages.
pub const SELECTOR_FORM: &str = "write a=b, a!=b, \"a in (b, c)\", \"a notin (b, c)\", a or !a";

impl Selector {
    /// Reads conditions on labels; the empty text is all. Fails with every fault of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (mut expressions, mut faults) = (Vec::new(), Vec::new());
        let parts = if text.trim().is_empty() { Vec::new() } else { conditions(text) };
        for part in parts {
            match Requirement::parse(part) {
                Some(requirement) => {
                    faults.extend(check(&requirement));
                    expressions.push(requirement);
                }
                None => faults.push(format!("{part:?} says nothing about a label; {SELECTOR_FORM}")),
            }
        }
        if faults.is_empty() { Ok(Self { expressions, ..Self::default() }) } else { Err(faults) }
    }
}

impl Requirement {
    /// Reads one condition; `None` if it has not the form of one. What its words are is not checked.
    pub fn parse(text: &str) -> Option<Self> {
        let made = |key: &str, operator, values: Vec<&str>| {
            let values = values.into_iter().map(|value| value.trim().to_owned()).collect();
            Some(Self { key: key.trim().to_owned(), operator, values })
        };
        if let Some(rest) = text.strip_suffix(')') {
            let (before, values) = rest.split_once('(')?;
            let mut words = before.split_whitespace();
            let operator = match (words.next(), words.next(), words.next()) {
                (Some(key), Some("in"), None) => Some((key, Operator::In)),
                (Some(key), Some("notin"), None) => Some((key, Operator::NotIn)),
                _ => None,
            };
            let (key, operator) = operator?;
            let values = if values.trim().is_empty() { Vec::new() } else { values.split(',').collect() };
            return made(key, operator, values);
        }
        if let Some((key, value)) = text.split_once("!=") {
            return made(key, Operator::NotIn, vec![value]);
        }
        if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return made(key, Operator::In, vec![value]);
        }
        if let Some(key) = text.strip_prefix('!') {
            return made(key, Operator::DoesNotExist, Vec::new());
        }
        let one_word = !text.is_empty() && !text.contains(char::is_whitespace);
        if one_word { made(text, Operator::Exists, Vec::new()) } else { None }
    }
}

/// The conditions of a text: it is split at commas that are not in parentheses.
pub fn conditions(text: &str) -> Vec<&str> {
    let mut inside = false;
    let parts = text.split(move |c| {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        c == ',' && !inside
    });
    parts.map(str::trim).collect()
}

fn check(requirement: &Requirement) -> Vec<String> {
    let Requirement { key, operator, values } = requirement;
    let mut faults = Vec::new();
    if let Err(why) = check_label_key(key) {
        faults.push(format!("{key:?} is not a label's name: {why}"));
    }
    if matches!(operator, Operator::In | Operator::NotIn) && values.is_empty() {
        faults.push(format!("{key}: the parentheses are empty; name at least one value"));
    }
    for value in values {
        if let Err(why) = check_label_value(value) {
            faults.push(format!("{key}: {value:?} is not a label's value: {why}"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn selectors_in_the_words_of_kubectl() {
        let labels: BTreeMap<String, String> =
            [("app", "web"), ("tier", "front"), ("example.org/team", "blue"), ("empty", "")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        for (text, expected) in [
            ("", true),
            (" ", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("stage!=dev", true),
            ("app", true),
            ("stage", false),
            ("!stage", true),
            ("!app", false),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db,cache)", true),
            ("app notin (web)", false),
            ("stage notin (dev)", true),
            ("stage in (dev)", false),
            ("app=web,tier in (front, back),!stage", true),
            ("app=web,tier in (back),!stage", false),
            ("example.org/team=blue", true),
            ("empty=", true),
            ("empty", true),
        ] {
            let selector = Selector::parse(text).unwrap_or_else(|faults| panic!("{text}: {faults:?}"));
            assert_eq!(selector.matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn every_fault_is_said() {
        for (text, faults) in [
            (",", 2),
            ("a b", 1),
            ("=b", 1),
            ("a=b=c", 1),
            ("a in ()", 1),
            ("a in (b", 1),
            ("a like (b)", 1),
            ("a=b,,c", 1),
            ("-a=b, c=d e, f", 2),
            ("!", 1),
            ("a>1", 1),
        ] {
            let found = Selector::parse(text).expect_err(text);
            assert_eq!(found.len(), faults, "{text}: {found:?}");
        }
    }
}
