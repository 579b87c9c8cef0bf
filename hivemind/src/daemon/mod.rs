//! Floor 5: configuration → build → bind → run → stop. The only place that knows everyone.

mod config;
pub mod journal;
mod local;
mod memory;
mod named;
pub mod needs;
mod prepare;
mod run;
mod service;
mod uninstall;

pub use config::{DaemonConfig, IpFamilies};
pub use run::run;
pub use uninstall::{Uninstalled, uninstall};
