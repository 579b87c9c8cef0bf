//! What is done again: a refused stop after a pause, the end of a process that is unhealthy for the second time, and a
//! worker that has panicked.

use std::time::Duration;

use tokio::time::Instant;

use super::world::{World, instance};
use hivemind_core::{
    model::Phase,
    spec::v1::{Check, HealthSpec},
};
use hivemind_fakes::runtime::{Call, Fault};

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
    world.until_call(&Call::Remove(id.clone().into())).await;
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
    assert_eq!(signals, [Call::Kill(id.clone().into(), libc::SIGTERM), Call::Kill(id.into(), libc::SIGTERM)]);
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

/// How the calls that close sockets have ended.
fn closes(world: &World) -> Vec<Fault> {
    let entries = world.journal.entries().into_iter();
    entries.filter(|entry| entry.what == "net.close_sockets").map(|entry| entry.fault).collect()
}

#[tokio::test]
async fn sockets_are_closed_when_the_tables_lead_nobody_to_who_is_gone() {
    let mut world = World::new();
    world.begin();
    let [stays, goes] = [world.wants(1), world.wants(2)];
    world.until(&stays, Phase::Ready).await;
    world.until(&goes, Phase::Ready).await;
    // What the last daemon may have missed, at the beginning.
    world.until_asked("net.close_sockets").await;
    world.dataplane.stick();
    let before = closes(&world).len();
    world.upstream.forget(&goes);
    // Its worker gives up waiting for the tables after two seconds: time enough for one that does not wait.
    world.until_call(&Call::Kill(goes.clone().into(), libc::SIGTERM)).await;
    assert_eq!(closes(&world).len(), before, "a socket made now would get the one that is gone again");
    world.dataplane.go_on();
    world.poll("sockets to be closed", || closes(&world).len() > before).await;
}

#[tokio::test(start_paused = true)]
async fn sockets_that_could_not_be_closed_are_tried_again() {
    let mut world = World::paused();
    world.begin();
    let goes = world.wants(1);
    world.until(&goes, Phase::Ready).await;
    world.until_asked("net.close_sockets").await;
    // More than there are namespaces.
    for _ in 0..3 {
        world.journal.fail("net.close_sockets", Fault::Before);
    }
    world.upstream.forget(&goes);
    let failed = |all: &[Fault]| all.iter().filter(|fault| **fault == Fault::Before).count();
    world.poll("all failures", || failed(&closes(&world)) == 3).await;
    world.poll("a success", || closes(&world).last() == Some(&Fault::None)).await;
}

#[tokio::test(start_paused = true)]
async fn refused_rules_of_published_ports_are_written_again_before_they_are_looked_at_anyway() {
    let mut world = World::paused();
    world.journal.fail("net.sync_published", Fault::Before);
    world.begin();
    world.wants(1);
    let refused = world.until_asked("net.sync_published").await;
    let asked = || world.journal.entries().iter().filter(|entry| entry.what == "net.sync_published").count();
    world.poll("another write", || asked() >= 2).await;
    let waited = Instant::now() - refused;
    assert!(waited < Duration::from_secs(5), "{waited:?}");
}
