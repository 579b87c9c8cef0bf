//! Floor 5: configuration → build → bind → run → stop. The only place that knows everyone.

mod config;
mod local;
mod memory;
mod named;
pub mod needs;
mod prepare;
mod run;

pub use config::{DaemonConfig, IpFamilies};
pub use run::run;
