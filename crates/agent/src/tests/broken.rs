//! One history, from an instance that is wanted to one of which nothing is left: broken off at every call, and with
//! every call refused. In the end it is the same.

use std::collections::BTreeSet;

use futures::future::join_all;

use super::world::World;
use hivemind_core::model::{InstanceId, Phase};
use hivemind_fakes::runtime::{Call, Fault};

/// Runs the history. A daemon whose life is over is followed by another, which lives on.
async fn history(world: &mut World) {
    let id = world.wants(1);
    reach(world, &id, Phase::Ready).await;
    world.all_there(&id).await;
    world.upstream.stop(&id);
    reach(world, &id, Phase::Gone).await;
    world.nothing_left(&id);
    let starts = world.runtime.calls().iter().filter(|call| matches!(call, Call::Start(_))).count();
    assert_eq!(starts, 1, "what runs is adopted: {:#?}", world.journal.entries());
    world.end().await;
}

async fn reach(world: &mut World, id: &InstanceId, phase: Phase) {
    let journal = world.journal.clone();
    let over = tokio::select! {
        () = world.until(id, phase) => false,
        () = journal.over() => true,
    };
    if over {
        world.end().await;
        world.begin();
        world.until(id, phase).await;
    }
}

/// The calls of a history in which nothing goes wrong.
async fn calls() -> Vec<&'static str> {
    let mut world = World::new();
    world.begin();
    history(&mut world).await;
    world.journal.entries().iter().map(|entry| entry.what).collect()
}

#[tokio::test]
async fn a_daemon_that_ends_before_any_call_is_followed_by_one_that_finishes() {
    // A few more: not every history has the same calls.
    let count = calls().await.len() + 5;
    assert!(count > 20, "{count}");
    join_all((0..count).map(|calls| async move {
        let mut world = World::new();
        world.begin_for(calls);
        history(&mut world).await;
        world.in_order();
    }))
    .await;
}

#[tokio::test]
async fn a_call_that_fails_is_repeated() {
    let calls: BTreeSet<&str> = calls().await.into_iter().collect();
    for effect in ["create", "start", "kill", "remove", "remove_logs", "net.ensure_link", "net.bring_up"] {
        assert!(calls.contains(effect), "{effect}: {calls:?}");
    }
    let faults = calls.into_iter().flat_map(|what| [(what, Fault::Before), (what, Fault::After)]);
    // Twice in a row as well: the second try is not the last.
    let cases = faults.flat_map(|(what, fault)| [(what, fault, 1), (what, fault, 2)]);
    join_all(cases.map(|(what, fault, times)| async move {
        let mut world = World::new();
        (0..times).for_each(|_| world.journal.fail(what, fault));
        world.begin();
        history(&mut world).await;
        world.in_order();
    }))
    .await;
}
