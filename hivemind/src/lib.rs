//! Hivemind: a container orchestrator with its own eBPF data plane.
//!
//! This crate is the command line and the daemon's root; every other room of the house is a crate of its own under
//! `crates/`, on a floor (`docs/ARCHITECTURE.md`), and named here as a module.

pub mod cli;
pub mod daemon;

pub use hivemind_agent as agent;
pub use hivemind_api as api;
pub use hivemind_client as client;
pub use hivemind_compat as compat;
pub use hivemind_control as control;
pub use hivemind_core::{ipam, lifecycle, model, spec};
pub use hivemind_dataplane as dataplane;
pub use hivemind_dns as dns;
pub use hivemind_health as health;
pub use hivemind_net as net;
pub use hivemind_observe as observe;
pub use hivemind_policy as policy;
pub use hivemind_runtime as runtime;
pub use hivemind_schedule as schedule;
pub use hivemind_storage as storage;
pub use hivemind_store as store;
