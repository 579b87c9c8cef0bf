//! The only entry for people, documents and CI: `cargo xtask COMMAND`.

mod api_fuzz;
mod build;
mod containerds;
mod demo;
mod dist;
mod forward;
mod fuzz;
mod interrupt;
mod kernels;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::shell;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, builds, shows and tests hivemind")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing need; does nothing when all is there
    Setup,
    /// Build the eBPF programs, then the binary with the programs inside
    Build {
        /// With optimisation, as it is shipped
        #[arg(long)]
        release: bool,
        /// For who works on the programs: they write a line for each drop into the daemon's log. Never shipped
        #[arg(long, conflicts_with = "release")]
        bpf_log: bool,
    },
    /// Set up, build, and show hivemind at work: a real web server behind a service, on IPv4 and IPv6
    Demo {
        /// Unattended: every statement is checked, the first that does not hold ends it with an error
        #[arg(long)]
        check: bool,
    },
    /// Set up and run all tests
    Test {
        /// Only what needs neither root nor containerd
        #[arg(long)]
        quick: bool,
        /// Also what takes many minutes: a daemon that is killed before each of its effects, one after the other
        #[arg(long, conflicts_with = "quick")]
        long: bool,
        /// Only tests whose names contain this
        filter: Option<String>,
    },
    /// Measure, side by side with what others do
    Bench {
        /// Arguments of the benchmark program; without any it measures everything and writes docs/BENCHMARKS.md
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Boot other kernels in QEMU, the oldest supported first, and run the data plane's tests on them
    Kernels {
        /// Debian's packages of the kernels, with `/suite` for one of another suite
        packages: Vec<String>,
        /// Only the oldest kernel, and only single packets
        #[arg(long, conflicts_with = "packages")]
        short: bool,
        /// Only single packets, or only traffic
        #[arg(long, value_name = "TEST", value_parser = kernels::TESTS, conflicts_with = "short")]
        only: Option<String>,
        /// Only tests whose names contain this
        #[arg(long, conflicts_with = "short")]
        filter: Option<String>,
    },
    /// Try what reads documents with inputs that nobody has thought of, led by coverage
    Fuzz {
        /// For how long, for each target
        #[arg(long, default_value_t = 300)]
        seconds: u32,
    },
    /// Ask the API of a daemon in ways that nobody has thought of, made of its description (schemathesis, from Python's package index)
    ApiFuzz {
        /// For hours instead of minutes
        #[arg(long)]
        long: bool,
        /// What the requests are made of; drawn, and printed, without it
        #[arg(long)]
        seed: Option<u32>,
        /// Only operations whose paths match this regular expression
        #[arg(long, value_name = "REGEX")]
        path: Option<String>,
    },
    /// Run the tests of images and containers with the containerd of other suites of Debian
    Containerds {
        /// Suites; bookworm, trixie and sid by default
        suites: Vec<String>,
        /// Only tests whose names contain this; may be given several times
        #[arg(long, value_name = "NAME")]
        test: Vec<String>,
    },
    /// Build what is released into target/dist: the stripped binary, a package for Debian, an archive, their digests
    Dist {
        /// Pack this binary, which was built elsewhere, instead of building one
        #[arg(long, value_name = "FILE")]
        binary: Option<std::path::PathBuf>,
    },
    /// Write the documents anew that are made from the sources: docs/cli.md, docs/configuration.md, docs/compose.md
    Docs,
    /// Check the structure: floors, libraries, lints, documents
    Tidy,
    /// Accept on standard input, connect to a port of loopback; the demo's way in
    #[command(name = forward::COMMAND, hide = true)]
    Forward {
        /// The port
        port: u16,
        /// IPv6 instead of IPv4
        #[arg(long)]
        v6: bool,
    },
    /// What the continuous integration runs: `test`
    Ci,
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    std::env::set_current_dir(shell::root())?;
    match command {
        Command::Test { quick, long, filter } => return test::run(quick, long, filter.as_deref()),
        Command::Ci => return test::run(false, false, None),
        Command::Setup => setup::run(),
        Command::Build { bpf_log: true, .. } => build::logging().map(drop),
        Command::Build { release, .. } => build::run(release).map(drop),
        Command::Demo { check } => demo::run(check),
        Command::Forward { port, v6 } => forward::run(port, v6),
        Command::Bench { args } => build::bench(&args),
        Command::Fuzz { seconds } => fuzz::run(seconds),
        Command::ApiFuzz { long, seed, path } => api_fuzz::run(long, seed, path.as_deref()),
        Command::Kernels { short: true, .. } => kernels::short(),
        Command::Kernels { packages, only, filter, .. } => {
            kernels::run(&packages, &kernels::Chosen { only: only.as_deref(), filter: filter.as_deref() })
        }
        Command::Containerds { suites, test } => containerds::run(&suites, &test),
        Command::Dist { binary } => dist::run(binary),
        Command::Docs => build::documents(),
        Command::Tidy => tidy::run(),
    }
    .map(|()| ExitCode::SUCCESS)
}
