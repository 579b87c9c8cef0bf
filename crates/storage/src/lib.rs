//! Floor 2: what instances have on the node's disk besides their images: the folders of volumes, and what is mounted for
//! one instance alone.
//!
//! A volume's folder is named by its id, so that no name of a user is ever part of a path:
//! `<state-dir>/volumes/<id>/data`, with a file `name` beside it for people. A volume without a name is an instance's
//! own: `<state-dir>/volumes/own/<instance>/<digest of the path>/data`. `data` comes with a rename when it is filled, so
//! what is there is whole. A volume with a limit has a file system there (`disk`). What is mounted for an instance is in `<run-dir>/mounts/<instance>/`.
//!
//! Every call is idempotent: one that is repeated after `kill -9` finishes or removes what the first one began.

mod disk;
mod error;
mod files;
mod folders;
mod instance;
mod usage;

pub use error::StorageError;
pub use files::InstanceFile;
pub use usage::Usage;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;

use hivemind_core::model::{ContainerId, InstanceId, VolumeId};

/// The folder of volumes without a name; no id is that short.
const OWN: &str = "own";

/// Whose folder it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A named volume's.
    Volume(VolumeId),
    /// An instance's own, for a path in it.
    Own(InstanceId, String),
}

/// The node's folders. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Storage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `<state-dir>/volumes`
    volumes: PathBuf,
    /// `<run-dir>/mounts`
    mounts: PathBuf,
    /// The daemon's folders, which no instance gets.
    private: Vec<PathBuf>,
    /// One at a time fills or removes a folder.
    locks: Mutex<BTreeMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>,
    /// What was last measured.
    usage: Mutex<BTreeMap<VolumeId, Usage>>,
    /// What keeps volumes from being what they should be.
    faults: Mutex<BTreeMap<VolumeId, String>>,
}

impl Storage {
    /// The folder of mounts in the run directory. It is there as long as the daemon runs.
    pub const MOUNTS: &str = "mounts";

    /// The folders of a daemon with these directories. Nothing is made yet.
    pub fn new(state_dir: &Path, run_dir: &Path) -> Self {
        Self(Arc::new(Inner {
            volumes: state_dir.join("volumes"),
            mounts: run_dir.join(Self::MOUNTS),
            private: vec![state_dir.to_owned(), run_dir.to_owned()],
            locks: Mutex::default(),
            usage: Mutex::default(),
            faults: Mutex::default(),
        }))
    }

    /// Where the content of a place is, or will be.
    pub fn data(&self, place: &Place) -> PathBuf {
        self.folder(place).join("data")
    }

    fn folder(&self, place: &Place) -> PathBuf {
        match place {
            Place::Volume(id) => self.0.volumes.join(id.as_str()),
            Place::Own(instance, target) => {
                let digest = Sha256::digest(target.trim_end_matches('/').as_bytes());
                let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                self.own(instance).join(name)
            }
        }
    }

    fn own(&self, instance: &InstanceId) -> PathBuf {
        self.0.volumes.join(OWN).join(instance.as_str())
    }

    /// Waits until nobody else fills or removes the place, and keeps others from it until the guard is dropped.
    pub async fn hold(&self, place: &Place) -> OwnedMutexGuard<()> {
        self.lock_of(place).lock_owned().await
    }

    /// The same, if nobody has the place now.
    pub fn try_hold(&self, place: &Place) -> Option<OwnedMutexGuard<()>> {
        self.lock_of(place).try_lock_owned().ok()
    }

    fn lock_of(&self, place: &Place) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.locks.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| lock.strong_count() > 0);
        let path = self.folder(place);
        let held = all.get(&path).and_then(Weak::upgrade);
        held.unwrap_or_else(|| {
            let lock = Arc::default();
            all.insert(path, Arc::downgrade(&lock));
            lock
        })
    }

    /// What keeps a volume from being what it should be.
    pub fn fault(&self, id: &VolumeId) -> Option<String> {
        self.0.faults.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Notes what keeps a volume from being what it should be, or that nothing does. Whether that is news.
    pub fn note_fault(&self, id: &VolumeId, fault: Option<String>) -> bool {
        let mut all = self.0.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match fault.clone() {
            Some(text) => all.insert(id.clone(), text),
            None => all.remove(id),
        };
        before != fault
    }

    /// Every folder of a volume that is none of `known`: nobody knows whose it is, and nobody removes it.
    pub async fn unknown(&self, known: BTreeSet<VolumeId>) -> Result<Vec<PathBuf>, StorageError> {
        self.run(move |inner| {
            let names = entries(&inner.volumes)?;
            let strange = names
                .into_iter()
                .filter(|name| name != OWN && !name.parse::<VolumeId>().is_ok_and(|id| known.contains(&id)));
            Ok(strange.map(|name| inner.volumes.join(name)).collect())
        })
        .await
    }

    /// The containers that have something of their own here. What instances have is said as their apps' own containers'.
    pub async fn containers(&self) -> Result<BTreeSet<ContainerId>, StorageError> {
        self.run(|inner| {
            let mut names = entries(&inner.mounts)?;
            names.extend(entries(&inner.volumes.join(OWN))?);
            Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
        })
        .await
    }

    /// Runs what waits for the disk where it may.
    async fn run<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Inner) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || what(&inner)).await;
        done.unwrap_or_else(|error| {
            Err(StorageError::File { action: "work in", path: self.0.volumes.clone(), source: io::Error::other(error) })
        })
    }
}

/// The names in a folder; none if it is not there.
fn entries(dir: &Path) -> Result<Vec<String>, StorageError> {
    let list = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.map_err(StorageError::file("list", dir))?,
    };
    let mut names = Vec::new();
    for entry in list {
        let entry = entry.map_err(StorageError::file("list", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}
