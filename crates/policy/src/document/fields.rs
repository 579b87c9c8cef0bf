//! Walks over a document and remembers where it is. Whoever gives `None` has said a fault.

use std::fmt::Display;

use serde_norway::{Mapping, Value};

/// What is wrong, so far.
#[derive(Default)]
pub(super) struct Faults {
    document: usize,
    said: Vec<String>,
}

impl Faults {
    pub(super) fn next_document(&mut self) {
        self.document += 1;
    }

    /// Where a field of this document is, in words.
    pub(super) fn place(&self, path: &str) -> String {
        if path.is_empty() {
            format!("document {}", self.document)
        } else {
            format!("document {}: {path}", self.document)
        }
    }

    pub(super) fn say(&mut self, path: &str, why: impl Display) {
        self.said.push(format!("{}: {why}", self.place(path)));
    }

    pub(super) fn into_result<T>(self, read: T) -> Result<T, Vec<String>> {
        if self.said.is_empty() { Ok(read) } else { Err(self.said) }
    }
}

/// A value and where it is.
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

/// The fields of a mapping.
pub(super) struct Fields<'a> {
    mapping: &'a Mapping,
    path: String,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    pub(super) fn fault<T>(&self, faults: &mut Faults, why: impl Display) -> Option<T> {
        faults.say(&self.path, why);
        None
    }

    /// The fields of a mapping that may have the `known` ones only.
    pub(super) fn fields(&self, known: &[&str], faults: &mut Faults) -> Option<Fields<'a>> {
        let fields = self.mapping(faults)?;
        for key in fields.mapping.keys() {
            let key = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
            if !known.contains(&key.as_str()) {
                faults.say(&fields.child(&key), format_args!("there is no such field; known are {}", known.join(", ")));
            }
        }
        Some(fields)
    }

    /// The same, and each that is there must have a value.
    pub(super) fn fields_with_values(&self, known: &[&str], faults: &mut Faults) -> Option<Fields<'a>> {
        let fields = self.fields(known, faults)?;
        for (key, _) in fields.mapping.iter().filter(|(_, value)| **value == Value::Null) {
            let key = key.as_str().unwrap_or_default();
            faults.say(&fields.child(key), "has no value; write one, or leave the field out");
        }
        Some(fields)
    }

    /// Any mapping.
    pub(super) fn mapping(&self, faults: &mut Faults) -> Option<Fields<'a>> {
        match self.value {
            Value::Mapping(mapping) => Some(Fields { mapping, path: self.path.clone() }),
            _ => self.fault(faults, "is not a mapping of fields"),
        }
    }

    pub(super) fn items(&self, faults: &mut Faults) -> Option<Vec<Node<'a>>> {
        let Value::Sequence(items) = self.value else {
            return self.fault(faults, "is not a list; begin each of its items with '- '");
        };
        let items = items.iter().enumerate();
        Some(items.map(|(n, value)| Node { value, path: format!("{}[{n}]", self.path) }).collect())
    }

    pub(super) fn text(&self, faults: &mut Faults) -> Option<&'a str> {
        match self.value {
            Value::String(text) => Some(text),
            Value::Number(number) => self.fault(faults, format_args!("{number} is not text; put it in quotes")),
            Value::Bool(value) => self.fault(faults, format_args!("{value} is not text; put it in quotes")),
            Value::Tagged(_) => self.fault(faults, "begins with '!'; put it in quotes"),
            _ => self.fault(faults, "is not text"),
        }
    }
}

impl<'a> Fields<'a> {
    pub(super) fn fault<T>(&self, faults: &mut Faults, why: impl Display) -> Option<T> {
        faults.say(&self.path, why);
        None
    }

    fn child(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field that is there and is not null: to Kubernetes the two are the same.
    pub(super) fn get(&self, name: &str) -> Option<Node<'a>> {
        let value = self.mapping.get(name).filter(|value| **value != Value::Null)?;
        Some(Node { value, path: self.child(name) })
    }

    pub(super) fn need(&self, name: &str, faults: &mut Faults) -> Option<Node<'a>> {
        let found = self.get(name);
        if found.is_none() {
            faults.say(&self.child(name), "is missing");
        }
        found
    }

    /// The items of a list; none if it is not there.
    pub(super) fn list(&self, name: &str, faults: &mut Faults) -> Vec<Node<'a>> {
        self.get(name).and_then(|node| node.items(faults)).unwrap_or_default()
    }

    /// The items of a list that says something if it is there.
    pub(super) fn filled_list(&self, name: &str, all: &str, faults: &mut Faults) -> Vec<Node<'a>> {
        let items = self.list(name, faults);
        if self.get(name).is_some_and(|node| node.value.as_sequence().is_some_and(Vec::is_empty)) {
            faults.say(&self.child(name), format_args!("is an empty list; leave it out for {all}"));
        }
        items
    }

    /// All fields, by name.
    pub(super) fn all(&self, faults: &mut Faults) -> Vec<(&'a str, Node<'a>)> {
        let mut all = Vec::new();
        for (key, value) in self.mapping {
            match key.as_str() {
                Some(key) => all.push((key, Node { value, path: self.child(key) })),
                None => faults.say(&self.path, format_args!("the name {key:?} is not text; put it in quotes")),
            }
        }
        all
    }
}
