//! `cargo xtask dist`: what is released, in `target/dist`: the binary, a package for Debian, an archive for other
//! distributions, and their digests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use xtask::{
    package::{self, Pressed},
    shell,
};

use crate::build;

/// Builds, unless a binary is given, and packs.
pub(crate) fn run(binary: Option<PathBuf>) -> Result<()> {
    let binary = match binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?,
        None => build::run(true)?,
    };
    whole(&binary)?;
    let version = env!("CARGO_PKG_VERSION");
    let dist = shell::cache("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist).context("cannot remove what was made before")?;
    }
    fs::create_dir_all(&dist)?;
    fs::copy(&binary, dist.join("hivemind"))?;
    let deb = package::deb(&binary, version, &dist, Pressed::Small)?;
    let archive = dist.join(format!("hivemind-{version}-linux-{}.tar.xz", std::env::consts::ARCH));
    let tree = dist.join("tree");
    package::stage(&binary, &tree)?;
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "-cJf"]).arg(&archive);
    shell::output(tar.arg("-C").arg(&tree).arg("usr"))?;
    fs::remove_dir_all(&tree)?;
    let mut sums = Command::new("sha256sum");
    sums.current_dir(&dist).arg("hivemind");
    for file in [deb, archive] {
        sums.arg(file.file_name().context("a file has no name")?);
        println!("dist: {} ({:.1} MB)", file.display(), fs::metadata(&file)?.len() as f64 / 1e6);
    }
    fs::write(dist.join("SHA256SUMS"), shell::output(&mut sums)?)?;
    Ok(())
}

/// A release has its programs inside and no symbols.
fn whole(binary: &Path) -> Result<()> {
    let headers = shell::output(Command::new("readelf").args(["--section-headers", "--wide"]).arg(binary))?;
    ensure!(!headers.contains(".symtab") && !headers.contains(".debug_info"), "{} is not stripped", binary.display());
    // doctor ends with 1 where the machine lacks something; that is not asked here.
    let said = Command::new(binary).args(["doctor", "--output", "json", "--config", "/dev/null"]).output()?;
    let findings: serde_json::Value = serde_json::from_slice(&said.stdout).context("doctor gives no JSON")?;
    let programs = findings.as_array().and_then(|all| all.iter().find(|finding| finding["check"] == "programs"));
    ensure!(programs.is_some_and(|it| it["verdict"] == "ok"), "the eBPF programs are not inside: {findings}");
    Ok(())
}
