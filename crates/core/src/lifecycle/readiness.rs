//! What the daemon still waits for before it is ready. `/readyz` shows it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The daemon's readiness. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// Something that is waited for. Dropping it says that it is done.
#[derive(Debug)]
#[must_use = "dropping it says that it is done"]
pub struct BlockReady {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// Not ready until the returned value is dropped. Each name is used once at a time.
    pub fn block(&self, name: &'static str) -> BlockReady {
        self.lock().insert(name);
        BlockReady { readiness: self.clone(), name }
    }

    /// What is waited for; empty means ready.
    pub fn waiting(&self) -> Vec<&'static str> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        let mut waiting = self.readiness.lock();
        waiting.remove(self.name);
        let left = waiting.len();
        drop(waiting);
        tracing::info!(done = self.name, left, "start-up");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_the_last_block_is_dropped() {
        let readiness = Readiness::default();
        let (store, feed) = (readiness.block("store"), readiness.block("feed"));
        assert_eq!(readiness.waiting(), ["feed", "store"]);
        drop(store);
        assert_eq!(readiness.waiting(), ["feed"]);
        drop(feed);
        assert!(readiness.waiting().is_empty());
    }
}
