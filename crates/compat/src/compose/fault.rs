//! What is wrong with a document, and what is only odd: each with its place, its key's path and a sentence.

use std::fmt;

use super::value::Place;

/// More faults than this are not told: nobody reads them, and a broken document of many nodes would fill the terminal.
const MOST: usize = 100;

/// One fault or warning.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fault {
    /// Where it stands.
    pub place: Place,
    /// The key's path, e.g. `services.web.ports[0]`; empty where it is about the whole file.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Fault {
    /// A fault at a key's path.
    pub fn new(place: &Place, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.clone(), path: path.into(), message: message.into() }
    }
}

/// `compose.yaml:3:5: services.web.image: the sentence`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// What was found in a load: faults refuse it, warnings are told beside it.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Findings {
    /// What refuses the document.
    pub faults: Vec<Fault>,
    /// What is odd, and what was done about it.
    pub warnings: Vec<Fault>,
}

impl Findings {
    /// Adds a fault.
    pub fn fault(&mut self, place: &Place, path: impl Into<String>, message: impl Into<String>) {
        if self.faults.len() < MOST {
            self.faults.push(Fault::new(place, path, message));
        }
    }

    /// Adds a warning.
    pub fn warn(&mut self, place: &Place, path: impl Into<String>, message: impl Into<String>) {
        if self.warnings.len() < MOST {
            self.warnings.push(Fault::new(place, path, message));
        }
    }

    /// Whether nothing refuses the document so far.
    pub fn good(&self) -> bool {
        self.faults.is_empty()
    }

    /// In the order of the documents, each once: what an anchor holds is found wherever it is used.
    pub(super) fn sorted(mut self) -> Self {
        for list in [&mut self.faults, &mut self.warnings] {
            list.sort();
            list.dedup_by(|a, b| a.place == b.place && a.place.line > 0 && a.message == b.message);
        }
        self
    }
}

/// A path with one more key.
pub(super) fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A path with an index.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// The known word nearest to one that is not known, if it is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).max(1);
    let near = |(far, other): &(usize, &str)| *far <= most && *far < word.len().min(other.len());
    known.into_iter().map(|other| (distance(word, other), other)).filter(near).min().map(|(_, other)| other)
}

/// How many letters are to be added, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_near_is_meant() {
        let known = ["ports", "image", "environment"];
        for (word, meant) in [("prots", Some("ports")), ("enviroment", Some("environment")), ("volumes", None)] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
