//! Volumes with a limit: each is a file system of its own (ext4) in a sparse file, mounted where its folder would be.
//!
//! `<id>/disk` is the file, whole if it is there; it is mounted at `<id>/data`; `<id>/size` says to how many bytes it has been
//! grown. The loop device goes with the last mount of it (mount(8) asks for that), so it is nothing that could be left.
//! util-linux and e2fsprogs do the work. While one of their programs is at a file, it has a lock on it that outlives a
//! daemon that is killed: whoever comes next waits for its end.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statvfs::statvfs,
};

use super::{
    Place, Storage, StorageError, entries,
    folders::{NEW, remove_all, sync_parent},
};
use hivemind_core::{lifecycle::killpoint, model::Bytes};

/// The file of a volume's file system.
const DISK: &str = "disk";
/// The file that says how large the file system is.
const SIZE: &str = "size";
/// What the file of a file system that is being filled has behind the name of the folder where it is mounted.
const NEW_DISK: &str = ".disk";

/// How often, and with which pauses, it is looked whether a device has gone.
const RELEASE_LOOKS: u32 = 50;
const RELEASE_LOOK: Duration = Duration::from_millis(20);

/// What a file system holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// Bytes that are taken.
    pub(super) used: u64,
    /// Bytes that can be taken at most.
    pub(super) limit: u64,
}

impl Storage {
    /// Mounts a volume that has a limit and is there, as after a reboot. Ok if it is mounted, or has none. Hold the place.
    pub async fn attach(&self, place: &Place) -> Result<(), StorageError> {
        let folder = self.folder(place);
        self.run(move |_| attach(&folder)).await
    }

    /// Grows a volume that has a limit and is mounted to `size`. Ok if it has that size, or more. Hold the place. The kernel
    /// lets only who has CAP_SYS_RESOURCE grow a file system that is mounted; without it that waits until the volume is `idle`,
    /// which is to say that no instance has it or is to have it.
    pub async fn grow(&self, place: &Place, size: Bytes, idle: bool) -> Result<(), StorageError> {
        let folder = self.folder(place);
        let online = self.run({
            let folder = folder.clone();
            move |_| grow(&folder, size)
        });
        match online.await {
            Err(StorageError::Used { .. }) if idle => {}
            done => return done,
        }
        self.run({
            let folder = folder.clone();
            move |_| unmount(&folder.join("data"), MntFlags::empty())
        })
        .await?;
        // The device goes a moment after its last mount.
        for _ in 0..RELEASE_LOOKS {
            let disk = folder.join(DISK);
            if self.run(move |_| Ok(device_of(&disk).is_none())).await? {
                break;
            }
            tokio::time::sleep(RELEASE_LOOK).await;
        }
        // Grown while it is mounted again, unless somebody still looks into it: then it is as it was.
        let kept = self.run({
            let folder = folder.clone();
            move |_| {
                attach(&folder)?;
                size_of(&folder)
            }
        });
        match kept.await? {
            Some(has) if has >= size => Ok(()),
            _ => Err(StorageError::Used { path: folder.join("data") }),
        }
    }

    /// How large a volume is that has a limit; none if it has not, or nobody has used it yet.
    pub async fn size(&self, place: &Place) -> Result<Option<Bytes>, StorageError> {
        let folder = self.folder(place);
        self.run(move |_| size_of(&folder)).await
    }
}

/// Whether the folder is one of a volume with a limit that has been filled.
pub(super) fn is_there(folder: &Path) -> io::Result<bool> {
    folder.join(DISK).try_exists()
}

/// Makes an empty file system and mounts it at `new`, an empty folder.
pub(super) fn begin(new: &Path, size: Bytes) -> Result<(), StorageError> {
    let disk = disk_of(new);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&disk);
    let file = file.and_then(|file| file.set_len(size.0).map(|()| file)).map_err(StorageError::file("make", &disk))?;
    let lock = lock(file, &disk)?;
    // No blocks are kept for root: they would be missing from what the container gets.
    let form = ["-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=1,nodiscard"];
    tool("mkfs.ext4", &form, &[&disk], &lock)?;
    killpoint::before("mounting a new volume");
    mount_disk(&disk, new, &lock)?;
    // Programs such as databases want an empty folder; e2fsck makes it again if it ever needs it.
    let lost = new.join("lost+found");
    fs::remove_dir(&lost).map_err(StorageError::file("remove", &lost))
}

/// Whether `new` is a file system of its own, made by [`begin`].
pub(super) fn is_new(new: &Path) -> bool {
    disk_of(new).exists()
}

/// Puts what was filled in its place: its file, which is whole now, and its mount.
pub(super) fn finish(folder: &Path, new: &Path) -> Result<(), StorageError> {
    let (from, disk, data) = (disk_of(new), folder.join(DISK), folder.join("data"));
    let length = fs::metadata(&from).map_err(StorageError::file("look at", &from))?.len();
    note_size(folder, length)?;
    let written = File::open(&from).and_then(|file| file.sync_all());
    written.map_err(StorageError::file("write out", &from))?;
    killpoint::before("putting a volume's file system in its place");
    fs::rename(&from, &disk).map_err(StorageError::file("put in its place", &from))?;
    sync_parent(&disk)?;
    killpoint::before("mounting a volume in its place");
    mount_point(&data)?;
    let none: Option<&str> = None;
    mount(Some(new), &data, none, MsFlags::MS_BIND, none)
        .map_err(|error| StorageError::file("mount", &data)(error.into()))?;
    clear(folder)
}

/// Takes away what somebody began to fill and did not finish.
pub(super) fn clear(folder: &Path) -> Result<(), StorageError> {
    for name in entries(folder)?.iter().filter(|name| name.starts_with(NEW)) {
        let left = folder.join(name);
        // Whoever was killed may have left a process that still writes into it.
        unmount(&left, MntFlags::MNT_DETACH)?;
        remove_all(&left)?;
    }
    Ok(())
}

/// Unmounts everything of a volume that goes.
pub(super) fn detach(folder: &Path) -> Result<(), StorageError> {
    clear(folder)?;
    // What somebody else has mounted there is not ours to take down.
    match is_there(folder).map_err(StorageError::file("look at", folder))? {
        true => unmount(&folder.join("data"), MntFlags::empty()),
        false => Ok(()),
    }
}

/// How full the file system of a volume is; none if it has no limit, or is not mounted.
pub(super) fn filled(data: &Path) -> Option<Filled> {
    let folder = data.parent()?;
    if !is_there(folder).ok()? || !is_mounted(data).ok()? {
        return None;
    }
    let stat = statvfs(data).ok()?;
    let block = stat.fragment_size();
    let used = stat.blocks().saturating_sub(stat.blocks_free()) * block;
    // A part of what is free is the kernel's own, for what it must write when all else is full.
    Some(Filled { used, limit: used + stat.blocks_available() * block })
}

fn disk_of(new: &Path) -> PathBuf {
    let mut name = new.as_os_str().to_owned();
    name.push(NEW_DISK);
    PathBuf::from(name)
}

fn attach(folder: &Path) -> Result<(), StorageError> {
    let (disk, data) = (folder.join(DISK), folder.join("data"));
    if !is_there(folder).map_err(StorageError::file("look at", &disk))? {
        return Ok(());
    }
    mount_point(&data)?;
    if !is_mounted(&data).map_err(StorageError::file("look at", &data))? {
        let file = OpenOptions::new().read(true).write(true).open(&disk);
        let lock = lock(file.map_err(StorageError::file("open", &disk))?, &disk)?;
        match device_of(&disk) {
            // It is mounted elsewhere: by a daemon that was killed, or for a process that looks into it.
            Some(device) => {
                let args = ["-t", "ext4", "-o", "nodev,discard"];
                tool("mount", &args, &[&device, &data], &lock)?;
            }
            None => {
                check(&disk, &lock)?;
                grow_unmounted(folder, &disk, &lock)?;
                mount_disk(&disk, &data, &lock)?;
            }
        }
    }
    clear(folder)
}

fn grow(folder: &Path, size: Bytes) -> Result<(), StorageError> {
    let (disk, data) = (folder.join(DISK), folder.join("data"));
    if size_of(folder)?.is_none_or(|has| has >= size) {
        return Ok(());
    }
    let file = OpenOptions::new().read(true).write(true).open(&disk).map_err(StorageError::file("open", &disk))?;
    let lock = lock(file, &disk)?;
    let length = lock.metadata().map_err(StorageError::file("look at", &disk))?.len();
    if length < size.0 {
        lock.set_len(size.0).map_err(StorageError::file("grow", &disk))?;
    }
    killpoint::before("growing a volume");
    let Some(device) = device_of(&disk) else {
        let why = "it is not mounted".into();
        return Err(StorageError::Tool { program: "resize2fs", path: data, why });
    };
    tool("losetup", &["-c"], &[&device], &lock)?;
    match tool("resize2fs", &[], &[&device], &lock) {
        Err(StorageError::Tool { why, .. }) if why.contains("Permission denied to resize") => {
            Err(StorageError::Used { path: data })
        }
        done => done.and_then(|()| note_size(folder, size.0)),
    }
}

/// Grows a file system that is not mounted to the length of its file.
fn grow_unmounted(folder: &Path, disk: &Path, lock: &Flock<File>) -> Result<(), StorageError> {
    let length = lock.metadata().map_err(StorageError::file("look at", disk))?.len();
    if size_of(folder)?.is_none_or(|has| has.0 >= length) {
        return Ok(());
    }
    // resize2fs wants to know that it was looked at just now.
    let output = started("e2fsck", &["-f", "-p"], &[disk], lock)?;
    if !matches!(output.status.code(), Some(0..=2)) {
        return Err(failed("e2fsck", disk, &output));
    }
    tool("resize2fs", &[], &[disk], lock)?;
    note_size(folder, length)
}

fn size_of(folder: &Path) -> Result<Option<Bytes>, StorageError> {
    let note = folder.join(SIZE);
    match fs::read_to_string(&note) {
        Ok(text) => Ok(text.trim().parse().ok().map(Bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::file("read", &note)(error)),
    }
}

/// Notes how large the file system is, whole or not at all.
fn note_size(folder: &Path, bytes: u64) -> Result<(), StorageError> {
    let (note, new) = (folder.join(SIZE), folder.join("size.new"));
    fs::write(&new, format!("{bytes}\n"))
        .and_then(|()| File::open(&new)?.sync_all())
        .and_then(|()| fs::rename(&new, &note))
        .map_err(StorageError::file("write", &note))
}

fn mount_point(data: &Path) -> Result<(), StorageError> {
    match DirBuilder::new().mode(0o700).create(data) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done.map_err(StorageError::file("make", data)),
    }
}

/// Whether another file system begins at a folder than that of the folder around it.
fn is_mounted(dir: &Path) -> io::Result<bool> {
    let Some(parent) = dir.parent() else { return Ok(false) };
    match fs::symlink_metadata(dir) {
        Ok(found) => Ok(found.dev() != fs::metadata(parent)?.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn unmount(dir: &Path, flags: MntFlags) -> Result<(), StorageError> {
    loop {
        match umount2(dir, flags | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // It is no mount point any more, or not even there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(StorageError::file("unmount", dir)(error.into())),
        }
    }
}

/// The loop device that shows a file as a disk, if there is one.
fn device_of(disk: &Path) -> Option<PathBuf> {
    let about = fs::metadata(disk).ok()?;
    let same = |device: &PathBuf| {
        let backing = fs::read_to_string(device.join("loop/backing_file")).ok()?;
        let backing = fs::metadata(backing.trim_end_matches('\n')).ok()?;
        (backing.dev() == about.dev() && backing.ino() == about.ino()).then_some(())
    };
    let devices = fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.path());
    let device = devices.into_iter().find(|device| same(device).is_some())?;
    Some(Path::new("/dev").join(device.file_name()?))
}

/// A file system that was not unmounted, as when the power went: its journal is played by the mount; what else is wrong is
/// mended here as far as that needs nobody's decision.
fn check(disk: &Path, lock: &Flock<File>) -> Result<(), StorageError> {
    let output = started("e2fsck", &["-p"], &[disk], lock)?;
    match output.status.code() {
        // e2fsck(8): 1 is mended, 2 as well and a mounted one would need a reboot, which it is not.
        Some(0..=2) => Ok(()),
        _ => Err(failed("e2fsck", disk, &output)),
    }
}

fn mount_disk(disk: &Path, at: &Path, lock: &Flock<File>) -> Result<(), StorageError> {
    // What is removed in it makes room on the node.
    tool("mount", &["-t", "ext4", "-o", "loop,nodev,discard"], &[disk, at], lock)
}

/// The right to change a file system. Whoever has it is a daemon, or a program that a daemon began.
fn lock(file: File, disk: &Path) -> Result<Flock<File>, StorageError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| StorageError::file("have for itself", disk)(error.into()))
}

fn tool(program: &'static str, args: &[&str], paths: &[&Path], lock: &Flock<File>) -> Result<(), StorageError> {
    let output = started(program, args, paths, lock)?;
    if output.status.success() { Ok(()) } else { Err(failed(program, paths[0], &output)) }
}

/// Runs a program to its end. It has the lock, too, as its standard input.
fn started(program: &'static str, args: &[&str], paths: &[&Path], lock: &Flock<File>) -> Result<Output, StorageError> {
    let on = |source| match paths.first() {
        Some(path) => StorageError::file("look at", path)(source),
        None => StorageError::file("look at", Path::new(program))(source),
    };
    let mut command = Command::new(program);
    command.args(args).args(paths).env("LC_ALL", "C").stdin(lock.try_clone().map_err(on)?);
    command.output().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StorageError::NoTool { program },
        _ => StorageError::file("run", Path::new(program))(source),
    })
}

fn failed(program: &'static str, path: &Path, output: &Output) -> StorageError {
    let said = [&output.stderr[..], &output.stdout[..]].concat();
    let said = String::from_utf8_lossy(&said);
    if said.contains("No space left on device") {
        return StorageError::Full { path: path.to_owned(), action: "make a file system in it" };
    }
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let why = if lines.is_empty() { output.status.to_string() } else { lines.join("; ") };
    StorageError::Tool { program, path: path.to_owned(), why }
}
