//! `cargo xtask test`: everything that must hold, in the order of what fails fastest.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{build, demo, setup, shell, tidy};

/// Tests that were run, summed over all programs.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs all; `quick` leaves out what needs root and containerd.
pub(crate) fn run(quick: bool, filter: Option<&str>) -> Result<()> {
    setup::run_quietly()?;
    let mut tally = Tally::default();
    if filter.is_none() {
        tally.step("fmt", || shell::run(shell::cargo().args(["fmt", "--all", "--check"])));
        tally.step("tidy", tidy::run);
    }
    let object = build::object()?;
    if filter.is_none() {
        tally.step("clippy", || {
            let mut clippy = shell::cargo();
            clippy.args([
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--",
                "-D",
                "warnings",
            ]);
            shell::run(clippy.env(build::OBJECT, &object))
        });
    }
    let mut suites: Vec<&[&str]> = vec![&["--package", "hivemind", "--package", "hivemind-ebpf", "--package", "xtask"]];
    let binary = (!quick).then(|| build::run(false)).transpose()?;
    if !quick {
        // Kernel, namespaces and containerd are shared by the tests of this package: one at a time.
        suites.push(&["--package", "hivemind-tests"]);
    }
    for suite in suites {
        let mut cargo = shell::cargo();
        cargo.arg("test").arg("--no-fail-fast").args(suite).env(build::OBJECT, &object);
        if let Some(binary) = &binary {
            cargo.env("HIVEMIND_BINARY", binary);
        }
        cargo.arg("--").args(filter);
        if suite.contains(&"hivemind-tests") {
            cargo.arg("--test-threads=1");
        }
        tally.cargo_test(&mut cargo)?;
    }
    if !quick && filter.is_none() {
        tally.step("demo --check", || demo::run(true));
    }
    println!("\n{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed > 0 {
        bail!("{} of {} failed", tally.failed, tally.failed + tally.passed);
    }
    Ok(())
}

impl Tally {
    /// A check that counts as one test.
    fn step(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        println!("\n== {name}");
        match check() {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                println!("FAILED {name}: {error:#}");
            }
        }
    }

    /// Runs `cargo test`, shows its output, and adds its counts.
    fn cargo_test(&mut self, cargo: &mut Command) -> Result<()> {
        println!("\n== {}", shell::show(cargo));
        let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
        let stdout = child.stdout.take().context("cargo has no standard output")?;
        let before = self.failed;
        for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)) {
            let line = line?;
            println!("{line}");
            if let Some(counts) = line.strip_prefix("test result: ") {
                self.passed += count(counts, "passed");
                self.failed += count(counts, "failed");
                self.skipped += count(counts, "ignored");
            }
            // A test that may not run here says so; it fails unless HIVEMIND_ALLOW_SKIP=1 is set.
            self.skipped += u64::from(line.starts_with("SKIPPED "));
        }
        if !child.wait()?.success() && self.failed == before {
            self.failed += 1;
            println!("FAILED: cargo test did not end well, though no test failed");
        }
        Ok(())
    }
}

/// The number before `word` in `ok. 3 passed; 1 failed; …`.
fn count(counts: &str, word: &str) -> u64 {
    let before = counts.split(word).next().unwrap_or_default();
    before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_are_read_from_cargos_line() {
        let line = "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s";
        assert_eq!(
            [super::count(line, "passed"), super::count(line, "failed"), super::count(line, "ignored")],
            [12, 3, 1]
        );
    }
}
