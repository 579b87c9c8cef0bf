//! Watches: first from the log, then live. A watcher that falls behind is served from the log again.

use std::sync::mpsc::Sender;

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{engine::Engine, worker::Request};
use crate::{Compacted, StoreError, WatchBatch, WatchItem, Watcher};
use hivemind_core::model::Revision;

/// Items a watcher may have waiting. The last place is kept for [`WatchItem::Behind`].
const CHANNEL: usize = 64;

/// The store's end of a watch.
#[derive(Debug)]
pub(super) struct Watch {
    id: u64,
    prefix: String,
    /// All revisions up to this one were sent, or do not concern the prefix.
    sent: Revision,
    /// The channel is full and the watcher will ask for more.
    behind: bool,
    items: mpsc::Sender<WatchItem>,
}

/// All watches.
#[derive(Debug)]
pub(super) struct Watches {
    all: Vec<Watch>,
    last: u64,
    /// How a watcher asks for more.
    requests: Sender<Request>,
}

impl Watches {
    pub(super) fn new(requests: Sender<Request>) -> Self {
        Self { all: Vec::new(), last: 0, requests }
    }

    /// Begins a watch after `after`.
    pub(super) fn add(&mut self, engine: &Engine, prefix: String, after: Revision) -> Result<Watcher, StoreError> {
        if after < engine.compacted() {
            return Err(StoreError::Compacted(Compacted { oldest: engine.compacted() }));
        }
        let (items, receiver) = mpsc::channel(CHANNEL);
        self.last += 1;
        let mut watch = Watch { id: self.last, prefix, sent: after, behind: false, items };
        if watch.catch_up(engine, &self.requests) {
            self.all.push(watch);
        }
        Ok(Watcher::new(receiver))
    }

    /// Sends what was just committed to all who are not behind.
    pub(super) fn publish(&mut self, batches: &[WatchBatch]) {
        self.all.retain_mut(|watch| batches.iter().all(|batch| watch.offer(batch, &self.requests)));
    }

    /// A watcher has taken all it was sent.
    pub(super) fn resume(&mut self, engine: &Engine, id: u64) {
        self.all.retain_mut(|watch| {
            if watch.id != id {
                return true;
            }
            watch.behind = false;
            watch.catch_up(engine, &self.requests)
        });
    }

    /// Brings all to the newest revision from the log: for when it is not known what was committed.
    pub(super) fn catch_up(&mut self, engine: &Engine) {
        self.all.retain_mut(|watch| watch.behind || watch.catch_up(engine, &self.requests));
    }
}

impl Watch {
    /// Sends what the log has after [`Watch::sent`]. False if the watch has ended.
    fn catch_up(&mut self, engine: &Engine, requests: &Sender<Request>) -> bool {
        if self.sent < engine.compacted() {
            // Not being able to send means that nobody listens.
            let _ =
                self.items.try_send(WatchItem::Failed(StoreError::Compacted(Compacted { oldest: engine.compacted() })));
            return false;
        }
        let mut alive = true;
        let read = engine.log(self.sent, |batch| {
            alive = self.offer(&batch, requests);
            alive && !self.behind
        });
        match read {
            Ok(()) => alive,
            Err(error) => {
                let _ = self.items.try_send(WatchItem::Failed(error));
                false
            }
        }
    }

    /// Sends the part of `batch` that is under the prefix, or marks the watch as behind. False if it has ended.
    fn offer(&mut self, batch: &WatchBatch, requests: &Sender<Request>) -> bool {
        if self.items.is_closed() {
            return false;
        }
        if self.behind || batch.revision <= self.sent {
            return true;
        }
        let events: Vec<_> =
            batch.events.iter().filter(|event| event.key().starts_with(&self.prefix)).cloned().collect();
        if events.is_empty() {
            self.sent = batch.revision;
            return true;
        }
        let item = if self.items.capacity() > 1 {
            self.sent = batch.revision;
            WatchItem::Batch(WatchBatch { revision: batch.revision, events })
        } else {
            self.behind = true;
            let (id, requests) = (self.id, requests.clone());
            // If the store is closed the watcher learns it from the closed channel.
            WatchItem::Behind(Box::new(move || drop(requests.send(Request::Resume(id)))))
        };
        !matches!(self.items.try_send(item), Err(TrySendError::Closed(_)))
    }
}
