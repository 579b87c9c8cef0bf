//! Version 1 of the documents.

mod app;
mod health;
mod validate;

pub use app::{AppSpec, PortSpec, PullPolicy, Resources, RestartPolicy, StopSpec};
pub use health::{Check, HealthSpec};
pub use validate::{MAX_REPLICAS, MIN_MEMORY, validate_app};
