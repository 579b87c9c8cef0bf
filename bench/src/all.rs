//! All measurements, one after the other, and the document that holds them.
//!
//! Every measurement is a process of its own, so that none inherits the memory, the mounts or the failure of another:
//! one that fails is named in the table, and the others are measured all the same.

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};

use crate::{Common, report::Report};

/// What is measured, as command lines of this program. The daemon's is the last: its machine of a hundred containers
/// takes up to a minute to be gone, beside whatever runs then.
const PARTS: [&[&str]; 23] = [
    &["packet"],
    &["crr"],
    &["crr", "--ipv6"],
    &["policies"],
    &["throughput"],
    &["throughput", "--ipv6"],
    &["flows"],
    &["services"],
    &["changes"],
    &["memory"],
    &["dns"],
    &["overload"],
    &["enforcement"],
    &["loss"],
    &["loss", "--ipv6"],
    &["loss", "--flows", "1000", "--messages", "20000"],
    &["up"],
    &["instances"],
    &["lines"],
    &["idle"],
    &["update"],
    &["pull"],
    &["daemon"],
];

/// Where the results are kept, from the workspace's root.
const DOCUMENT: &str = "docs/BENCHMARKS.md";
/// What is beneath this line of the document is measured, what is above it is written by people.
const MARK: &str = "<!-- measured: cargo xtask bench -->\n";

/// Measures everything, prints it, and writes the document unless it was a quick run.
///
/// # Errors
/// If the document cannot be read or written. A measurement that fails makes the exit code 1.
pub(crate) fn run(common: &Common) -> Result<ExitCode> {
    let mut reports = Vec::new();
    let mut failed = Vec::new();
    for part in PARTS {
        eprintln!("# {}", part.join(" "));
        match measure(common, part) {
            Ok(report) => reports.push(report),
            Err(error) => failed.push(format!("`{}`: {error:#}", part.join(" "))),
        }
    }
    let text = text(&reports, &failed);
    println!("{text}");
    if !common.quick {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(DOCUMENT);
        let document = fs::read_to_string(&path).with_context(|| format!("cannot read {DOCUMENT}"))?;
        let (written, _) = document.split_once(MARK).with_context(|| format!("{DOCUMENT} lacks the line {MARK}"))?;
        fs::write(&path, format!("{written}{MARK}\n{text}\n")).with_context(|| format!("cannot write {DOCUMENT}"))?;
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(common: &Common, part: &[&str]) -> Result<Report> {
    let mut command = Command::new(env::current_exe()?);
    command.args(part).arg("--json").stdin(Stdio::null()).stderr(Stdio::inherit());
    if common.quick {
        command.arg("--quick");
    }
    let output = command.output().context("cannot be started")?;
    anyhow::ensure!(output.status.success(), "ended with {}", output.status);
    let said = String::from_utf8(output.stdout)?;
    // What it prints before is of its helpers.
    let start = said.find("{\n").context("said nothing")?;
    serde_json::from_str(&said[start..]).context("said something else than a report")
}

/// The table of what is to be reached, then every report.
fn text(reports: &[Report], failed: &[String]) -> String {
    let mut text = Report::targets(reports);
    for line in failed {
        text += &format!("\n* **not measured**: {line}");
    }
    for report in reports {
        text += "\n\n";
        text += &report.text();
    }
    text
}
