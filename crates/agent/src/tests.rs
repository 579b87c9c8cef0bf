//! The whole agent over fakes of runtime, network and data plane.

mod broken;
mod hooks;
mod lost;
mod pause;
mod probes;
mod repeated;
mod sidecars;
mod upstream;
mod world;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{closing::AT_ONCE, machine::WELL_AFTER};
use hivemind_core::model::{InstanceId, Phase};
use hivemind_fakes::runtime::{Call, FakeRuntime, Fault};
use hivemind_runtime::Runtime;
use world::{World, instance};

#[tokio::test]
async fn a_link_goes_up_with_programs_and_row_and_a_process_starts_on_a_link_that_is_up() {
    let mut world = World::new();
    world.begin();
    let id = world.wants(1);
    world.until(&id, Phase::Ready).await;
    world.in_order();
    assert_eq!(
        world.steps(),
        ["ensure_image", "create", "net.ensure_link", "dataplane.attach", "net.bring_up", "start"]
    );
}

#[tokio::test]
async fn a_stop_signals_when_the_data_plane_shows_it_and_leaves_nothing() {
    let mut world = World::new();
    world.begin();
    let id = world.wants(1);
    world.until(&id, Phase::Ready).await;
    world.runtime.clear_calls();
    world.dataplane.stick();
    world.upstream.stop(&id);
    world.until(&id, Phase::Stopping).await;
    // Time enough for a signal that does not wait, and far from the limit.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.runtime.calls(), []);
    world.dataplane.go_on();
    world.until(&id, Phase::Gone).await;
    assert_eq!(world.runtime.calls().first(), Some(&Call::Kill(id.clone().into(), libc::SIGTERM)));
    world.nothing_left(&id);
}

#[tokio::test]
async fn sockets_are_closed_in_some_namespaces_at_once_but_not_in_all() {
    let mut world = World::new();
    world.begin();
    let ids: Vec<InstanceId> = (1..=40).map(|n| world.wants(n)).collect();
    for id in &ids {
        world.until(id, Phase::Ready).await;
    }
    world.upstream.stop(&ids[0]);
    world.until_nothing_left(&ids[0]).await;
    world.until_closed_at_once(AT_ONCE).await;
    assert_eq!(world.net.closed_at_once(), AT_ONCE);
}

#[tokio::test]
async fn a_data_plane_that_never_shows_it_holds_a_stop_up_for_two_seconds() {
    let mut world = World::new();
    world.begin();
    let id = world.wants(1);
    world.until(&id, Phase::Ready).await;
    world.runtime.clear_calls();
    world.dataplane.stick();
    let begun = Instant::now();
    world.upstream.stop(&id);
    world.until_call(&Call::Kill(id.clone().into(), libc::SIGTERM)).await;
    let waited = begun.elapsed();
    assert!((1_900..5_000).contains(&waited.as_millis()), "{waited:?}");
    world.dataplane.go_on();
    world.until(&id, Phase::Gone).await;
    world.nothing_left(&id);
}

#[tokio::test]
async fn a_stop_waits_for_who_is_connected_but_not_for_ever_and_not_if_nothing_takes_its_place() {
    let mut world = World::new();
    world.begin();
    let drained = |n, seconds| {
        let mut instance = instance(n);
        instance.spec.stop.drain_seconds = seconds;
        instance
    };
    let [patient, hasty, removed] = [drained(1, 60), drained(2, 1), drained(3, 60)];
    let ids = [patient.id.clone(), hasty.id.clone(), removed.id.clone()];
    [patient, hasty, removed].into_iter().for_each(|instance| world.upstream.want(instance));
    for id in &ids {
        world.until(id, Phase::Ready).await;
    }
    world.net.set_open(2);
    world.runtime.clear_calls();
    let begun = Instant::now();
    world.upstream.stop(&ids[0]);
    world.upstream.stop(&ids[1]);
    let signalled = |id: &InstanceId| Call::Kill(id.clone().into(), libc::SIGTERM);
    world.until_call(&signalled(&ids[1])).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let mut ends = drained(3, 0);
    ends.desired = hivemind_core::model::Desired::Stop;
    world.upstream.want(ends);
    world.until_call(&signalled(&ids[2])).await;
    assert!(!world.runtime.calls().contains(&signalled(&ids[0])), "it still has connections");
    world.net.set_open(0);
    world.until_call(&signalled(&ids[0])).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    for id in &ids {
        world.until(id, Phase::Gone).await;
    }
}

#[tokio::test]
async fn a_process_that_outlives_its_signal_is_killed_after_its_grace() {
    let mut world = World::new();
    world.begin();
    let mut stubborn = instance(1);
    stubborn.spec.stop.grace_seconds = 1;
    let id = stubborn.id.clone();
    world.runtime.ignore_term(&id);
    world.upstream.want(stubborn);
    world.until(&id, Phase::Ready).await;
    world.runtime.clear_calls();
    world.upstream.stop(&id);
    world.until_call(&Call::Kill(id.clone().into(), libc::SIGTERM)).await;
    let begun = Instant::now();
    world.until_call(&Call::Kill(id.clone().into(), libc::SIGKILL)).await;
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    world.until(&id, Phase::Gone).await;
    world.nothing_left(&id);
}

/// From the end of the process to its next start.
async fn pause_after_exit(world: &mut World, id: &InstanceId) -> Duration {
    world.runtime.clear_calls();
    let ended = Instant::now();
    world.runtime.exit(id, 1, false);
    world.until_call(&Call::Start(id.clone().into())).await;
    ended.elapsed()
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_from_one_exit_to_the_next_and_begin_anew_after_a_long_run() {
    let mut world = World::paused();
    world.begin();
    let id = world.wants(1);
    world.until_call(&Call::Start(id.clone().into())).await;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pauses.push(pause_after_exit(&mut world, &id).await);
    }
    // Doubled each time, and a quarter more or less.
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert!(pauses[0] < Duration::from_millis(300) && pauses[7] > Duration::from_secs(15), "{pauses:?}");
    sleep(WELL_AFTER / 2).await;
    let grown = pause_after_exit(&mut world, &id).await;
    assert!(grown > Duration::from_secs(30), "half of the time is not enough: {grown:?}");
    sleep(WELL_AFTER + Duration::from_secs(1)).await;
    let anew = pause_after_exit(&mut world, &id).await;
    assert!(anew < Duration::from_millis(300), "{anew:?}");
}

#[tokio::test(start_paused = true)]
async fn an_exit_while_the_events_are_broken_is_seen_when_they_are_back() {
    let mut world = World::paused();
    world.begin();
    let id = world.wants(1);
    world.until(&id, Phase::Ready).await;
    world.runtime.clear_calls();
    let begun = Instant::now();
    for _ in 0..2 {
        world.journal.fail("events", Fault::Before);
    }
    // Nobody is told of the exit.
    world.runtime.break_events();
    world.runtime.exit(&id, 1, false);
    world.until_call(&Call::Start(id.clone().into())).await;
    // Two pauses before another subscription, one before the start. The next look of its own would be in 10 s.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let asked = world.journal.entries().iter().filter(|entry| entry.what == "events").count();
    assert_eq!(asked, 4, "at the beginning, twice in vain, and once more");
}

#[tokio::test]
async fn what_belongs_to_no_row_is_removed_and_what_is_wanted_is_not() {
    let mut world = World::new();
    let [wanted, link_only, lost, foreign] = [1, 2, 3, 4].map(InstanceId::from_bits);
    world.runs_already(&wanted).await;
    world.net.add_link(&link_only);
    world.runs_already(&lost).await;
    // In our namespace of the runtime, but not ours.
    world.runtime.create(&FakeRuntime::container(&foreign)).await.expect("made");
    world.runtime.clear_calls();
    world.begin();
    assert_eq!(world.wants(1), wanted);
    world.until(&wanted, Phase::Ready).await;
    for orphan in [&link_only, &lost] {
        world.until_nothing_left(orphan).await;
    }
    assert!(world.runtime.spec(&foreign).is_some());
    let mut calls = world.runtime.calls();
    calls.retain(|call| !matches!(call, Call::EnsureImage(_)));
    // Both at once: what is in order is each by itself.
    for orphan in [link_only, lost] {
        let of_it =
            |call: &mut Call| matches!(call, Call::Remove(id) | Call::RemoveLogs(id) if *id.instance() == orphan);
        let removed: Vec<_> = calls.extract_if(.., of_it).collect();
        assert_eq!(removed, [Call::Remove(orphan.clone().into()), Call::RemoveLogs(orphan.clone().into())]);
    }
    assert_eq!(calls, [], "and nothing to the one that is wanted");
    assert!(world.net.links()[&wanted].up);
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_cannot_be_removed_is_tried_again() {
    let mut world = World::paused();
    let lost = InstanceId::from_bits(3);
    world.runs_already(&lost).await;
    world.journal.fail("remove", Fault::Before);
    world.journal.fail("net.remove_link", Fault::Before);
    world.begin();
    world.until_nothing_left(&lost).await;
}

#[tokio::test]
async fn a_feed_that_breaks_changes_nothing_before_the_next_is_complete() {
    let mut world = World::new();
    world.begin();
    let [stays, goes] = [world.wants(1), world.wants(2)];
    world.until(&stays, Phase::Ready).await;
    world.until(&goes, Phase::Ready).await;
    world.runtime.clear_calls();
    world.upstream.break_feed();
    // The row goes while nobody listens, and another comes.
    world.upstream.forget(&goes);
    let comes = world.wants(3);
    world.until_open().await;
    // Time enough for one that acts on what it has heard so far.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.runtime.calls(), []);
    assert!(world.net.links().values().all(|link| link.up));
    world.upstream.finish();
    world.until(&comes, Phase::Ready).await;
    world.until_nothing_left(&goes).await;
    world.all_there(&stays).await;
    let touched =
        |call: &Call| matches!(call, Call::Kill(id, _) | Call::Remove(id) | Call::Start(id) if *id.instance() == stays);
    assert!(!world.runtime.calls().iter().any(touched), "{:?}", world.runtime.calls());
}

#[tokio::test]
async fn a_row_that_goes_without_a_stop_is_a_stop() {
    let mut world = World::new();
    world.begin();
    let id = world.wants(1);
    world.until(&id, Phase::Ready).await;
    world.upstream.forget(&id);
    world.until_nothing_left(&id).await;
    assert!(world.runtime.calls().contains(&Call::Kill(id.into(), libc::SIGTERM)));
}
