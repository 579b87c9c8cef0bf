//! A file or folder as a tar stream.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, openat, readlinkat},
    sys::{
        stat::Mode,
        statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs},
    },
};
use tar::{Builder, EntryType, Header};

use super::{DEPTH, TreeError};

/// Writes what `top` is, a descriptor that need not be readable itself, under `name`. What cannot be carried (sockets, pipes,
/// devices, what has gone meanwhile) is left out and told at the end by a global header with a comment, which programs
/// that read tar pass over. So is what the kernel makes when it is read (`/proc`, `/sys`), but for that which was asked for itself.
///
/// # Errors
/// What cannot be read, or written.
pub fn pack(top: OwnedFd, name: &Path, out: impl Write) -> Result<(), TreeError> {
    let mut packer = Packer { archive: Builder::new(out), left_out: Vec::new() };
    let of_kernel = is_of_kernel(&top);
    packer.add(top, name, Place { depth: 0, of_kernel })?;
    let failed = TreeError::at(name);
    packer.end().map_err(failed)
}

/// Where in the tree something is.
#[derive(Clone, Copy)]
struct Place {
    depth: u32,
    /// Whether it is made by the kernel when it is read.
    of_kernel: bool,
}

struct Packer<W: Write> {
    archive: Builder<W>,
    left_out: Vec<String>,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, fd: OwnedFd, name: &Path, place: Place) -> Result<(), TreeError> {
        let Place { depth, of_kernel } = place;
        if !of_kernel && is_of_kernel(&fd) {
            self.leave_out(name, "the kernel makes it when it is read");
            return Ok(());
        }
        let failed = |error| TreeError { path: name.to_owned(), source: error };
        // The way to open for reading what was found without looking at its name again.
        let door = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let link = || readlinkat(fd.as_fd(), "");
        let file = File::from(fd.try_clone().map_err(failed)?);
        let found = file.metadata().map_err(failed)?;
        let mut header = Header::new_gnu();
        header.set_metadata(&found);
        let kind = found.file_type();
        if kind.is_dir() {
            header.set_size(0);
            self.archive.append_data(&mut header, name, io::empty()).map_err(failed)?;
            if depth == DEPTH {
                self.leave_out(name, "too many folders in folders");
                return Ok(());
            }
            let entries = fs::read_dir(&door).and_then(|all| all.map(|entry| Ok(entry?.file_name())).collect());
            let mut entries: Vec<_> = entries.map_err(failed)?;
            entries.sort();
            for entry in entries {
                let path = name.join(&entry);
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                match openat(fd.as_fd(), entry.as_os_str(), flags, Mode::empty()) {
                    Ok(below) => self.add(below, &path, Place { depth: depth + 1, of_kernel })?,
                    Err(nix::errno::Errno::ENOENT) => self.leave_out(&path, "it has gone meanwhile"),
                    Err(error) => return Err(TreeError { path, source: error.into() }),
                }
            }
        } else if kind.is_file() {
            let open = File::open(&door).map_err(failed)?;
            let exact = Exact { file: open, left: found.len() };
            self.archive.append_data(&mut header, name, exact).map_err(failed)?;
        } else if kind.is_symlink() {
            let target = match link() {
                Ok(target) => target,
                Err(nix::errno::Errno::ENOENT) => {
                    self.leave_out(name, "it has gone meanwhile");
                    return Ok(());
                }
                Err(error) => return Err(failed(error.into())),
            };
            header.set_size(0);
            self.archive.append_link(&mut header, name, &target).map_err(failed)?;
        } else {
            self.leave_out(name, "it is a socket, a pipe or a device");
        }
        Ok(())
    }

    fn leave_out(&mut self, name: &Path, why: &str) {
        self.left_out.push(format!("{}: {why}", name.display()));
    }

    fn end(mut self) -> io::Result<()> {
        for text in &self.left_out {
            let record = comment(text);
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::XGlobalHeader);
            header.set_path("left-out")?;
            header.set_size(u64::try_from(record.len()).unwrap_or(0));
            header.set_cksum();
            self.archive.append(&header, &*record)?;
        }
        self.archive.into_inner()?.flush()
    }
}

/// Whether something is in a file system of the kernel's own: sizes there say nothing, and what is read may have no end.
pub(super) fn is_of_kernel(fd: &OwnedFd) -> bool {
    let kinds = [PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC];
    fstatfs(fd).is_ok_and(|found| kinds.contains(&found.filesystem_type()))
}

/// A record of a pax header: its length with itself, a key, and a value.
fn comment(text: &str) -> Vec<u8> {
    let rest = format!(" comment={text}\n");
    let digits = |length: usize| length.to_string().len();
    let mut length = rest.len() + digits(rest.len());
    if digits(length) != digits(rest.len()) {
        length += 1;
    }
    format!("{length}{rest}").into_bytes()
}

/// The text of such a record.
pub(super) fn comment_of(record: &[u8]) -> Option<String> {
    let (_, text) = std::str::from_utf8(record).ok()?.split_once(" comment=")?;
    Some(text.trim_end_matches('\n').to_owned())
}

/// A file as long as it was when it was looked at: its header has been written. What was cut off since is zeros.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let mut read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 {
            buffer[..wanted].fill(0);
            read = wanted;
        }
        self.left -= u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

/// The name that the archive of a path begins with: its last part, or `.` for what is in it.
pub fn name_of(path: &Path) -> PathBuf {
    let text = path.as_os_str().as_bytes();
    match path.file_name() {
        Some(name) if !text.ends_with(b"/.") => name.into(),
        _ => ".".into(),
    }
}
