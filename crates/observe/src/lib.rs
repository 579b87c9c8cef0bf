//! Floor 2: events for people, metrics for Prometheus.

mod events;
mod metrics;
pub mod process;

pub use events::{EventPosition, Events, EventsGone, Missed};
pub use metrics::{HistogramSample, Metrics, Sample};
