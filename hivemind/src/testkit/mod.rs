//! Fakes and helpers for tests. Never shipped.

pub mod runtime;
