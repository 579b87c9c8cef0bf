//! `cargo xtask setup`: installs what building and testing need, and says so first.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::shell::works;

/// A thing that must be there.
struct Need {
    /// What for.
    what: &'static str,
    /// Debian's packages that bring it.
    packages: &'static [&'static str],
    /// Whether it is there.
    there: fn() -> bool,
}

fn program(name: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    // Daemons live in sbin, which is not on everybody's path.
    let extra = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&dirs).chain(extra).any(|dir| dir.join(name).is_file())
}

fn llvm() -> bool {
    Path::new("/usr/lib/llvm-22/bin/llvm-config").exists() && Path::new("/usr/lib/llvm-22/lib/libLLVM.so").exists()
}

const NEEDS: &[Need] = &[
    Need { what: "containerd runs the containers", packages: &["containerd"], there: || program("containerd") },
    Need { what: "runc starts them", packages: &["runc"], there: || program("runc") },
    Need { what: "nft writes the masquerade rules", packages: &["nftables"], there: || program("nft") },
    Need { what: "ip makes the tests' namespaces", packages: &["iproute2"], there: || program("ip") },
    Need { what: "protoc builds containerd's client", packages: &["protobuf-compiler"], there: || program("protoc") },
    Need { what: "cc builds crates with C parts", packages: &["gcc", "libc6-dev"], there: || program("cc") },
    Need {
        what: "busybox is the demo's web server",
        packages: &["busybox-static"],
        there: || Path::new("/usr/share/doc/busybox-static").exists(),
    },
    Need {
        what: "docker-registry is the tests' registry",
        packages: &["docker-registry"],
        there: || program("docker-registry"),
    },
    Need {
        what: "a rustc with the source of core builds the eBPF programs",
        packages: &["rustc-web", "rust-web-src", "cargo-web"],
        there: || Path::new("/usr/bin/rustc").exists() && has_core_source("/usr/bin/rustc"),
    },
    Need {
        what: "LLVM 22 is bpf-linker's code generator",
        packages: &["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev"],
        there: llvm,
    },
];

/// Whether this rustc has the source of `core` beside it.
fn has_core_source(rustc: &str) -> bool {
    let sysroot = crate::shell::output(Command::new(rustc).args(["--print", "sysroot"])).unwrap_or_default();
    Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

/// Installs what is missing.
pub(crate) fn run_quietly() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.there)()).collect();
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages.iter().copied()).collect();
    if !packages.is_empty() {
        if !program("apt-get") {
            let lines: Vec<_> =
                missing.iter().map(|need| format!("  {}: {}", need.packages.join(" "), need.what)).collect();
            bail!(
                "this machine has no apt-get, so setup cannot install what is missing. Install the equivalents of these \
                 Debian packages and run it again:\n{}",
                lines.join("\n")
            );
        }
        println!("setup: going to install with apt-get:");
        for need in &missing {
            println!("  {:<44} {}", need.packages.join(" "), need.what);
        }
        apt(&["update", "-qq"])?;
        let install = ["install", "-y", "-qq", "--no-install-recommends"];
        apt(&[&install[..], &packages].concat())?;
    }
    if !works("bpf-linker", &["--version"]) {
        println!("setup: going to build and install bpf-linker with cargo (about a minute)");
        let mut cargo = Command::new("cargo");
        cargo.args([
            "install",
            "bpf-linker",
            "--version",
            "0.13.0",
            "--locked",
            "--no-default-features",
            "--features",
            "llvm-22",
        ]);
        crate::shell::run(cargo.env("LLVM_PREFIX", "/usr/lib/llvm-22"))?;
    }
    let left: Vec<_> = NEEDS.iter().filter(|need| !(need.there)()).map(|need| need.packages.join(" ")).collect();
    if !left.is_empty() {
        bail!("still missing after the installation: {}", left.join(", "));
    }
    Ok(())
}

/// `cargo xtask setup`.
pub(crate) fn run() -> Result<()> {
    run_quietly()?;
    println!("setup: everything that building and testing need is there");
    Ok(())
}

fn apt(args: &[&str]) -> Result<()> {
    let root = nix::unistd::geteuid().is_root();
    if !root && !program("sudo") {
        bail!("installing packages needs root: run 'cargo xtask setup' as root, or install sudo");
    }
    let mut command = if root {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--preserve-env=DEBIAN_FRONTEND,RUNLEVEL", "apt-get"]);
        sudo
    };
    // RUNLEVEL=1 keeps the packages from starting services: the tests start their own.
    crate::shell::run(command.args(args).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))
}
