//! What every [`Store`] must do. An implementation passes an opener of fresh, empty stores to [`run`].

use std::{future::Future, sync::Arc, time::Duration};

use super::{Compare, LeaseId, Store, StoreError, Txn, TxnOutcome, WatchBatch, WatchEvent, Watcher};
use hivemind_core::model::Revision;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Checks everything; panics with the reason at the first thing that does not hold.
pub async fn run<F: Future<Output = Arc<dyn Store>>>(make: impl Fn() -> F) {
    revisions_grow_by_one(&*make().await).await;
    compares_decide(&*make().await).await;
    ranges_are_ordered_and_bounded(&*make().await).await;
    faulty_transactions_change_nothing(&*make().await).await;
    watches_have_no_gaps(&*make().await).await;
    watches_are_split_by_revision_and_prefix(&*make().await).await;
    slow_watchers_miss_nothing(&*make().await).await;
    compaction_ends_old_watches(&*make().await).await;
    leases_end(&*make().await).await;
    renewed_leases_live(&*make().await).await;
    many_writers_are_serialised(make().await).await;
}

fn committed(outcome: TxnOutcome) -> Revision {
    match outcome {
        TxnOutcome::Committed(revision) => revision,
        TxnOutcome::Refused(revision) => panic!("refused at {revision}"),
    }
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    committed(store.txn(Txn::new().put(key, value)).await.expect("put"))
}

/// The next batch. One that does not come is a fault, and no reason to wait for ever.
async fn next(watcher: &mut Watcher) -> Result<WatchBatch, StoreError> {
    tokio::time::timeout(PATIENCE, watcher.next()).await.expect("a batch in time")
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    let range = store.range(prefix).await.expect("range");
    range.entries.iter().map(|entry| entry.key.to_string()).collect()
}

async fn revisions_grow_by_one(store: &dyn Store) {
    assert_eq!(store.get("/a").await.expect("get"), (None, 0));
    assert_eq!(put(store, "/a", "1").await, 1);
    assert_eq!(put(store, "/a", "2").await, 2);
    let (row, revision) = store.get("/a").await.expect("get");
    let row = row.expect("there");
    assert_eq!((row.created, row.modified, &*row.value, revision), (1, 2, &b"2"[..], 2));
    let nothing = store.txn(Txn::new().delete("/none")).await.expect("txn");
    assert_eq!(nothing, TxnOutcome::Committed(2), "what changes no row makes no revision");
    assert_eq!(store.txn(Txn::new()).await.expect("txn"), TxnOutcome::Committed(2));
    assert_eq!(committed(store.txn(Txn::new().delete("/a").put("/b", "1")).await.expect("txn")), 3);
    assert_eq!(put(store, "/a", "again").await, 4);
    assert_eq!(store.get("/a").await.expect("get").0.expect("there").created, 4, "created anew after a deletion");
}

async fn compares_decide(store: &dyn Store) {
    put(store, "/a", "1").await;
    put(store, "/a", "2").await;
    let a = || "/a".to_owned();
    for (compare, holds) in [
        (Compare::Modified(a(), 2), true),
        (Compare::Modified(a(), 1), false),
        (Compare::Created(a(), 1), true),
        (Compare::Created(a(), 2), false),
        (Compare::Present(a()), true),
        (Compare::Absent(a()), false),
        (Compare::Absent("/b".into()), true),
        (Compare::Present("/b".into()), false),
        (Compare::Modified("/b".into(), 0), false),
    ] {
        let outcome = store.txn(Txn::new().when(compare.clone())).await.expect("txn");
        let expected = if holds { TxnOutcome::Committed(2) } else { TxnOutcome::Refused(2) };
        assert_eq!(outcome, expected, "{compare:?}");
    }
    let mixed = Txn::new().when(Compare::Present(a())).when(Compare::Present("/b".into())).put("/c", "1");
    assert_eq!(store.txn(mixed).await.expect("txn"), TxnOutcome::Refused(2));
    assert_eq!(keys(store, "/").await, ["/a"], "one false condition stops all of it");
}

async fn ranges_are_ordered_and_bounded(store: &dyn Store) {
    for key in ["/b/2", "/a/1", "/b/10", "/b/1", "/c/1", "/b"] {
        put(store, key, "").await;
    }
    assert_eq!(keys(store, "/b/").await, ["/b/1", "/b/10", "/b/2"]);
    assert_eq!(keys(store, "").await.len(), 6);
    assert_eq!(keys(store, "/d").await, Vec::<String>::new());
    assert_eq!(store.range("/d").await.expect("range").revision, 6);
}

async fn faulty_transactions_change_nothing(store: &dyn Store) {
    let twice = store.txn(Txn::new().put("/a", "1").delete("/a")).await;
    assert_eq!(twice, Err(StoreError::DuplicateKey { key: "/a".into() }));
    let leased = store.txn(Txn::new().put("/b", "1").put_leased("/c", "1", LeaseId(99))).await;
    assert_eq!(leased, Err(StoreError::NoLease(LeaseId(99))));
    assert_eq!(keys(store, "/").await, Vec::<String>::new());
}

async fn watches_have_no_gaps(store: &dyn Store) {
    for n in 1..=5 {
        put(store, &format!("/{n}"), "old").await;
    }
    let mut watcher = store.watch("/", 2).await.expect("watch");
    put(store, "/6", "new").await;
    committed(store.txn(Txn::new().delete("/1")).await.expect("txn"));
    for revision in 3..=7 {
        let batch = next(&mut watcher).await.expect("batch");
        assert_eq!((batch.revision, batch.events.len()), (revision, 1));
    }
    let mut future = store.watch("/", 8).await.expect("watch");
    for n in [8, 9] {
        put(store, &format!("/{n}"), "").await;
    }
    assert_eq!(next(&mut future).await.expect("batch").revision, 9, "only what is after");
}

async fn watches_are_split_by_revision_and_prefix(store: &dyn Store) {
    let mut watcher = store.watch("/a/", 0).await.expect("watch");
    committed(store.txn(Txn::new().put("/a/2", "").put("/b/1", "").put("/a/1", "x")).await.expect("txn"));
    put(store, "/b/2", "").await;
    committed(store.txn(Txn::new().delete("/a/2").delete("/a/none")).await.expect("txn"));
    let first = next(&mut watcher).await.expect("batch");
    assert_eq!(first.events.iter().map(|event| &**event.key()).collect::<Vec<_>>(), ["/a/1", "/a/2"]);
    let expected = WatchBatch { revision: 3, events: vec![WatchEvent::Delete { key: "/a/2".into(), revision: 3 }] };
    assert_eq!(next(&mut watcher).await, Ok(expected.clone()));
    // The same from the log as it was live.
    let mut late = store.watch("/a/", 0).await.expect("watch");
    assert_eq!(next(&mut late).await, Ok(first));
    assert_eq!(next(&mut late).await, Ok(expected));
}

async fn slow_watchers_miss_nothing(store: &dyn Store) {
    let mut slow = store.watch("/", 0).await.expect("watch");
    for n in 1..=1000 {
        put(store, "/a", &n.to_string()).await;
    }
    for revision in 1..=1000 {
        assert_eq!(next(&mut slow).await.expect("batch").revision, revision);
    }
    put(store, "/a", "live").await;
    assert_eq!(next(&mut slow).await.expect("batch").revision, 1001);
}

async fn compaction_ends_old_watches(store: &dyn Store) {
    for _ in 0..10 {
        put(store, "/a", "").await;
    }
    store.compact(6).await.expect("compact");
    store.compact(4).await.expect("an older compaction changes nothing");
    for after in [0, 5] {
        match store.watch("/", after).await {
            Err(StoreError::Compacted(compacted)) => assert_eq!(compacted.oldest, 6),
            other => panic!("{other:?}"),
        }
    }
    let mut watcher = store.watch("/", 6).await.expect("watch");
    assert_eq!(next(&mut watcher).await.expect("batch").revision, 7);
    assert_eq!(keys(store, "/").await, ["/a"], "rows stay");
    store.compact(1_000).await.expect("compact");
    assert_eq!(put(store, "/a", "").await, 11);
    assert!(store.watch("/", 10).await.is_ok());
}

async fn leases_end(store: &dyn Store) {
    let lease = store.lease_grant(Duration::from_millis(300)).await.expect("grant");
    committed(store.txn(Txn::new().put_leased("/a", "", lease.id).put("/b", "")).await.expect("txn"));
    let revoked = store.lease_grant(Duration::from_secs(600)).await.expect("grant");
    committed(store.txn(Txn::new().put_leased("/c", "", revoked.id)).await.expect("txn"));
    committed(store.txn(Txn::new().put_leased("/d", "", revoked.id)).await.expect("txn"));
    put(store, "/d", "no longer leased").await;
    // From the beginning: on a busy machine the lease ends before the other rows are written.
    let mut watcher = store.watch("/", 0).await.expect("watch");
    let is_end = |event: &WatchEvent| matches!(event, WatchEvent::Delete { .. });
    let gone = loop {
        let batch = next(&mut watcher).await.expect("batch");
        if batch.events.iter().any(is_end) {
            break batch;
        }
    };
    assert_eq!(gone.events.iter().map(|event| &**event.key()).collect::<Vec<_>>(), ["/a"]);
    store.lease_revoke(revoked.id).await.expect("revoke");
    assert_eq!(keys(store, "/").await, ["/b", "/d"]);
    assert_eq!(store.lease_renew(lease.id).await, Err(StoreError::NoLease(lease.id)));
    assert_eq!(store.lease_revoke(revoked.id).await, Err(StoreError::NoLease(revoked.id)));
}

async fn renewed_leases_live(store: &dyn Store) {
    let ttl = Duration::from_secs(2);
    let lease = store.lease_grant(ttl).await.expect("grant");
    committed(store.txn(Txn::new().put_leased("/a", "", lease.id)).await.expect("txn"));
    let other = store.lease_grant(Duration::from_millis(20)).await.expect("grant");
    committed(store.txn(Txn::new().put_leased("/b", "", other.id)).await.expect("txn"));
    let mut watcher = store.watch("/b", 2).await.expect("watch");
    store.lease_renew(lease.id).await.expect("renew");
    next(&mut watcher).await.expect("the short one ends");
    assert_eq!(keys(store, "/").await, ["/a"]);
}

async fn many_writers_are_serialised(store: Arc<dyn Store>) {
    // Each adds one to a counter by compare-and-swap; none may be lost.
    let add = |store: Arc<dyn Store>| async move {
        loop {
            let (row, _) = store.get("/counter").await.expect("get");
            let (value, compare) = match &row {
                None => (0, Compare::Absent("/counter".into())),
                Some(row) => (
                    String::from_utf8_lossy(&row.value).parse::<u32>().expect("number"),
                    Compare::Modified("/counter".into(), row.modified),
                ),
            };
            let txn = Txn::new().when(compare).put("/counter", (value + 1).to_string());
            if let TxnOutcome::Committed(_) = store.txn(txn).await.expect("txn") {
                return;
            }
        }
    };
    futures::future::join_all((0..50).map(|_| add(store.clone()))).await;
    let (row, revision) = store.get("/counter").await.expect("get");
    assert_eq!((&*row.expect("there").value, revision), (&b"50"[..], 50));
}
