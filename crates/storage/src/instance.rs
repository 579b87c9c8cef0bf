//! What is mounted for one instance, and what of the node it may have.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, mkdirat},
};

use super::{Storage, StorageError, entries};
use hivemind_core::model::ContainerId;

impl Storage {
    /// The path of the node that `path` leads to, without symbolic links. With `create`, a folder is made if there is
    /// nothing.
    ///
    /// # Errors
    /// If there is nothing, or it is one of the daemon's own.
    pub async fn of_node(&self, path: PathBuf, create: bool) -> Result<PathBuf, StorageError> {
        self.run(move |inner| {
            let refuse = |why: String| StorageError::Refused { path: path.clone(), why };
            if create && !path.exists() {
                fs::create_dir_all(&path).map_err(|error| refuse(format!("it cannot be made: {error}")))?;
            }
            let real = match fs::canonicalize(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(refuse("there is nothing (bind-create-src makes a folder)".into()));
                }
                real => real.map_err(|error| refuse(error.to_string()))?,
            };
            let private = inner.private.iter().filter_map(|dir| fs::canonicalize(dir).ok());
            if private.into_iter().any(|dir| real.starts_with(dir)) {
                return Err(refuse("it is hivemind's own".into()));
            }
            Ok(real)
        })
        .await
    }

    /// A folder in a volume, made if it is missing, as mount number `number` of an instance. What the volume's users
    /// have put there leads nowhere else: no symbolic link is followed, and what is mounted is what was opened.
    pub async fn within(
        &self,
        container: &ContainerId,
        number: usize,
        data: PathBuf,
        subpath: String,
    ) -> Result<PathBuf, StorageError> {
        let dir = self.mounts_of(container);
        self.run(move |inner| {
            let shown = data.join(&subpath);
            let found = open_beneath(&data, &subpath).map_err(|error| StorageError::Refused {
                path: shown.clone(),
                why: match error {
                    Errno::ELOOP => "a symbolic link is in its path".into(),
                    other => other.to_string(),
                },
            })?;
            inner.private_folder(&dir)?;
            let point = dir.join(number.to_string());
            fs::create_dir_all(&point).map_err(StorageError::file("make", &point))?;
            let source = format!("/proc/self/fd/{}", found.as_raw_fd());
            let none: Option<&str> = None;
            mount(Some(source.as_str()), &point, none, MsFlags::MS_BIND, none)
                .map_err(|error| StorageError::file("mount", &point)(error.into()))?;
            Ok(point)
        })
        .await
    }

    /// Takes down what is mounted for an instance. Ok if nothing is. Nothing behind a mount is touched: mount points are
    /// removed only when they are empty.
    pub async fn release(&self, container: &ContainerId) -> Result<(), StorageError> {
        let dir = self.mounts_of(container);
        self.run(move |_| {
            for name in entries(&dir)? {
                let point = dir.join(name);
                loop {
                    match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                        Ok(()) => {}
                        Err(Errno::EINVAL) => break,
                        Err(error) => return Err(StorageError::file("unmount", &point)(error.into())),
                    }
                }
                fs::remove_dir(&point).map_err(StorageError::file("remove", &point))?;
            }
            match fs::remove_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::file("remove", &dir)(error)),
                _ => Ok(()),
            }
        })
        .await
    }

    pub(super) fn mounts_of(&self, container: &ContainerId) -> PathBuf {
        self.0.mounts.join(container.as_str())
    }
}

/// Opens a folder beneath another one, step by step, and makes what is missing.
fn open_beneath(root: &Path, path: &str) -> nix::Result<OwnedFd> {
    let how = || {
        OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS)
    };
    let mut at =
        OwnedFd::from(fs::File::open(root).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match mkdirat(at.as_fd(), part, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        at = openat2(&at, part, how())?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_daemons_own_folders_are_nobodys() {
        let dir = tempfile::tempdir().expect("a folder");
        let (state, run) = (dir.path().join("state"), dir.path().join("run"));
        let storage = Storage::new(&state, &run);
        for path in [&state, &run, &dir.path().join("site")] {
            fs::create_dir(path).expect("made");
        }
        fs::create_dir(state.join("volumes")).expect("made");
        std::os::unix::fs::symlink(state.join("volumes"), dir.path().join("link")).expect("linked");
        let of = |name: &str, create| storage.of_node(dir.path().join(name), create);
        assert!(of("site", false).await.is_ok());
        for name in ["state", "run", "state/volumes", "link", "site/../state"] {
            let error = of(name, false).await.expect_err(name).to_string();
            assert!(error.contains("hivemind's own"), "{name}: {error}");
        }
        let error = of("missing", false).await.expect_err("missing").to_string();
        assert!(error.contains("there is nothing"), "{error}");
        assert!(of("missing", true).await.is_ok() && dir.path().join("missing").is_dir());
    }

    #[test]
    fn no_link_in_a_volume_leads_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("a")).expect("made");
        std::os::unix::fs::symlink("/etc", data.join("out")).expect("linked");
        std::os::unix::fs::symlink("a", data.join("in")).expect("linked");
        std::os::unix::fs::symlink(dir.path(), data.join("a/up")).expect("linked");
        fs::write(data.join("file"), "x").expect("written");
        assert!(open_beneath(&data, "a").is_ok());
        assert!(open_beneath(&data, "a/new/deep").is_ok() && data.join("a/new/deep").is_dir());
        for path in ["out", "in", "a/up", "a/up/x", "out/passwd", "file", "..", "a/../.."] {
            assert!(open_beneath(&data, path).is_err(), "{path}");
        }
        assert!(!dir.path().join("x").exists(), "something was made outside");
    }
}
