//! The power fails: at every write of a workload, with what had not been synced lost, kept, or kept in part.
//!
//! The workload runs once on a disk that notes every operation. Each prefix of the notes is a moment at which the
//! machine may stop; from it disks are made as they may be found afterwards. Whatever is found must be the state after
//! some transaction: not earlier than the last one that was acknowledged, never half of one.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::*;
use crate::{Compare, WatchEvent};

/// Transactions of the workload.
const TRANSACTIONS: u64 = 160;
/// Rows it works on.
const ROWS: u64 = 12;

/// What was asked of the disk.
#[derive(Clone, Debug)]
enum Noted {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    notes: Vec<Noted>,
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Inner>>);

impl Disk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notes(&self) -> usize {
        self.inner().notes.len()
    }
}

fn apply(bytes: &mut Vec<u8>, noted: &Noted) {
    match noted {
        Noted::Write(offset, data) => {
            let at = *offset as usize;
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Noted::Length(length) => bytes.resize(*length as usize, 0),
        Noted::Sync => {}
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner().bytes.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.inner();
        let from = offset as usize;
        let read = inner.bytes.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(read);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Noted::Length(len));
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.note(Noted::Sync);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(Noted::Write(offset, data.to_vec()));
        Ok(())
    }
}

impl Disk {
    fn note(&self, noted: Noted) {
        let mut inner = self.inner();
        apply(&mut inner.bytes, &noted);
        inner.notes.push(noted);
    }
}

/// xorshift64: the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

type Rows = BTreeMap<String, Vec<u8>>;

/// What the workload did: after each transaction how many notes there were, the revision and the rows.
struct Told {
    notes: Vec<Noted>,
    /// The first is the empty store's.
    states: Vec<(usize, Revision, Rows)>,
}

async fn workload() -> Told {
    let disk = Disk::default();
    let store = RedbStore::with_backend(disk.clone()).await.expect("a store");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut rows = Rows::new();
    let mut states = vec![(disk.notes(), 0, rows.clone())];
    for n in 0..TRANSACTIONS {
        let mut txn = Txn::new();
        let mut keys: Vec<u64> = (0..ROWS).collect();
        for _ in 0..=random.below(3) {
            let key = format!("/row/{}", keys.swap_remove(random.below(keys.len() as u64) as usize));
            if random.below(4) == 0 {
                rows.remove(&key);
                txn = txn.delete(key);
            } else {
                let value = vec![n as u8; 1 + random.below(600) as usize];
                rows.insert(key.clone(), value.clone());
                txn = txn.put(key, value);
            }
        }
        // One row of every transaction says how far it went: half of one would be seen.
        rows.insert("/number".into(), n.to_string().into());
        txn = txn.when(Compare::Absent("/never".into())).put("/number", n.to_string());
        let TxnOutcome::Committed(revision) = store.txn(txn).await.expect("written") else { panic!("refused") };
        states.push((disk.notes(), revision, rows.clone()));
        if n % 50 == 49 {
            store.compact(revision - 20).await.expect("compacted");
        }
    }
    let notes = disk.inner().notes.clone();
    Told { notes, states }
}

/// Opens what was found and compares it with what may be there. Returns the number of the state.
async fn check(bytes: Vec<u8>, told: &Told, moment: usize, how: &str) -> usize {
    let disk = Disk(Arc::new(Mutex::new(Inner { bytes, notes: Vec::new() })));
    let at = format!("{how}, after {moment} operations");
    let store = RedbStore::with_backend(disk).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    let range = store.range("").await.unwrap_or_else(|error| panic!("{at}: {error}"));
    let rows: Rows = range.entries.iter().map(|entry| (entry.key.to_string(), entry.value.to_vec())).collect();
    let found = told.states.iter().position(|(_, revision, _)| *revision == range.revision);
    let found = found.unwrap_or_else(|| panic!("{at}: revision {} never was", range.revision));
    assert_eq!(rows, told.states[found].2, "{at}: not the rows of revision {}", range.revision);
    let acknowledged = told.states.iter().rposition(|(notes, ..)| *notes <= moment).unwrap_or(0);
    assert!(found >= acknowledged, "{at}: transaction {acknowledged} was acknowledged, {found} is there");
    assert!(found <= acknowledged + 1, "{at}: transaction {found} was not begun");
    // The log says the same as the rows, as far as it reaches.
    let from = range.revision.saturating_sub(5);
    if range.revision > from
        && let Ok(mut watcher) = store.watch("", from).await
    {
        let mut last = from;
        while last < range.revision {
            let batch = watcher.next().await.unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_eq!(batch.revision, last + 1, "{at}: a revision is missing from the log");
            last = batch.revision;
            let number = batch.events.iter().find_map(|event| match event {
                WatchEvent::Put(entry) if &*entry.key == "/number" => Some(entry.value.to_vec()),
                _ => None,
            });
            let state = told.states.iter().find(|(_, revision, _)| *revision == last).expect("it was");
            assert_eq!(number.as_ref(), state.2.get("/number"), "{at}: the log differs from the rows");
        }
    }
    // It goes on from there.
    let went_on = store.txn(Txn::new().put("/after", "1")).await;
    assert_eq!(went_on, Ok(TxnOutcome::Committed(range.revision + 1)), "{at}");
    found
}

#[tokio::test]
async fn the_power_may_fail_at_any_write() {
    let told = workload().await;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // What is surely on the disk, and what was written since.
    let mut synced = Vec::new();
    let mut since: Vec<&Noted> = Vec::new();
    let (mut points, mut latest) = (0, 0);
    for (done, noted) in told.notes.iter().enumerate() {
        match noted {
            Noted::Sync => since.drain(..).for_each(|noted| apply(&mut synced, noted)),
            noted => since.push(noted),
        }
        let moment = done + 1;
        // The first store is made beside its place and renamed when it is whole: see `file::make`.
        if moment < told.states[0].0 {
            continue;
        }
        let mut all = synced.clone();
        since.iter().for_each(|noted| apply(&mut all, noted));
        latest = latest.max(check(all, &told, moment, "all kept").await);
        check(synced.clone(), &told, moment, "unsynced lost").await;
        let mut some = synced.clone();
        for noted in &since {
            match noted {
                // A length is the file system's own, and not lost alone.
                Noted::Length(_) => apply(&mut some, noted),
                Noted::Write(offset, data) if random.below(2) == 0 => {
                    let torn = if random.below(2) == 0 { data.len() } else { random.below(data.len() as u64) as usize };
                    apply(&mut some, &Noted::Write(*offset, data[..torn].to_vec()));
                }
                Noted::Write(..) | Noted::Sync => {}
            }
        }
        check(some, &told, moment, "unsynced torn").await;
        points += 3;
    }
    assert_eq!(latest, told.states.len() - 1, "the last state was never found");
    assert!(points > 2000, "only {points} points were tried");
}
