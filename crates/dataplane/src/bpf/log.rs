//! The lines that the programs of a debugging build write (`cargo xtask build --bpf-log`).

use std::thread;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Hands lines on to the daemon's log.
struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        tracing::debug!(target: "bpf", "{}", record.args());
    }
    fn flush(&self) {}
}

/// Reads what these programs write, until the process ends.
pub(super) fn read(ebpf: &mut Ebpf) {
    let mut logger = match EbpfLogger::init_with_logger(ebpf, Lines) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "these programs write no lines; build them with: cargo xtask build --bpf-log");
            return;
        }
    };
    let lines = move || {
        loop {
            let ready =
                poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&logger), PollFlags::POLLIN)], PollTimeout::NONE);
            if let Err(error) =
                ready.map(drop).or_else(|error| if error == nix::errno::Errno::EINTR { Ok(()) } else { Err(error) })
            {
                tracing::warn!(%error, "the programs' lines are read no more");
                return;
            }
            logger.flush();
        }
    };
    if let Err(error) = thread::Builder::new().name("bpf-log".into()).spawn(lines) {
        tracing::warn!(%error, "the programs' lines are not read");
    }
}
