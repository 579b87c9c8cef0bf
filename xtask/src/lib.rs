//! What the demo, the system tests and the measurements share: a machine of its own inside this one, with a real
//! containerd, a real registry and the hivemind daemon, which disappears without a trace however its owner ends.
//!
//! The commands of `cargo xtask` are in the binary; this library is small on purpose, so that `cargo xtask setup`
//! builds in seconds on a machine where nothing is installed yet.

pub mod builders;
pub mod containerd;
pub mod daemon;
pub mod deb;
pub mod docker;
pub mod image;
mod leaks;
pub mod machine;
pub mod package;
pub mod registry;
pub mod sandbox;
pub mod shell;
pub mod wait;
