//! Variables in texts: `$X`, `${X}`, `${X:-d}`, `${X-d}`, `${X:?m}`, `${X?m}`, `${X:+r}`, `${X+r}`, nested, and `$$`.

use super::{
    fault::{Findings, child, item},
    parse::Budget,
    value::{Data, Node, Place},
};

/// How deep variables stand in each other's defaults.
const MOST_NESTED: usize = 16;
/// The longest text with its variables put in, in bytes.
const MOST_BYTES: usize = 1 << 20;

/// Gives a variable's value.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Why a text has no value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// What stands after the dollar is no variable.
    Form(String),
    /// A variable that the text wants has no value; its name, and what the text says of it.
    Wanted(String, String),
    /// Too long or too deep.
    TooMuch(&'static str),
}

impl Wrong {
    /// In a sentence.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Form(what) => {
                format!("{what} is no variable: write ${{NAME}}, ${{NAME:-default}} or, for a dollar, $$")
            }
            Self::Wanted(name, message) if message.is_empty() => {
                format!("the variable {name} has no value and must have one: set it in the environment or in .env")
            }
            Self::Wanted(name, message) => format!("the variable {name} must have a value: {message}"),
            Self::TooMuch(what) => (*what).to_owned(),
        }
    }
}

/// A text with its variables put in. Names that are not set, and have no default, go to `unset`.
pub(super) fn substitute(text: &str, look: &Lookup<'_>, unset: &mut Vec<String>) -> Result<String, Wrong> {
    expand(text, look, unset, 0)
}

fn expand(text: &str, look: &Lookup<'_>, unset: &mut Vec<String>, depth: usize) -> Result<String, Wrong> {
    if depth > MOST_NESTED {
        return Err(Wrong::TooMuch("variables stand in more than 16 others' defaults"));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let (value, after) = braced(inner, look, unset, depth)?;
            out.push_str(&value);
            rest = after;
        } else {
            let name = name_of(rest);
            if name.is_empty() {
                out.push('$');
            } else {
                out.push_str(&value_of(name, look, unset));
                rest = &rest[name.len()..];
            }
        }
        if out.len() > MOST_BYTES {
            return Err(Wrong::TooMuch("the text has more than 1 MiB with its variables put in"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of what stands behind `${`, and what follows its `}`.
fn braced<'a>(
    inner: &'a str,
    look: &Lookup<'_>,
    unset: &mut Vec<String>,
    depth: usize,
) -> Result<(String, &'a str), Wrong> {
    let wrong = || {
        let shown: String = inner.chars().take_while(|c| *c != '}' && *c != '\n').take(40).collect();
        let close = if inner[shown.len()..].starts_with('}') { "}" } else { "" };
        Wrong::Form(format!("${{{shown}{close}"))
    };
    let name = name_of(inner);
    let end = closing(inner).ok_or_else(wrong)?;
    let (body, after) = (&inner[name.len().min(end)..end], &inner[end + 1..]);
    if name.is_empty() {
        return Err(wrong());
    }
    if body.is_empty() {
        return Ok((value_of(name, look, unset), after));
    }
    // With the colon, empty counts as not set.
    let (colon, operator) = match body.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, body),
    };
    let set = look(name).filter(|value| !(colon && value.is_empty()));
    let mut word = |word: &str| expand(word, look, unset, depth + 1);
    let value = match (operator.chars().next(), set) {
        (Some('-' | '?'), Some(value)) => value,
        (Some('-'), None) => word(&operator[1..])?,
        (Some('?'), None) => return Err(Wrong::Wanted(name.to_owned(), word(&operator[1..])?)),
        (Some('+'), Some(_)) => word(&operator[1..])?,
        (Some('+'), None) => String::new(),
        _ => return Err(wrong()),
    };
    Ok((value, after))
}

fn value_of(name: &str, look: &Lookup<'_>, unset: &mut Vec<String>) -> String {
    look(name).unwrap_or_else(|| {
        unset.push(name.to_owned());
        String::new()
    })
}

/// The name at the beginning: a letter or `_`, then digits too.
fn name_of(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) { "" } else { &text[..end] }
}

/// Where the brace closes that stands before the text.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    for (at, c) in text.bytes().enumerate() {
        match c {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => continue,
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

/// Puts variables into all values of a document; keys stay as they are.
pub(super) fn document(node: &mut Node, look: &Lookup<'_>, budget: &mut Budget, found: &mut Findings) {
    walk(node, "", look, budget, found);
}

fn walk(node: &mut Node, path: &str, look: &Lookup<'_>, budget: &mut Budget, found: &mut Findings) {
    match &mut node.data {
        Data::Text(text) if text.contains('$') => {
            if let Some(value) = value(text, &node.place, path, look, budget, found) {
                node.data = Data::Text(value);
            }
        }
        Data::List(list) => {
            for (index, value) in list.iter_mut().enumerate() {
                walk(value, &item(path, index), look, budget, found);
            }
        }
        Data::Map(map) => {
            for (key, entry) in map {
                walk(&mut entry.value, &child(path, key), look, budget, found);
            }
        }
        _ => {}
    }
}

fn value(
    text: &str,
    place: &Place,
    path: &str,
    look: &Lookup<'_>,
    budget: &mut Budget,
    found: &mut Findings,
) -> Option<String> {
    let mut unset = Vec::new();
    let value = substitute(text, look, &mut unset);
    unset.dedup();
    for name in unset {
        found.warn(place, path, format!("the variable {name} is not set: an empty text takes its place"));
    }
    match value.map_err(|wrong| wrong.message()).and_then(|value| budget.text(value.len()).map(|()| value)) {
        Ok(value) => Some(value),
        Err(message) => {
            found.fault(place, path, message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(text: &str) -> Result<(String, Vec<String>), String> {
        let look = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "E" => Some(String::new()),
            "LONG" => Some("x".repeat(600_000)),
            _ => None,
        };
        let mut unset = Vec::new();
        substitute(text, &look, &mut unset).map(|value| (value, unset)).map_err(|wrong| wrong.message())
    }

    #[test]
    fn every_form() {
        let rows = [
            ("plain", "plain"),
            ("$A-$A", "a-a"),
            ("${A}${A}", "aa"),
            ("$$A $${A}", "$A ${A}"),
            ("cost: 5$ or $5", "cost: 5$ or $5"),
            ("${E:-d}|${E-d}|${U:-d}|${U-d}|${A:-d}", "d||d|d|a"),
            ("${E:+r}|${E+r}|${U:+r}|${U+r}|${A:+r}", "|r|||r"),
            ("${A:?m}|${A?m}|${E?m}", "a|a|"),
            ("${U:-${V:-$A}}", "a"),
            ("${U:-${V-}}x", "x"),
            ("${U:-{\"k\": {\"v\": 1}}}", "{\"k\": {\"v\": 1}}"),
            ("${U:-http://h:80/p?q=1}", "http://h:80/p?q=1"),
            ("${U:-$$X}", "$X"),
            ("ä${A}ö$A", "äaöa"),
        ];
        for (text, wanted) in rows {
            assert_eq!(put(text), Ok((wanted.to_owned(), vec![])), "{text}");
        }
        assert_eq!(put("$U${V}"), Ok((String::new(), vec!["U".to_owned(), "V".to_owned()])));
    }

    #[test]
    fn what_has_no_value() {
        let deep = format!("{}x{}", "${U:-".repeat(20), "}".repeat(20));
        let form = "is no variable: write ${NAME}, ${NAME:-default} or, for a dollar, $$";
        let rows = [
            ("${", format!("${{ {form}")),
            ("${}", format!("${{}} {form}")),
            ("${A", format!("${{A {form}")),
            ("${1}", format!("${{1}} {form}")),
            ("${A B}", format!("${{A B}} {form}")),
            ("${A/x/y}", format!("${{A/x/y}} {form}")),
            ("${A:x}", format!("${{A:x}} {form}")),
            ("${U:?set it to $A}", "the variable U must have a value: set it to a".to_owned()),
            (
                "${E:?}",
                "the variable E has no value and must have one: set it in the environment or in .env".to_owned(),
            ),
            ("$LONG$LONG", "the text has more than 1 MiB with its variables put in".to_owned()),
            (&deep, "variables stand in more than 16 others' defaults".to_owned()),
        ];
        for (text, wanted) in rows {
            assert_eq!(put(text), Err(wanted), "{text}");
        }
    }
}
