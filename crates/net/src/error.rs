//! What can go wrong with the network.

use std::path::PathBuf;

use super::{Overlap, PublishedPort};
use hivemind_core::model::ErrorCode;

/// An error of the network adapter.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Configured ranges overlap something of the host. Every overlap is named.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Overlaps(Vec<Overlap>),
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
    /// There is no socket to ask the kernel by.
    #[error("cannot open a netlink socket: {source}")]
    NoSocket {
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel's connection tracking did not forget an address.
    #[error(
        "cannot make the host's connection tracking forget {addresses:?}, so that who has them next would get what is \
         meant for who had them: {source} (hint: 'conntrack -L' shows what it knows; nf_conntrack_netlink must be there)"
    )]
    Tracked {
        /// The addresses.
        addresses: Vec<std::net::IpAddr>,
        /// What the system said.
        source: std::io::Error,
    },
    /// nftables refused.
    #[error("nftables refused the rules: {why}")]
    Nftables {
        /// What it said.
        why: String,
    },
    /// The program of nftables could not be run.
    #[error("cannot run {program}: {source} (hint: install the package nftables)")]
    NoNft {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process listens on a port that is to be published.
    #[error("port {port} of this machine is used by another process (hint: 'ss -ltnup' names it)")]
    PortTaken {
        /// The port.
        port: PublishedPort,
    },
    /// A port cannot be held.
    #[error("cannot hold port {port}: {source}")]
    Port {
        /// The port.
        port: PublishedPort,
        /// What the system said.
        source: std::io::Error,
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

impl NetError {
    /// The code that users see.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Overlaps(_) => ErrorCode::RangeOverlap,
            Self::PortTaken { .. } => ErrorCode::PortTaken,
            _ => ErrorCode::Network,
        }
    }

    /// [`NetError::File`], for `map_err`.
    pub(super) fn file<E: Into<std::io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source: source.into() }
    }
}
