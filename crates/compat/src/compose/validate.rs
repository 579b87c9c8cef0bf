//! A document against `schema.json`, and what the schema says in a user's words.

use std::sync::LazyLock;

use jsonschema::{
    JsonType, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind as Kind},
};
use serde_json::Value;

use super::{
    fault::{Findings, child, item, nearest},
    forms,
    value::{Data, Node, Place},
};

/// The schema as text.
pub(super) const SCHEMA_TEXT: &str = include_str!("schema.json");

/// The schema. It is part of the program: a test shows that it can be read.
pub(super) static SCHEMA: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(SCHEMA_TEXT).unwrap_or_default());

/// The schema made ready, once in a process.
static VALIDATOR: LazyLock<Option<Validator>> = LazyLock::new(|| {
    let mut options = jsonschema::options().should_validate_formats(true);
    for format in forms::FORMATS {
        options = options.with_format(*format, move |text: &str| forms::check(format, text).is_ok());
    }
    options.build(&SCHEMA).ok()
});

/// Adds a fault for everything in the document that the schema does not allow.
pub(super) fn document(root: &Node, found: &mut Findings) {
    let Some(validator) = VALIDATOR.as_ref() else {
        found.fault(&root.place, "", "the schema of this program cannot be read: the program is broken");
        return;
    };
    let value = root.to_json();
    for error in validator.iter_errors(&value) {
        explain(&error, root, found);
    }
}

/// A node that the schema speaks of.
struct Spot<'a> {
    path: String,
    node: &'a Node,
    /// Where the key of it stands; where it stands itself if it is an item.
    key: &'a Place,
}

impl<'a> Spot<'a> {
    fn find(root: &'a Node, pointer: &str) -> Self {
        let mut spot = Self { path: String::new(), node: root, key: &root.place };
        for segment in pointer.split('/').skip(1) {
            let name = segment.replace("~1", "/").replace("~0", "~");
            match &spot.node.data {
                Data::Map(map) => {
                    let Some(entry) = map.get(&name) else { break };
                    spot = Self { path: child(&spot.path, &name), node: &entry.value, key: &entry.key };
                }
                Data::List(list) => {
                    let index = name.parse().unwrap_or(usize::MAX);
                    let Some(node) = list.get(index) else { break };
                    spot = Self { path: item(&spot.path, index), node, key: &node.place };
                }
                _ => break,
            }
        }
        spot
    }

    /// Where a fault of it is shown: collections and what is not there by their key.
    fn place(&self) -> &'a Place {
        match self.node.data {
            Data::Null | Data::List(_) | Data::Map(_) => self.key,
            _ => &self.node.place,
        }
    }
}

fn explain(error: &ValidationError<'_>, root: &Node, found: &mut Findings) {
    let spot = Spot::find(root, error.instance_path().as_str());
    let mut say = |message: String| found.fault(spot.place(), spot.path.as_str(), message);
    match error.kind() {
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => branches(error, context, root, found),
        Kind::Type { kind } => say(wrong_type(&types_of(kind), format_of(error), spot.node)),
        Kind::AdditionalProperties { unexpected } => {
            for name in unexpected {
                unknown(error, &spot, name, found);
            }
        }
        Kind::Required { property } => {
            say(format!("the key {} is missing", property.as_str().unwrap_or_default()));
        }
        Kind::Enum { options } => {
            let options: Vec<&str> = options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let part = |text: &str| options.iter().copied().find(|option| text.len() > 3 && option.contains(text));
            let meant = spot.node.text().and_then(|text| nearest(text, options.iter().copied()).or_else(|| part(text)));
            let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            say(format!("expected {}, found {}{meant}", either(&options), spot.node.describe()));
        }
        Kind::Minimum { limit } => say(format!("{} is less than {limit}", number(spot.node))),
        Kind::Maximum { limit } => say(format!("{} is more than {limit}", number(spot.node))),
        Kind::Pattern { .. } => say(format!(
            "{} is no name: use letters, digits, '_', '.' and '-', and begin with a letter or digit; at least two",
            spot.node.describe()
        )),
        Kind::Format { format } => {
            let why = spot.node.text().map_or(Ok(()), |text| forms::check(format, text));
            say(why.err().unwrap_or_else(|| format!("{} is not {format}", spot.node.describe())));
        }
        Kind::UniqueItems => {
            let list = spot.node.list().unwrap_or_default();
            let twice = |(at, node): &(usize, &Node)| list[..*at].iter().any(|other| other.data == node.data);
            if let Some((at, node)) = list.iter().enumerate().find(twice) {
                let message = format!("{} stands twice in the list: remove one of them", node.describe());
                found.fault(&node.place, item(&spot.path, at), message);
            }
        }
        _ => say(error.to_string()),
    }
}

/// Of several forms none fits: the one that has the type of what was written is meant.
fn branches(error: &ValidationError<'_>, context: &[Vec<ValidationError<'_>>], root: &Node, found: &mut Findings) {
    let here = error.instance_path().as_str();
    let other_type = |branch: &[ValidationError<'_>]| {
        branch.iter().any(|error| error.instance_path().as_str() == here && matches!(error.kind(), Kind::Type { .. }))
    };
    let mut meant = context.iter().filter(|branch| !other_type(branch));
    if let (Some(branch), None) = (meant.next(), meant.next()) {
        for error in branch {
            explain(error, root, found);
        }
        return;
    }
    let mut types = Vec::new();
    collect(context, here, &mut types);
    let spot = Spot::find(root, here);
    types.sort_unstable();
    types.dedup();
    found.fault(spot.place(), spot.path.as_str(), wrong_type(&types, None, spot.node));
}

/// The types that any of the forms would have.
fn collect(context: &[Vec<ValidationError<'_>>], here: &str, types: &mut Vec<&'static str>) {
    for error in context.iter().flatten().filter(|error| error.instance_path().as_str() == here) {
        match error.kind() {
            Kind::Type { kind } => types.extend(types_of(kind)),
            Kind::AnyOf { context } => collect(context, here, types),
            _ => {}
        }
    }
}

/// A key that the schema does not know.
fn unknown(error: &ValidationError<'_>, spot: &Spot<'_>, name: &str, found: &mut Findings) {
    let schema = error.schema_path().as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
    let schema = SCHEMA.pointer(schema);
    let known: Vec<&str> = schema
        .and_then(|schema| schema.get("properties")?.as_object())
        .map(|properties| properties.keys().map(String::as_str).collect())
        .unwrap_or_default();
    let entry = spot.node.map().and_then(|map| map.get(name));
    let place = entry.map_or(spot.key, |entry| &entry.key);
    let service = |node: &Node| node.get("image").is_some() || node.get("build").is_some();
    let message = if known.is_empty() && spot.path.ends_with("ulimits") {
        "the name of a limit has small letters only, e.g. nofile".to_owned()
    } else if known.is_empty() {
        "a name has letters, digits, '_', '.' and '-' only".to_owned()
    } else if let Some(near) = nearest(name, known.iter().copied()) {
        format!("there is no such key; did you mean {near}?")
    } else if spot.path.is_empty() && entry.is_some_and(|entry| service(&entry.value)) {
        "there is no such key; services stand under the key services, one step further in".to_owned()
    } else {
        let known = if known.len() <= 8 { format!(": there are {}", known.join(", ")) } else { String::new() };
        format!("there is no such key{known} (keys that begin with x- are yours)")
    };
    found.fault(place, child(&spot.path, name), message);
}

/// Types in a user's words.
fn types_of(kind: &TypeKind) -> Vec<&'static str> {
    let word = |kind: JsonType| match kind {
        JsonType::String => "text",
        JsonType::Integer => "a whole number",
        JsonType::Number => "a number",
        JsonType::Boolean => "true or false",
        JsonType::Object => "a mapping",
        JsonType::Array => "a list",
        JsonType::Null => "nothing",
    };
    match kind {
        TypeKind::Single(kind) => vec![word(*kind)],
        TypeKind::Multiple(kinds) => kinds.iter().map(word).collect(),
    }
}

/// The format of a leaf of the schema, by an error of its type.
fn format_of(error: &ValidationError<'_>) -> Option<&'static str> {
    let (parent, _) = error.schema_path().as_str().rsplit_once('/')?;
    SCHEMA.pointer(parent)?.get("format")?.as_str()
}

fn wrong_type(types: &[&'static str], format: Option<&str>, node: &Node) -> String {
    let single = ["true or false", "a number", "a whole number"];
    let text = types.contains(&"text");
    // Where text is allowed, a number is too for its text's sake: to say both would say nothing.
    let wanted = types.iter().copied().filter(|word| *word != "nothing" && !(text && single.contains(word)));
    let wanted: Vec<&str> = wanted.collect();
    let leaf = match format {
        Some("flag") => Some("true or false"),
        Some("whole" | "count" | "all-or-count") => Some("a whole number"),
        Some("number") => Some("a number"),
        Some("duration") => Some("a duration with its unit, e.g. 30s"),
        Some("size") => Some("a size with its unit, e.g. 512m"),
        Some("ports" | "exposed") => Some("a port"),
        Some("mode") => Some("rights of a file, e.g. 0440"),
        _ => None,
    };
    let hint = match &node.data {
        Data::Null => ": give it a value, or remove the key",
        Data::Int(_) | Data::Float(_) | Data::Bool(_) if text && leaf.is_none() => ": put it in quotes",
        Data::Text(_) if wanted.contains(&"a list") => ": begin it with '- '",
        _ => "",
    };
    format!("expected {}, found {}{hint}", leaf.map_or_else(|| either(&wanted), str::to_owned), node.describe())
}

/// `a`, `a or b`, `a, b or c`.
fn either(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

fn number(node: &Node) -> String {
    node.scalar().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_can_be_read() {
        assert!(VALIDATOR.is_some());
        let meta = jsonschema::meta::validate(&SCHEMA);
        assert!(meta.is_ok(), "{meta:?}");
    }
}
