//! Fakes and helpers for tests. Never shipped.
