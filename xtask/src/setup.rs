//! `cargo xtask setup`: installs what building and testing need, and says so first. When all is there it only looks,
//! which takes well under a second.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use xtask::{builders, deb, image, shell};

/// The version of bpf-linker that links for the LLVM below.
const BPF_LINKER: &str = "0.13.0";
/// Where Debian puts LLVM 22.
const LLVM: &str = "/usr/lib/llvm-22";
/// Debian's rustc, beside which its `core` source is installed.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A thing that must be there.
struct Need {
    /// What for.
    what: &'static str,
    /// Debian's packages that bring it.
    packages: &'static [&'static str],
    /// Whether it is there.
    there: fn() -> bool,
    /// What to do where the distribution lacks the packages.
    otherwise: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        what: "containerd runs the containers (a service of this machine from now on)",
        packages: &["containerd"],
        there: || found("containerd"),
        otherwise: "install containerd 1.6 or newer",
    },
    Need {
        what: "runc starts them",
        packages: &["runc"],
        there: || found("runc"),
        otherwise: "install runc 1.1 or newer",
    },
    Need {
        what: "nft writes the rules for traffic to the outside",
        packages: &["nftables"],
        there: || found("nft"),
        otherwise: "install nftables",
    },
    Need {
        what: "ip prepares the tests' network namespaces",
        packages: &["iproute2"],
        there: || found("ip"),
        otherwise: "install iproute2",
    },
    Need {
        what: "protoc builds containerd's client",
        packages: &["protobuf-compiler"],
        there: || found("protoc"),
        otherwise: "install protoc",
    },
    Need {
        what: "cc builds the crates that have parts in C",
        packages: &["gcc", "libc6-dev"],
        there: || found("cc"),
        otherwise: "install a C compiler",
    },
    Need {
        what: "a Rust compiler with the source of core builds the eBPF programs",
        packages: &["rustc-web", "rust-web-src", "cargo-web"],
        there: || ebpf_rustc().is_some(),
        otherwise: "rustup component add rust-src",
    },
    Need {
        what: "LLVM 22 is what bpf-linker, built next, generates code with",
        packages: &["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev"],
        there: || bpf_linker() || Path::new(LLVM).join("bin/llvm-config").exists(),
        otherwise: "cargo install cargo-binstall && cargo binstall bpf-linker, or LLVM 22 from https://apt.llvm.org",
    },
];

/// What `cargo xtask kernels` needs besides.
const QEMU: Need = Need {
    what: "QEMU boots other kernels",
    packages: &["qemu-system-x86"],
    there: || found("qemu-system-x86_64"),
    otherwise: "install QEMU for x86-64",
};

/// What `cargo xtask api-fuzz` needs besides.
const PYTHON: Need = Need {
    what: "Python runs schemathesis, which is fetched from its package index",
    packages: &["python3", "python3-venv"],
    there: || shell::works("python3", &["-c", "import ensurepip, venv"]),
    otherwise: "install Python 3.10 or newer with its module venv",
};

/// What `cargo xtask bench` needs besides: of iptables, and of Docker Engine, which calls it.
const IPTABLES: Need = Need {
    what: "iptables is what hivemind is measured beside",
    packages: &["iptables"],
    there: || found("iptables-restore"),
    otherwise: "install iptables",
};

/// Packages whose files the demo and the tests use, without installing them.
const FILES: &[&str] = &["busybox-static", "nginx", "libfaketime"];
/// Programs whose files they use where the machine does not have them by itself.
const PROGRAMS: &[&str] = &["docker-registry", "buildah"];

fn found(program: &str) -> bool {
    shell::find(program).is_some()
}

fn bpf_linker() -> bool {
    shell::works("bpf-linker", &["--version"])
}

/// A compiler that has the source of `core` beside it: rustup's if `rust-src` was added to it, else Debian's.
pub(crate) fn ebpf_rustc() -> Option<PathBuf> {
    let complete = |rustc: &PathBuf| {
        let sysroot = shell::output(Command::new(rustc).args(["--print", "sysroot"])).unwrap_or_default();
        Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
    };
    let own = std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
    [own, PathBuf::from(DEBIAN_RUSTC)].into_iter().find(complete)
}

/// `cargo xtask setup`.
pub(crate) fn run() -> Result<()> {
    run_quietly()?;
    println!("setup: everything that building and testing need is there");
    Ok(())
}

/// The same for `cargo xtask kernels`.
pub(crate) fn run_for_kernels() -> Result<()> {
    run_quietly()?;
    if (QEMU.there)() { Ok(()) } else { install(&[&QEMU]) }
}

/// The same for `cargo xtask api-fuzz`.
pub(crate) fn run_for_api_fuzz() -> Result<()> {
    run_quietly()?;
    if (PYTHON.there)() { Ok(()) } else { install(&[&PYTHON]) }
}

/// The same for `cargo xtask bench`.
pub(crate) fn run_for_bench() -> Result<()> {
    run_quietly()?;
    if (IPTABLES.there)() { Ok(()) } else { install(&[&IPTABLES]) }
}

/// Installs what is missing, and says nothing if nothing is.
pub(crate) fn run_quietly() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.there)()).collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    if !bpf_linker() {
        println!("setup: going to build bpf-linker {BPF_LINKER} with cargo install (a minute or two)");
        let mut cargo = shell::cargo();
        cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features"]);
        cargo.args(["--features", "llvm-22"]).env("LLVM_PREFIX", LLVM);
        shell::run(&mut cargo)?;
    }
    let left: Vec<&Need> = NEEDS.iter().filter(|need| !(need.there)()).collect();
    if !left.is_empty() {
        bail!("still missing after the installation:\n{}", list(&left));
    }
    fetch()
}

fn install(missing: &[&Need]) -> Result<()> {
    if !found("apt-get") {
        bail!(
            "setup installs with apt-get, which this machine does not have. It is meant for Debian and Ubuntu; \
             elsewhere install these by hand and run it again:\n{}",
            by_hand(missing)
        );
    }
    println!("setup: going to install with apt-get:\n{}", list(missing));
    apt(&["update", "-qq"])?;
    let (here, elsewhere): (Vec<&Need>, Vec<&Need>) = missing.iter().partition(|need| offered(need));
    let packages: Vec<&str> = here.iter().flat_map(|need| need.packages.iter().copied()).collect();
    if !packages.is_empty() {
        apt(&[&["install", "-y", "-qq", "--no-install-recommends"][..], &packages].concat())?;
    }
    let (rust_src, others): (Vec<&Need>, Vec<&Need>) =
        elsewhere.into_iter().partition(|need| need.otherwise.starts_with("rustup "));
    if !rust_src.is_empty() {
        println!("setup: going to run rustup component add rust-src");
        shell::run(Command::new("rustup").args(["component", "add", "rust-src"]))?;
    }
    if !others.is_empty() {
        bail!("this distribution's packages lack some things; install them by hand:\n{}", by_hand(&others));
    }
    Ok(())
}

/// Whether the distribution has all packages of a need.
fn offered(need: &Need) -> bool {
    need.packages.iter().all(|package| {
        let policy = shell::output(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
        policy.contains("Candidate:") && !policy.contains("Candidate: (none)")
    })
}

fn list(needs: &[&Need]) -> String {
    let line = |need: &&Need| format!("  {}: {}", need.packages.join(" "), need.what);
    needs.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn by_hand(needs: &[&Need]) -> String {
    let line = |need: &&Need| format!("  {}: {}", need.what, need.otherwise);
    needs.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Fetches the packages whose files are used, so that the tests need no network.
fn fetch() -> Result<()> {
    let programs = PROGRAMS.iter().copied().filter(|program| !found(program));
    let wanted: Vec<&str> =
        FILES.iter().copied().chain(programs).filter(|package| !deb::is_unpacked(package)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    println!("setup: fetching packages for the demo and the tests (not installed): {}", wanted.join(" "));
    if wanted.iter().any(|package| deb::unpacked(package).is_err()) {
        apt(&["update", "-qq"])?;
    }
    for package in wanted {
        deb::unpacked(package)?;
    }
    builders::fetch()?;
    image::nginx().map(drop)
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new("apt-get")
    } else if found("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        bail!("installing packages needs root: run 'cargo xtask setup' as root, or install sudo");
    };
    // Another apt may be at work, e.g. unattended upgrades: wait for it.
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
    shell::run(&mut command)
}
