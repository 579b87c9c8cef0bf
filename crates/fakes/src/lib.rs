//! The seams of the agent without a machine behind them, for tests of what drives them. Never shipped.

pub mod dataplane;
pub mod journal;
pub mod net;
pub mod runtime;
