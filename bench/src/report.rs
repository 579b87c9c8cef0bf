//! What a measurement says: a table for people, which is Markdown too, and JSON for machines.

use std::{fmt::Write as _, fs};

use serde::{Deserialize, Serialize};

use crate::stats::{Series, Summary};

/// The result of one measurement.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What was measured.
    title: String,
    /// Where, when and how.
    setting: Setting,
    /// Every subject's own figures.
    figures: Vec<Figure>,
    /// Comparisons, taken within each round.
    ratios: Vec<Ratio>,
    /// What a reader must know to judge the figures.
    notes: Vec<String>,
}

/// Where, when and how.
#[derive(Debug, Serialize, Deserialize)]
struct Setting {
    machine: String,
    kernel: String,
    date: String,
    command: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Figure {
    subject: String,
    unit: String,
    #[serde(flatten)]
    summary: Summary,
}

#[derive(Debug, Serialize, Deserialize)]
struct Ratio {
    of: String,
    to: String,
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<bool>,
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Target {
    fn reached(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {}", number(limit)),
            Self::AtLeast(limit) => format!("≥ {}", number(limit)),
        }
    }
}

impl Report {
    /// An empty report of this machine, now.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            setting: Setting::here(),
            figures: Vec::new(),
            ratios: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a subject's figures.
    pub(crate) fn figure(&mut self, subject: impl Into<String>, unit: &str, series: &Series) {
        self.figures.push(Figure { subject: subject.into(), unit: unit.to_owned(), summary: series.summary() });
    }

    /// Adds a comparison of two subjects' figures of the same rounds.
    pub(crate) fn ratio(
        &mut self,
        (of, ours): (impl Into<String>, &Series),
        (to, theirs): (impl Into<String>, &Series),
        target: Option<Target>,
    ) {
        self.add(of.into(), to.into(), ours.over(theirs).summary(), target);
    }

    /// Compares a subject's figure itself with a fixed limit.
    pub(crate) fn limit(&mut self, of: impl Into<String>, unit: &str, series: &Series, target: Target) {
        self.add(of.into(), format!("({unit})"), series.summary(), Some(target));
    }

    fn add(&mut self, of: String, to: String, summary: Summary, target: Option<Target>) {
        let reached = target.map(|target| target.reached(summary.median));
        self.ratios.push(Ratio { of, to, summary, target, reached });
    }

    /// Adds a remark.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints it.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = if json { serde_json::to_string_pretty(self)? } else { self.text() };
        println!("{text}");
        Ok(())
    }

    /// Fails if a target was missed.
    pub(crate) fn strictly(&self) -> anyhow::Result<()> {
        let missed: Vec<&str> =
            self.ratios.iter().filter(|r| r.reached == Some(false)).map(|r| r.of.as_str()).collect();
        anyhow::ensure!(missed.is_empty(), "not reached: {}", missed.join(", "));
        Ok(())
    }

    /// Everything with a target, of all reports, and when and where it was measured.
    pub(crate) fn targets(reports: &[Self]) -> String {
        let mut text = String::new();
        if let Some(Self { setting: Setting { machine, kernel, date, .. }, .. }) = reports.first() {
            let _ = write!(text, "{machine}; {kernel}; {date}\n\n");
        }
        let rows = reports.iter().flat_map(|report| {
            let family = if report.title.contains("IPv6") { "IPv6: " } else { "" };
            report.ratios.iter().filter_map(move |ratio| {
                let reached = if ratio.reached? { "yes" } else { "**no**" };
                Some([
                    format!("{family}{}", ratio.of),
                    ratio.to.clone(),
                    ratio.target.map(Target::text).unwrap_or_default(),
                    number(ratio.summary.median),
                    reached.to_owned(),
                ])
            })
        });
        text += &table(["measure", "over", "to reach", "measured", "reached"], rows);
        text
    }

    /// All of it, as Markdown.
    pub(crate) fn text(&self) -> String {
        let Setting { machine, kernel, date, command } = &self.setting;
        let mut text = format!("## {}\n\n{machine}; {kernel}; {date}\n`{command}`\n\n", self.title);
        let figures = self.figures.iter().map(|figure| {
            let Summary { median, min, max } = figure.summary;
            [figure.subject.clone(), figure.unit.clone(), number(median), format!("{} – {}", number(min), number(max))]
        });
        text += &table(["subject", "unit", "median", "min – max"], figures);
        if !self.ratios.is_empty() {
            let ratios = self.ratios.iter().map(|ratio| {
                let Summary { median, min, max } = ratio.summary;
                let reached = ratio.reached.map_or("", |reached| if reached { "yes" } else { "**no**" });
                [
                    ratio.of.clone(),
                    ratio.to.clone(),
                    number(median),
                    format!("{} – {}", number(min), number(max)),
                    ratio.target.map(Target::text).unwrap_or_default(),
                    reached.to_owned(),
                ]
            });
            text.push('\n');
            text += &table(["of", "over", "median", "min – max", "target", "reached"], ratios);
        }
        for note in &self.notes {
            let _ = write!(text, "\n* {note}");
        }
        text
    }
}

impl Setting {
    fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let value = |key: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value).to_owned()
        };
        let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0);
        let virtual_machine = if cpuinfo.contains(" hypervisor") { ", virtual" } else { "" };
        let kernel = nix::sys::utsname::uname().map_or_else(
            |_| "unknown".to_owned(),
            |name| format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
        );
        let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
        let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--json").collect();
        let args: Vec<&str> = crate::supervisor::without_run(&args);
        Self {
            machine: format!("{} ({cpus} CPUs, {:.0} GiB{virtual_machine})", value("model name"), kib / 1048576.0),
            kernel: format!("{kernel} (TCP {})", congestion.trim()),
            date: hivemind::lifecycle::clock::now().to_string(),
            command: format!("cargo xtask bench {}", args.join(" ")),
        }
    }
}

/// Three digits that matter.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    match magnitude {
        _ if value.is_nan() => "–".to_owned(),
        100_000.0.. => format!("{:.0} k", value / 1000.0),
        10_000.0.. => format!("{:.1} k", value / 1000.0),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ if value == 0.0 => "0".to_owned(),
        _ => format!("{value:.4}"),
    }
}

/// A Markdown table with aligned columns.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
    };
    line(head);
    let rules: [String; N] = widths.map(|width| "-".repeat(width));
    line(rules.each_ref().map(String::as_str));
    for row in &rows {
        line(row.each_ref().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Report, Target, number};
    use crate::stats::Series;

    #[test]
    fn numbers_keep_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.01234, "0.0123"),
            (1.0449, "1.04"),
            (33.21, "33.2"),
            (999.4, "999"),
            (24_612.0, "24.6 k"),
            (1_234_567.0, "1235 k"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_report_says_what_was_reached() {
        let mut report = Report::new("test");
        let (ours, theirs) = (Series(vec![3.0, 4.0, 5.0]), Series(vec![2.0, 2.0, 2.0]));
        report.ratio(("ours", &ours), ("theirs", &theirs), Some(Target::AtLeast(1.3)));
        report.limit("ours", "ms", &ours, Target::AtMost(1.0));
        let reached: Vec<_> = report.ratios.iter().map(|ratio| ratio.reached).collect();
        assert_eq!(reached, [Some(true), Some(false)]);
        assert!(
            report.text().contains("| ours | theirs | 2.00   | 1.50 – 2.50 | ≥ 1.30 | yes     |"),
            "{}",
            report.text()
        );
    }
}
