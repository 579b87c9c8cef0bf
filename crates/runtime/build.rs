//! Compiles `init/main.rs`, the first process of containers, which no library is linked to, to `OUT_DIR/hivemind-init`.

use std::{env, path::Path, process::Command};

fn main() {
    let source = "init/main.rs";
    println!("cargo::rerun-if-changed={source}");
    let named = |name: &str| env::var(name).unwrap_or_default();
    let mut rustc = Command::new(named("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "hivemind_init", "--target"]);
    rustc.arg(named("TARGET")).arg(source).arg("-o").arg(Path::new(&named("OUT_DIR")).join("hivemind-init"));
    // The same bytes every time: the digest of a container's specification must not depend on where it was built.
    rustc.arg("--remap-path-prefix").arg(format!("{}=.", named("CARGO_MANIFEST_DIR")));
    for option in ["panic=abort", "opt-level=s", "relocation-model=static", "strip=symbols", "debuginfo=0"] {
        rustc.args(["-C", option]);
    }
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none"] {
        rustc.args(["-C", &format!("link-arg={argument}")]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", Path::new(&linker).display()));
    }
    match rustc.output() {
        Ok(done) if done.status.success() => {}
        Ok(done) => panic!("cannot compile {source}: {}", String::from_utf8_lossy(&done.stderr)),
        Err(error) => panic!("cannot run the compiler for {source}: {error}"),
    }
}
