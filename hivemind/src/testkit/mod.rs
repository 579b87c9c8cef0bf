//! Fakes and helpers for tests. Never shipped.

pub mod dataplane;
pub mod journal;
pub mod net;
pub mod runtime;
pub mod upstream;
