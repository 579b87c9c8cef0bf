//! Volumes with a limit: each is a file system of its own, in a sparse file beside its folder, `<id>/image`, mounted at
//! `<id>/fs`. That works on every file system, and what is in it cannot take more of the disk than the file may be long.
//!
//! The mount stays while the volume does, with or without a daemon; after a reboot it is made when it is needed.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::PoisonError,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::statvfs::statvfs,
};

use super::{Inner, Place, Storage, StorageError, entries};
use crate::{lifecycle::killpoint, model::Bytes};

/// What the names of images begin with that are being made.
const NEW: &str = "image-";

/// How much a file system holds, and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes that are used.
    pub(super) used: u64,
    /// Bytes that its users still can write.
    pub(super) free: u64,
}

impl Storage {
    /// Makes the file system of a place that has a limit, mounts it, and has it grow to `size`. Nothing for one without.
    /// Hold the place.
    pub async fn open(&self, place: &Place, size: Option<Bytes>) -> Result<(), StorageError> {
        let (Some(size), Place::Limited(_)) = (size, place) else { return Ok(()) };
        let folder = self.folder(place);
        self.run(move |inner| {
            inner.private_folder(&folder)?;
            let image = folder.join("image");
            if !image.exists() {
                make(&folder, &image, size)?;
            }
            let fs = folder.join("fs");
            if !is_mounted(&fs)? {
                inner.private_folder(&fs)?;
                killpoint::before("mounting a volume");
                let (from, to) = (image.as_os_str(), fs.as_os_str());
                tool(
                    "mount",
                    Command::new("mount").args(["-t", "ext4", "-o", "loop,nodev"]).arg(from).arg(to),
                    &image,
                )?;
            }
            let mut grown = inner.grown.lock().unwrap_or_else(PoisonError::into_inner);
            if grown.get(&folder) != Some(&size) {
                grow(&image, &fs, size)?;
                grown.insert(folder, size);
            }
            Ok(())
        })
        .await
    }
}

impl Inner {
    /// Takes down the file system of a volume that is to go. Ok if there is none.
    pub(super) fn close(&self, folder: &Path) -> Result<(), StorageError> {
        let fs = folder.join("fs");
        self.grown.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
        while is_mounted(&fs)? {
            umount2(&fs, MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|error| StorageError::file("unmount", &fs)(error.into()))?;
        }
        Ok(())
    }
}

/// The room of a mounted file system.
pub(super) fn room(data: &Path) -> Option<Room> {
    let about = statvfs(data).ok()?;
    let unit = about.fragment_size();
    let used = about.blocks().saturating_sub(about.blocks_free());
    Some(Room { used: used * unit, free: about.blocks_available() * unit })
}

/// Makes the image aside: one that is there is whole.
fn make(folder: &Path, image: &Path, size: Bytes) -> Result<(), StorageError> {
    for left in entries(folder)?.iter().filter(|name| name.starts_with(NEW)) {
        let left = folder.join(left);
        fs::remove_file(&left).map_err(StorageError::file("remove", &left))?;
    }
    let new = folder.join(format!("{NEW}{:016x}", rand::random::<u64>()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    file.and_then(|file| file.set_len(size.0)).map_err(StorageError::file("make", &new))?;
    // Nothing is kept back for root: in a container everybody may be.
    tool("mkfs.ext4", Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&new), &new)?;
    killpoint::before("putting a volume's image in its place");
    fs::rename(&new, image).map_err(StorageError::file("put in its place", &new))?;
    fs::File::open(folder).and_then(|dir| dir.sync_all()).map_err(StorageError::file("write out", folder))
}

/// Has a mounted file system grow to `size`; never smaller. Every step is repeated: one that was interrupted goes on.
fn grow(image: &Path, fs: &Path, size: Bytes) -> Result<(), StorageError> {
    let failed = |error| StorageError::file("make larger", image)(error);
    let length = fs::metadata(image).map_err(failed)?.len();
    if length < size.0 {
        let file = OpenOptions::new().write(true).open(image);
        file.and_then(|file| file.set_len(size.0)).map_err(StorageError::file("make larger", image))?;
    }
    let device = device(fs)?;
    tool("losetup", Command::new("losetup").arg("--set-capacity").arg(&device), image)?;
    killpoint::before("growing a volume");
    tool("resize2fs", Command::new("resize2fs").arg(&device), image).map(drop)
}

/// The device that is mounted.
fn device(fs: &Path) -> Result<PathBuf, StorageError> {
    mounts()?
        .into_iter()
        .rev()
        .find(|(point, _)| point == fs)
        .map(|(_, source)| source)
        .ok_or_else(|| StorageError::file("find what is mounted at", fs)(std::io::ErrorKind::NotFound.into()))
}

fn is_mounted(fs: &Path) -> Result<bool, StorageError> {
    Ok(mounts()?.iter().any(|(point, _)| point == fs))
}

/// What is mounted where, and from what, as this process sees it.
fn mounts() -> Result<Vec<(PathBuf, PathBuf)>, StorageError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(StorageError::file("read", path))?;
    let of = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        Some((before.split(' ').nth(4)?.into(), after.split(' ').nth(1)?.into()))
    };
    Ok(text.lines().filter_map(of).collect())
}

/// Runs a program of the system to its end.
fn tool(name: &'static str, command: &mut Command, image: &Path) -> Result<String, StorageError> {
    let done = match command.env("LC_ALL", "C").output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(StorageError::NoTool { name }),
        done => done.map_err(StorageError::file("work on", image))?,
    };
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    if said.contains("No space left on device") {
        return Err(StorageError::file("work on", image)(Errno::ENOSPC.into()));
    }
    let why = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
    Err(StorageError::Tool { name, path: image.to_owned(), why })
}
