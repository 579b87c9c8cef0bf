//! The one binary: daemon and command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // containerd starts this binary for each container to write its log: no runtime, no command line, little memory.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|word| word == "log-writer") {
        let dir = args.next().unwrap_or_default();
        hivemind::runtime::log_writer(std::path::Path::new(&dir));
    }
    hivemind::cli::run()
}
