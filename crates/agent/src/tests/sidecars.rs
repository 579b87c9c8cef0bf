//! Instances with sidecars: in which order their containers begin and end, and what one does to the others.

use std::time::Duration;

use tokio::time::sleep;

use super::{Call, InstanceId, Phase, World, instance};
use hivemind_core::{
    model::{ContainerId, Instance, InstanceStatus},
    spec::v1::{Check, InitSpec, ProbeSpec, RestartPolicy, SidecarSpec},
};
use hivemind_fakes::runtime::FakeRuntime;
use hivemind_runtime::Runtime;

fn sidecar(name: &str) -> SidecarSpec {
    SidecarSpec::new(name.parse().expect("a name"), "y")
}

fn container(id: &InstanceId, name: &str) -> ContainerId {
    ContainerId::of_sidecar(id.clone(), name.parse().expect("a name"))
}

/// Wants instance 1 with the sidecars `a` and `b`.
fn wants(world: &World, change: impl FnOnce(&mut Instance)) -> InstanceId {
    let mut instance = instance(1);
    instance.spec.sidecars = vec![sidecar("a"), sidecar("b")];
    change(&mut instance);
    let id = instance.id.clone();
    world.upstream.want(instance);
    id
}

fn status(world: &World, id: &InstanceId) -> InstanceStatus {
    world.upstream.said().borrow().get(id).cloned().unwrap_or_default()
}

/// The starts and the first signals, in order, by the containers' names.
fn course(world: &World) -> Vec<String> {
    let name = |id: &ContainerId| id.sidecar().map_or_else(|| "app".to_owned(), ToString::to_string);
    let said = |call: Call| match call {
        Call::Start(id) => Some(format!("+{}", name(&id))),
        Call::Kill(id, libc::SIGTERM) => Some(format!("-{}", name(&id))),
        _ => None,
    };
    world.runtime.calls().into_iter().filter_map(said).collect()
}

#[tokio::test(start_paused = true)]
async fn they_begin_in_order_before_the_app_and_end_in_the_reverse_one_after_it() {
    let mut world = World::paused();
    world.begin();
    let id = wants(&world, |_| {});
    world.until(&id, Phase::Ready).await;
    assert_eq!(course(&world), ["+a", "+b", "+app"]);
    let spec = |id: ContainerId| world.runtime.spec(id).expect("a container");
    let (app, a) = (spec((&id).into()), spec(container(&id, "a")));
    assert_eq!((&app.netns, &app.hostname, &app.addresses), (&a.netns, &a.hostname, &a.addresses));
    assert_eq!(app.resolv_conf, a.resolv_conf);
    assert_eq!(a.image.reference, "y");
    world.runtime.clear_calls();
    world.upstream.stop(&id);
    world.until(&id, Phase::Gone).await;
    assert_eq!(course(&world), ["-app", "-b", "-a"]);
    world.nothing_left(&id);
}

#[tokio::test(start_paused = true)]
async fn the_next_waits_for_a_startup_probe_and_what_comes_before_the_app_for_none() {
    let mut world = World::paused();
    world.begin();
    let check = Check::Exec { command: vec!["check".into()] };
    let probe = ProbeSpec { period_ms: 1_000, failure_threshold: 100, ..ProbeSpec::new(check) };
    let id = wants(&world, |instance| {
        instance.spec.sidecars[0].probes.startup = Some(probe);
        instance.spec.container.hooks.pre_start = vec![InitSpec::default()];
    });
    world.until_call(&Call::Start((&id).into())).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(course(&world), ["+app"], "what comes before the app runs, and nothing beside it");
    world.runtime.script_exec([1; 100]);
    world.runtime.exit(&id, 0, false);
    world.until_call(&Call::Start(container(&id, "a"))).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(course(&world), ["+app", "+a"]);
    assert_eq!(status(&world, &id).message, "waits for its sidecar a: startup probe: the command ended with 1: fake");
    world.until(&id, Phase::Ready).await;
    assert_eq!(course(&world), ["+app", "+a", "+b", "+app"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_is_started_again_by_itself_and_the_instance_is_not_ready_meanwhile() {
    let mut world = World::paused();
    world.begin();
    let id = wants(&world, |_| {});
    world.until(&id, Phase::Ready).await;
    world.runtime.clear_calls();
    world.runtime.exit(container(&id, "a"), 137, true);
    world.until(&id, Phase::NotReady).await;
    let now = status(&world, &id);
    assert!(now.message.starts_with("sidecar a: killed by the kernel"), "{}", now.message);
    let exit = now.sidecars[&"a".parse().expect("a name")].last_exit.clone().expect("an end");
    assert!(exit.oom && now.last_exit.is_none(), "the end is the sidecar's own: {now:?}");
    world.until(&id, Phase::Ready).await;
    assert_eq!(course(&world), ["+a"], "nothing else is touched");
    let now = status(&world, &id);
    assert_eq!((now.restarts, now.sidecars[&"a".parse().expect("a name")].restarts), (0, 1));
    // And the app by itself, too.
    world.runtime.clear_calls();
    world.runtime.exit(&id, 1, false);
    world.until_restarts(&id, 1).await;
    world.until(&id, Phase::Ready).await;
    assert_eq!(course(&world), ["+app"]);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_ends_while_a_sidecar_is_down_is_started_again_without_it() {
    let mut world = World::paused();
    world.begin();
    let id = wants(&world, |instance| instance.spec.sidecars[0].restart = RestartPolicy::Never);
    world.until(&id, Phase::Ready).await;
    world.runtime.exit(container(&id, "a"), 1, false);
    world.until(&id, Phase::NotReady).await;
    world.runtime.clear_calls();
    world.runtime.exit(&id, 1, false);
    world.until_call(&Call::Start((&id).into())).await;
    assert_eq!(course(&world), ["+app"]);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_starts_again_finds_all_as_it_is() {
    let mut world = World::paused();
    world.begin();
    let id = wants(&world, |_| {});
    world.until(&id, Phase::Ready).await;
    world.end().await;
    world.runtime.clear_calls();
    world.begin();
    let mut said = world.upstream.said();
    said.borrow_and_update();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(course(&world), Vec::<String>::new());
    assert!(
        world.runtime.calls().iter().all(|call| matches!(call, Call::EnsureImage(_))),
        "{:?}",
        world.runtime.calls()
    );
    assert_eq!(status(&world, &id).phase, Phase::Ready);
    // One that ends while nobody is there is started again.
    world.end().await;
    world.runtime.exit(container(&id, "b"), 1, false);
    world.begin();
    world.until_call(&Call::Start(container(&id, "b"))).await;
    world.until(&id, Phase::Ready).await;
    assert_eq!(course(&world), ["+b"]);
}

#[tokio::test(start_paused = true)]
async fn sidecars_of_an_app_that_is_done_end() {
    let mut world = World::paused();
    world.begin();
    let id = wants(&world, |instance| instance.spec.restart = RestartPolicy::Never);
    world.until(&id, Phase::Ready).await;
    world.runtime.exit(&id, 0, false);
    world.until(&id, Phase::Completed).await;
    world.poll("their end", || world.runtime.containers() == [ContainerId::from(&id)]).await;
    assert_eq!(status(&world, &id).phase, Phase::Completed);
    // As a daemon finds it that starts again.
    world.end().await;
    world.begin();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.runtime.containers(), [ContainerId::from(&id)]);
    world.upstream.stop(&id);
    world.until(&id, Phase::Gone).await;
    world.nothing_left(&id);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_removed_starts_all_again_on_another() {
    let mut world = World::paused();
    world.begin();
    let id = wants(&world, |_| {});
    world.until(&id, Phase::Ready).await;
    world.runtime.clear_calls();
    world.net.lose(&id);
    world.poll("all started again", || course(&world).iter().filter(|step| step.starts_with('+')).count() == 3).await;
    world.until(&id, Phase::Ready).await;
    world.all_there(&id).await;
    let now = status(&world, &id);
    assert!(now.restarts == 1 && now.sidecars.values().all(|it| it.restarts == 1), "{now:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_the_middle_of_a_start_leaves_nothing() {
    let mut world = World::paused();
    world.begin();
    let check = Check::Exec { command: vec!["check".into()] };
    world.runtime.script_exec([1; 1000]);
    let probe = ProbeSpec { period_ms: 1_000, failure_threshold: 1000, ..ProbeSpec::new(check) };
    let id = wants(&world, |instance| instance.spec.sidecars[0].probes.startup = Some(probe));
    world.until_call(&Call::Start(container(&id, "a"))).await;
    world.upstream.stop(&id);
    world.until(&id, Phase::Gone).await;
    assert_eq!(course(&world), ["+a", "-a"]);
    world.nothing_left(&id);
}

#[tokio::test]
async fn what_nobody_knows_is_removed_with_its_sidecars() {
    let mut world = World::new();
    let id = InstanceId::from_bits(9);
    world.runs_already(&id).await;
    let mut spec = FakeRuntime::container(container(&id, "a"));
    spec.labels.insert(super::super::worker::LABEL_APP.into(), "default/default/web".into());
    world.runtime.create(&spec).await.expect("made");
    world.begin();
    world.until_nothing_left(&id).await;
}
