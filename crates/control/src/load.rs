//! The rows of the store as the loop begins with them: all of them, or it does not begin.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    decode::{Dirty, Unreadable, apply},
    error::LoadError,
};
use hivemind_core::model::{Addresses, ClusterSnapshot, Revision};
use hivemind_store::{Store, WatchEvent, keys};

/// A store whose rows have been read.
#[derive(Debug)]
pub struct Loaded {
    pub(super) store: Arc<dyn Store>,
    pub(super) snapshot: ClusterSnapshot,
    pub(super) dirty: Dirty,
}

impl Loaded {
    /// The store's revision; 0 if nothing was ever written.
    pub fn revision(&self) -> Revision {
        self.snapshot.revision
    }

    /// The addresses that instances have.
    pub fn instance_addresses(&self) -> impl Iterator<Item = Addresses> {
        self.snapshot.instances.values().map(|row| row.object.addresses)
    }

    /// The virtual addresses of services.
    pub fn service_addresses(&self) -> impl Iterator<Item = Addresses> {
        self.snapshot.services.values().map(|row| row.object.addresses)
    }
}

/// Reads the store, and writes nothing.
///
/// # Errors
/// If the store fails, or has rows that this version cannot read: who goes by the others would remove what those are of.
pub async fn load(store: Arc<dyn Store>) -> Result<Loaded, LoadError> {
    let range = store.range(keys::ALL).await?;
    let mut snapshot = ClusterSnapshot::at(range.revision);
    let mut dirty = Dirty::default();
    let mut rows: Vec<Unreadable> = Vec::new();
    for entry in range.entries {
        rows.extend(apply(&mut snapshot, &WatchEvent::Put(entry), &mut dirty).err());
    }
    if !rows.is_empty() {
        let versions = snapshot.node_status.values().map(|row| row.object.hivemind.clone());
        let versions: BTreeSet<_> = versions.filter(|version| !version.is_empty()).collect();
        return Err(LoadError::Unreadable { rows, versions: versions.into_iter().collect() });
    }
    // Everything is planned once at the start: the last daemon may have ended between two transactions.
    dirty.nodes = true;
    Ok(Loaded { store, snapshot, dirty })
}
