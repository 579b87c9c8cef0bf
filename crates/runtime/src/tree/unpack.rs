//! A tar stream into a folder.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, FileTimes, Permissions},
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{PermissionsExt as _, fchown},
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat},
    sys::stat::{Mode, mkdirat},
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat},
};
use tar::{Archive, Entry, EntryType};

use super::{TreeError, pack::comment_of};

/// The name of what is not whole yet.
const UNFINISHED: &str = ".hivemind-cp";
/// Runs of zeros of this length become holes.
const HOLE: usize = 4 << 10;
/// The longest word about something that was left out.
const COMMENT: u64 = 16 << 10;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, links and folders.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// Writes what the archive has into the folder `dir`. The first part of each name becomes `name`, if there is one. Modes
/// and times are kept, with `owners` owners as well.
///
/// # Errors
/// What cannot be written, or is no archive. What was written before stays; no file is half there.
pub fn unpack(dir: &OwnedFd, name: Option<&OsStr>, owners: bool, from: impl Read) -> Result<Copied, TreeError> {
    let mut copied = Copied::default();
    let mut folders = Vec::new();
    let mut within = None;
    let mut archive = Archive::new(from);
    for entry in archive.entries().map_err(TreeError::at("the archive"))? {
        let mut entry = entry.map_err(TreeError::at("the archive"))?;
        if told(&mut entry, &mut copied) {
            continue;
        }
        let path = entry.path().map_err(TreeError::at("the archive"))?.into_owned();
        let failed = |source| TreeError { path: path.clone(), source };
        let within = *within.get_or_insert(path == Path::new("."));
        let path = placed(&path, name, within).map_err(failed)?;
        let Some(last) = path.file_name() else { continue };
        let parent = parent(dir, path.parent().unwrap_or(Path::new(""))).map_err(failed)?;
        let target = Target { parent, last: last.to_owned(), keep: Keep::of(&entry, owners).map_err(failed)? };
        match entry.header().entry_type() {
            EntryType::Directory => {
                target.folder().map_err(failed)?;
                folders.push((path.clone(), target.keep));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                copied.bytes += target.file(&mut entry).map_err(failed)?;
            }
            EntryType::Symlink => target.link(&entry).map_err(failed)?,
            EntryType::Link => {
                let to = entry.link_name().map_err(failed)?.map(|to| to.into_owned()).unwrap_or_default();
                target.same_as(dir, &placed(&to, name, within).map_err(failed)?).map_err(failed)?;
            }
            _ => {
                copied.left_out.push(format!("{}: it is a pipe or a device", path.display()));
                continue;
            }
        }
        copied.entries += 1;
    }
    // Last, and from the bottom up: a folder that may not be written has to be filled first, which changes its time.
    for (path, keep) in folders.iter().rev() {
        let failed = |source| TreeError { path: path.clone(), source };
        let folder = File::from(beneath(dir, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed)?);
        keep.give(&folder).map_err(failed)?;
    }
    Ok(copied)
}

/// Goes through an archive without writing it anywhere.
///
/// # Errors
/// What is no archive, or breaks off.
pub fn survey(from: impl Read) -> Result<Copied, TreeError> {
    let mut copied = Copied::default();
    let mut archive = Archive::new(from);
    for entry in archive.entries().map_err(TreeError::at("the archive"))? {
        let mut entry = entry.map_err(TreeError::at("the archive"))?;
        if !told(&mut entry, &mut copied) {
            let size = entry.size();
            let bytes = io::copy(&mut entry, &mut io::sink()).and_then(|bytes| whole(bytes, size));
            copied.bytes += bytes.map_err(TreeError::at("the archive"))?;
            copied.entries += 1;
        }
    }
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(TreeError::at("the archive"))?;
    Ok(copied)
}

/// Takes in what the archive tells of itself.
fn told(entry: &mut Entry<'_, impl Read>, copied: &mut Copied) -> bool {
    if entry.header().entry_type() != EntryType::XGlobalHeader {
        return false;
    }
    let mut record = Vec::new();
    if entry.take(COMMENT).read_to_end(&mut record).is_ok() {
        copied.left_out.extend(comment_of(&record));
    }
    true
}

/// Where an entry goes, beneath the target. In an archive of what is `within` a folder, no name begins with the folder's.
fn placed(path: &Path, name: Option<&OsStr>, within: bool) -> io::Result<PathBuf> {
    let mut parts = path.components().filter(|part| !matches!(part, Component::RootDir | Component::Prefix(_)));
    let mut placed = PathBuf::new();
    if let Some(name) = name {
        if !within {
            parts.next();
        }
        placed.push(name);
    }
    for part in parts {
        match part {
            Component::Normal(part) => placed.push(part),
            Component::CurDir => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name leads upwards, which is refused")),
        }
    }
    Ok(placed)
}

/// Opens a path beneath `dir` without following a link.
fn beneath(dir: &OwnedFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    match openat2(dir.as_fd(), path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve)) {
        Err(Errno::ELOOP) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a link stands where a folder should be")),
        other => Ok(other?),
    }
}

/// Opens the folder that an entry belongs in, and makes those that are not there.
fn parent(dir: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match beneath(dir, path, flags) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut at = beneath(dir, Path::new(""), flags)?;
    for part in path {
        match mkdirat(at.as_fd(), part, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = beneath(&at, Path::new(part), flags)?;
    }
    Ok(at)
}

/// What is kept of an entry besides its content.
#[derive(Clone, Copy, Debug)]
struct Keep {
    mode: u32,
    time: SystemTime,
    owner: Option<(u32, u32)>,
}

impl Keep {
    fn of(entry: &Entry<'_, impl Read>, owners: bool) -> io::Result<Self> {
        let header = entry.header();
        let number = |id: u64| u32::try_from(id).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let owner = if owners { Some((number(header.uid()?)?, number(header.gid()?)?)) } else { None };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(header.mtime()?.min(u64::from(u32::MAX) * 2));
        Ok(Self { mode: header.mode()? & 0o7777, time, owner })
    }

    /// The owner first: a change of it takes set-user-ID away.
    fn give(self, file: &File) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            fchown(file, Some(user), Some(group))?;
        }
        // Without the owner, a program must not become one of whoever copied it.
        let mode = if self.owner.is_some() { self.mode } else { self.mode & 0o1777 };
        file.set_permissions(Permissions::from_mode(mode))?;
        file.set_times(FileTimes::new().set_modified(self.time))
    }
}

/// The place of one entry.
struct Target {
    parent: OwnedFd,
    last: OsString,
    keep: Keep,
}

impl Target {
    fn folder(&self) -> io::Result<()> {
        match mkdirat(self.parent.as_fd(), self.last.as_os_str(), Mode::from_bits_truncate(0o700)) {
            Err(Errno::EEXIST) => {
                beneath(&self.parent, Path::new(&self.last), OFlag::O_PATH | OFlag::O_DIRECTORY).map(drop)
            }
            other => Ok(other?),
        }
    }

    /// A file is written beside its place, and put there when it is whole.
    fn file(&self, entry: &mut Entry<'_, impl Read>) -> io::Result<u64> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.clear();
        let mut file = File::from(openat(self.parent.as_fd(), UNFINISHED, flags, Mode::from_bits_truncate(0o600))?);
        let size = entry.size();
        let written = write(&mut file, entry)
            .and_then(|bytes| whole(bytes, size))
            .and_then(|bytes| self.keep.give(&file).map(|()| bytes));
        let placed = written.and_then(|bytes| self.place().map(|()| bytes));
        if placed.is_err() {
            self.clear();
        }
        placed
    }

    fn link(&self, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        let to = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
        self.clear();
        symlinkat(to.as_ref(), self.parent.as_fd(), UNFINISHED)?;
        let owned = self.keep.owner.map_or(Ok(()), |(user, group)| {
            let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            fchownat(self.parent.as_fd(), UNFINISHED, user, group, AtFlags::AT_SYMLINK_NOFOLLOW)
        });
        let placed = owned.map_err(io::Error::from).and_then(|()| self.place());
        if placed.is_err() {
            self.clear();
        }
        placed
    }

    /// Another name of what the archive had before.
    fn same_as(&self, dir: &OwnedFd, other: &Path) -> io::Result<()> {
        let from = beneath(dir, other.parent().unwrap_or(Path::new("")), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let name = other.file_name().ok_or(io::ErrorKind::InvalidData)?;
        self.clear();
        linkat(from.as_fd(), name, self.parent.as_fd(), UNFINISHED, AtFlags::empty())?;
        let placed = self.place();
        // A name that stood for the same file already is left as it is, and ours beside it.
        self.clear();
        placed
    }

    fn place(&self) -> io::Result<()> {
        match renameat(self.parent.as_fd(), UNFINISHED, self.parent.as_fd(), self.last.as_os_str()) {
            Err(Errno::EISDIR) => Err(io::Error::new(io::ErrorKind::IsADirectory, "a folder is there")),
            Err(Errno::EBUSY) => Err(io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted on it")),
            other => Ok(other?),
        }
    }

    fn clear(&self) {
        // It is seldom there: only after a predecessor that was killed.
        let _ = unlinkat(self.parent.as_fd(), UNFINISHED, UnlinkatFlags::NoRemoveDir);
    }
}

/// An archive that ends in the middle of a file reads as if the file did.
fn whole(bytes: u64, size: u64) -> io::Result<u64> {
    let broken = || io::Error::new(io::ErrorKind::UnexpectedEof, "the archive breaks off in it");
    if bytes == size { Ok(bytes) } else { Err(broken()) }
}

/// Writes a file; where there are only zeros, a hole is left.
fn write(file: &mut File, from: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            file.set_len(total)?;
            return Ok(total);
        }
        for block in buffer[..read].chunks(HOLE) {
            let length = u64::try_from(block.len()).unwrap_or(0);
            if block.iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(i64::try_from(length).unwrap_or(0)))?;
            } else {
                file.write_all(block)?;
            }
            total += length;
        }
    }
}
