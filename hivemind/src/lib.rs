//! Hivemind: a container orchestrator with its own eBPF data plane.
//!
//! The modules stand on floors (`docs/ARCHITECTURE.md`); a module uses only floors below its own, which
//! `cargo xtask tidy` enforces.

pub mod agent;
pub mod api;
pub mod cli;
pub mod client;
pub mod compat;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod dns;
pub mod health;
pub mod ipam;
pub mod lifecycle;
pub mod model;
pub mod net;
pub mod observe;
pub mod policy;
pub mod runtime;
pub mod schedule;
pub mod spec;
pub mod storage;
pub mod store;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
