//! How answers are shown.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::{
    lifecycle::clock,
    model::{Addresses, ErrorCode, Problem, Timestamp},
};

/// Exit code of an interrupted command: 128 + SIGINT.
pub(super) const INTERRUPTED: u8 = 130;
/// Exit code when the reader of our output has gone: 128 + SIGPIPE.
const BROKEN_PIPE: i32 = 141;

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    Table,
    /// More columns for people
    Wide,
    /// JSON, with a stable schema
    Json,
    /// YAML, with the schema of JSON
    Yaml,
    /// Only names, one on a line
    Name,
}

/// How this run shows things.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) format: Format,
    pub(super) quiet: bool,
}

/// How a cell is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
}

/// A list of things that can be shown.
pub(super) trait Listed: Serialize {
    /// Column titles; those after the bar are for `wide` only.
    const COLUMNS: (&'static [&'static str], &'static [&'static str]);
    /// The name for `-o name`.
    fn name(&self) -> String;
    /// A cell for every column, wide ones included.
    fn cells(&self) -> Vec<String>;
    /// Its tenant and its namespace, if it has them.
    fn place(&self) -> (String, String) {
        Default::default()
    }
    /// The column that says how it is, and how that is meant.
    fn tone(&self) -> Option<(usize, Tone)> {
        None
    }
}

/// Columns before all others, for what is listed of several namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leading {
    Nothing,
    Namespace,
    TenantAndNamespace,
}

impl Leading {
    fn titles(self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &[],
            Self::Namespace => &["NAMESPACE"],
            Self::TenantAndNamespace => &["TENANT", "NAMESPACE"],
        }
    }

    fn cells(self, item: &impl Listed) -> Vec<String> {
        let (tenant, namespace) = item.place();
        match self {
            Self::Nothing => vec![],
            Self::Namespace => vec![namespace],
            Self::TenantAndNamespace => vec![tenant, namespace],
        }
    }
}

fn drawn(mut table: Table) -> String {
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.trim_fmt()
}

/// Writes a line to standard output. When its reader has gone (`hivemind ps | head`), the program ends quietly.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    if let Err(error) = written {
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            eprintln!("cannot write to standard output: {error}");
        }
        std::process::exit(BROKEN_PIPE);
    }
}

impl Output {
    /// Whether people read it: a table, not a document.
    pub(super) const fn is_for_people(self) -> bool {
        matches!(self.format, Format::Table | Format::Wide) && !self.quiet
    }

    /// Shows a list; `empty` is said to people when there is nothing.
    pub(super) fn list<T: Listed>(self, items: &[T], empty: &str) -> Result<(), Problem> {
        self.list_with(Leading::Nothing, items, empty)
    }

    /// The same, of several namespaces.
    pub(super) fn list_with<T: Listed>(self, leading: Leading, items: &[T], empty: &str) -> Result<(), Problem> {
        match self.format {
            Format::Json | Format::Yaml => return self.document(&items),
            Format::Name => items.iter().for_each(|item| line(&item.name())),
            Format::Table | Format::Wide if items.is_empty() => self.say(empty),
            Format::Table | Format::Wide => line(&self.table(leading, items)),
        }
        Ok(())
    }

    fn table<T: Listed>(self, leading: Leading, items: &[T]) -> String {
        let (narrow, extra) = T::COLUMNS;
        let wide = self.format == Format::Wide;
        let titles = leading.titles();
        let columns: Vec<_> = titles.iter().chain(narrow).chain(extra.iter().filter(|_| wide)).collect();
        let mut table = self.blank(columns.iter().map(|column| (**column).to_owned()));
        for item in items {
            let tone = item.tone();
            let cell = |(i, text): (usize, String)| {
                let colour = match tone
                    .filter(|(column, _)| *column + titles.len() == i)
                    .map_or(Tone::Plain, |(_, tone)| tone)
                {
                    Tone::Plain => return Cell::new(text),
                    Tone::Good => Color::Green,
                    Tone::Busy => Color::Yellow,
                    Tone::Bad => Color::Red,
                };
                Cell::new(text).fg(colour)
            };
            let cells = leading.cells(item).into_iter().chain(item.cells());
            table.add_row(cells.map(one_line).enumerate().take(columns.len()).map(cell));
        }
        drawn(table)
    }

    /// Rows under titles that are known only now.
    pub(super) fn grid(self, columns: &[String], rows: &[Vec<String>]) -> String {
        let mut table = self.blank(columns.iter().cloned());
        for row in rows {
            table.add_row(row.iter().cloned().map(one_line));
        }
        drawn(table)
    }

    fn blank(self, columns: impl Iterator<Item = String>) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        if colours(&std::io::stdout()) {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if !self.quiet {
            table.set_header(columns);
        }
        table
    }

    /// Whether a document is wanted rather than text for people.
    pub(super) fn wants_document(self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// Shows a document as JSON or YAML.
    pub(super) fn document(self, item: &impl Serialize) -> Result<(), Problem> {
        let fail = |why: String| Problem::new(ErrorCode::Internal, format!("the answer cannot be shown: {why}"));
        let text = match self.format {
            Format::Yaml => yaml(item).map_err(|error| fail(error.to_string()))?,
            _ => serde_json::to_string_pretty(item).map_err(|error| fail(error.to_string()))?,
        };
        line(text.trim_end());
        Ok(())
    }

    /// Shows one document of a stream: on one line of JSON, or as a YAML document of its own.
    pub(super) fn streamed(self, item: &impl Serialize) -> Result<(), Problem> {
        if self.format == Format::Yaml {
            line("---");
            return self.document(item);
        }
        let text = serde_json::to_string(item);
        line(&text.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?);
        Ok(())
    }

    /// Says something to people, on standard error; never with `--quiet`.
    pub(super) fn say(self, text: &str) {
        if !self.quiet && !text.is_empty() {
            eprintln!("{text}");
        }
    }

    /// Shows a problem on standard error: as text, or as a document if one is wanted.
    pub(super) fn problem(self, problem: &Problem) {
        if self.wants_document() {
            eprintln!("{}", serde_json::to_string(problem).unwrap_or_default());
            return;
        }
        let text = problem.to_string();
        match text.split_once(':').filter(|_| colours(&std::io::stderr())) {
            Some((head, rest)) => eprintln!("\x1b[1;31m{head}\x1b[0m:{rest}"),
            None => eprintln!("{text}"),
        }
    }
}

/// YAML with the schema of JSON: without tags for what is one of several kinds.
fn yaml(item: &impl Serialize) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = Vec::new();
    serde_norway::with::singleton_map_recursive::serialize(item, &mut serde_norway::Serializer::new(&mut text))?;
    Ok(String::from_utf8(text)?)
}

/// Whether a stream takes colours (<https://no-color.org>).
pub(super) fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Messages of programs may have several lines, and control characters that a terminal would obey.
fn one_line(text: String) -> String {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    } else {
        text
    }
}

/// How long ago, as `5s`, `3m`, `4h`, `2d`.
pub(super) fn age(at: Timestamp) -> String {
    span((clock::now().as_millis() - at.as_millis()).max(0) / 1000)
}

fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Addresses in one cell.
pub(super) fn addresses(addresses: &Addresses) -> String {
    addresses.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(" ")
}

/// Bytes for people: `1.5 MB`.
pub(super) fn bytes(n: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
    let n = n as f64;
    match n {
        n if n < 1e3 => format!("{n} B"),
        n if n < 1e6 => format!("{:.1} kB", n / 1e3),
        n if n < 1e9 => format!("{:.1} MB", n / 1e6),
        n => format!("{:.1} GB", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing(&'static str, &'static str);

    impl Listed for Thing {
        const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (&["NAME", "MESSAGE"], &["MORE"]);
        fn name(&self) -> String {
            self.0.into()
        }
        fn cells(&self) -> Vec<String> {
            vec![self.0.into(), self.1.into(), "more".into()]
        }
        fn place(&self) -> (String, String) {
            ("acme".into(), "prod".into())
        }
    }

    #[test]
    fn tables_have_a_line_for_each_thing() {
        let things = [Thing("web", "two\nlines \x1b[31mred"), Thing("a-long-name", "")];
        let output = Output { format: Format::Table, quiet: false };
        let trimmed = |table: String| table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert_eq!(
            trimmed(output.table(Leading::Nothing, &things)),
            "NAME         MESSAGE\nweb          two lines  [31mred\na-long-name"
        );
        let quiet = Output { format: Format::Wide, quiet: true };
        assert_eq!(trimmed(quiet.table(Leading::Nothing, &things[1..])), "a-long-name     more");
        assert_eq!(
            trimmed(output.table(Leading::TenantAndNamespace, &things[1..])),
            "TENANT  NAMESPACE  NAME         MESSAGE\nacme    prod       a-long-name"
        );
    }

    #[test]
    fn spans_and_bytes_are_short() {
        assert_eq!([span(0), span(119), span(120), span(7_200), span(172_800)], ["0s", "119s", "2m", "2h", "2d"]);
        assert_eq!([bytes(0), bytes(999), bytes(1_500), bytes(30_000_000)], ["0 B", "999 B", "1.5 kB", "30.0 MB"]);
    }
}
