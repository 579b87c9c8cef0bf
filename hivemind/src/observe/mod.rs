//! Floor 2: events for people, metrics for Prometheus.

mod events;
mod metrics;

pub use events::{Events, Missed};
pub use metrics::{Metrics, Sample};
