//! What the product does with every key of the specification: one table, from which `docs/compose.md` is made.
//!
//! A test walks `schema.json` and finds every key in exactly one row. `docs/compose.md` is compared with [`document()`];
//! `HIVEMIND_UPDATE_DOCS=1 cargo test -p hivemind --lib compose::matrix` writes it anew.

mod project;
mod services;

use super::{
    fault::{child, item},
    value::{Data, Node, Place},
};

/// What the product does with a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stance {
    /// What the specification says.
    Honoured,
    /// Something else, said in a sentence.
    Differently(&'static str),
    /// Nothing, and it is told: the service is not wrong without it. Why.
    Ignored(&'static str),
    /// Nothing: a project with it is refused. Why, and what to do instead.
    Refused(&'static str),
}

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The key's path: `*` is a name, `[]` an item; with `.**` behind it, all keys beneath it too.
    pub key: &'static str,
    /// What the product does with it.
    pub stance: Stance,
}

const fn yes(key: &'static str) -> Row {
    Row { key, stance: Stance::Honoured }
}

const fn but(key: &'static str, how: &'static str) -> Row {
    Row { key, stance: Stance::Differently(how) }
}

const fn not(key: &'static str, why: &'static str) -> Row {
    Row { key, stance: Stance::Ignored(why) }
}

const fn no(key: &'static str, why: &'static str) -> Row {
    Row { key, stance: Stance::Refused(why) }
}

impl Row {
    /// The path without the mark that it is for all beneath it.
    fn base(&self) -> &'static str {
        self.key.strip_suffix(".**").unwrap_or(self.key)
    }

    /// Whether the row speaks of a key.
    fn covers(&self, key: &str) -> bool {
        match key.strip_prefix(self.base()) {
            Some("") => true,
            Some(rest) => self.key.ends_with(".**") && rest.starts_with(['.', '[']),
            None => false,
        }
    }
}

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    project::ROWS.iter().chain(services::ROWS)
}

/// The row of a key, e.g. `services.*.image`.
pub fn row(key: &str) -> Option<&'static Row> {
    rows().find(|row| row.covers(key))
}

/// A key of a document that is not honoured as the specification says.
#[derive(Clone, PartialEq, Debug)]
pub struct Use {
    /// Where it stands.
    pub place: Place,
    /// Its path in the document.
    pub path: String,
    /// What the product does with it.
    pub stance: Stance,
    /// Whether its value is nothing, `false` or empty: then it asks for nothing.
    pub empty: bool,
}

/// The keys of a document that are not, or not quite, honoured; each with its place.
pub fn uses(document: &Node) -> Vec<Use> {
    let mut found = Vec::new();
    walk(document, "", "", &mut found);
    found
}

fn walk(node: &Node, path: &str, key: &str, found: &mut Vec<Use>) {
    match &node.data {
        Data::Map(map) => {
            for (name, entry) in map {
                let below = [child(key, name), child(key, "*")].into_iter().find(|key| known(key));
                let Some(below) = below else { continue };
                let path = child(path, name);
                let own = row(&below);
                let stance = own.map_or(Stance::Honoured, |row| row.stance);
                // A key that a short form stands for was not written: it is at the place of its value.
                let written = entry.key != entry.value.place;
                if stance != Stance::Honoured && written {
                    found.push(Use {
                        place: entry.key.clone(),
                        path: path.clone(),
                        stance,
                        empty: empty(&entry.value),
                    });
                }
                // A row for all beneath a key has said everything.
                if own.is_none_or(|row| !row.key.ends_with(".**")) {
                    walk(&entry.value, &path, &below, found);
                }
            }
        }
        Data::List(list) => {
            for (index, value) in list.iter().enumerate() {
                walk(value, &item(path, index), &format!("{key}[]"), found);
            }
        }
        _ => {}
    }
}

/// Whether a value is nothing, `false`, or empty.
fn empty(node: &Node) -> bool {
    match &node.data {
        Data::Null | Data::Bool(false) => true,
        Data::Text(text) => text.is_empty() || text == "false",
        Data::List(list) => list.is_empty(),
        Data::Map(map) => map.is_empty(),
        _ => false,
    }
}

/// Whether a key is in the table, or on the way to one.
fn known(key: &str) -> bool {
    let on_the_way = |row: &Row| row.base().strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', '[']));
    rows().any(|row| row.covers(key) || on_the_way(row))
}

/// `docs/compose.md`.
pub fn document() -> String {
    let mut text = include_str!("introduction.md").to_owned();
    let count = |wanted: fn(&Stance) -> bool| rows().filter(|row| wanted(&row.stance)).count();
    text.push_str(&format!(
        "Of the rows below {} are honoured as the specification says, {} differently, {} are ignored with a warning, and {} \
         are refused, unless their value is nothing, false or empty. A row that ends in `.**` is for all keys beneath it too.\n",
        count(|stance| *stance == Stance::Honoured),
        count(|stance| matches!(stance, Stance::Differently(_))),
        count(|stance| matches!(stance, Stance::Ignored(_))),
        count(|stance| matches!(stance, Stance::Refused(_))),
    ));
    for (title, rows) in [("A project", project::ROWS), ("A service, beneath `services.*`", services::ROWS)] {
        text.push_str(&format!("\n### {title}\n\n| key | | what happens |\n|---|---|---|\n"));
        for row in rows {
            let key = row.key.strip_prefix("services.*.").unwrap_or(row.key);
            let (word, what) = match row.stance {
                Stance::Honoured => ("honoured", ""),
                Stance::Differently(how) => ("differently", how),
                Stance::Ignored(why) => ("ignored", why),
                Stance::Refused(why) => ("refused", why),
            };
            text.push_str(&format!("| `{key}` | {word} | {what} |\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use serde_json::Value;

    use super::{super::validate::SCHEMA, *};

    /// All keys that a part of the schema has, with their paths.
    fn keys(part: &Value, path: &str, found: &mut BTreeSet<String>) {
        if let Some(name) = part.get("$ref").and_then(Value::as_str) {
            let target = SCHEMA.pointer(name.trim_start_matches('#')).unwrap();
            return keys(target, path, found);
        }
        for branch in part.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
            keys(branch, path, found);
        }
        for (name, below) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = child(path, name);
            keys(below, &path, found);
            found.insert(path);
        }
        for (pattern, below) in part.get("patternProperties").and_then(Value::as_object).into_iter().flatten() {
            if pattern != "^x-" {
                keys(below, &child(path, "*"), found);
            }
        }
        for (word, step) in [("items", "[]"), ("additionalProperties", ".*")] {
            if let Some(below) = part.get(word).filter(|below| below.is_object()) {
                keys(below, &format!("{path}{step}"), found);
            }
        }
    }

    #[test]
    fn every_key_of_the_schema_is_in_one_row() {
        let mut all = BTreeSet::new();
        keys(&SCHEMA, "", &mut all);
        assert!(all.len() > 340, "{}", all.len());
        for key in &all {
            assert_eq!(rows().filter(|row| row.covers(key)).count(), 1, "{key}");
        }
        for row in rows() {
            assert!(all.contains(row.base()), "{} is not in the schema", row.key);
        }
    }

    #[test]
    fn sentences_are_sentences() {
        for row in rows() {
            if let Stance::Differently(text) | Stance::Ignored(text) | Stance::Refused(text) = row.stance {
                assert!(text.ends_with('.') && !text.contains('|'), "{}: {text}", row.key);
            }
            if let Stance::Refused(text) = row.stance {
                let advice = ["Remove", "Use", "Run", "Build", "Put", "Copy"].iter().any(|word| text.contains(word));
                assert!(advice, "{}: {text} says not what to do instead", row.key);
            }
        }
    }

    #[test]
    fn docs_compose_md_is_what_the_table_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compose.md");
        if std::env::var_os("HIVEMIND_UPDATE_DOCS").is_some() {
            fs::write(&path, document()).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there == document(), "docs/compose.md is not what the table says; write it anew: cargo xtask docs");
    }
}
