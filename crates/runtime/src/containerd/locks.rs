//! Locks by name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

/// One task at a time per name. Names that nobody holds take no memory.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits for `name` and holds it until the guard is dropped.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| lock.strong_count() > 0);
            let held = all.get(name).and_then(Weak::upgrade);
            held.unwrap_or_else(|| {
                let lock = Arc::default();
                all.insert(name.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_exclude_only_themselves() {
        let locks = Locks::default();
        let a = locks.lock("a").await;
        let b = locks.lock("b").await;
        let mut second = std::pin::pin!(locks.lock("a"));
        assert!(futures::poll!(&mut second).is_pending());
        drop(a);
        drop(second.await);
        drop(b);
        drop(locks.lock("c").await);
        assert_eq!(locks.0.lock().expect("not poisoned").len(), 1);
    }
}
