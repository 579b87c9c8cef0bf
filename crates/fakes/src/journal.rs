//! What the fakes were asked, in one order; which calls fail; and when the life of the daemon that asks is over.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;

use super::runtime::Fault;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The seam and the method: `net.bring_up`.
    pub what: &'static str,
    /// The interface indices it is about: a link's, or those of all rows that were written.
    pub links: Vec<u32>,
    /// How it failed.
    pub fault: Fault,
}

/// Keeps the calls of one life, beside those of the lives before. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    kept: Arc<Mutex<Kept>>,
    /// Calls that are still done.
    left: Arc<AtomicUsize>,
    over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: Vec<Entry>,
    /// Calls to come that fail, and how.
    faults: Vec<(&'static str, Fault)>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { kept: Arc::default(), left: Arc::new(AtomicUsize::new(usize::MAX)), over: watch::channel(false).0 }
    }
}

impl Journal {
    /// The next life: a daemon that starts again over what is there. It is over before the call after `calls` more.
    pub fn next_life(&self, calls: usize) -> Self {
        let left = Arc::new(AtomicUsize::new(calls));
        Self { kept: Arc::clone(&self.kept), left, over: watch::channel(false).0 }
    }

    /// The next call of that name that does not fail for another reason fails so.
    pub fn fail(&self, what: &'static str, fault: Fault) {
        self.kept().faults.push((what, fault));
    }

    /// All calls so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.kept().entries.clone()
    }

    /// Waits until this life is over.
    pub async fn over(&self) {
        // The sender is ours: it does not go while this waits.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Notes a call and says how it is to fail. [`Fault::Never`] when this life is over; then nothing is noted.
    pub fn pass(&self, what: &'static str, links: Vec<u32>) -> Fault {
        let one_less = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err() {
            self.over.send_replace(true);
            return Fault::Never;
        }
        let mut kept = self.kept();
        let at = kept.faults.iter().position(|(of, _)| *of == what);
        let fault = at.map_or(Fault::None, |at| kept.faults.remove(at).1);
        kept.entries.push(Entry { what, links, fault });
        fault
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
