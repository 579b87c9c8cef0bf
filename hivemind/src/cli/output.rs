//! How answers are shown.

use std::io::IsTerminal;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::model::{ErrorCode, Problem, Timestamp};

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

/// A list of things that can be shown.
pub(super) trait Listed: Serialize {
    /// Column titles; those after the bar are for `wide` only.
    const COLUMNS: (&'static [&'static str], &'static [&'static str]);
    /// The name for `-o name`.
    fn name(&self) -> String;
    /// A cell for every column, wide ones included.
    fn cells(&self) -> Vec<String>;
}

impl Output {
    /// Shows a list; `empty` is said to people when there is nothing.
    pub(super) fn list<T: Listed>(&self, items: &[T], empty: &str) -> Result<(), Problem> {
        match self.format {
            Format::Json | Format::Yaml => return self.document(&items),
            Format::Name => items.iter().for_each(|item| println!("{}", item.name())),
            Format::Table | Format::Wide if items.is_empty() => {
                if !self.quiet {
                    eprintln!("{empty}");
                }
            }
            Format::Table | Format::Wide => {
                let (narrow, extra) = T::COLUMNS;
                let wide = self.format == Format::Wide;
                let columns: Vec<_> = narrow.iter().chain(extra.iter().filter(|_| wide)).collect();
                let mut table = Table::new();
                table.load_style(presets::NOTHING);
                table.set_content_arrangement(ContentArrangement::Disabled);
                if !self.quiet {
                    table.set_header(columns.iter().map(|column| (**column).to_owned()));
                }
                for item in items {
                    table.add_row(item.cells().into_iter().take(columns.len()));
                }
                let columns_of = table.column_iter_mut();
                for column in columns_of {
                    column.set_padding((0, 2));
                }
                println!("{}", table.trim_fmt());
            }
        }
        Ok(())
    }

    /// Whether a document is wanted rather than text for people.
    pub(super) fn wants_document(&self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// Shows a document as JSON or YAML.
    pub(super) fn document(&self, item: &impl Serialize) -> Result<(), Problem> {
        let fail = |why: String| Problem::new(ErrorCode::Internal, format!("the answer cannot be shown: {why}"));
        let text = match self.format {
            Format::Yaml => serde_norway::to_string(item).map_err(|error| fail(error.to_string()))?,
            _ => serde_json::to_string_pretty(item).map_err(|error| fail(error.to_string()))? + "\n",
        };
        print!("{text}");
        Ok(())
    }

    /// Says something to people, on standard error; never with `--quiet`.
    pub(super) fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Shows a problem on standard error: as text, or as a document if one is wanted.
    pub(super) fn problem(&self, problem: &Problem) {
        if self.wants_document() {
            eprintln!("{}", serde_json::to_string(problem).unwrap_or_default());
        } else {
            let text = problem.to_string();
            match text.split_once(':').filter(|_| colours()) {
                Some((head, rest)) => eprintln!("\x1b[1;31m{head}\x1b[0m:{rest}"),
                None => eprintln!("{text}"),
            }
        }
    }
}

/// Whether standard error takes colours.
fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How long ago, as `5s`, `3m`, `4h`, `2d`.
pub(super) fn age(at: Timestamp) -> String {
    let seconds = (crate::lifecycle::clock::now().as_millis() - at.as_millis()).max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Addresses in one cell.
pub(super) fn addresses(addresses: &crate::model::Addresses) -> String {
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
