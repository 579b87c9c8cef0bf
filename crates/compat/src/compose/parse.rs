//! YAML text to [`Node`]s: anchors, aliases and merge keys are resolved here, and what would grow without bound refused.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::{
    fault::{Findings, child, item},
    scalar,
    value::{Data, Entry, Map, Mark, Node, Place},
};

/// The longest file that is read, in bytes: a hundred times the longest that people write.
pub(super) const MOST_BYTES: usize = 2 << 20;
/// The deepest nesting; the specification itself needs 8.
const MOST_DEPTH: usize = 64;
/// What one load may come to, in nodes of all its files with aliases resolved.
const MOST_NODES: usize = 100_000;
/// What one load may come to, in bytes of text with variables put in.
const MOST_TEXT: usize = 16 << 20;

/// What a load may still use. Every file of it takes from the same one.
#[derive(Debug)]
pub(super) struct Budget {
    nodes: usize,
    text: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { nodes: MOST_NODES, text: MOST_TEXT }
    }
}

impl Budget {
    /// Takes nodes, if there are so many left.
    pub(super) fn nodes(&mut self, count: usize) -> Result<(), String> {
        self.nodes = self.nodes.checked_sub(count).ok_or_else(|| {
            format!(
                "the files come to more than {MOST_NODES} values with their aliases resolved: repeat less by anchors"
            )
        })?;
        Ok(())
    }

    /// Takes bytes of text, if there are so many left.
    pub(super) fn text(&mut self, bytes: usize) -> Result<(), String> {
        self.text = self.text.checked_sub(bytes).ok_or_else(|| {
            format!("the texts come to more than {} MiB with their variables put in", MOST_TEXT >> 20)
        })?;
        Ok(())
    }
}

/// The documents of a file, in their order. What is wrong goes to `found`; documents before a fault are given.
pub(super) fn parse(file: &str, text: &str, budget: &mut Budget, found: &mut Findings) -> Vec<Node> {
    let file: Arc<str> = file.into();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { file, budget, found, documents: Vec::new(), open: Vec::new(), anchors: HashMap::new() };
    for event in Parser::new_from_str(text) {
        let done = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let place = builder.place(error.marker());
                Err((place, format!("this is not YAML: {}", error.info())))
            }
        };
        if let Err((place, message)) = done {
            let path = path_of(&builder.open);
            builder.found.fault(&place, path, message);
            break;
        }
    }
    builder.documents
}

/// A collection whose end has not come.
struct Open {
    place: Place,
    mark: Mark,
    anchor: usize,
    body: Body,
}

enum Body {
    List(Vec<Node>),
    Map {
        entries: Map,
        key: Option<(String, Place)>,
        /// What `<<` names, in order: the first that has a key gives it.
        merges: Vec<Node>,
    },
}

/// What ends the reading of a file.
type Stop = (Place, String);

struct Builder<'a> {
    file: Arc<str>,
    budget: &'a mut Budget,
    found: &'a mut Findings,
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
}

impl Builder<'_> {
    fn place(&self, marker: &Marker) -> Place {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place { file: Arc::clone(&self.file), line: number(marker.line()).max(1), column: number(marker.col() + 1) }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let place = self.place(&span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
            Event::Alias(anchor) => {
                let extent = self.anchors.get(&anchor).map(Node::extent);
                let (nodes, depth) =
                    extent.ok_or_else(|| (place.clone(), "the alias stands inside of what it names".to_owned()))?;
                self.spend(&place, nodes, depth)?;
                match self.anchors.get(&anchor).cloned() {
                    Some(node) => self.put(node, 0),
                    None => Ok(()),
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(&place, 1, 1)?;
                let node = self.scalar(&text, style, tag.as_deref(), place)?;
                self.put(node, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.spend(&place, 1, 1)?;
                let mark = self.mark(tag.as_deref(), "seq", &place)?;
                self.open.push(Open { place, mark, anchor, body: Body::List(Vec::new()) });
                Ok(())
            }
            Event::MappingStart(anchor, tag) => {
                self.spend(&place, 1, 1)?;
                let mark = self.mark(tag.as_deref(), "map", &place)?;
                let body = Body::Map { entries: BTreeMap::new(), key: None, merges: Vec::new() };
                self.open.push(Open { place, mark, anchor, body });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { place, mark, anchor, body }) = self.open.pop() else { return Ok(()) };
                let data = match body {
                    // What is reset inside of a list has nothing to take the place of.
                    Body::List(list) => Data::List(list.into_iter().filter(|node| node.mark != Mark::Reset).collect()),
                    Body::Map { entries, merges, .. } => Data::Map(merged(entries, merges)),
                };
                self.put(Node { mark, ..Node::new(data, place) }, anchor)
            }
        }
    }

    fn spend(&mut self, place: &Place, nodes: usize, depth: usize) -> Result<(), Stop> {
        if self.open.len() + depth > MOST_DEPTH {
            return Err((place.clone(), format!("more than {MOST_DEPTH} collections stand in each other")));
        }
        self.budget.nodes(nodes).map_err(|why| (place.clone(), why))
    }

    /// What a tag says to a merge; refuses tags that would be ignored.
    fn mark(&self, tag: Option<&Tag>, core: &str, place: &Place) -> Result<Mark, Stop> {
        let Some(tag) = tag else { return Ok(Mark::None) };
        match (tag.handle.as_str(), tag.suffix.as_str()) {
            ("!", "reset") => Ok(Mark::Reset),
            ("!", "override") => Ok(Mark::Override),
            ("" | "!", "" | "!") => Ok(Mark::None),
            (_, suffix) if tag.is_yaml_core_schema() && suffix == core => Ok(Mark::None),
            (_, suffix) if tag.is_yaml_core_schema() => {
                Err((place.clone(), format!("the tag !!{suffix} does not fit here: leave it out")))
            }
            (_, suffix) => {
                Err((place.clone(), format!("the tag !{suffix} has no meaning: !reset and !override have one")))
            }
        }
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Result<Node, Stop> {
        let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
        let wrong = |what: &str| Err((place.clone(), format!("\"{text}\" is not {what}, as its tag says")));
        let (data, mark) = match core {
            Some("str") => (Data::Text(text.to_owned()), Mark::None),
            Some("null") => (Data::Null, Mark::None),
            Some("bool") => match scalar::flag(text) {
                Some(value) => (Data::Bool(value), Mark::None),
                None => return wrong("a truth value"),
            },
            Some("int") => match scalar::resolve(text) {
                data @ Data::Int(_) => (data, Mark::None),
                _ => return wrong("a whole number"),
            },
            Some("float") => match scalar::resolve(text) {
                data @ (Data::Int(_) | Data::Float(_)) => (data, Mark::None),
                _ => return wrong("a number"),
            },
            _ => {
                let mark = self.mark(tag, "", &place)?;
                // `! 12` says that it is no number.
                let bare = tag.is_some_and(|tag| mark == Mark::None && tag.suffix.is_empty());
                let plain = style == ScalarStyle::Plain && !bare;
                (if plain { scalar::resolve(text) } else { Data::Text(text.to_owned()) }, mark)
            }
        };
        let mut node = Node { mark, ..Node::new(data, place) };
        let reads = matches!(node.data, Data::Bool(_) | Data::Int(_) | Data::Float(_));
        if reads && node.scalar().as_deref() != Some(text) {
            node.written = Some(text.into());
        }
        Ok(node)
    }

    /// Puts a finished node where it belongs, and remembers it under its anchor.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        if anchor > 0 {
            self.spend(&node.place.clone(), node.extent().0, 1)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        let mut twice = None;
        match &mut open.body {
            Body::List(list) => list.push(node),
            Body::Map { key: key @ None, .. } => *key = Some(key_of(node)?),
            Body::Map { entries, key, merges } => {
                let Some((name, place)) = key.take() else { return Ok(()) };
                if name == "<<" {
                    merges.extend(merge_of(node)?);
                } else if let Some(first) = entries.get(&name) {
                    let message = format!(
                        "the key stands twice in this mapping, first in line {}: remove one of them",
                        first.key.line
                    );
                    twice = Some((place, name, message));
                } else {
                    entries.insert(name, Entry { key: place, value: node });
                }
            }
        }
        if let Some((place, name, message)) = twice {
            let path = child(&path_of(&self.open), &name);
            self.found.fault(&place, path, message);
        }
        Ok(())
    }
}

/// The path of what the innermost of these collections is at.
fn path_of(open: &[Open]) -> String {
    open.iter().fold(String::new(), |path, open| match &open.body {
        Body::List(list) => item(&path, list.len()),
        Body::Map { key: Some((key, _)), .. } => child(&path, key),
        Body::Map { .. } => path,
    })
}

/// A mapping's key.
fn key_of(node: Node) -> Result<(String, Place), Stop> {
    match node.data {
        Data::Text(text) => Ok((text, node.place)),
        Data::Int(_) | Data::Float(_) | Data::Bool(_) | Data::Null => {
            let found = node.describe();
            Err((node.place, format!("a key is text, and this is {found}: put it in quotes")))
        }
        Data::List(_) | Data::Map(_) => {
            let found = node.describe();
            Err((node.place, format!("a key is text, and this is {found}; a value with {{{{ }}}} needs quotes")))
        }
    }
}

/// What a merge key names: a mapping, or a list of them.
fn merge_of(node: Node) -> Result<Vec<Node>, Stop> {
    let wrong = |node: &Node| {
        let message = format!("'<<' takes a mapping or a list of mappings, and this is {}", node.describe());
        Err((node.place.clone(), message))
    };
    match node.data {
        Data::Map(_) => Ok(vec![node]),
        Data::Null => Ok(Vec::new()),
        Data::List(list) => match list.iter().find(|item| item.map().is_none()) {
            Some(item) => wrong(item),
            None => Ok(list),
        },
        _ => wrong(&node),
    }
}

/// The entries with those of the merge keys that they do not have themselves.
fn merged(mut entries: Map, merges: Vec<Node>) -> Map {
    for merge in merges {
        if let Data::Map(map) = merge.data {
            for (key, entry) in map {
                entries.entry(key).or_insert(entry);
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<serde_json::Value>, Vec<String>) {
        let mut found = Findings::default();
        let documents = parse("f", text, &mut Budget::default(), &mut found);
        (documents.iter().map(Node::to_json).collect(), found.faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn anchors_and_merge_keys() {
        let (documents, faults) = read(
            "x: &a {p: 1, q: 1}\ny: &b {q: 2, r: 2}\nz:\n  <<: [*a, *b]\n  p: 3\nl: &l [*a]\nm:\n  <<: *l\n---\nsecond: yes\n",
        );
        assert_eq!(faults, [""; 0]);
        assert_eq!(documents[0]["z"], serde_json::json!({"p": 3, "q": 1, "r": 2}));
        assert_eq!(documents[0]["m"], serde_json::json!({"p": 1, "q": 1}));
        assert_eq!(documents[1], serde_json::json!({"second": "yes"}));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let bomb = (1..9).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
            let m = n - 1;
            text + &format!("a{n}: &a{n} [*a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}]\n")
        });
        let deep = format!("a: {}{}", "[".repeat(80), "]".repeat(80));
        let deep_fault = format!("f:1:67: a{}: more than 64 collections stand in each other", "[0]".repeat(63));
        let rows = [
            (
                "a: 1\nb: 2\na: 3\n",
                "f:3:1: a: the key stands twice in this mapping, first in line 1: remove one of them",
            ),
            ("a: &x [*x]\n", "f:1:8: a[0]: the alias stands inside of what it names"),
            ("a: *x\n", "f:1:4: a: this is not YAML: while parsing node, found unknown anchor"),
            ("80: a\n", "f:1:1: a key is text, and this is the number 80: put it in quotes"),
            ("a: {{ b }}\n", "f:1:5: a: a key is text, and this is a mapping; a value with {{ }} needs quotes"),
            ("a: !vault x\n", "f:1:4: a: the tag !vault has no meaning: !reset and !override have one"),
            ("a: !!int x\n", "f:1:4: a: \"x\" is not a whole number, as its tag says"),
            ("a:\n  <<: 3\n", "f:2:7: a: '<<' takes a mapping or a list of mappings, and this is the number 3"),
            (
                &bomb,
                "f:6:20: a5[2]: the files come to more than 100000 values with their aliases resolved: repeat less by anchors",
            ),
            (&deep, &deep_fault),
        ];
        for (text, wanted) in rows {
            assert_eq!(read(text).1, [wanted], "{text}");
        }
    }
}
