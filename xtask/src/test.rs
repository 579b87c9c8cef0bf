//! `cargo xtask test`: everything that must hold, in the order of what fails fastest.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};
use xtask::{shell, wait::Stopwatch};

use crate::{api_fuzz, build, demo, kernels, setup, tidy};

/// Tests that were run, summed over all programs.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Of the program that runs: tests that "passed" because they may not run here, and ignored ones that are no tests.
    unreal: Unreal,
    failures: Vec<String>,
}

/// See [`Tally::unreal`].
#[derive(Default)]
struct Unreal {
    passed: u64,
    ignored: u64,
}

/// What the harness says of a test that is a process of another one.
const HELPER: &str = " ... ignored, run by another test";

/// Runs all; `quick` leaves out what needs root and containerd, `long` adds what takes long, `filter` leaves out all but the tests of that name.
pub(crate) fn run(quick: bool, long: bool, filter: Option<&str>) -> Result<ExitCode> {
    let whole = Stopwatch::start();
    setup::run_quietly()?;
    let object = build::object()?;
    let mut tally = Tally::default();
    if filter.is_none() {
        tally.checks(&object);
    }
    // Everything is built with the same features, so that it is built once.
    let mut suites = vec![vec!["--workspace", "--exclude", "hivemind-tests"]];
    let mut binary = None;
    if !quick {
        let testkit = build::testkit()?;
        binary = Some((build::run(false)?, testkit));
        suites.push(vec!["--package", "hivemind-tests"]);
    }
    for suite in suites {
        let mut cargo = shell::cargo();
        cargo.args(["test", "--no-fail-fast", "--all-features"]).args(&suite).env(build::OBJECT, &object);
        if let Some((product, testkit)) = &binary {
            cargo.env("HIVEMIND_BINARY", product).env("HIVEMIND_TESTKIT_BINARY", testkit);
        }
        if long {
            cargo.env("HIVEMIND_LONG", "1");
        }
        if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
            cargo.env("PROPTEST_RNG_SEED", seed(long));
        }
        cargo.arg("--").args(filter);
        if suite.starts_with(&["--package"]) {
            // Each has a machine of its own, but all share this one's two or more processors.
            cargo.arg("--test-threads=2");
        }
        tally.cargo_test(&mut cargo)?;
    }
    if !quick && filter.is_none() {
        tally.step("bench loss --quick", || loss(&object));
        tally.step("kernels --short", kernels::short);
        tally.step("demo --check", || demo::run(true));
        if long {
            // Not else: it is fetched from an index that need not be reached.
            tally.step("api-fuzz", || api_fuzz::run(false, None, None));
        }
    }
    println!("\n({:.0} s)", whole.elapsed().as_secs_f64());
    for failure in &tally.failures {
        println!("FAILED: {failure}");
    }
    // The last line, alone: it is counted by machines.
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    Ok(if tally.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the properties' histories are made of: the same each time, and new ones in the long run. Said, so that what fails
/// can be had again: `PROPTEST_RNG_SEED` sets it, `PROPTEST_CASES` how many.
fn seed(long: bool) -> String {
    // The standard library's way to something random.
    let seed = if long { RandomState::new().build_hasher().finish() } else { 2 };
    println!("PROPTEST_RNG_SEED={seed}");
    seed.to_string()
}

impl Tally {
    /// What needs nothing to be run: form, structure, dependencies, lints.
    fn checks(&mut self, object: &Path) {
        self.step("fmt", || shell::run(shell::cargo().args(["fmt", "--all", "--check"])));
        self.step("tidy", tidy::run);
        if shell::works("cargo-deny", &["--version"]) {
            self.step("deny", || {
                shell::run(shell::cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]))
            });
        }
        self.step("clippy", || {
            let mut clippy = shell::cargo();
            clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--all-features"]);
            shell::run(clippy.args(["--", "-D", "warnings"]).env(build::OBJECT, object))
        });
    }

    /// A check that counts as one test.
    fn step(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        println!("\n== {name}");
        let begun = Stopwatch::start();
        let checked = check();
        println!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
        match checked {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                self.failures.push(name.to_owned());
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
            self.line(&line);
        }
        if !child.wait()?.success() && self.failed == before {
            self.failed += 1;
            self.failures.push("cargo test, though no test failed: see above".into());
        }
        Ok(())
    }
}

impl Tally {
    /// Counts what a line of a test program says.
    fn line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let unreal = std::mem::take(&mut self.unreal);
            self.passed += count(counts, "passed").saturating_sub(unreal.passed);
            self.failed += count(counts, "failed");
            self.skipped += count(counts, "ignored").saturating_sub(unreal.ignored) + unreal.passed;
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        // A test that may not run here says so; it fails unless HIVEMIND_ALLOW_SKIP=1 is set.
        self.unreal.passed += u64::from(line.starts_with("SKIPPED "));
        self.unreal.ignored += u64::from(line.ends_with(HELPER));
    }
}

/// The one measurement that does not depend on how fast the machine is.
fn loss(object: &Path) -> Result<()> {
    let binary = shell::root().join("target/debug/hivemind");
    let mut cargo = shell::cargo();
    // With the features of the tests, so that nothing is built again.
    cargo.args(["run", "--quiet", "--all-features", "--package", "hivemind-bench", "--"]);
    shell::run(cargo.args(["loss", "--quick", "--strict"]).env(build::OBJECT, object).env("HIVEMIND_BINARY", binary))
}

/// The number before `word` in `ok. 3 passed; 1 failed; …`.
fn count(counts: &str, word: &str) -> u64 {
    let before = counts.split(word).next().unwrap_or_default();
    before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_did_not_run_has_not_passed_and_helpers_are_no_tests() {
        let mut tally = super::Tally::default();
        for line in [
            "test a ... ok",
            "SKIPPED for want of root",
            "test b ... ok",
            "test child ... ignored, run by another test",
            "test slow ... ignored",
            "test c ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            tally.line(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.skipped), (6, 1, 2));
        assert_eq!(tally.failures, ["c"]);
    }

    #[test]
    fn counts_are_read_from_cargos_line() {
        let line = "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s";
        assert_eq!(
            [super::count(line, "passed"), super::count(line, "failed"), super::count(line, "ignored")],
            [12, 3, 1]
        );
    }
}
