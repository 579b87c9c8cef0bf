//! One history, from an instance that is wanted to one of which nothing is left: broken off at every call, and with
//! every call refused. In the end it is the same. With sidecars it is as well.

use std::collections::BTreeSet;

use futures::future::join_all;

use super::world::{World, instance};
use hivemind_core::{
    model::{InstanceId, Phase},
    spec::v1::SidecarSpec,
};
use hivemind_fakes::runtime::{Call, Fault};

/// With how many sidecars the history is tried.
const SIDECARS: [usize; 2] = [0, 2];

/// Runs the history. A daemon whose life is over is followed by another, which lives on.
async fn history(world: &mut World, sidecars: usize) {
    let mut wanted = instance(1);
    let names = (0..sidecars).map(|n| format!("beside-{n}").parse().expect("a name"));
    wanted.spec.sidecars = names.map(|name| SidecarSpec::new(name, "y")).collect();
    let id = wanted.id.clone();
    world.upstream.want(wanted);
    reach(world, &id, Phase::Ready).await;
    world.all_there(&id).await;
    world.upstream.stop(&id);
    reach(world, &id, Phase::Gone).await;
    world.nothing_left(&id);
    let starts = world.runtime.calls().iter().filter(|call| matches!(call, Call::Start(_))).count();
    assert_eq!(starts, 1 + sidecars, "what runs is adopted: {:#?}", world.journal.entries());
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
async fn calls(sidecars: usize) -> Vec<&'static str> {
    let mut world = World::new();
    world.begin();
    history(&mut world, sidecars).await;
    world.journal.entries().iter().map(|entry| entry.what).collect()
}

#[tokio::test]
async fn a_daemon_that_ends_before_any_call_is_followed_by_one_that_finishes() {
    // A few more: not every history has the same calls.
    for sidecars in SIDECARS {
        let count = calls(sidecars).await.len() + 5;
        assert!(count > 20, "{count}");
        join_all((0..count).map(|calls| async move {
            let mut world = World::new();
            world.begin_for(calls);
            history(&mut world, sidecars).await;
            world.in_order();
        }))
        .await;
    }
}

#[tokio::test]
async fn a_call_that_fails_is_repeated() {
    for sidecars in SIDECARS {
        each_call_fails(sidecars).await;
    }
}

async fn each_call_fails(sidecars: usize) {
    let calls: BTreeSet<&str> = calls(sidecars).await.into_iter().collect();
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
        history(&mut world, sidecars).await;
        world.in_order();
    }))
    .await;
}
