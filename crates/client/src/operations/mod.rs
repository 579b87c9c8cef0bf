//! The operations of the API, each a typed function of [`super::Client`], and what can be asked of them.
//!
//! These files are made of the API's description by `cargo xtask docs`; `generate.rs` says how.

mod apps;
mod contents;
mod dataplane;
mod events;
mod flows;
mod images;
mod instances;
mod meta;
mod nodes;
mod policies;
mod projects;
mod services;
mod shared;
mod tenants;
mod volumes;

pub use self::{dataplane::*, events::*, images::*, instances::*, projects::*, shared::*};
