//! The generic value: YAML that remembers where each node stands.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// Where something stands: a file as it was named, line and column from 1.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The file as messages name it.
    pub file: Arc<str>,
    /// From 1; 0 means the file as a whole.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

impl Place {
    /// The file as a whole.
    pub fn whole(file: &str) -> Self {
        Self { file: file.into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// What a merge does with a node, said by its tag.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Mark {
    /// No tag: the usual rules.
    #[default]
    None,
    /// `!reset`: what stands there in earlier files goes, and nothing comes.
    Reset,
    /// `!override`: what stands there in earlier files goes, and this comes.
    Override,
}

/// What a node holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Data {
    /// Nothing: `null`, `~`, or no text at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A finite number with a fraction, or beyond [`Data::Int`].
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping. The order of its keys has no meaning in the specification.
    Map(Map),
}

/// A mapping's entries by key.
pub type Map = BTreeMap<String, Entry>;

/// A mapping's value, and where its key stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Where the key stands.
    pub key: Place,
    /// The value.
    pub value: Node,
}

/// A value and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// What it holds.
    pub data: Data,
    /// Where it stands.
    pub place: Place,
    /// What a merge does with it.
    pub mark: Mark,
    /// How a number or a truth value was written, where that is not how it reads: `0755` is 493.
    pub written: Option<Box<str>>,
}

impl Node {
    /// A node without a tag.
    pub fn new(data: Data, place: Place) -> Self {
        Self { data, place, mark: Mark::None, written: None }
    }

    /// A text at the place of this node.
    pub fn text_here(&self, text: impl Into<String>) -> Self {
        Self::new(Data::Text(text.into()), self.place.clone())
    }

    /// Takes the value out and leaves nothing.
    pub fn take(&mut self) -> Data {
        std::mem::replace(&mut self.data, Data::Null)
    }

    /// The mapping, if it is one.
    pub fn map(&self) -> Option<&Map> {
        match &self.data {
            Data::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The mapping, if it is one.
    pub fn map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.data {
            Data::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The sequence, if it is one.
    pub fn list(&self) -> Option<&[Node]> {
        match &self.data {
            Data::List(list) => Some(list),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value under a key, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.map()?.get(key).map(|entry| &entry.value)
    }

    /// The value under a key, if this is a mapping that has it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.map_mut()?.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Sets a key at the place of its value; nothing happens on what is no mapping.
    pub fn set(&mut self, key: &str, value: Node) {
        if let Some(map) = self.map_mut() {
            map.insert(key.to_owned(), Entry { key: value.place.clone(), value });
        }
    }

    /// What a scalar says as text, as a variable of the environment has it; `None` for null and collections.
    pub fn scalar(&self) -> Option<String> {
        match &self.data {
            Data::Bool(value) => Some(value.to_string()),
            Data::Int(value) => Some(value.to_string()),
            Data::Float(value) => Some(value.to_string()),
            Data::Text(text) => Some(text.clone()),
            Data::Null | Data::List(_) | Data::Map(_) => None,
        }
    }

    /// How many nodes it is made of, and how deep it goes (1 for a scalar).
    pub fn extent(&self) -> (usize, usize) {
        let of = |children: &mut dyn Iterator<Item = &Node>| {
            children.map(Node::extent).fold((1, 1), |(n, deep), (m, below)| (n + m, deep.max(below + 1)))
        };
        match &self.data {
            Data::List(list) => of(&mut list.iter()),
            Data::Map(map) => of(&mut map.values().map(|entry| &entry.value)),
            _ => (1, 1),
        }
    }

    /// The same as JSON, without places.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Int(value) => Value::from(*value),
            Data::Float(value) => Value::from(*value),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(list) => Value::Array(list.iter().map(Node::to_json).collect()),
            Data::Map(map) => {
                Value::Object(map.iter().map(|(key, entry)| (key.clone(), entry.value.to_json())).collect())
            }
        }
    }

    /// What it is, in a user's words, with its value if that is short: `the number 3`, `a list`.
    pub fn describe(&self) -> String {
        let short = |text: &str| {
            let cut: String = text.chars().take(40).collect();
            if cut.len() < text.len() { format!("{cut}…") } else { cut }
        };
        match &self.data {
            Data::Null => "nothing".to_owned(),
            Data::Bool(value) => format!("the truth value {value}"),
            Data::Int(value) => format!("the number {value}"),
            Data::Float(value) => format!("the number {value}"),
            Data::Text(text) => format!("the text \"{}\"", short(text)),
            Data::List(_) => "a list".to_owned(),
            Data::Map(_) => "a mapping".to_owned(),
        }
    }
}
