//! Links that somebody else takes away.

use super::world::{World, instance};
use hivemind_core::{
    model::{InstanceId, Phase},
    spec::v1::RestartPolicy,
};
use hivemind_fakes::runtime::Call;

/// An instance that runs and is Ready, in paused time.
async fn ready(restart: RestartPolicy) -> (World, InstanceId) {
    let mut world = World::paused();
    world.begin();
    let mut wanted = instance(1);
    wanted.spec.restart = restart;
    let id = wanted.id.clone();
    world.upstream.want(wanted);
    world.until(&id, Phase::Ready).await;
    world.runtime.clear_calls();
    (world, id)
}

fn said(world: &World, reason: &str) -> Vec<String> {
    let (events, _) = world.events.after(0);
    events.into_iter().filter(|event| event.reason == reason).map(|event| event.message).collect()
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_device_is_removed_is_started_again_on_another() {
    let (world, id) = ready(RestartPolicy::Always).await;
    let before = world.net.links()[&id].host.ifindex;
    world.net.lose(&id);
    world.until(&id, Phase::Backoff).await;
    let status = world.upstream.said().borrow()[&id].clone();
    assert!(status.message.contains("was removed by somebody else"), "{}", status.message);
    world.until(&id, Phase::Ready).await;
    world.all_there(&id).await;
    assert_eq!(world.runtime.calls().first(), Some(&Call::Kill(id.clone().into(), libc::SIGTERM)));
    assert_eq!(world.upstream.said().borrow()[&id].restarts, 1);
    assert_ne!(world.net.links()[&id].host.ifindex, before);
    assert_eq!(said(&world, "LinkLost").len(), 1, "{:?}", said(&world, "LinkLost"));
    assert_eq!(world.metrics.repairs().get("link"), Some(&1));
    world.in_order();
}

#[tokio::test(start_paused = true)]
async fn what_runs_once_gets_another_device_as_it_runs_and_one_that_is_down_comes_up() {
    let (world, id) = ready(RestartPolicy::Never).await;
    world.net.lose(&id);
    world.until_link(&id).await;
    world.all_there(&id).await;
    assert!(said(&world, "LinkLost")[0].ends_with("it gets a new one"));
    world.net.set_down(&id);
    world.until_link(&id).await;
    assert_eq!(said(&world, "LinkDown").len(), 1);
    let repairs = world.metrics.repairs();
    assert_eq!((repairs.get("link"), repairs.get("device")), (Some(&1), Some(&1)));
    assert_eq!(world.runtime.calls(), [], "the process runs on");
}
