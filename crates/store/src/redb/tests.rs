use std::sync::Arc;

use redb::ReadableTable as _;

use super::*;
use crate::{Compare, Op, conformance};

#[tokio::test]
async fn conforms_in_memory() {
    conformance::run(|| async { Arc::new(RedbStore::in_memory().await.expect("opens")) as Arc<dyn Store> }).await;
}

#[tokio::test]
async fn conforms_in_a_file() {
    let dir = tempfile::tempdir().expect("dir");
    let number = std::sync::atomic::AtomicU32::new(0);
    conformance::run(|| {
        let n = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.path().join(format!("{n}.redb"));
        async { Arc::new(RedbStore::open(path).await.expect("opens")) as Arc<dyn Store> }
    })
    .await;
}

#[tokio::test]
async fn a_second_opener_is_told_that_the_store_is_in_use() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("store");
    let first = RedbStore::open(&path).await.expect("opens");
    assert_eq!(RedbStore::open(&path).await.map(drop), Err(StoreError::Locked { path: path.clone() }));
    drop(first);
    RedbStore::open(&path).await.expect("opens after the first has closed");
}

#[tokio::test]
async fn leftovers_of_a_killed_creation_do_no_harm_and_nobody_else_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("store");
    std::fs::write(dir.path().join("store.new"), b"half of a header").expect("leftover");
    let store = RedbStore::open(&path).await.expect("opens");
    store.txn(Txn::new().put("/a", "1")).await.expect("txn");
    assert!(!dir.path().join("store.new").exists());
    assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o077, 0);
}

/// Writes the schema of a store that nobody has open, or only reads it.
fn schema(path: &std::path::Path, write: Option<u64>) -> u64 {
    let table = redb::TableDefinition::<&str, u64>::new("meta");
    let db = Database::open(path).expect("opens");
    let txn = db.begin_write().expect("txn");
    let before = {
        let mut meta = txn.open_table(table).expect("table");
        let before = meta.get("schema").expect("read").expect("a schema").value();
        meta.insert("schema", write.unwrap_or(before)).expect("insert");
        before
    };
    txn.commit().expect("commit");
    before
}

#[tokio::test]
async fn an_older_schema_is_raised_by_the_first_write_and_not_by_opening() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("store");
    let store = RedbStore::open(&path).await.expect("opens");
    store.txn(Txn::new().put("/a", "1")).await.expect("txn");
    drop(store);
    assert_eq!(schema(&path, Some(1)), u64::from(engine::SCHEMA_VERSION));
    let store = RedbStore::open(&path).await.expect("opens");
    assert_eq!(&*store.get("/a").await.expect("read").0.expect("a row").value, b"1");
    drop(store);
    assert_eq!(schema(&path, None), 1);
    RedbStore::open(&path).await.expect("opens").txn(Txn::new().put("/a", "2")).await.expect("txn");
    assert_eq!(schema(&path, None), u64::from(engine::SCHEMA_VERSION));
}

#[tokio::test]
async fn a_newer_schema_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("store");
    drop(RedbStore::open(&path).await.expect("opens"));
    schema(&path, Some(7));
    let error = RedbStore::open(&path).await.map(drop).expect_err("refused");
    assert_eq!(error, StoreError::NewerSchema { path, found: 7, known: engine::SCHEMA_VERSION });
}

#[tokio::test]
async fn something_else_than_a_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("store");
    std::fs::write(&path, b"a letter to my mother").expect("write");
    let error = RedbStore::open(&path).await.map(drop).expect_err("refused");
    assert!(matches!(error, StoreError::Io { action: "open", .. }), "{error}");
    assert_eq!(std::fs::read(&path).expect("read"), b"a letter to my mother");
}

#[tokio::test]
async fn a_restart_keeps_rows_log_and_leases() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("store");
    let store = RedbStore::open(&path).await.expect("opens");
    let lease = store.lease_grant(Duration::from_secs(60)).await.expect("grant");
    store.txn(Txn::new().put_leased("/a", "1", lease.id)).await.expect("txn");
    store.txn(Txn::new().put("/b", "2")).await.expect("txn");
    let before = store.range("").await.expect("range");
    drop(store);
    let store = RedbStore::open(&path).await.expect("opens");
    assert_eq!(store.range("").await.expect("range"), before);
    let mut watcher = store.watch("", 0).await.expect("watch");
    assert_eq!([watcher.next().await.expect("1").revision, watcher.next().await.expect("2").revision], [1, 2]);
    store.lease_renew(lease.id).await.expect("lives");
    assert_ne!(store.lease_grant(Duration::from_secs(1)).await.expect("grant").id, lease.id);
    store.lease_revoke(lease.id).await.expect("revoke");
    assert_eq!(store.get("/a").await.expect("get").0, None);
}

#[tokio::test]
async fn a_snapshot_is_a_store() {
    let dir = tempfile::tempdir().expect("dir");
    let store = RedbStore::open(dir.path().join("store")).await.expect("opens");
    for n in 0..100 {
        store.txn(Txn::new().put(format!("/{n}"), "x")).await.expect("txn");
    }
    let copy = dir.path().join("copy");
    assert_eq!(store.snapshot(&copy).await, Ok(100));
    assert!(store.snapshot(&copy).await.is_err(), "never over a former one");
    let restored = RedbStore::open(&copy).await.expect("opens");
    assert_eq!(restored.range("").await, store.range("").await);
    assert!(matches!(restored.watch("", 99).await, Err(StoreError::Compacted(_))), "the log is not copied");
    let next = restored.txn(Txn::new().when(Compare::Modified("/7".into(), 8)).put("/7", "y")).await;
    assert_eq!(next, Ok(TxnOutcome::Committed(101)));
    assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 2, "nothing is left beside");
}

#[tokio::test]
async fn a_snapshot_has_the_leases_and_what_they_hold() {
    let dir = tempfile::tempdir().expect("dir");
    let store = RedbStore::open(dir.path().join("store")).await.expect("opens");
    let lease = store.lease_grant(Duration::from_secs(60)).await.expect("grant");
    store.txn(Txn::new().put_leased("/a", "1", lease.id)).await.expect("txn");
    store.snapshot(&dir.path().join("copy")).await.expect("copied");
    let copy = RedbStore::open(dir.path().join("copy")).await.expect("opens");
    copy.lease_revoke(lease.id).await.expect("the lease is there");
    assert_eq!(copy.get("/a").await.expect("get").0, None);
}

#[tokio::test]
async fn a_watch_ends_when_the_store_closes() {
    let store = RedbStore::in_memory().await.expect("opens");
    let mut watcher = store.watch("", 0).await.expect("watch");
    drop(store);
    assert_eq!(watcher.next().await, Err(StoreError::Closed));
}

#[tokio::test]
async fn one_fault_in_a_group_does_not_touch_the_others() {
    let store = RedbStore::in_memory().await.expect("opens");
    let bad = Txn { compares: vec![], ops: vec![Op::Delete { key: "/a".into() }, Op::Delete { key: "/a".into() }] };
    let good = |n: u32| Txn::new().put(format!("/{n}"), "x");
    let (a, b, c) = tokio::join!(store.txn(good(1)), store.txn(bad), store.txn(good(2)));
    assert!(a.is_ok() && b.is_err() && c.is_ok());
    assert_eq!(store.range("").await.expect("range").revision, 2);
}
