//! `cargo xtask containerds`: the tests of images and containers with other versions of containerd than this machine's, as
//! Debian's suites have them.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::{containerd::PROGRAMS, deb::Archive, shell, wait::Stopwatch};

use crate::{build, setup};

/// Suites of Debian: 1.6, 1.7 and 2.x.
const SUITES: [&str; 3] = ["bookworm", "trixie", "sid"];
/// Tests of the system that have most to do with containerd.
const TESTS: [&str; 9] = [
    "images::",
    "pushes::",
    "mirrors::",
    "unreliable::packings",
    "unreliable::a_connection",
    "life::",
    "exec::",
    "options::",
    "pause::",
];

/// Runs the tests, or those of these names, with the containerd of every suite, or of these.
pub(crate) fn run(suites: &[String], tests: &[String]) -> Result<()> {
    setup::run_quietly()?;
    let object = build::object()?;
    let (product, testkit) = (build::run(false)?, build::testkit()?);
    let suites: Vec<&str> =
        if suites.is_empty() { SUITES.to_vec() } else { suites.iter().map(String::as_str).collect() };
    let tests: Vec<&str> = if tests.is_empty() { TESTS.to_vec() } else { tests.iter().map(String::as_str).collect() };
    let mut failed = Vec::new();
    let mut table = String::from("| containerd | suite | tests | seconds |\n| --- | --- | --- | --- |\n");
    for suite in suites {
        let folder = Archive::of(suite)?.unpacked_as("containerd", &format!("containerd-{suite}"))?.join("usr/bin");
        let said = shell::output(Command::new(folder.join("containerd")).arg("--version"))
            .with_context(|| format!("the containerd of {suite} does not run on this machine"))?;
        let version = said.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
        println!("\n== containerd {version} ({suite})");
        let watch = Stopwatch::start();
        let mut cargo = shell::cargo();
        cargo.args(["test", "--all-features", "--package", "hivemind-tests", "--test", "system", "--"]);
        cargo.args(["--test-threads=2"]).args(&tests).env(build::OBJECT, &object).env(PROGRAMS, &folder);
        cargo.env("HIVEMIND_BINARY", &product).env("HIVEMIND_TESTKIT_BINARY", &testkit);
        let well = shell::run(&mut cargo).is_ok();
        let (seconds, how) = (watch.elapsed().as_secs_f64(), if well { "passed" } else { "FAILED" });
        table += &format!("| {version} | {suite} | {how} | {seconds:.0} |\n");
        if !well {
            failed.push(version);
        }
    }
    println!("\n{table}");
    ensure!(failed.is_empty(), "not everything passed with containerd {}", failed.join(", "));
    Ok(())
}
