//! What can go wrong with the network.

use std::path::PathBuf;

/// An error of the network adapter.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A configured range overlaps something of the host.
    #[error("the range {range} ({option}) overlaps {other} on {device}")]
    Overlap {
        /// The configured range.
        range: String,
        /// The option that sets it.
        option: &'static str,
        /// The address or route it overlaps.
        other: String,
        /// The device that has it.
        device: String,
    },
    /// The kernel refused a netlink request.
    #[error("cannot {action} {object}: {why}")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// What the kernel said.
        why: String,
    },
    /// nftables refused.
    #[error("nftables refused the rules: {why}")]
    Nftables {
        /// What it said.
        why: String,
    },
    /// A file, a mount or a namespace.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
