//! Embeds the eBPF object that `HIVEMIND_EBPF_OBJECT` names; `cargo xtask build`, `demo` and `test` set it. Without it
//! an empty stub is embedded, so that whoever edits user space only needs no BPF toolchain; the loader refuses the stub.

use std::{env, fs, path::Path};

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
}
