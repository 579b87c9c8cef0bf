//! Floor 0, the documents users write. Unknown fields are refused; all faults of a document are collected.

pub mod v1;
