//! tests

pub mod containerd;
