//! Contents as files of one instance, in memory only: they go with the mount, and with the machine's power.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
};

use nix::mount::{MsFlags, mount};

use super::{Storage, StorageError};
use hivemind_core::model::{ContainerId, Hidden};

/// What the file system in memory needs for itself and for each file, besides what is in them.
const OVERHEAD: usize = 64 * 1024;
const PER_FILE: usize = 8 * 1024;

/// A file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceFile {
    /// What is in it.
    pub data: Hidden,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
    /// Who may read it.
    pub mode: u32,
}

impl Storage {
    /// Makes these files for an instance, in a file system of its own that nobody can write to any more. What it had must
    /// have been released.
    pub async fn files(&self, container: &ContainerId, files: Vec<InstanceFile>) -> Result<Vec<PathBuf>, StorageError> {
        let dir = self.mounts_of(container).join("files");
        self.run(move |inner| {
            inner.private_folder(&dir)?;
            let bytes: usize = files.iter().map(|file| file.data.0.len() + PER_FILE).sum::<usize>() + OVERHEAD;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            let options = format!("mode=700,size={bytes}");
            let tmpfs = |options: &str| mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, Some(options));
            // Kernels before 6.4 do not know that what is in it is not to be swapped out.
            tmpfs(&format!("{options},noswap"))
                .or_else(|_| tmpfs(&options))
                .map_err(|error| StorageError::file("mount", &dir)(error.into()))?;
            let mut paths = Vec::new();
            for (number, file) in files.iter().enumerate() {
                let path = dir.join(number.to_string());
                let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
                let written = open.as_mut().map_err(|error| std::io::Error::from(error.kind())).and_then(|open| {
                    open.write_all(&file.data.0)?;
                    std::os::unix::fs::fchown(&*open, Some(file.uid), Some(file.gid))
                });
                // After the owner: a change of that takes away what the mode may say of others' rights.
                written
                    .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(file.mode)))
                    .map_err(StorageError::file("write", &path))?;
                paths.push(path);
            }
            let none: Option<&str> = None;
            mount(none, &dir, none, flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)
                .map_err(|error| StorageError::file("close", &dir)(error.into()))?;
            Ok(paths)
        })
        .await
    }
}
