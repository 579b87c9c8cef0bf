//! `cargo xtask fuzz`: the targets of `fuzz/`, led by coverage (libFuzzer, through cargo-fuzz).

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use xtask::shell;

use crate::{build, setup};

/// The version of cargo-fuzz that is installed where there is none.
const CARGO_FUZZ: &str = "0.13.2";
/// The targets, with the folder of what each begins with.
const TARGETS: [(&str, &str); 1] = [("compose", "crates/compat/src/compose/tests/documents")];
/// An input may take so many seconds.
const LONGEST: u32 = 10;
/// So many megabytes are enough for any input.
const MEMORY: u32 = 2048;
/// The longest input, in bytes.
const BYTES: u32 = 8192;

/// Has each target tried for so many seconds. What is found is kept under `fuzz/artifacts/`, and repeated by giving its
/// path to `cargo fuzz run`.
pub(crate) fn run(seconds: u32) -> Result<()> {
    setup::run_quietly()?;
    if !shell::works("cargo-fuzz", &["--version"]) {
        println!("fuzz: going to build cargo-fuzz {CARGO_FUZZ} with cargo install");
        shell::run(shell::cargo().args(["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ]))?;
    }
    let object = build::object()?;
    // The versions that the product has.
    fs::copy(shell::root().join("Cargo.lock"), shell::root().join("fuzz/Cargo.lock"))?;
    for (target, seeds) in TARGETS {
        let corpus = corpus(target, seeds)?;
        let mut fuzz = shell::cargo();
        // Without a sanitizer: the loader has no unsafe code, and this way the stable compiler will do.
        fuzz.args(["fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none", target]).arg(corpus).arg("--");
        fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={LONGEST}"));
        fuzz.arg(format!("-rss_limit_mb={MEMORY}")).arg(format!("-max_len={BYTES}"));
        fuzz.args(["-print_final_stats=1", "-verbosity=0"]);
        let shown = shell::show(&fuzz);
        fuzz.env(build::OBJECT, &object).env("CARGO_TARGET_DIR", shell::cache("fuzz/build"));
        if !fuzz.status().context("cannot run cargo-fuzz")?.success() {
            bail!("{target}: something was found (see above, and fuzz/artifacts/{target}/); it was run by: {shown}");
        }
    }
    Ok(())
}

/// The folder of inputs that is added to: kept under `target/`, with the tests' own documents in it.
fn corpus(target: &str, seeds: &str) -> Result<PathBuf> {
    let dir = shell::cache("fuzz/corpus").join(target);
    fs::create_dir_all(&dir)?;
    shell::output(Command::new("cp").arg("-r").arg(shell::root().join(seeds).join(".")).arg(&dir))?;
    Ok(dir)
}
