//! What the loop writes of what it is told, and what it keeps of the store's log.

use super::*;
use crate::run::{LOG_KEPT, LOG_LONGEST};

/// Who the statuses in the store are of.
async fn statuses(running: &Running) -> Vec<String> {
    let rows = running.store.range(hivemind_store::keys::INSTANCE_STATUS).await.expect("rows").entries;
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
    assert_eq!(statuses(&running).await, [hivemind_store::keys::instance_status(&app, &known)]);
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

#[tokio::test]
async fn an_open_feed_is_told_of_nodes_that_register_and_change_later() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::start(dir.path(), u64::MAX).await;
    let mut feed = running.control.feed(&"node-2".parse().expect("a name")).await.expect("a feed");
    let mut desired = NodeDesired::default();
    take(&mut feed, &mut desired).await;
    assert_eq!(desired.nodes.len(), 0);
    let name: NodeName = "node-1".parse().expect("a name");
    for last in [3, 4] {
        let node =
            Node { name: name.clone(), instances_v4: None, instances_v6: None, created_at: Timestamp::from_millis(0) };
        let addresses = vec![[192, 0, 2, last].into()];
        let status = NodeStatus { ready: true, addresses: addresses.clone(), ..NodeStatus::default() };
        running.control.register_node(node, status).await.expect("registered");
        take(&mut feed, &mut desired).await;
        assert_eq!(desired.nodes.get(&name).map(|told| told.to_vec()), Some(addresses));
    }
    running.stop().await;
}

#[tokio::test]
async fn rows_of_a_version_that_numbered_namespaces_are_read() {
    use hivemind_store::keys;
    let dir = tempfile::tempdir().expect("a folder");
    let store = Faulty::open(dir.path(), u64::MAX).await;
    let old = r#"{"id":"abcdefghij","app":{"scope":{"tenant":"default","namespace":"default"},"name":"web"},"generation":1,
        "spec":{"image":"web"},"node":"node-1","addresses":{"v4":"10.88.0.2","v6":"fd00:1::2"},"identity":256,
        "desired":"run","created_at":"2026-01-01T00:00:00Z"}"#;
    let rows = Txn::new()
        .put(format!("{}default/default/web/abcdefghij", keys::INSTANCES), old)
        .put("/v1/identities/default/default", "256")
        .put(keys::LAST_SERVICE_ID, "7");
    store.txn(rows).await.expect("written");
    let loaded = load(store).await.expect("readable");
    let instances: Vec<_> = loaded.snapshot.instances_of(&key("web")).map(|it| it.addresses.v4).collect();
    assert_eq!((instances, loaded.snapshot.last_service_id), (vec![Some([10, 88, 0, 2].into())], 7));
}

/// The JSON of a row with a field more, as a newer version may write it.
async fn with_a_field_more(store: &dyn Store, key: &str, at: &str) -> Vec<u8> {
    let row = store.get(key).await.expect("read").0.expect("a row");
    let mut json: serde_json::Value = serde_json::from_slice(&row.value).expect("JSON");
    let object = json.pointer_mut(at).and_then(|object| object.as_object_mut()).expect("an object");
    object.insert("of-tomorrow".into(), 1.into());
    serde_json::to_vec(&json).expect("JSON")
}

#[tokio::test]
async fn rows_that_cannot_be_read_keep_the_loop_from_beginning_and_nothing_is_written() {
    use hivemind_store::keys;
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let app = key("web");
    running.control.deploy(app.clone(), spec(2), None).await.expect("deployed");
    let id = ids(&running.control, &app)[0].clone();
    running.stop().await;
    let store = Faulty::open(dir.path(), u64::MAX).await;
    let (app_row, instance_row) = (keys::app(&app), keys::instance(&app, &id));
    let strange = format!("{}Not_A_Tenant/default/web", keys::APPS);
    let newer = with_a_field_more(&*store, &app_row, "/spec").await;
    for (row, value, why) in [
        (app_row, newer, "of-tomorrow"),
        (instance_row, b"{}".to_vec(), "missing field `id`"),
        (strange, b"{}".to_vec(), "\"Not_A_Tenant\" in its key"),
    ] {
        let before = store.get(&row).await.expect("read").0;
        store.txn(Txn::new().put(row.clone(), value)).await.expect("written");
        let revision = store.range("").await.expect("rows").revision;
        let error = load(Arc::clone(&store) as _).await.expect_err("a row cannot be read");
        let problem = hivemind_core::model::Problem::from(error);
        assert_eq!(problem.code, hivemind_core::model::ErrorCode::StoreVersion);
        assert!(problem.details[0].starts_with(&format!("{row}: ")) && problem.details[0].contains(why), "{problem}");
        assert!(problem.title.starts_with("1 of the store's rows"), "{problem}");
        assert_eq!(store.range("").await.expect("rows").revision, revision);
        let again = Txn::new();
        let again = match before {
            Some(entry) => again.put(row, entry.value.to_vec()),
            None => again.delete(row),
        };
        store.txn(again).await.expect("written");
        assert_eq!(load(Arc::clone(&store) as _).await.expect("readable").snapshot.instances.len(), 2);
    }
}

#[tokio::test]
async fn a_row_that_becomes_unreadable_stays_as_it_was_read_and_is_told() {
    use hivemind_store::keys;
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, store, app) = (&running.control, &running.store, key("web"));
    control.deploy(app.clone(), spec(2), None).await.expect("deployed");
    let before = ids(control, &app);
    let rows = [keys::app(&app), keys::instance(&app, &before[0])];
    for row in &rows {
        let newer = with_a_field_more(&**store, row, "/spec").await;
        store.inner.txn(Txn::new().put(row.clone(), newer)).await.expect("written past the loop");
    }
    // Answered when the loop has taken in and planned what came before.
    let last = store.range("").await.expect("rows").revision;
    let mut snapshots = control.subscribe();
    control.deploy(key("other"), AppSpec::new("other"), None).await.expect("deployed");
    let taken = timeout(PATIENCE, snapshots.wait_for(|snapshot| snapshot.revision > last)).await;
    drop(taken.expect("in time").expect("the loop lives"));
    let snapshot = control.snapshot();
    assert_eq!(ids(control, &app), before);
    assert!(snapshot.apps.contains_key(&app), "the app's row is taken for deleted");
    let stopped = |id| snapshot.instances[id].object.desired == hivemind_core::model::Desired::Stop;
    assert!(!before.iter().any(stopped), "an instance is stopped");
    let told: Vec<_> = running.events.after(0).0.into_iter().filter(|event| event.reason == "RowUnreadable").collect();
    let objects: Vec<_> = told.iter().map(|event| event.object.clone()).collect();
    assert_eq!(objects, rows.map(|row| format!("row/{row}")));
    assert!(told.iter().all(|event| event.message.contains("of-tomorrow")), "{told:?}");
    // Nor is it written over.
    let refused = control.scale(&app, 1, None).await;
    assert!(matches!(refused, Err(ControlError::Conflict { .. })), "{refused:?}");
    running.stop().await;
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
