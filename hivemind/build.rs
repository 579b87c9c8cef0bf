//! Embeds the eBPF object that `HIVEMIND_EBPF_OBJECT` names; `cargo xtask build`, `demo` and `test` set it. Without it
//! an empty stub is embedded, so that whoever edits user space only needs no BPF toolchain; the loader refuses the stub.
//! And compiles `init/main.rs`, the first process of containers, which no library is linked to.

use std::{env, fs, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=HIVEMIND_EBPF_OBJECT");
    let out = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("hivemind-ebpf");
    let object = match env::var_os("HIVEMIND_EBPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", Path::new(&path).display()))
        }
        None => Vec::new(),
    };
    if let Err(error) = fs::write(&out, object) {
        panic!("cannot write {}: {error}", out.display());
    }
    init();
}

/// Compiles the first process of containers to `OUT_DIR/hivemind-init`.
fn init() {
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
