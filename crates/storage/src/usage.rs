//! How much is in a volume: counted now and then, and remembered, because it takes a look at every file.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::PoisonError, time::Duration};

use tokio::time::Instant;

use super::{Place, Storage, StorageError, disk};
use hivemind_core::{
    lifecycle::clock,
    model::{Timestamp, VolumeId},
};

/// How much a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on the disk.
    pub bytes: u64,
    /// The most that it can hold, if it has a limit.
    pub limit: Option<u64>,
    /// Whether all was counted, or it is only the least that there is.
    pub complete: bool,
    /// When.
    pub at: Timestamp,
}

impl Storage {
    /// What was last measured.
    pub fn usage(&self, id: &VolumeId) -> Option<Usage> {
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    pub(super) fn forget_usage(&self, id: &VolumeId) {
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Measures a volume for at most so long. `None` if nobody has used it yet.
    pub async fn measure(&self, id: &VolumeId, patience: Duration) -> Result<Option<Usage>, StorageError> {
        let data = self.data(&Place::Volume(id.clone()));
        let deadline = Instant::now() + patience;
        let usage = self.run(move |_| Ok(look(data, deadline))).await?;
        let mut all = self.0.usage.lock().unwrap_or_else(PoisonError::into_inner);
        match usage {
            Some(usage) => all.insert(id.clone(), usage),
            None => all.remove(id),
        };
        Ok(usage)
    }
}

/// What a file system of its own says of itself, or what is counted.
fn look(data: PathBuf, deadline: Instant) -> Option<Usage> {
    let at = clock::now();
    if let Some(disk::Filled { used, limit }) = disk::filled(&data) {
        return Some(Usage { bytes: used, limit: Some(limit), complete: true, at });
    }
    count(data, deadline).map(|(bytes, complete)| Usage { bytes, limit: None, complete, at })
}

/// The bytes on the disk of a folder and all beneath, and whether the time was enough. Files come and go meanwhile: what
/// cannot be looked at is not counted.
fn count(dir: PathBuf, deadline: Instant) -> Option<(u64, bool)> {
    let root = fs::symlink_metadata(&dir).ok()?;
    let mut bytes = root.blocks() * 512;
    // Files with several names, to be counted once.
    let mut seen = HashSet::new();
    let mut folders = vec![dir];
    while let Some(folder) = folders.pop() {
        if Instant::now() > deadline {
            return Some((bytes, false));
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(about) = entry.metadata() else { continue };
            if about.nlink() > 1 && !about.is_dir() && !seen.insert((about.dev(), about.ino())) {
                continue;
            }
            bytes += about.blocks() * 512;
            if about.is_dir() && about.dev() == root.dev() {
                folders.push(entry.path());
            }
        }
    }
    Some((bytes, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_two_names_is_counted_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(&dir.path().join("state"), &dir.path().join("run"));
        let (id, patience) = (VolumeId::from_bits(1), Duration::from_secs(60));
        assert_eq!(storage.measure(&id, patience).await.expect("measured"), None);
        let place = Place::Volume(id.clone());
        let new = storage.begin(&place, "x".into(), None).await.expect("begun");
        fs::create_dir(new.join("a")).expect("made");
        fs::write(new.join("a/one"), vec![1; 1 << 20]).expect("written");
        fs::hard_link(new.join("a/one"), new.join("two")).expect("linked");
        std::os::unix::fs::symlink("/", new.join("all")).expect("linked");
        storage.finish(&place, new).await.expect("finished");
        let usage = storage.measure(&id, patience).await.expect("measured").expect("there");
        assert!(usage.complete && (1 << 20..(1 << 20) + 100_000).contains(&usage.bytes), "{usage:?}");
        assert_eq!(storage.usage(&id), Some(usage));
        storage.remove(&id).await.expect("removed");
        assert_eq!(storage.usage(&id), None);
    }
}
