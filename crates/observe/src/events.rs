//! Events: what happened, for people. A ring in memory; nothing of it is state.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use hivemind_core::{
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
    /// Tells this life of the daemon from others, whose events have the same numbers.
    life: u32,
    ring: Mutex<VecDeque<Event>>,
    /// The number of the newest event; 0 before the first.
    newest: watch::Sender<u64>,
}

/// So many events were overwritten before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed(pub u64);

/// Behind an event: `LIFE-NUMBER`, or only the number, which means the present life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventPosition {
    life: Option<u32>,
    seq: u64,
}

/// Why a stream cannot be gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsGone {
    /// The daemon was started again since.
    Restarted,
    /// So many events behind the position were overwritten.
    Overwritten(u64),
}

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.life {
            Some(life) => write!(f, "{life:08x}-{}", self.seq),
            None => write!(f, "{}", self.seq),
        }
    }
}

impl FromStr for EventPosition {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())).ok_or(());
        match text.split_once('-') {
            None => Ok(Self { life: None, seq: number(text)? }),
            Some((life, seq)) if life.len() == 8 && life.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(Self { life: u32::from_str_radix(life, 16).ok(), seq: number(seq)? })
            }
            Some(_) => Err(()),
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        let (newest, _) = watch::channel(0);
        Self { shared: Arc::new(Shared { life: rand::random(), ring: Mutex::new(VecDeque::new()), newest }) }
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
            position: self.position(seq).to_string(),
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

    /// Behind the event of this number.
    pub fn position(&self, seq: u64) -> EventPosition {
        EventPosition { life: Some(self.shared.life), seq }
    }

    /// The number behind which to go on from a position. A number without a life that was not given yet is of a former
    /// one, whose events are gone: then it is the beginning.
    pub fn resume(&self, position: EventPosition) -> Result<u64, EventsGone> {
        let EventPosition { life, seq } = position;
        let newest = *self.shared.newest.borrow();
        match life {
            None => Ok(if seq > newest { 0 } else { seq }),
            Some(life) if life != self.shared.life || seq > newest => Err(EventsGone::Restarted),
            Some(_) => match self.after(seq).1 {
                Missed(0) => Ok(seq),
                Missed(missed) => Err(EventsGone::Overwritten(missed)),
            },
        }
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
    use hivemind_core::model::{AppKey, Scope};

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
    fn a_stream_goes_on_behind_a_position_of_this_life_that_is_kept() {
        let events = Events::default();
        emit(&events, 3);
        let position = |text: &str| text.parse::<EventPosition>().expect("a position");
        let second = events.after(0).0[1].position.clone();
        assert_eq!(events.resume(position(&second)), Ok(2));
        assert_eq!((events.resume(position("2")), events.resume(position("4"))), (Ok(2), Ok(0)));
        let (newest, _) = watch::channel(0);
        let life = !events.shared.life;
        let other = Events { shared: Arc::new(Shared { life, ring: Mutex::default(), newest }) };
        emit(&other, 3);
        assert_eq!(other.resume(position(&second)), Err(EventsGone::Restarted), "a number of another life");
        emit(&events, KEPT + 2);
        assert_eq!(events.resume(position(&second)), Err(EventsGone::Overwritten(3)));
        for text in ["", "-1", "1-2", "0123456g-1", "01234567-", "+1", "01234567-+1", "01234567-1-1"] {
            assert_eq!(text.parse::<EventPosition>(), Err(()), "{text}");
        }
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
