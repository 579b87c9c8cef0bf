//! Floors 0 and 1: the words of the product. Rows, specifications, and the leaves that every other crate stands on.

pub mod ipam;
pub mod lifecycle;
pub mod model;
pub mod spec;
