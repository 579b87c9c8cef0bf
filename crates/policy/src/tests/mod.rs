//! Policies, compiled and judged: known cases, random worlds against the documents themselves, and how many rows.

mod cached;
mod cases;
mod changes;
mod cookbook;
mod host;
mod naive;
mod rows;
mod tenants;
mod tiers;
mod trials;
pub(super) mod world;
