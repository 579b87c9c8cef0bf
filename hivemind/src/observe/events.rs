//! Events: what happened, for people. A ring in memory; nothing of it is state.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    lifecycle::clock,
    model::{Event, EventKind, Subject},
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
    /// Says that something happened. `reason` is a CamelCase word for programs.
    pub fn emit(&self, kind: EventKind, reason: &str, about: &Subject, message: String) {
        let object = about.object();
        match kind {
            EventKind::Normal => tracing::info!(reason, object, "{message}"),
            EventKind::Warning => tracing::warn!(reason, object, "{message}"),
        }
        let mut ring = self.ring();
        let seq = *self.shared.newest.borrow() + 1;
        if ring.len() == KEPT {
            ring.pop_front();
        }
        let (tenant, namespace) = about.place();
        ring.push_back(Event {
            seq,
            at: clock::now(),
            kind,
            reason: reason.into(),
            object,
            tenant: tenant.cloned(),
            namespace: namespace.cloned(),
            app: about.app().cloned(),
            message,
            fields: BTreeMap::new(),
        });
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
    use crate::model::{AppKey, Scope};

    fn emit(events: &Events, n: usize) {
        let about = Subject::Leftover("a".into());
        (0..n).for_each(|i| events.emit(EventKind::Normal, "Test", &about, i.to_string()));
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

    #[test]
    fn apps_of_one_name_in_two_namespaces_are_told_apart() {
        let events = Events::default();
        let key = |namespace: &str| {
            let scope = Scope { namespace: namespace.parse().expect("a name"), ..Scope::default() };
            AppKey::new(scope, "web".parse().expect("a name"))
        };
        for subject in [
            Subject::App(key("one")),
            Subject::Instance(key("two"), "web-x7k2p".into()),
            Subject::Node("a".parse().expect("a name")),
        ] {
            events.emit(EventKind::Normal, "Test", &subject, String::new());
        }
        let seen: Vec<_> = events.after(0).0.into_iter().map(|e| (e.object, e.namespace, e.app)).collect();
        let web = Some("web".parse().expect("a name"));
        let namespace = |name: &str| Some(name.parse().expect("a name"));
        assert_eq!(seen[0], ("app/web".into(), namespace("one"), web.clone()));
        assert_eq!(seen[1], ("instance/web-x7k2p".into(), namespace("two"), web));
        assert_eq!(seen[2], ("node/a".into(), None, None));
    }
}
