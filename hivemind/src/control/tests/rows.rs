//! What the loop writes of what it is told, and what it keeps of the store's log.

use super::*;
use crate::control::run::{LOG_KEPT, LOG_LONGEST};

/// Who the statuses in the store are of.
async fn statuses(running: &Running) -> Vec<String> {
    let rows = running.store.range(crate::store::keys::INSTANCE_STATUS).await.expect("rows").entries;
    rows.iter().map(|entry| entry.key.to_string()).collect()
}

#[tokio::test]
async fn a_status_of_an_instance_that_is_not_known_is_not_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    control.deploy(app.clone(), spec(1), None).await.expect("deployed");
    let known = ids(control, &app)[0].clone();
    let before = (control.snapshot().revision, statuses(&running).await);
    let (stranger, other) = (InstanceId::from_bits(1), key("other"));
    assert_ne!(stranger, known);
    for report in [report(&app, &stranger, Phase::Ready), report(&other, &known, Phase::Ready)] {
        control.report(vec![report.clone()]).await.expect("taken");
        let after = (control.snapshot().revision, statuses(&running).await);
        assert_eq!(after, before, "{report:?}");
    }
    // Beside one that is known, it is left out all the same.
    let both = vec![report(&app, &stranger, Phase::Ready), report(&app, &known, Phase::Ready)];
    control.report(both).await.expect("taken");
    assert_eq!(statuses(&running).await, [crate::store::keys::instance_status(&app, &known)]);
    running.stop().await;
}

#[tokio::test]
async fn an_address_that_was_freed_is_not_given_again_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut given = std::collections::BTreeSet::new();
    for round in 0..4 {
        let running =
            if round == 0 { Running::with_node(dir.path()).await } else { Running::start(dir.path(), u64::MAX).await };
        let (control, app) = (&running.control, key("web"));
        control.deploy(app.clone(), spec(2), None).await.expect("deployed");
        agent(control).await.expect("reported");
        let snapshot = control.snapshot();
        let services = snapshot.services.values().map(|row| row.object.addresses);
        let addresses: Vec<_> = snapshot.instances_of(&app).map(|row| row.addresses).chain(services).collect();
        assert_eq!(addresses.len(), 3);
        for address in addresses.iter().flat_map(|addresses| addresses.iter()) {
            assert!(given.insert(address), "{address} is given again in round {round}");
        }
        control.remove(&app, None).await.expect("removed");
        agent(control).await.expect("reported");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_registers_again_keeps_when_it_first_came() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = Running::with_node(dir.path()).await;
    let row = first.control.snapshot().nodes.values().next().expect("a node").object.clone();
    first.stop().await;
    let second = Running::start(dir.path(), u64::MAX).await;
    let later = Node { created_at: Timestamp::from_millis(5_000), ..(*row).clone() };
    let status = NodeStatus { ready: true, ..NodeStatus::default() };
    second.control.register_node(later.clone(), status.clone()).await.expect("registered");
    assert_eq!(second.control.snapshot().nodes[&row.name].object, row);
    // What else is new of it is taken.
    let moved = Node { instances_v4: "10.89.0.0/24".parse().ok(), ..later };
    second.control.register_node(moved.clone(), status).await.expect("registered");
    let expected = Node { created_at: row.created_at, ..moved };
    assert_eq!(*second.control.snapshot().nodes[&row.name].object, expected);
    second.stop().await;
}

/// The oldest revision that a watch may begin at.
async fn oldest(store: &Faulty) -> Revision {
    match store.watch("/", 0).await {
        Err(StoreError::Compacted(compacted)) => compacted.oldest,
        Ok(_) => 0,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_log_is_compacted_when_it_is_too_long_and_not_at_every_change() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app, store) = (&running.control, key("web"), &running.store);
    control.deploy(app.clone(), spec(1), None).await.expect("deployed");
    assert_eq!(oldest(store).await, 0);
    // Rows of a kind that nobody knows: the loop follows them and plans nothing.
    let writes = (0..LOG_LONGEST).map(|n| store.inner.txn(Txn::new().put("/strange", n.to_string())));
    for written in futures::future::join_all(writes).await {
        written.expect("written");
    }
    // The loop looks at the length of the log when it has had something to do. An app is one change, its plan another.
    control.deploy(app.clone(), spec(2), None).await.expect("deployed");
    let compacted = oldest(store).await;
    let revision = control.snapshot().revision;
    assert!((revision - LOG_KEPT - 2..=revision - LOG_KEPT).contains(&compacted), "{compacted} at {revision}");
    control.deploy(app.clone(), spec(3), None).await.expect("deployed");
    assert_eq!((oldest(store).await, ids(control, &app).len()), (compacted, 3));
    running.stop().await;
}
