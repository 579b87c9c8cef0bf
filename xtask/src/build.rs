//! `cargo xtask build`: the eBPF object first, then the binary that embeds it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use xtask::shell;

use crate::setup;

/// Tells the daemon's build script which object to embed.
pub(crate) const OBJECT: &str = "HIVEMIND_EBPF_OBJECT";

/// Builds the eBPF programs and returns the object's path.
///
/// The BPF target has no ready-made `core`, so it is built from source, by a compiler that has the source beside it.
/// RUSTC_BOOTSTRAP allows `-Z build-std` with a stable one, and is set for this build only.
pub(crate) fn object() -> Result<PathBuf> {
    object_in("target/bpf", None)
}

/// The same into a folder of its own, with something more for the compiler.
fn object_in(folder: &str, more: Option<&str>) -> Result<PathBuf> {
    let rustc = setup::ebpf_rustc().context("no Rust compiler has the source of core (hint: cargo xtask setup)")?;
    let target = shell::root().join(folder);
    let arch = std::env::consts::ARCH;
    let mut flags = vec![
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".into(),
        "-Clinker=bpf-linker".into(),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
    ];
    flags.extend(more.map(str::to_owned));
    let mut cargo = shell::cargo();
    cargo
        .args(["build", "--quiet", "--release", "--package", "hivemind-ebpf", "--bin", "hivemind-ebpf"])
        .args(["-Z", "build-std=core", "--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&target)
        .env("RUSTC", rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        // The daemon is built for size; its programs are not.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    if !target.exists() {
        println!("build: the eBPF programs, with a core library of their own (a minute or two the first time)");
    }
    shell::run(&mut cargo)?;
    let object = target.join("bpfel-unknown-none/release/hivemind-ebpf");
    ensure!(object.is_file(), "the build made no object at {}", object.display());
    Ok(object)
}

/// `cargo xtask build`; returns the binary's path.
pub(crate) fn run(release: bool) -> Result<PathBuf> {
    setup::run_quietly()?;
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", "hivemind"]).env(OBJECT, object()?);
    if release {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)?;
    let profile = if release { "release" } else { "debug" };
    let binary = shell::root().join("target").join(profile).join("hivemind");
    println!("build: {}", binary.display());
    Ok(binary)
}

/// The binary whose programs tell of each drop in the daemon's log, and its path.
pub(crate) fn logging() -> Result<PathBuf> {
    setup::run_quietly()?;
    let object = object_in("target/bpf-log", Some("--cfg=hivemind_log"))?;
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", "hivemind", "--features", "bpf-log"]);
    shell::run(cargo.env(OBJECT, object))?;
    let binary = beside("hivemind-logging")?;
    println!("build: {} (drops are lines of the daemon's log with --log-level debug)", binary.display());
    Ok(binary)
}

/// Keeps the binary that was just built under another name.
fn beside(name: &str) -> Result<PathBuf> {
    let debug = shell::root().join("target/debug");
    let binary = debug.join(name);
    // Not in place: one that runs may not be written.
    let fresh = debug.join(format!("{name}.new"));
    std::fs::copy(debug.join("hivemind"), &fresh)?;
    std::fs::rename(fresh, &binary)?;
    Ok(binary)
}

/// The same binary with what only tests use, under another name. To be built before the product: the last build
/// has the plain name.
pub(crate) fn testkit() -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", "hivemind", "--all-features"]).env(OBJECT, object()?);
    shell::run(&mut cargo)?;
    beside("hivemind-testkit")
}

/// `cargo xtask bench`: the benchmark program with everything built for speed.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    setup::run_for_bench()?;
    let binary = run(true)?;
    let mut cargo = shell::cargo();
    cargo.args(["run", "--release", "--package", "hivemind-bench", "--"]).args(args);
    shell::run(cargo.env(OBJECT, object()?).env("HIVEMIND_BINARY", binary))
}

/// `cargo xtask docs`: the tests that compare documents, and the client, with the sources write them first.
pub(crate) fn documents() -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--quiet", "--all-features", "--lib"]);
    cargo.args(["--package", "hivemind", "--package", "hivemind-compat", "--package", "hivemind-client", "docs_"]);
    shell::run(cargo.env("HIVEMIND_UPDATE_DOCS", "1"))
}
