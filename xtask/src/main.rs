//! The only entry: cargo xtask.
fn main() {}
