//! Files and folders as tar streams, out of a folder that somebody else may be changing meanwhile, and into one.
//!
//! Nothing is ever looked up by a path that could be bent: packing goes from folder to folder by their descriptors, and
//! unpacking opens each parent beneath the target without following any link. A file comes under its name only when it is
//! whole.

mod pack;
mod pipe;
mod unpack;

pub use pack::{name_of, pack};
pub use pipe::{Reading, Writing, pipe};
pub use unpack::{Copied, survey, unpack};

use std::{io, path::PathBuf};

/// Folders in folders at most.
const DEPTH: u32 = 128;

/// A file that could not be copied.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct TreeError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl TreeError {
    fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { path, source }
    }
}

#[cfg(test)]
mod tests;
