//! The store's file: made atomically, owned by one process, readable by its owner only.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use redb::{Builder, Database};

use super::engine::{Fail, initialise};
use crate::StoreError;

/// redb's page cache. Desired state of a node is a few megabytes; the kernel caches the file besides.
const CACHE_BYTES: usize = 4 << 20;

/// A builder with our settings.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Opens the store at `path`, and makes an empty one first if there is none.
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let fail = Fail { path, action: "open" };
    if !path.try_exists().map_err(|e| fail.io(&e))? {
        make(path, true, |db| initialise(db, path))?;
    }
    builder().open(path).map_err(|e| fail.by(e))
}

/// Makes the file `path` with what `fill` writes into it. It is complete and on disk when this returns, or it is not
/// there. If somebody else made it meanwhile, that is an error unless `share`.
pub(super) fn make(
    path: &Path,
    share: bool,
    fill: impl FnOnce(&Database) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let fail = Fail { path, action: "create" };
    let io = |e: io::Error| fail.io(&e);
    let temporary = beside(path);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&temporary);
    let file = file.map_err(io)?;
    // The lock belongs to whoever is making the file; leftovers of a killed one are not locked. Truncating before
    // holding it would pull the file from under another daemon.
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    // A leftover may have been made by anyone, with any mode.
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    let written = write(&file, path, share, fill);
    // After the renaming there is nothing under this name.
    let _ = std::fs::remove_file(&temporary);
    written
}

fn write(
    file: &File,
    path: &Path,
    share: bool,
    fill: impl FnOnce(&Database) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let fail = Fail { path, action: "create" };
    let io = |e: io::Error| fail.io(&e);
    if path.try_exists().map_err(io)? {
        return if share { Ok(()) } else { Err(io(io::ErrorKind::AlreadyExists.into())) };
    }
    let temporary = beside(path);
    file.set_len(0).map_err(io)?;
    // A description of its own: redb unlocks what it was given.
    let own = OpenOptions::new().read(true).write(true).open(&temporary).map_err(io)?;
    let db = builder().create_with_backend(Unlocked(own)).map_err(|e| fail.by(e))?;
    fill(&db)?;
    drop(db);
    file.sync_all().map_err(io)?;
    std::fs::rename(&temporary, path).map_err(io)?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(io)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// A file without a lock of redb: [`make`] holds one already.
#[derive(Debug)]
struct Unlocked(File);

impl redb::StorageBackend for Unlocked {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, out, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, data, offset)
    }
}
