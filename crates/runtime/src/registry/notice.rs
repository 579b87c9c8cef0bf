//! What goes wrong with registries and is dealt with, for events and metrics: nobody is told otherwise.

use tokio::sync::broadcast;

/// Notices that wait to be taken at most; older ones are lost first.
const KEPT: usize = 256;

/// Something that people should be able to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A mirror did not give what it was asked for, and the next place was asked.
    MirrorFailed {
        /// The mirror, `host:port`.
        mirror: String,
        /// Whom it is a mirror of.
        registry: String,
        /// What was wrong.
        why: String,
    },
    /// A request was made again.
    Retried(Retry),
}

/// Why a request is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing came for so long that it was given up.
    Stalled,
    /// The connection ended in the middle.
    Broken,
    /// The registry asked to come again later.
    Busy,
    /// The registry said that something is wrong with itself.
    Failing,
}

impl Retry {
    /// As a label of a metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stalled => "stalled",
            Self::Broken => "broken",
            Self::Busy => "busy",
            Self::Failing => "failing",
        }
    }
}

/// Where notices go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Notices(broadcast::Sender<Notice>);

impl Default for Notices {
    fn default() -> Self {
        Self(broadcast::channel(KEPT).0)
    }
}

impl Notices {
    /// Says something to whoever listens.
    pub(super) fn say(&self, notice: Notice) {
        // It fails if nobody listens.
        let _ = self.0.send(notice);
    }

    /// What is said from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Notice> {
        self.0.subscribe()
    }
}
