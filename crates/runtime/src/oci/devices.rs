//! Devices of the host in a container.

use serde_json::{Value, json};

/// A device as the host has it, and where the container sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its path in the container.
    pub path: String,
    /// Whether it is a block device; else it is a character device.
    pub block: bool,
    pub major: u64,
    pub minor: u64,
    /// Of the node: rights, owner and group are the host's.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// What may be done with it: some of `rwm`.
    pub access: String,
}

impl Device {
    /// The node that the runtime makes.
    pub(super) fn node(&self) -> Value {
        json!({
            "path": self.path,
            "type": self.kind(),
            "major": self.major,
            "minor": self.minor,
            "fileMode": self.mode,
            "uid": self.uid,
            "gid": self.gid,
        })
    }

    /// What the cgroup lets the container do with it.
    pub(super) fn rule(&self) -> Value {
        let (major, minor) = (self.major, self.minor);
        json!({"allow": true, "type": self.kind(), "major": major, "minor": minor, "access": self.access})
    }

    fn kind(&self) -> &'static str {
        if self.block { "b" } else { "c" }
    }
}
