//! Who listens to what the programs tell. They tell nothing while nobody does.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::broadcast;

use super::{DataplaneError, flows::Told};

/// What is told that a listener may be behind by. A slower one loses the oldest, which is counted.
const BEHIND: usize = 2048;

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
    told: broadcast::Sender<Told>,
    counted: Mutex<Counted>,
    /// What listeners were too slow for.
    missed: AtomicU64,
}

#[derive(Default)]
struct Counted {
    listeners: u32,
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
        let mut counted = Counted { listeners: 0, switch: Some(switch) };
        counted.set(0)?;
        Ok(Self::with(counted))
    }

    fn with(counted: Counted) -> Self {
        let told = broadcast::Sender::new(BEHIND);
        Self { shared: Arc::new(Shared { told, counted: Mutex::new(counted), missed: AtomicU64::new(0) }) }
    }

    /// Begins to listen. What happens after this returns is told, until the listener is dropped.
    ///
    /// # Errors
    /// If the programs cannot be told that somebody listens.
    pub fn listen(&self) -> Result<Listener, DataplaneError> {
        let told = self.shared.told.subscribe();
        let mut counted = self.shared.counted();
        let more = counted.listeners + 1;
        counted.set(more)?;
        drop(counted);
        Ok(Listener { told, watch: self.clone() })
    }

    /// Whether somebody listens.
    pub fn is_watched(&self) -> bool {
        self.shared.counted().listeners > 0
    }

    /// Tells all who listen.
    pub(super) fn tell(&self, told: Told) {
        // An error means that nobody listens.
        let _ = self.shared.told.send(told);
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
    told: broadcast::Receiver<Told>,
    watch: Watch,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut counted = self.watch.shared.counted();
        let fewer = counted.listeners - 1;
        if let Err(error) = counted.set(fewer) {
            counted.listeners = fewer;
            tracing::error!(%error, "the programs go on telling of flows although nobody listens");
        }
    }
}

impl Listener {
    /// What is told next, or how much of it was missed. `None`: nothing more will come. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<Told, u64>> {
        match self.told.recv().await {
            Ok(told) => Some(Ok(told)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Err(self.missed(missed))),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The same, if it is there already.
    pub fn try_next(&mut self) -> Option<Result<Told, u64>> {
        match self.told.try_recv() {
            Ok(told) => Some(Ok(told)),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Some(Err(self.missed(missed))),
            Err(_) => None,
        }
    }

    fn missed(&self, missed: u64) -> u64 {
        self.watch.shared.missed.fetch_add(missed, Ordering::Relaxed);
        missed
    }
}

#[cfg(test)]
mod tests {
    use hivemind_ebpf::reason::Reason;

    use super::*;
    use crate::{dataplane::flows::DropRecord, model::Timestamp, policy::Direction};

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
        watch.tell(dropped(1));
        let (mut first, second) = (watch.listen().expect("listens"), watch.listen().expect("listens"));
        watch.tell(dropped(2));
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
        let mut slow = watch.listen().expect("listens");
        for packets in 0..BEHIND as u64 + 5 {
            watch.tell(dropped(packets));
        }
        assert_eq!(slow.next().await, Some(Err(5)));
        assert_eq!(slow.try_next(), Some(Ok(dropped(5))));
        assert_eq!(watch.lost().expect("a count"), 8);
    }
}
