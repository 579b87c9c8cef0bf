//! What one round of writing has done, row by row.

use std::collections::BTreeMap;

use aya::maps::MapError;
use imbl::OrdMap;

use super::{
    maps::{Maps, Table, failed, is_full},
    rows::Row,
};
use crate::{DataplaneError, SyncReport};

/// What is done to a row.
pub(super) const WRITE: &str = "write";
pub(super) const REMOVE: &str = "remove";

/// Counts what is done, and remembers what is refused while the rest goes on.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) report: SyncReport,
    pub(super) full: BTreeMap<&'static str, u64>,
    pub(super) failed: Option<DataplaneError>,
}

impl Writes {
    /// True if the row is as wanted now.
    pub(super) fn done(&mut self, result: Result<(), MapError>, action: &'static str, map: &'static str) -> bool {
        match result {
            Ok(()) if action == WRITE => self.report.written += 1,
            Ok(()) => self.report.removed += 1,
            // Removed already, by someone else.
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => self.report.repaired += 1,
            Err(error) if is_full(&error) => {
                *self.full.entry(map).or_default() += 1;
                return false;
            }
            Err(error) => {
                self.failed.get_or_insert(failed(action, map, &error));
                return false;
            }
        }
        true
    }

    /// Remembers what is refused of something that writes no rows of the tables.
    pub(super) fn try_to(&mut self, done: Result<u64, DataplaneError>) {
        if let Err(error) = done {
            self.failed.get_or_insert(error);
        }
    }

    /// The whole outcome. Of several full maps the first is named; the others come up when it has been mended.
    pub(super) fn finish(self, maps: &Maps) -> Result<SyncReport, DataplaneError> {
        if let Some((map, refused)) = self.full.into_iter().next() {
            return Err(DataplaneError::Full { map, refused, capacity: maps.capacity(map) });
        }
        self.failed.map_or(Ok(self.report), Err)
    }

    /// Writes rows. What is refused is not in `have`, so that the next call tries again.
    pub(super) fn put<K, V>(&mut self, table: &mut Table<K::Abi, V::Abi>, have: &mut OrdMap<K, V>, rows: &[(&K, &V)])
    where
        K: Row + Ord + Clone,
        V: Row + Clone,
    {
        for (key, value) in rows {
            self.put_row(table, have, (key, value), value.encode());
        }
    }

    /// Writes a row that is `abi` in the map.
    pub(super) fn put_row<K, V, A>(
        &mut self,
        table: &mut Table<K::Abi, A>,
        have: &mut OrdMap<K, V>,
        row: (&K, &V),
        abi: A,
    ) where
        K: Row + Ord + Clone,
        V: Clone,
        A: aya::Pod,
    {
        if self.done(table.insert(row.0.encode(), abi), WRITE, table.name) {
            have.insert(row.0.clone(), row.1.clone());
        }
    }

    /// Removes rows.
    pub(super) fn cut<K, V, A>(&mut self, table: &mut Table<K::Abi, A>, have: &mut OrdMap<K, V>, keys: &[K])
    where
        K: Row + Ord + Clone,
        V: Clone,
        A: aya::Pod,
    {
        for key in keys {
            if self.done(table.remove(&key.encode()), REMOVE, table.name) {
                have.remove(key);
            }
        }
    }
}
