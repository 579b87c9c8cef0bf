//! The file system of a running container, as it sees it itself, without anything being run in it.
//!
//! `/proc/<pid>/root` is a door into its mount namespace. Names are looked up behind it with `RESOLVE_IN_ROOT`: no link
//! leads out, whatever the container does in the meantime, and the links of `/proc` that jump elsewhere are not followed.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

/// The root of a container.
#[derive(Debug)]
pub struct Inside {
    root: OwnedFd,
}

impl Inside {
    /// Opens the root of the process, which must be of the container `id`: a number may be another's by now.
    ///
    /// # Errors
    /// If there is no such process any more.
    pub fn of(id: &str, pid: u32) -> io::Result<Self> {
        let path = format!("/proc/{pid}/root");
        let root = open(path.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        if !groups.contains(id) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its process has ended"));
        }
        Ok(Self { root })
    }

    /// Opens a path of the container. A relative one begins at its root.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        // The kernel asks to try again when something was renamed on the way, as its race cannot be excluded.
        for _ in 0..64 {
            match openat2(self.root.as_fd(), path, how) {
                Err(nix::errno::Errno::EAGAIN) => {}
                other => return Ok(other?),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "its folders are renamed all the time"))
    }

    /// The text of a small file, at most `limit` bytes of it; nothing if it is no ordinary file that can be read.
    pub(super) fn text(&self, path: &Path, limit: u64) -> String {
        let mut text = Vec::new();
        // A pipe would be waited for, without the flag.
        if let Ok(file) = self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY) {
            let file = File::from(file);
            if file.metadata().is_ok_and(|found| found.is_file()) {
                let _ = file.take(limit).read_to_end(&mut text);
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found is looked up in a folder, as if that were the root of a container.
    fn inside(dir: &Path) -> Inside {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Inside { root: open(dir, flags, Mode::empty()).expect("a folder") }
    }

    #[test]
    fn no_link_leads_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let (outer, root) = (dir.path().join("secret"), dir.path().join("root"));
        std::fs::write(&outer, "outside").expect("written");
        std::fs::create_dir_all(root.join("etc")).expect("made");
        std::fs::write(root.join("secret"), "inside").expect("written");
        for (name, to) in [("up", "../../../secret"), ("absolute", "/secret"), ("etc/up", "../../secret")] {
            std::os::unix::fs::symlink(to, root.join(name)).expect("linked");
        }
        let inside = inside(&root);
        for path in ["up", "absolute", "etc/up", "/../secret", "etc/../../secret"] {
            assert_eq!(inside.text(Path::new(path), 100), "inside", "{path}");
        }
        assert_eq!(inside.text(Path::new("/secret"), 2), "in");
        assert_eq!(inside.text(Path::new("/etc"), 2), "", "a folder has no text");
    }

    #[test]
    fn a_process_of_another_is_not_entered() {
        let error = Inside::of("abcdefghijkl", std::process::id()).expect_err("it is no container");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
