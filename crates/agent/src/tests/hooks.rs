//! Hooks: when they run, how often, and what becomes of an instance whose hooks fail.

use tokio::time::Instant;

use super::{Call, InstanceId, Phase, World, instance};
use hivemind_core::spec::v1::{HookSpec, InitSpec, RestartPolicy};

fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

/// Wants instance 1 with these hooks.
fn wants(world: &World, post_start: &[&str], pre_stop: &[&str], restart: RestartPolicy) -> InstanceId {
    let mut instance = instance(1);
    let hooks = |commands: &[&str]| commands.iter().map(|command| HookSpec::new(words(command))).collect();
    instance.spec.container.hooks.post_start = hooks(post_start);
    instance.spec.container.hooks.pre_stop = hooks(pre_stop);
    instance.spec.restart = restart;
    let id = instance.id.clone();
    world.upstream.want(instance);
    id
}

fn execs(world: &World) -> Vec<String> {
    let calls = world.runtime.calls();
    calls.iter().filter_map(|call| if let Call::Exec(_, words) = call { Some(words.join(" ")) } else { None }).collect()
}

#[tokio::test]
async fn hooks_run_once_each_also_when_the_daemon_starts_again() {
    let mut world = World::new();
    world.begin();
    let id = wants(&world, &["a 1", "b"], &["c"], RestartPolicy::Always);
    world.until(&id, Phase::Ready).await;
    assert_eq!(execs(&world), ["a 1", "b"]);
    world.end().await;
    world.begin();
    world.until_asked("state").await;
    world.upstream.stop(&id);
    world.until(&id, Phase::Gone).await;
    assert_eq!(execs(&world), ["a 1", "b", "c"]);
    let calls = world.runtime.calls();
    let at = |wanted: &Call| calls.iter().position(|call| call == wanted);
    let signal = at(&Call::Kill(id.clone().into(), libc::SIGTERM));
    assert!(at(&Call::Exec(id.clone().into(), words("c"))) < signal && signal.is_some(), "{calls:?}");
    world.nothing_left(&id);
}

#[tokio::test]
async fn a_post_start_that_fails_ends_the_instance_and_is_run_again_with_the_next_process() {
    let mut world = World::new();
    world.begin();
    world.runtime.script_exec([3]);
    let id = wants(&world, &["a", "b"], &[], RestartPolicy::Always);
    world.until_restarts(&id, 1).await;
    world.until(&id, Phase::Ready).await;
    assert_eq!(execs(&world), ["a", "a", "b"]);
}

#[tokio::test]
async fn a_post_start_that_fails_is_a_failure_however_well_the_process_ends() {
    let mut world = World::new();
    world.begin();
    world.runtime.script_exec([3]);
    let id = wants(&world, &["a"], &[], RestartPolicy::Never);
    world.until(&id, Phase::Failed).await;
    let said = world.upstream.said();
    let message = said.borrow().get(&id).map(|status| status.message.clone()).unwrap_or_default();
    assert_eq!(message, "post-start hook failed: a ended with 3: fake");
}

#[tokio::test]
async fn a_pre_stop_that_fails_does_not_hold_a_stop_up() {
    let mut world = World::new();
    world.begin();
    let id = wants(&world, &[], &["a", "b"], RestartPolicy::Always);
    world.until(&id, Phase::Ready).await;
    world.runtime.script_exec([1]);
    let begun = Instant::now();
    world.upstream.stop(&id);
    world.until(&id, Phase::Gone).await;
    assert_eq!(execs(&world), ["a", "b"]);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

/// Waits until an instance says this of itself.
async fn until_says(world: &World, id: &InstanceId, message: &str) {
    let said = world.upstream.said();
    let is = || said.borrow().get(id).is_some_and(|status| status.message == message);
    world.poll(message, is).await;
}

#[tokio::test]
async fn what_comes_before_runs_in_order_and_again_until_it_ends_well() {
    let mut world = World::new();
    world.begin();
    let mut instance = instance(1);
    let init = |image: Option<&str>, args: &str| InitSpec {
        image: image.map(str::to_owned),
        args: Some(words(args)),
        ..InitSpec::default()
    };
    instance.spec.container.hooks.pre_start = vec![init(None, "first"), init(Some("y"), "second")];
    instance.spec.user = Some("of-x".into());
    let id = instance.id.clone();
    world.upstream.want(instance);
    let runtime = world.runtime.clone();
    let made = || {
        let spec = runtime.spec(&id)?;
        Some((spec.image.reference, spec.args.unwrap_or_default().join(" "), spec.user))
    };
    let user = || Some("of-x".to_owned());

    until_says(&world, &id, "pre-start 1 of 2 runs").await;
    assert_eq!(made(), Some(("x".into(), "first".into(), user())));
    world.runtime.exit(&id, 1, false);
    world.until_restarts(&id, 1).await;
    until_says(&world, &id, "pre-start 1 of 2 runs").await;
    // A daemon that starts again knows which one it is.
    world.end().await;
    world.runtime.exit(&id, 0, false);
    world.begin();
    until_says(&world, &id, "pre-start 2 of 2 runs").await;
    assert_eq!(made(), Some(("y".into(), "second".into(), None)), "a user of one image is none of another's");
    world.runtime.exit(&id, 0, false);
    world.until(&id, Phase::Ready).await;
    assert_eq!(made(), Some(("x".into(), String::new(), user())));
    // The app alone is started again.
    world.runtime.exit(&id, 1, false);
    world.until_restarts(&id, 2).await;
    world.until(&id, Phase::Ready).await;
    assert_eq!(made(), Some(("x".into(), String::new(), user())));
}
