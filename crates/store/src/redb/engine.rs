//! The tables and the transactions on them. Synchronous; used by the store's thread only.
//!
//! * `rows`: key → row. `log`: revision → its changes. `leases`: id → milliseconds to live. `leased`: (lease, key).
//! * `meta`: the schema, the newest revision, the revision up to which the log was forgotten, the last lease's id.
//!
//! A group of transactions is one commit of redb, and each has a revision of its own; either all of them are on disk
//! or none is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::codec::{self, Damaged};
use crate::{Entry, Lease, LeaseId, Op, StoreError, Txn, TxnOutcome, WatchBatch, WatchEvent};
use hivemind_core::model::{Revision, chain};

const ROWS: TableDefinition<&str, &[u8]> = TableDefinition::new("rows");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");
const LEASED: TableDefinition<(u64, &str), ()> = TableDefinition::new("leased");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

const SCHEMA: &str = "schema";
const REVISION: &str = "revision";
const COMPACTED: &str = "compacted";
const LAST_LEASE: &str = "last-lease";

/// The schema this program writes, from its first transaction on: what it only opened, an older version still opens.
///
/// An older version refuses a store of a newer schema as a whole. So raise it, and migrate in [`Engine::new`], with a
/// change that older versions would take for something else: of tables, of the encoding of rows, of what a field means;
/// or with a field that they need and that is no longer written. Do not raise it for a further field or kind of row:
/// older versions do not start by a row that they cannot read, as of a document with a field that they do not know, and
/// go on without a kind that they do not know (raise it if that does harm).
///
/// 2: instances have no `identity`. Versions that know 1 only take rows that they cannot read for deleted.
pub(super) const SCHEMA_VERSION: u32 = 2;

/// An open database.
pub(super) struct Engine {
    db: Database,
    path: PathBuf,
    revision: Revision,
    compacted: Revision,
    last_lease: u64,
}

/// Something that changes the store.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Txn(Txn),
    Grant(Duration),
    Revoke(LeaseId),
    Compact(Revision),
}

/// What became of an [`Action`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Done {
    Txn(TxnOutcome),
    Granted(Lease),
    Revoked(LeaseId),
    Compacted,
}

/// What became of a group.
#[derive(Debug)]
pub(super) struct Committed {
    /// One for each action, in order.
    pub(super) results: Vec<Result<Done, StoreError>>,
    /// The new revisions.
    pub(super) batches: Vec<WatchBatch>,
}

/// Writes the tables of an empty store.
pub(super) fn initialise(db: &Database, path: &Path) -> Result<(), StoreError> {
    let fail = Fail { path, action: "create" };
    let txn = db.begin_write().map_err(|e| fail.by(e))?;
    Tables::open(&txn)
        .and_then(|mut t| {
            t.meta.insert(SCHEMA, u64::from(SCHEMA_VERSION))?;
            Ok(())
        })
        .map_err(|e| fail.by(e))?;
    txn.commit().map_err(|e| fail.by(e))
}

impl Engine {
    /// Takes over an initialised database. Fails if a newer version wrote it.
    pub(super) fn new(db: Database, path: PathBuf) -> Result<Self, StoreError> {
        let read = |key| -> Result<u64, redb::Error> {
            Ok(db.begin_read()?.open_table(META)?.get(key)?.map_or(0, |value| value.value()))
        };
        let numbers = || Ok([read(SCHEMA)?, read(REVISION)?, read(COMPACTED)?, read(LAST_LEASE)?]);
        let [schema, revision, compacted, last_lease] =
            numbers().map_err(|e: redb::Error| Fail { path: &path, action: "open" }.by(e))?;
        let found = u32::try_from(schema).unwrap_or(u32::MAX);
        if found > SCHEMA_VERSION {
            return Err(StoreError::NewerSchema { path, found, known: SCHEMA_VERSION });
        }
        Ok(Self { db, path, revision, compacted, last_lease })
    }

    /// The newest revision.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision up to which the log was forgotten.
    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The row of `key`.
    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let read = || {
            let rows = self.db.begin_read()?.open_table(ROWS)?;
            row_in(&rows, key)
        };
        read().map_err(|e| self.fail("read").by(e))
    }

    /// The rows whose key begins with `prefix`, in key order.
    pub(super) fn range(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let read = || {
            let rows = self.db.begin_read()?.open_table(ROWS)?;
            let mut entries = Vec::new();
            for row in rows.range(prefix..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                entries.push(codec::decode_row(key.value(), value.value())?);
            }
            Ok(entries)
        };
        read().map_err(|e: Failure| self.fail("read").by(e))
    }

    /// Hands the logged revisions after `after` to `take`, in order, until it returns false.
    pub(super) fn log(&self, after: Revision, mut take: impl FnMut(WatchBatch) -> bool) -> Result<(), StoreError> {
        let mut read = || {
            let log = self.db.begin_read()?.open_table(LOG)?;
            for row in log.range(after.saturating_add(1)..)? {
                let (revision, bytes) = row?;
                let revision = revision.value();
                if !take(WatchBatch { revision, events: codec::decode_events(revision, bytes.value())? }) {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|e: Failure| self.fail("read").by(e))
    }

    /// All leases.
    pub(super) fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        let read = || {
            let leases = self.db.begin_read()?.open_table(LEASES)?;
            let each = leases.iter()?.map(|row| {
                let (id, ttl) = row?;
                Ok(Lease { id: LeaseId(id.value()), ttl: Duration::from_millis(ttl.value()) })
            });
            each.collect::<Result<Vec<_>, Failure>>()
        };
        read().map_err(|e: Failure| self.fail("read").by(e))
    }

    /// Does a group of actions in one commit. After an error it is unknown whether any of them is on disk, and the
    /// database has to be opened again.
    pub(super) fn commit(&mut self, actions: &[Action]) -> Result<Committed, StoreError> {
        let (path, fail) = (self.path.clone(), Fail { path: &self.path, action: "write" });
        let txn = self.db.begin_write().map_err(|e| fail.by(e))?;
        let before = (self.revision, self.compacted, self.last_lease);
        let mut group = Group { revision: before.0, compacted: before.1, last_lease: before.2, batches: Vec::new() };
        let results = group.run(&txn, actions).map_err(|e| Fail { path: &path, action: "write" }.by(e))?;
        if (group.revision, group.compacted, group.last_lease) == before && !results.iter().any(changes_leases) {
            txn.abort().map_err(|e| fail.by(e))?;
        } else {
            txn.commit().map_err(|e| fail.by(e))?;
        }
        (self.revision, self.compacted, self.last_lease) = (group.revision, group.compacted, group.last_lease);
        Ok(Committed { results, batches: group.batches })
    }

    /// Copies all current rows and leases, with their revisions but without the log, into an empty database.
    pub(super) fn copy_to(&self, to: &Database, path: &Path) -> Result<(), StoreError> {
        let copy = || -> Result<(), Failure> {
            let from = self.db.begin_read()?;
            let txn = to.begin_write()?;
            {
                let mut into = Tables::open(&txn)?;
                for row in from.open_table(ROWS)?.iter()? {
                    let (key, value) = row?;
                    into.rows.insert(key.value(), value.value())?;
                }
                for row in from.open_table(LEASES)?.iter()? {
                    let (id, ttl) = row?;
                    into.leases.insert(id.value(), ttl.value())?;
                }
                for row in from.open_table(LEASED)?.iter()? {
                    into.leased.insert(row?.0.value(), ())?;
                }
                let numbers = [(REVISION, self.revision), (COMPACTED, self.revision), (LAST_LEASE, self.last_lease)];
                for (key, value) in numbers.into_iter().chain([(SCHEMA, u64::from(SCHEMA_VERSION))]) {
                    into.meta.insert(key, value)?;
                }
            }
            Ok(txn.commit()?)
        };
        copy().map_err(|e| Fail { path, action: "write a snapshot of" }.by(e))
    }

    fn fail(&self, action: &'static str) -> Fail<'_> {
        Fail { path: &self.path, action }
    }
}

fn changes_leases(result: &Result<Done, StoreError>) -> bool {
    matches!(result, Ok(Done::Granted(_) | Done::Revoked(_)))
}

/// The tables, open for writing.
struct Tables<'txn> {
    rows: Table<'txn, &'static str, &'static [u8]>,
    log: Table<'txn, u64, &'static [u8]>,
    leases: Table<'txn, u64, u64>,
    leased: Table<'txn, (u64, &'static str), ()>,
    meta: Table<'txn, &'static str, u64>,
}

impl<'txn> Tables<'txn> {
    fn open(txn: &'txn WriteTransaction) -> Result<Self, Failure> {
        Ok(Self {
            rows: txn.open_table(ROWS)?,
            log: txn.open_table(LOG)?,
            leases: txn.open_table(LEASES)?,
            leased: txn.open_table(LEASED)?,
            meta: txn.open_table(META)?,
        })
    }
}

/// A group of actions being done.
struct Group {
    revision: Revision,
    compacted: Revision,
    last_lease: u64,
    batches: Vec<WatchBatch>,
}

impl Group {
    fn run(&mut self, txn: &WriteTransaction, actions: &[Action]) -> Result<Vec<Result<Done, StoreError>>, Failure> {
        let mut tables = Tables::open(txn)?;
        let mut results = Vec::with_capacity(actions.len());
        for action in actions {
            results.push(match action {
                Action::Txn(txn) => self.txn(&mut tables, txn)?.map(Done::Txn),
                Action::Grant(ttl) => Ok(Done::Granted(self.grant(&mut tables, *ttl)?)),
                Action::Revoke(id) => self.revoke(&mut tables, *id)?.map(|()| Done::Revoked(*id)),
                Action::Compact(revision) => {
                    self.compacted = self.compacted.max((*revision).min(self.revision));
                    tables.log.retain_in(..=self.compacted, |_, _| false)?;
                    Ok(Done::Compacted)
                }
            });
        }
        tables.meta.insert(SCHEMA, u64::from(SCHEMA_VERSION))?;
        tables.meta.insert(REVISION, self.revision)?;
        tables.meta.insert(COMPACTED, self.compacted)?;
        tables.meta.insert(LAST_LEASE, self.last_lease)?;
        Ok(results)
    }

    /// The outer error breaks the database, the inner one only this transaction, before it changed anything.
    fn txn(&mut self, tables: &mut Tables<'_>, txn: &Txn) -> Result<Result<TxnOutcome, StoreError>, Failure> {
        let mut named = BTreeSet::new();
        for op in &txn.ops {
            if !named.insert(op.key()) {
                return Ok(Err(StoreError::DuplicateKey { key: op.key().to_owned() }));
            }
            if let Op::Put { lease: Some(lease), .. } = op
                && tables.leases.get(lease.0)?.is_none()
            {
                return Ok(Err(StoreError::NoLease(*lease)));
            }
        }
        for compare in &txn.compares {
            if !compare.holds(row_in(&tables.rows, compare.key())?.as_ref()) {
                return Ok(Ok(TxnOutcome::Refused(self.revision)));
            }
        }
        self.apply(tables, &txn.ops)?;
        Ok(Ok(TxnOutcome::Committed(self.revision)))
    }

    /// Makes the changes, which name each key once, as one revision, if there are any.
    fn apply(&mut self, tables: &mut Tables<'_>, ops: &[Op]) -> Result<(), Failure> {
        let revision = self.revision + 1;
        let mut events = BTreeMap::<Arc<str>, WatchEvent>::new();
        for op in ops {
            let key: Arc<str> = op.key().into();
            let old = row_in(&tables.rows, &key)?;
            if let Some(lease) = old.as_ref().and_then(|old| old.lease) {
                tables.leased.remove((lease.0, &*key))?;
            }
            match op {
                Op::Put { value, lease, .. } => {
                    let created = old.map_or(revision, |old| old.created);
                    let value = value.as_slice().into();
                    let entry = Entry { key: key.clone(), value, created, modified: revision, lease: *lease };
                    tables.rows.insert(&*key, codec::encode_row(&entry).as_slice())?;
                    if let Some(lease) = lease {
                        tables.leased.insert((lease.0, &*key), ())?;
                    }
                    events.insert(key, WatchEvent::Put(entry));
                }
                Op::Delete { .. } if old.is_some() => {
                    tables.rows.remove(&*key)?;
                    events.insert(key.clone(), WatchEvent::Delete { key, revision });
                }
                Op::Delete { .. } => {}
            }
        }
        if !events.is_empty() {
            let events: Vec<_> = events.into_values().collect();
            tables.log.insert(revision, codec::encode_events(&events).as_slice())?;
            self.revision = revision;
            self.batches.push(WatchBatch { revision, events });
        }
        Ok(())
    }

    fn grant(&mut self, tables: &mut Tables<'_>, ttl: Duration) -> Result<Lease, Failure> {
        self.last_lease += 1;
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        tables.leases.insert(self.last_lease, millis)?;
        Ok(Lease { id: LeaseId(self.last_lease), ttl: Duration::from_millis(millis) })
    }

    fn revoke(&mut self, tables: &mut Tables<'_>, id: LeaseId) -> Result<Result<(), StoreError>, Failure> {
        if tables.leases.remove(id.0)?.is_none() {
            return Ok(Err(StoreError::NoLease(id)));
        }
        let mut ops = Vec::new();
        for row in tables.leased.range((id.0, "")..(id.0 + 1, ""))? {
            ops.push(Op::Delete { key: row?.0.value().1.to_owned() });
        }
        self.apply(tables, &ops)?;
        Ok(Ok(()))
    }
}

fn row_in(rows: &impl ReadableTable<&'static str, &'static [u8]>, key: &str) -> Result<Option<Entry>, Failure> {
    match rows.get(key)? {
        Some(value) => Ok(Some(codec::decode_row(key, value.value())?)),
        None => Ok(None),
    }
}

/// Why the database did not do it.
#[derive(Debug)]
pub(super) enum Failure {
    Redb(redb::Error),
    Damaged(Damaged),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl From<Damaged> for Failure {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged)
    }
}

/// Turns a failure into the error of the store that says what was tried.
#[derive(Clone, Copy)]
pub(super) struct Fail<'a> {
    pub(super) path: &'a Path,
    pub(super) action: &'static str,
}

impl Fail<'_> {
    pub(super) fn by(self, failure: impl Into<Failure>) -> StoreError {
        let path = self.path.to_owned();
        match failure.into() {
            Failure::Redb(redb::Error::Io(error)) => self.io(&error),
            Failure::Redb(redb::Error::DatabaseAlreadyOpen) => StoreError::Locked { path },
            Failure::Redb(error) => StoreError::Io { action: self.action, path, why: chain(&error) },
            Failure::Damaged(damaged) => StoreError::Io { action: self.action, path, why: damaged.to_string() },
        }
    }

    pub(super) fn io(self, error: &std::io::Error) -> StoreError {
        use std::io::ErrorKind;
        let path = self.path.to_owned();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::DiskFull { path },
            _ => StoreError::Io { action: self.action, path, why: chain(error) },
        }
    }
}
