//! Leaf: the moments before an effect on the machine or on the store. In a build with the feature `testkit` the daemon
//! can be told to die at the n-th of them, so that a test can break it off everywhere. In all other builds this is
//! nothing.

/// Which moment, counted from 1 since [`arm`].
#[cfg(feature = "testkit")]
pub const VARIABLE: &str = "HIVEMIND_DIE_AT";

#[cfg(feature = "testkit")]
mod counted {
    use std::sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    };

    static DIE_AT: LazyLock<Option<u64>> = LazyLock::new(|| std::env::var(super::VARIABLE).ok()?.parse().ok());
    static ARMED: AtomicBool = AtomicBool::new(false);
    static PASSED: AtomicU64 = AtomicU64::new(0);

    pub(super) fn arm() {
        ARMED.store(true, Ordering::SeqCst);
    }

    pub(super) fn before(what: &str) {
        let Some(die_at) = *DIE_AT else { return };
        if ARMED.load(Ordering::SeqCst) && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == die_at {
            eprintln!("dying at {die_at}, before: {what}");
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
            // The signal needs a moment to end all threads; this one must not go on.
            loop {
                std::thread::park();
            }
        }
    }
}

/// The moments count from here on.
#[inline]
pub fn arm() {
    #[cfg(feature = "testkit")]
    counted::arm();
}

/// Such a moment; `what` is about to be done.
#[inline]
pub fn before(what: &str) {
    #[cfg(feature = "testkit")]
    counted::before(what);
    #[cfg(not(feature = "testkit"))]
    let _ = what;
}
