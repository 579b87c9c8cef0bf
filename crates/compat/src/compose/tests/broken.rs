//! Documents that are broken by chance: no panic, no hang, and every fault has a place and a sentence.

use std::{fs, path::Path, sync::LazyLock};

use proptest::prelude::*;

use super::Bundle;

/// The good documents, and the wrong ones.
static DOCUMENTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/compose/tests/documents");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let good = paths.iter().map(|path| fs::read_to_string(path).unwrap());
    let wrong = include_str!("wrong.txt").split("====\n").map(|row| row.replace("\n> ", "\n# "));
    good.chain(wrong).collect()
});

/// What is put into documents: what has a meaning somewhere.
const PIECES: &[&str] = &[
    "!reset ",
    "!override ",
    "*a",
    "&a ",
    "<<: ",
    "<<: *a\n",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "${",
    "}",
    "$",
    "$$",
    "${A:-",
    "${A:?x}",
    "~",
    "null",
    "true",
    "-1",
    "0755",
    "1e400",
    "99999999999999999999",
    "80:80",
    "::",
    "/",
    "\t",
    "\n",
    "\n  ",
    "\n    ",
    "services:",
    "extends: ",
    "include: ",
    "file: compose.yaml",
    "service: a",
    "depends_on: [a]",
    "x-y: ",
    "profiles: [a]",
    "ports: ",
    "volumes: ",
    "\u{0}",
    "ä",
    "\u{feff}",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "? ",
    "!!str ",
    "!!binary ",
    "# ",
    "1-65535:1-65535",
    "50ms",
    "a b",
    "[[[[[[[[",
    "#file compose.override.yaml\n",
    "#profile *\n",
];

/// One change of a document.
#[derive(Clone, Debug)]
enum Change {
    /// Puts a piece in.
    Put(prop::sample::Index, prop::sample::Index),
    /// Takes some characters out.
    Cut(prop::sample::Index, usize),
    /// Says a line once more, somewhere else.
    Again(prop::sample::Index, prop::sample::Index),
    /// Moves a line in or out.
    Indent(prop::sample::Index, bool),
    /// Takes the value of one line for that of another.
    Swap(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), at()).prop_map(|(at, piece)| Change::Put(at, piece)),
        (at(), 1..12_usize).prop_map(|(at, length)| Change::Cut(at, length)),
        (at(), at()).prop_map(|(from, to)| Change::Again(from, to)),
        (at(), any::<bool>()).prop_map(|(at, deeper)| Change::Indent(at, deeper)),
        (at(), at()).prop_map(|(from, to)| Change::Swap(from, to)),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    if chars.is_empty() {
        return PIECES[0].to_owned();
    }
    match change {
        Change::Put(at, piece) => {
            let at = at.index(chars.len());
            chars.splice(at..at, piece.get(PIECES).chars());
            return chars.into_iter().collect();
        }
        Change::Cut(at, length) => {
            let at = at.index(chars.len());
            let end = (at + length).min(chars.len());
            chars.drain(at..end);
            return chars.into_iter().collect();
        }
        Change::Again(from, to) => {
            let line = from.get(&lines).clone();
            lines.insert(to.index(lines.len()), line);
        }
        Change::Indent(at, deeper) => {
            let line = &mut lines[at.index(text.split_inclusive('\n').count())];
            *line = if *deeper { format!("  {line}") } else { line.trim_start_matches(' ').to_owned() };
        }
        Change::Swap(from, to) => {
            let value = from.get(&lines).split_once(':').map(|(_, value)| value.to_owned());
            let line = &mut lines[to.index(text.split_inclusive('\n').count())];
            if let (Some(value), Some((key, _))) = (value, line.split_once(':')) {
                *line = format!("{key}:{value}");
            }
        }
    }
    lines.concat()
}

/// Loads and looks at what is said, if anything.
fn look(text: &str) {
    let Err(found) = Bundle::of(text).load() else { return };
    assert!(!found.faults.is_empty(), "{text}\nis refused without a word");
    for fault in &found.faults {
        let told = fault.to_string();
        assert!(!fault.message.is_empty() && !fault.place.file.is_empty(), "{told}");
        // The one fault that the schema should have found first.
        assert!(!told.contains("please report it"), "{text}\n{told}");
        let lines = text.lines().count() + 2;
        assert!(usize::try_from(fault.place.line).unwrap() <= lines, "{told}");
        let whole = fault.place.line == 0;
        let allowed =
            ["there is no", "the file is", "is not allowed", "gives no name", "no service of this name", "is named as"];
        assert!(!whole || allowed.iter().any(|part| told.contains(part)), "{text}\nhas no place for {told}");
    }
}

proptest! {
    // `PROPTEST_CASES` says how many; 256 are of the usual run.
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn broken_documents_are_refused_with_a_place(
        document in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let start = document.get(&DOCUMENTS).clone();
        // `#env A` without a value is no line of a bundle.
        let text = changes.iter().fold(start, |text, change| apply(&text, change)).replace("#env ", "#env _=");
        look(&text);
    }

    #[test]
    fn anything_is_refused_with_a_place(text in "[ -~\\n\\tä]{0,200}") {
        look(&text.replace("#env ", ""));
    }
}

#[test]
fn what_would_grow_is_refused_soon() {
    let chain = |n: usize| (1..n).map(|n| format!("  s{n}: {{extends: s{}}}\n", n - 1)).collect::<String>();
    let includes: String = (0..40)
        .map(|n| format!("#file f{n}.yaml\ninclude: [f{m}.yaml, f{m}.yaml, f{m}.yaml]\nx-a: 1\n", m = n + 1))
        .collect();
    let variables: String = (0..60).map(|n| format!("V{}=$V{n}$V{n}\n", n + 1)).collect();
    let waits: String = (1..3000).map(|n| format!("  s{n}: {{image: a, depends_on: [s{}]}}\n", n - 1)).collect();
    let ports: String =
        (1..3000).map(|n| format!("      - '127.0.{}.{}:1-60000:1-60000'\n", n / 200, n % 200)).collect();
    let documents = [
        format!("services:\n  s0: {{image: a}}\n{}", chain(2000)),
        format!("include: [f0.yaml]\n{includes}services: {{}}\n"),
        format!("services: {{a: {{image: '$V60'}}}}\n#file .env\nV0=xxxxxxxxxxxxxxxx\n{variables}"),
        format!("services:\n  s0: {{image: a, depends_on: [s2999]}}\n{waits}"),
        format!("services:\n  a:\n    image: a\n    ports:\n      - '1-60000:1-60000'\n{ports}"),
        format!("services: {{a: {{image: '{}'}}}}\n", "${A:-".repeat(50_000)),
        format!("services: {{a: {{command: '{}'}}}}\n", "\\".repeat(50_001)),
        "[".repeat(200_000),
        "a: &a\n".repeat(50_000),
        "? ".repeat(100_000),
        format!("a: {}\n", "- ".repeat(100_000)),
        "{a: ".repeat(100_000),
        format!("x-a: '{}'\n", "$A".repeat(1_000_000)),
    ];
    for text in documents {
        let started = tokio::time::Instant::now();
        look(&text);
        let took = started.elapsed();
        assert!(took.as_secs() < 20, "{took:?}: {}", text.chars().take(80).collect::<String>());
    }
}
