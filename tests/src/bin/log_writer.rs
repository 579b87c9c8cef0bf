//! The log writer of the product, as a program of its own: tests of the runtime need it without the daemon.

use std::path::Path;

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    match args.as_slice() {
        [_, word, dir] if word == "log-writer" => hivemind::runtime::log_writer(Path::new(dir)),
        _ => std::process::exit(2),
    }
}
