//! Ctrl-C while a sandbox is there: everything inside is ended, so that whatever waits for it goes on and cleans up.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

/// Tells whether the user wants to stop.
#[derive(Debug)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    signal: mpsc::Receiver<()>,
}

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP end the processes of `cgroup` instead of this one. To be called before
    /// other threads are started: they inherit what is blocked. Processes do as well; those of a sandbox are given back what
    /// they are to hear.
    pub(crate) fn watch(cgroup: &Path) -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().context("cannot block signals")?;
        let asked = Arc::new(AtomicBool::new(false));
        let (sender, signal) = mpsc::channel();
        let (thread_asked, kill) = (Arc::clone(&asked), cgroup.join("cgroup.kill"));
        // Waits for signals as long as the process lives.
        std::thread::spawn(move || {
            while signals.wait().is_ok() {
                thread_asked.store(true, Ordering::Relaxed);
                // If the sandbox is going already, there is nothing to end.
                let _ = fs::write(&kill, "1");
                let _ = sender.send(());
            }
        });
        Ok(Self { asked, signal })
    }

    /// Whether a signal came.
    pub(crate) fn came(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Waits for a signal.
    pub(crate) fn wait(&self) {
        // The sender lives as long as the process.
        let _ = self.signal.recv();
    }
}
