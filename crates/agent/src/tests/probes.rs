//! Startup, readiness and liveness, each with its own consequence.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Call, InstanceId, Phase, World, instance};
use hivemind_core::{
    model::InstanceStatus,
    spec::v1::{Check, ProbeSpec, ProbesSpec},
};

fn probe(command: &str, failure_threshold: u32) -> Option<ProbeSpec> {
    let check = Check::Exec { command: vec![command.into()] };
    Some(ProbeSpec { period_ms: 1_000, failure_threshold, ..ProbeSpec::new(check) })
}

/// Wants instance 1 with these probes.
fn wants(world: &World, probes: ProbesSpec) -> InstanceId {
    let mut instance = instance(1);
    instance.spec.probes = probes;
    let id = instance.id.clone();
    world.upstream.want(instance);
    id
}

fn asked(world: &World, command: &str) -> usize {
    let calls = world.runtime.calls();
    calls.iter().filter(|call| matches!(call, Call::Exec(_, words) if words[0] == command)).count()
}

fn status(world: &World, id: &InstanceId) -> InstanceStatus {
    world.upstream.said().borrow().get(id).cloned().unwrap_or_default()
}

fn kills(world: &World) -> usize {
    world.runtime.calls().iter().filter(|call| matches!(call, Call::Kill(..))).count()
}

#[tokio::test(start_paused = true)]
async fn the_others_wait_for_startup_which_is_asked_once_in_a_processs_life() {
    let mut world = World::paused();
    world.begin();
    world.runtime.script_exec([1; 5]);
    let probes = ProbesSpec { startup: probe("a", 100), readiness: probe("b", 1), liveness: probe("c", 1) };
    let id = wants(&world, probes);
    world.poll("six questions", || asked(&world, "a") == 6).await;
    world.until(&id, Phase::Ready).await;
    let calls = world.runtime.calls();
    let others = calls.iter().skip_while(|call| !matches!(call, Call::Exec(..))).take(6);
    assert!(others.clone().all(|call| matches!(call, Call::Exec(_, words) if words[0] == "a")), "{calls:?}");
    world.end().await;
    world.begin();
    let before = asked(&world, "c");
    world.poll("more questions", || asked(&world, "c") > before + 2).await;
    assert_eq!((asked(&world, "a"), kills(&world)), (6, 0), "another daemon knows that it has started");
    // The next process has to start anew.
    world.runtime.exit(&id, 1, false);
    world.until_restarts(&id, 1).await;
    world.until(&id, Phase::Ready).await;
    assert_eq!(asked(&world, "a"), 7);
}

#[tokio::test(start_paused = true)]
async fn a_failing_readiness_takes_it_out_and_leaves_its_process() {
    let mut world = World::paused();
    world.begin();
    world.runtime.script_exec([0, 1, 1, 1, 0]);
    let id = wants(&world, ProbesSpec { readiness: probe("a", 3), ..ProbesSpec::default() });
    world.until(&id, Phase::Ready).await;
    let begun = Instant::now();
    world.until(&id, Phase::NotReady).await;
    assert!(begun.elapsed() >= Duration::from_millis(2_900), "a single failure counts for nothing");
    assert_eq!(status(&world, &id).message, "readiness probe failed: the command ended with 1: fake");
    world.until(&id, Phase::Ready).await;
    assert_eq!((status(&world, &id).restarts, kills(&world)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failing_liveness_ends_it_while_readiness_says_nothing() {
    let mut world = World::paused();
    world.begin();
    let id = wants(&world, ProbesSpec { liveness: probe("a", 2), ..ProbesSpec::default() });
    world.until(&id, Phase::Ready).await;
    world.runtime.script_exec([1, 1]);
    world.until_restarts(&id, 1).await;
    world.until(&id, Phase::Ready).await;
    let exit = status(&world, &id).last_exit.and_then(|exit| exit.because);
    assert_eq!(exit.as_deref(), Some("liveness probe failed: the command ended with 1: fake"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(status(&world, &id).restarts, 1);
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_where_it_is_never_well_however_long_it_is_looked_at() {
    let mut world = World::paused();
    world.begin();
    world.runtime.script_exec([1; 400]);
    let id = wants(&world, ProbesSpec { startup: probe("a", 20), ..ProbesSpec::default() });
    world.until_restarts(&id, 4).await;
    // The fourth of 200, 400, 800 and 1600 ms, each a quarter more or less.
    let message = status(&world, &id).message;
    let pause = message.split("started again in ").nth(1).and_then(|text| text.strip_suffix(" s")?.parse::<f64>().ok());
    assert!(pause.is_some_and(|pause| pause > 1.0), "{message}");
}
