//! Events: what happened, for people. A ring in memory; nothing of it is state.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    lifecycle::clock,
    model::{Event, EventKind},
};

/// How many events are kept.
const KEPT: usize = 10_000;

/// The ring. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ring: Mutex<VecDeque<Event>>,
    /// The number of the newest event; 0 before the first.
    newest: watch::Sender<u64>,
}

/// So many events were overwritten before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed(pub u64);

impl Default for Events {
    fn default() -> Self {
        let (newest, _) = watch::channel(0);
        Self { shared: Arc::new(Shared { ring: Mutex::new(VecDeque::new()), newest }) }
    }
}

impl Events {
    /// Says that something happened. `reason` is a CamelCase word for programs, `object` is `kind/name`.
    pub fn emit(&self, kind: EventKind, reason: &str, object: String, message: String) {
        match kind {
            EventKind::Normal => tracing::info!(reason, object, "{message}"),
            EventKind::Warning => tracing::warn!(reason, object, "{message}"),
        }
        let mut ring = self.ring();
        let seq = *self.shared.newest.borrow() + 1;
        if ring.len() == KEPT {
            ring.pop_front();
        }
        let fields = BTreeMap::new();
        ring.push_back(Event { seq, at: clock::now(), kind, reason: reason.into(), object, message, fields });
        // Under the lock, so that numbers are published in order.
        self.shared.newest.send_replace(seq);
    }

    /// The events after number `after`, oldest first, and how many of them are gone.
    pub fn after(&self, after: u64) -> (Vec<Event>, Missed) {
        let ring = self.ring();
        let missed = ring.front().map_or(0, |first| first.seq.saturating_sub(after + 1));
        (ring.iter().filter(|event| event.seq > after).cloned().collect(), Missed(missed))
    }

    /// Changes with every event; its value is the newest number.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.shared.newest.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emit(events: &Events, n: usize) {
        (0..n).for_each(|i| events.emit(EventKind::Normal, "Test", "app/a".into(), i.to_string()));
    }

    #[test]
    fn numbers_have_no_gaps_and_what_is_lost_is_counted() {
        let events = Events::default();
        emit(&events, KEPT + 5);
        let (got, missed) = events.after(0);
        assert_eq!((got.len(), missed), (KEPT, Missed(5)));
        assert_eq!((got[0].seq, *events.newest().borrow()), (6, KEPT as u64 + 5));
        assert_eq!(events.after(KEPT as u64 + 4).0.len(), 1);
        assert_eq!(events.after(KEPT as u64 + 5), (vec![], Missed(0)));
    }
}
