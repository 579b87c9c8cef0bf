//! Leaf: drain, supervision, back-off, the clock.

pub mod backoff;
pub mod clock;
pub mod killpoint;
pub mod readiness;
