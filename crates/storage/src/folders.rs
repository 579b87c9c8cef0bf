//! The folders of volumes: begun, filled, put in their place, removed.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{Inner, Place, Storage, StorageError, disk};
use hivemind_core::{
    lifecycle::killpoint,
    model::{Bytes, InstanceId, VolumeId},
};

/// What the names of folders begin with that are being filled.
pub(super) const NEW: &str = "new-";

impl Storage {
    /// Whether the place has been filled.
    pub async fn is_there(&self, place: &Place) -> Result<bool, StorageError> {
        let folder = self.folder(place);
        self.run(move |_| {
            let data = folder.join("data");
            let there = data.try_exists().and_then(|there| Ok(there || disk::is_there(&folder)?));
            there.map_err(StorageError::file("look at", &data))
        })
        .await
    }

    /// An empty folder to fill for a place that is not there yet; `name` is written beside it for people. With `size`, it holds
    /// no more than that. What somebody else began and did not finish is removed. Hold the place.
    pub async fn begin(&self, place: &Place, name: String, size: Option<Bytes>) -> Result<PathBuf, StorageError> {
        let folder = self.folder(place);
        // Another name each time: whoever was killed may have left a process that still writes into the last one.
        let new = folder.join(format!("{NEW}{:016x}", rand::random::<u64>()));
        self.run(move |inner| {
            inner.private_folder(&folder)?;
            disk::clear(&folder)?;
            let note = folder.join("name");
            fs::write(&note, format!("{name}\n")).map_err(StorageError::file("write", &note))?;
            fs::create_dir(&new).map_err(StorageError::file("make", &new))?;
            if let Some(size) = size {
                disk::begin(&new, size)?;
            }
            // As a folder that Docker makes: for every user of the container to look at.
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).map_err(StorageError::file("make", &new))?;
            Ok(new)
        })
        .await
    }

    /// Puts what was filled in its place, on the disk first.
    pub async fn finish(&self, place: &Place, new: PathBuf) -> Result<(), StorageError> {
        let (folder, data) = (self.folder(place), self.data(place));
        self.run(move |_| {
            let file = File::open(&new).map_err(StorageError::file("open", &new))?;
            nix::unistd::syncfs(&file).map_err(|e| StorageError::file("write out", &new)(e.into()))?;
            if disk::is_new(&new) {
                return disk::finish(&folder, &new);
            }
            killpoint::before("putting a volume in its place");
            fs::rename(&new, &data).map_err(StorageError::file("put in its place", &new))?;
            sync_parent(&data)
        })
        .await
    }

    /// Removes a volume with all that is in it. Ok if there is nothing.
    pub async fn remove(&self, id: &VolumeId) -> Result<(), StorageError> {
        let place = Place::Volume(id.clone());
        let _one = self.hold(&place).await;
        self.forget_usage(id);
        self.note_fault(id, None);
        let folder = self.folder(&place);
        self.run(move |_| {
            // What is in a file system of its own goes with the file.
            disk::detach(&folder)?;
            remove_all(&folder)
        })
        .await
    }

    /// Removes an instance's own volumes. Ok if there are none.
    pub async fn remove_own(&self, instance: &InstanceId) -> Result<(), StorageError> {
        let folder = self.own(instance);
        self.run(move |_| remove_all(&folder)).await
    }
}

impl Inner {
    /// Makes a folder in ours, for root only.
    pub(super) fn private_folder(&self, path: &Path) -> Result<(), StorageError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StorageError::file("make", path))
    }
}

pub(super) fn sync_parent(path: &Path) -> Result<(), StorageError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(StorageError::file("write out", parent))
}

/// Removes a file, or a folder and what is in it; symbolic links are removed, never followed. Ok if there is none.
pub(super) fn remove_all(path: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            fs::remove_file(path).map_err(StorageError::file("remove", path))
        }
        done => done.map_err(StorageError::file("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::entries, *};

    fn storage(dir: &tempfile::TempDir) -> Storage {
        Storage::new(&dir.path().join("state"), &dir.path().join("run"))
    }

    #[tokio::test]
    async fn what_is_there_is_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let storage = storage(&dir);
        let place = Place::Volume(VolumeId::from_bits(7));
        let first = storage.begin(&place, "default/default/data".into(), None).await.expect("begun");
        fs::write(first.join("half"), "x").expect("written");
        assert!(!storage.is_there(&place).await.expect("looked"), "it is not finished");
        // As after kill -9.
        let second = storage.begin(&place, "default/default/data".into(), None).await.expect("begun again");
        assert!(!first.exists() && second.exists(), "what was begun is left");
        storage.finish(&place, second).await.expect("finished");
        assert!(storage.is_there(&place).await.expect("looked"));
        assert_eq!(entries(&storage.data(&place)).expect("listed"), Vec::<String>::new());
        let mode = fs::metadata(storage.folder(&place)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "others of the machine look into it");
    }

    #[tokio::test]
    async fn removing_follows_no_link_and_leaves_others() {
        let dir = tempfile::tempdir().expect("a folder");
        let storage = storage(&dir);
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("file"), "x").expect("written");
        let id = VolumeId::from_bits(7);
        for place in [Place::Volume(id.clone()), Place::Own(InstanceId::from_bits(1), "/a".into())] {
            let new = storage.begin(&place, "x".into(), None).await.expect("begun");
            std::os::unix::fs::symlink(&outside, new.join("link")).expect("linked");
            storage.finish(&place, new).await.expect("finished");
        }
        let strange = storage.0.volumes.join("lost-and-found");
        fs::create_dir(&strange).expect("made");
        let unknown = storage.unknown(std::iter::once(id.clone()).collect()).await.expect("looked");
        assert_eq!(unknown, std::slice::from_ref(&strange));
        let instances: Vec<_> = storage.containers().await.expect("looked").into_iter().collect();
        assert_eq!(instances, [InstanceId::from_bits(1).into()]);
        for _ in 0..2 {
            storage.remove(&id).await.expect("removed");
            storage.remove_own(&InstanceId::from_bits(1)).await.expect("removed");
        }
        assert!(outside.join("file").exists() && strange.exists());
        assert!(storage.containers().await.expect("looked").is_empty());
    }

    #[tokio::test]
    async fn one_at_a_time_has_a_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let storage = storage(&dir);
        let (a, b) = (Place::Volume(VolumeId::from_bits(1)), Place::Volume(VolumeId::from_bits(2)));
        let held = storage.hold(&a).await;
        let mut second = std::pin::pin!(storage.hold(&a));
        assert!(futures::poll!(&mut second).is_pending());
        drop(storage.hold(&b).await);
        drop(held);
        drop(second.await);
    }
}
