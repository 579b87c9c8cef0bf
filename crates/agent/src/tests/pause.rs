//! Instances that stand still by request.

use std::time::Duration;

use tokio::time::sleep;

use super::{Call, Phase, Runtime, World, instance};
use hivemind_core::spec::v1::{Check, InitSpec, ProbeSpec};

#[tokio::test(start_paused = true)]
async fn nobody_asks_a_paused_instance_and_it_is_asked_again_when_it_goes_on() {
    let mut world = World::paused();
    world.begin();
    let mut asked = instance(1);
    let check = Check::Exec { command: vec!["check".into()] };
    asked.spec.probes.liveness = Some(ProbeSpec { period_ms: 100, ..ProbeSpec::new(check) });
    let id = asked.id.clone();
    world.upstream.want(asked);
    world.until(&id, Phase::Ready).await;
    world.runtime.pause(&(&id).into()).await.expect("paused");
    world.until(&id, Phase::Paused).await;
    world.runtime.clear_calls();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.runtime.calls(), []);
    // Another daemon leaves it as it is.
    world.end().await;
    world.begin();
    world.until_asked("state").await;
    sleep(Duration::from_secs(60)).await;
    assert!(
        !world.runtime.calls().iter().any(|call| matches!(call, Call::Resume(_) | Call::Exec(..) | Call::Kill(..)))
    );
    world.runtime.resume(&(&id).into()).await.expect("goes on");
    world.until(&id, Phase::Ready).await;
    world.runtime.clear_calls();
    world.until_call(&Call::Exec(id.into(), vec!["check".into()])).await;
}

#[tokio::test]
async fn what_comes_before_the_app_stands_still_as_well() {
    let mut world = World::new();
    world.begin();
    let mut two = instance(1);
    two.spec.container.hooks.pre_start = vec![InitSpec::default()];
    let id = two.id.clone();
    world.upstream.want(two);
    world.until(&id, Phase::Starting).await;
    world.runtime.pause(&(&id).into()).await.expect("paused");
    world.until(&id, Phase::Paused).await;
    world.runtime.resume(&(&id).into()).await.expect("goes on");
    world.until(&id, Phase::Starting).await;
    world.runtime.exit(&id, 0, false);
    world.until(&id, Phase::Ready).await;
}

#[tokio::test]
async fn a_paused_instance_goes_on_to_be_stopped() {
    let mut world = World::new();
    world.begin();
    let id = world.wants(1);
    world.until(&id, Phase::Ready).await;
    world.runtime.pause(&(&id).into()).await.expect("paused");
    world.until(&id, Phase::Paused).await;
    world.runtime.clear_calls();
    world.upstream.stop(&id);
    world.until(&id, Phase::Gone).await;
    let expected = [
        Call::Resume(id.clone().into()),
        Call::Kill(id.clone().into(), libc::SIGTERM),
        Call::Remove(id.clone().into()),
    ];
    assert_eq!(world.runtime.calls()[..3], expected);
    world.nothing_left(&id);
}
