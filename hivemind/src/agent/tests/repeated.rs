//! What is done again: a refused stop after a pause, the end of a process that is unhealthy for the second time, and a
//! worker that has panicked.

use std::time::Duration;

use tokio::time::Instant;

use super::world::{World, instance};
use crate::{
    model::Phase,
    spec::v1::{Check, HealthSpec},
    testkit::runtime::{Call, Fault},
};

#[tokio::test(start_paused = true)]
async fn a_refused_stop_is_tried_again_only_after_its_pause() {
    let mut world = World::paused();
    world.begin();
    let id = world.wants(1);
    world.until(&id, Phase::Ready).await;
    for _ in 0..3 {
        world.journal.fail("remove", Fault::Before);
    }
    world.upstream.stop(&id);
    let refused = world.until_asked("remove").await;
    world.until_call(&Call::Remove(id.clone())).await;
    // 200, 400 and 800 ms, each a quarter more or less.
    let waited = Instant::now() - refused;
    assert!(waited >= Duration::from_millis(1_000), "{waited:?}");
    world.until(&id, Phase::Gone).await;
    let asked = world.journal.entries().iter().filter(|entry| entry.what == "remove").count();
    assert_eq!(asked, 4, "three times in vain");
    world.nothing_left(&id);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_unhealthy_again_gets_the_signal_again() {
    let mut world = World::paused();
    world.begin();
    let mut sick = instance(1);
    let check = Check::Exec { command: vec!["check".into()] };
    sick.spec.health =
        Some(HealthSpec { interval_ms: 100, unhealthy_after: 1, start_period_ms: 0, ..HealthSpec::new(check) });
    let id = sick.id.clone();
    // Well once and then not, twice; well from then on.
    world.runtime.script_exec([0, 1, 0, 1]);
    world.upstream.want(sick);
    world.until_restarts(&id, 2).await;
    world.until(&id, Phase::Ready).await;
    let calls = world.runtime.calls().into_iter();
    let signals: Vec<_> = calls.filter(|call| matches!(call, Call::Kill(..))).collect();
    assert_eq!(signals, [Call::Kill(id.clone(), libc::SIGTERM), Call::Kill(id, libc::SIGTERM)]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_followed_by_another() {
    let mut world = World::paused();
    *world.panics.lock().expect("not poisoned") = Some("create");
    world.begin();
    let id = world.wants(1);
    world.until(&id, Phase::Ready).await;
    assert_eq!(*world.panics.lock().expect("not poisoned"), None, "nothing has panicked");
    // The one that follows is told of changes, and is known to have something to remove.
    world.upstream.stop(&id);
    world.until(&id, Phase::Gone).await;
    world.nothing_left(&id);
}
