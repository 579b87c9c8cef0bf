//! Who listens to what the programs tell. They tell nothing while nobody does.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{broadcast, watch};

use super::{DataplaneError, flows::Told};

/// How much is told at once at most: who listens is woken up once for all of it.
pub(super) const MOST_AT_ONCE: usize = 256;
/// How often something may be told that a listener is behind by. A slower one loses the oldest, which is counted.
const BEHIND: usize = 16;

/// What is told at once.
#[derive(Clone, Debug)]
struct Batch {
    /// How much was told before.
    before: u64,
    all: Arc<[Told]>,
}

/// Where the programs look whether somebody listens.
pub(super) trait Switch: Send {
    /// Says how many listen.
    fn set(&mut self, listeners: u32) -> Result<(), DataplaneError>;
    /// How much found no room since the table was made.
    fn lost(&self) -> Result<u64, DataplaneError>;
}

/// Where listeners come to. Cheap to clone. The default one is never told anything.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    told: broadcast::Sender<Batch>,
    counted: Mutex<Counted>,
    listeners: watch::Sender<u32>,
    /// What listeners were too slow for.
    missed: AtomicU64,
}

#[derive(Default)]
struct Counted {
    listeners: u32,
    told: u64,
    switch: Option<Box<dyn Switch>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("listeners", &self.shared.counted().listeners).finish_non_exhaustive()
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::with(Counted::default())
    }
}

impl Shared {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn set(&mut self, listeners: u32) -> Result<(), DataplaneError> {
        if let Some(switch) = &mut self.switch {
            switch.set(listeners)?;
        }
        self.listeners = listeners;
        Ok(())
    }
}

impl Watch {
    /// Nobody listens yet, whatever a former daemon has left.
    pub(super) fn new(switch: Box<dyn Switch>) -> Result<Self, DataplaneError> {
        let mut counted = Counted { switch: Some(switch), ..Counted::default() };
        counted.set(0)?;
        Ok(Self::with(counted))
    }

    fn with(counted: Counted) -> Self {
        let (told, listeners) = (broadcast::Sender::new(BEHIND), watch::Sender::new(0));
        let counted = Mutex::new(counted);
        Self { shared: Arc::new(Shared { told, counted, listeners, missed: AtomicU64::new(0) }) }
    }

    /// Begins to listen. What happens after this returns is told, until the listener is dropped.
    ///
    /// # Errors
    /// If the programs cannot be told that somebody listens.
    pub fn listen(&self) -> Result<Listener, DataplaneError> {
        let mut counted = self.shared.counted();
        let told = self.shared.told.subscribe();
        let more = counted.listeners + 1;
        counted.set(more)?;
        self.shared.listeners.send_replace(more);
        let heard = counted.told;
        drop(counted);
        Ok(Listener { told, watch: self.clone(), heard, batch: Arc::default(), at: 0 })
    }

    /// Whether somebody listens.
    pub fn is_watched(&self) -> bool {
        self.shared.counted().listeners > 0
    }

    /// Waits until somebody listens. Safe to cancel.
    pub(super) async fn listened(&self) {
        // No error: what is waited for has the sender.
        let _ = self.shared.listeners.subscribe().wait_for(|listeners| *listeners > 0).await;
    }

    /// Tells all who listen. What is more than [`MOST_AT_ONCE`] is told in several goes.
    pub(super) fn tell(&self, told: Vec<Told>) {
        let mut counted = self.shared.counted();
        if counted.listeners == 0 {
            return;
        }
        for all in told.chunks(MOST_AT_ONCE) {
            let batch = Batch { before: counted.told, all: all.into() };
            counted.told += all.len() as u64;
            // An error means that nobody listens.
            let _ = self.shared.told.send(batch);
        }
    }

    /// How much was told that nobody got: what found no room in the kernel, and what listeners were too slow for.
    ///
    /// # Errors
    /// If the kernel's count cannot be read.
    pub fn lost(&self) -> Result<u64, DataplaneError> {
        let kernel = self.shared.counted().switch.as_ref().map_or(Ok(0), |switch| switch.lost())?;
        Ok(kernel + self.shared.missed.load(Ordering::Relaxed))
    }
}

/// Somebody who listens.
#[derive(Debug)]
pub struct Listener {
    told: broadcast::Receiver<Batch>,
    watch: Watch,
    /// How much of all that was told it has got or missed, with all of the last batch.
    heard: u64,
    batch: Arc<[Told]>,
    /// How much of it was got.
    at: usize,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut counted = self.watch.shared.counted();
        let fewer = counted.listeners - 1;
        self.watch.shared.listeners.send_replace(fewer);
        if let Err(error) = counted.set(fewer) {
            counted.listeners = fewer;
            tracing::error!(%error, "the programs go on telling of flows although nobody listens");
        }
    }
}

impl Listener {
    /// What is told next, or how much of it was missed. `None`: nothing more will come. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<Told, u64>> {
        loop {
            if let Some(told) = self.batch.get(self.at) {
                self.at += 1;
                return Some(Ok(*told));
            }
            match self.told.recv().await {
                Ok(batch) => {
                    if let Some(missed) = self.take(batch) {
                        return Some(Err(missed));
                    }
                }
                // How much it was the next batch says.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The same, if it is there already.
    pub fn try_next(&mut self) -> Option<Result<Told, u64>> {
        loop {
            if let Some(told) = self.batch.get(self.at) {
                self.at += 1;
                return Some(Ok(*told));
            }
            match self.told.try_recv() {
                Ok(batch) => {
                    if let Some(missed) = self.take(batch) {
                        return Some(Err(missed));
                    }
                }
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    }

    /// What is told next is of this batch. Returns how much was missed before it.
    fn take(&mut self, batch: Batch) -> Option<u64> {
        let missed = batch.before - self.heard;
        self.heard = batch.before + batch.all.len() as u64;
        (self.batch, self.at) = (batch.all, 0);
        self.watch.shared.missed.fetch_add(missed, Ordering::Relaxed);
        (missed > 0).then_some(missed)
    }
}

#[cfg(test)]
mod tests {
    use hivemind_ebpf::reason::Reason;

    use super::*;
    use crate::flows::DropRecord;
    use hivemind_core::model::Timestamp;
    use hivemind_policy::Direction;

    #[derive(Clone, Default)]
    struct Remembers(Arc<Mutex<Vec<u32>>>);

    impl Switch for Remembers {
        fn set(&mut self, listeners: u32) -> Result<(), DataplaneError> {
            self.0.lock().expect("not poisoned").push(listeners);
            Ok(())
        }
        fn lost(&self) -> Result<u64, DataplaneError> {
            Ok(3)
        }
    }

    fn dropped(packets: u64) -> Told {
        Told::Dropped(DropRecord {
            ends: None,
            protocol: 0,
            device: 0,
            direction: Direction::In,
            reason: Reason::Malformed,
            rule: 0,
            packets,
            bytes: 0,
            first: Timestamp::default(),
            last: Timestamp::default(),
        })
    }

    #[tokio::test]
    async fn the_switch_follows_who_listens() {
        let switch = Remembers::default();
        let watch = Watch::new(Box::new(switch.clone())).expect("a watch");
        watch.tell(vec![dropped(1)]);
        let (mut first, second) = (watch.listen().expect("listens"), watch.listen().expect("listens"));
        watch.tell(vec![dropped(2)]);
        assert_eq!(first.next().await, Some(Ok(dropped(2))), "what was told before is not heard");
        drop(second);
        assert!(watch.is_watched());
        drop(first);
        assert!(!watch.is_watched());
        assert_eq!(*switch.0.lock().expect("not poisoned"), [0, 1, 2, 1, 0]);
    }

    #[tokio::test]
    async fn what_a_slow_listener_misses_is_counted() {
        let watch = Watch::new(Box::new(Remembers::default())).expect("a watch");
        watch.tell(vec![dropped(1_000_000)]);
        let mut slow = watch.listen().expect("listens");
        let all: Vec<_> = (0..(BEHIND as u64 + 1) * MOST_AT_ONCE as u64 + 5).map(dropped).collect();
        watch.tell(all.clone());
        let lost = 2 * MOST_AT_ONCE;
        assert_eq!(
            slow.next().await,
            Some(Err(lost as u64)),
            "the last go has five, and pushes out one as the others do"
        );
        for told in &all[lost..] {
            assert_eq!(slow.try_next(), Some(Ok(*told)));
        }
        assert_eq!(slow.try_next(), None);
        assert_eq!(watch.lost().expect("a count"), 3 + lost as u64);
    }

    #[tokio::test]
    async fn who_reads_what_is_told_waits_for_a_listener() {
        let watch = Watch::new(Box::new(Remembers::default())).expect("a watch");
        let other = watch.clone();
        let mut waits = std::pin::pin!(other.listened());
        assert!(futures::poll!(&mut waits).is_pending());
        let listener = watch.listen().expect("listens");
        waits.await;
        drop(listener);
        assert!(futures::poll!(std::pin::pin!(watch.listened())).is_pending());
    }
}
