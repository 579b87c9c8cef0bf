//! Updates, played through: how many there are at every moment, what they wait for, and how they end.

use proptest::prelude::*;

use super::{
    super::{history::KEPT, *},
    world::World,
};
use hivemind_core::{
    model::{App, Cause, Desired, ErrorCode, InstanceStatus, Outcome, Phase, RolloutState, Undone},
    spec::v1::{AppSpec, OnFailure, Order, Portion, UpdateSpec},
};

impl World {
    /// Changes an app as `control` does, with the rows of its history.
    fn change_app(&mut self, cause: Cause, undone: Option<Undone>, change: impl FnOnce(&mut App)) -> AppKey {
        let before = self.snapshot.apps.values().next().map(|row| (*row.object).clone());
        let key = self.deploy("web", change);
        let after = (*self.snapshot.apps[&key].object).clone();
        let now = Timestamp::from_millis(self.now);
        let rows = history::recorded(&self.snapshot, before.as_ref(), &after, cause, undone, now);
        self.apply(&rows);
        key
    }

    fn update(&mut self, change: impl FnOnce(&mut AppSpec)) -> AppKey {
        let first = self.snapshot.apps.is_empty();
        self.change_app(Cause::Deployed, None, |app| {
            change(&mut app.spec);
            app.generation += u64::from(!first);
        })
    }

    /// Takes a failed generation back, as `control` does.
    fn recover(&mut self, app: &AppKey, reason: &str) {
        let rollout = (*self.snapshot.rollouts[app].object).clone();
        let good = rollout.good.expect("something to go back to");
        let spec = self.snapshot.past[&(app.clone(), good)].object.spec.clone();
        let undone = Undone { generation: rollout.generation, reason: reason.into() };
        self.change_app(Cause::Recovered(good), Some(undone), |app| {
            app.spec = AppSpec { replicas: app.spec.replicas, ..spec };
            app.generation += 1;
        });
    }

    fn state(&self, app: &AppKey) -> RolloutState {
        self.snapshot.rollouts[app].object.state
    }

    /// New ones that run, as the app's row names them.
    fn newest(&self, app: &AppKey) -> Vec<std::sync::Arc<hivemind_core::model::Instance>> {
        let generation = self.snapshot.apps[app].object.generation;
        self.running(app).into_iter().filter(|instance| instance.generation == generation).collect()
    }

    /// A status since now.
    fn say(&mut self, id: &InstanceId, phase: Phase, code: Option<ErrorCode>) {
        let ready_since = (phase == Phase::Ready).then(|| Timestamp::from_millis(self.now));
        let status =
            InstanceStatus { phase, code, ready_since, message: "so it is".into(), ..InstanceStatus::default() };
        self.snapshot.instance_status.insert(id.clone(), super::row(status));
    }

    /// Everything that stops is gone, and every instance of another phase than Ready becomes it.
    fn come_and_go(&mut self, app: &AppKey) {
        for instance in self.instances(app) {
            let stops = instance.desired == Desired::Stop;
            if stops {
                self.say(&instance.id, Phase::Gone, None);
            } else if self.snapshot.phase_of(&instance.id) != Phase::Ready {
                self.say(&instance.id, Phase::Ready, None);
            }
        }
    }
}

/// Three instances of a generation that is in place.
fn three(update: UpdateSpec) -> (World, AppKey) {
    let mut world = World::new();
    let app = world.update(|spec| {
        spec.replicas = 3;
        spec.update = update;
    });
    world.settle(&app);
    world.come_and_go(&app);
    world.now += 100_000;
    world.settle(&app);
    assert_eq!(world.state(&app), RolloutState::Complete);
    (world, app)
}

fn change(world: &mut World) {
    world.update(|spec| {
        spec.args = Some(vec![spec.args.as_ref().map_or(0, |args| args[0].len()).to_string().repeat(2)])
    });
}

#[test]
fn stop_first_waits_until_the_old_one_is_gone() {
    let (mut world, app) = three(UpdateSpec { order: Order::StopFirst, ..UpdateSpec::default() });
    change(&mut world);
    world.settle(&app);
    assert_eq!((world.running(&app).len(), world.newest(&app).len()), (2, 0), "one is told to go, none is made yet");
    for expected in 1..=3 {
        world.come_and_go(&app);
        world.settle(&app);
        assert_eq!(world.newest(&app).len(), expected);
        assert!(world.instances(&app).len() <= 3, "never more than asked for");
        world.come_and_go(&app);
        world.settle(&app);
    }
    assert_eq!(world.state(&app), RolloutState::Complete);
}

#[test]
fn a_new_one_counts_when_it_has_been_ready_long_enough_and_the_next_waits_for_the_pause() {
    let (mut world, app) = three(UpdateSpec { min_ready_seconds: 10, delay_seconds: 30, ..UpdateSpec::default() });
    change(&mut world);
    world.settle(&app);
    world.come_and_go(&app);
    assert!(world.plan(&app).changes.is_empty(), "it is Ready, but not for long enough");
    let again = world.plan(&app).again_at.expect("a time");
    assert!((again.as_millis() - world.now).abs() <= 10_000);
    world.now += 10_000;
    world.settle(&app);
    assert_eq!((world.running(&app).len(), world.newest(&app).len()), (3, 1), "an old one is gone for it, no more");
    world.now += 29_000;
    world.settle(&app);
    assert_eq!(world.newest(&app).len(), 1);
    world.now += 1_000;
    world.settle(&app);
    assert_eq!(world.newest(&app).len(), 2);
    assert_eq!(world.plan(&app).failed, None, "the pauses do not make it late");
}

#[test]
fn what_does_not_come_up_is_taken_back_to_those_that_still_run() {
    let (mut world, app) = three(UpdateSpec::default());
    let old = world.ids(&app);
    change(&mut world);
    world.settle(&app);
    let broken = world.newest(&app)[0].id.clone();
    world.say(&broken, Phase::Backoff, Some(ErrorCode::RegistryDown));
    assert_eq!(world.plan(&app).failed, None, "a registry may be back in a moment");
    world.say(&broken, Phase::Backoff, Some(ErrorCode::ImageNotFound));
    let plan = world.plan(&app);
    assert!(plan.failed.as_ref().is_some_and(|why| why.contains("so it is")), "{plan:?}");
    assert!(plan.changes.is_empty());
    world.recover(&app, "so it is");
    world.settle(&app);
    assert_eq!(world.ids(&app), old, "those that served go on");
    assert!(world.running(&app).iter().all(|instance| instance.generation == 3));
    let rollout = world.snapshot.rollouts[&app].object.clone();
    assert_eq!((rollout.state, rollout.good), (RolloutState::Complete, Some(3)));
    assert_eq!(rollout.undone.as_ref().map(|undone| undone.generation), Some(2));
    let outcomes: Vec<_> = world.snapshot.past_of(&app).map(|past| past.outcome.clone()).collect();
    assert_eq!(outcomes, [Outcome::Complete, Outcome::Failed("so it is".into()), Outcome::Complete]);
    let row = world.snapshot.apps[&app].object.clone();
    let target = history::target(&world.snapshot, &row, None);
    assert!(target.is_err(), "what has failed is nothing to go back to: {target:?}");
}

#[test]
fn what_is_put_back_and_fails_as_well_is_held() {
    let (mut world, app) = three(UpdateSpec::default());
    change(&mut world);
    world.ids(&app).iter().for_each(|id| world.say(id, Phase::Failed, None));
    world.recover(&app, "why");
    world.settle(&app);
    assert_eq!(world.state(&app), RolloutState::Paused);
    assert!(world.snapshot.rollouts[&app].object.message.contains("is failed: so it is"));
    assert_eq!(world.running(&app).len(), 3, "nothing is made again and again");
}

#[test]
fn an_update_that_is_late_has_failed_unless_it_fetches() {
    let (mut world, app) = three(UpdateSpec { progress_seconds: 10, ..UpdateSpec::default() });
    change(&mut world);
    world.settle(&app);
    let new = world.newest(&app)[0].id.clone();
    world.say(&new, Phase::Pulling, None);
    for _ in 0..10 {
        world.now += 5_000;
        world.settle(&app);
    }
    world.say(&new, Phase::Starting, None);
    assert_eq!(world.plan(&app).failed, None, "fetching is not counted");
    world.now += 10_000;
    let why = world.plan(&app).failed.expect("late");
    assert!(why.contains("for 10 s") && why.contains("is starting: so it is"), "{why}");
}

#[test]
fn neither_a_time_without_a_daemon_nor_a_clock_that_is_set_makes_an_update_late() {
    let (mut world, app) = three(UpdateSpec { progress_seconds: 10, min_ready_seconds: 5, ..UpdateSpec::default() });
    change(&mut world);
    world.settle(&app);
    let new = world.newest(&app)[0].id.clone();
    world.say(&new, Phase::Starting, None);
    world.now += 1_000_000;
    world.since = Timestamp::from_millis(world.now);
    assert_eq!(world.plan(&app).failed, None, "the next daemon has just begun");
    world.come_and_go(&app);
    world.now -= 500_000;
    world.since = Timestamp::from_millis(world.now);
    world.settle(&app);
    assert_eq!(world.newest(&app).len(), 2, "what was Ready before stays so");
    world.say(&new, Phase::Starting, None);
    world.now += 16_000;
    assert!(world.plan(&app).failed.is_some(), "late is late all the same");
}

#[test]
fn held_and_tried_on_as_was_asked() {
    for (on_failure, state) in
        [(OnFailure::Pause, RolloutState::Paused), (OnFailure::Continue, RolloutState::Progressing)]
    {
        let (mut world, app) = three(UpdateSpec { on_failure, ..UpdateSpec::default() });
        let old = world.ids(&app);
        change(&mut world);
        world.settle(&app);
        let new = world.newest(&app)[0].id.clone();
        world.say(&new, Phase::Failed, None);
        world.settle(&app);
        assert_eq!(world.state(&app), state);
        assert!(world.snapshot.rollouts[&app].object.message.contains("so it is"));
        assert!(old.is_subset(&world.ids(&app)) && world.ids(&app).len() == 4, "all is as it was");
        if state == RolloutState::Paused {
            world.deploy("web", |app| app.spec.replicas = 5);
            world.settle(&app);
            let former = world.running(&app).iter().filter(|instance| instance.generation == 1).count();
            assert_eq!((former, world.newest(&app).len()), (4, 1), "what is missing is made as it was before");
            world.deploy("web", |app| app.spec.replicas = 1);
            world.come_and_go(&app);
            world.say(&new, Phase::Failed, None);
            world.settle(&app);
            assert_eq!(world.ready(&app), 1);
        }
        world.say(&new, Phase::Ready, None);
        change(&mut world);
        for _ in 0..10 {
            world.settle(&app);
            world.come_and_go(&app);
        }
        assert_eq!(world.state(&app), RolloutState::Complete, "the next change goes on");
    }
}

#[test]
fn two_changes_in_a_row_end_at_the_second_and_a_failure_goes_back_to_what_was_in_place() {
    let (mut world, app) = three(UpdateSpec::default());
    change(&mut world);
    world.settle(&app);
    world.come_and_go(&app);
    world.settle(&app);
    change(&mut world);
    world.settle(&app);
    assert_eq!(world.snapshot.rollouts[&app].object.good, Some(1));
    for _ in 0..10 {
        world.come_and_go(&app);
        world.settle(&app);
    }
    assert!(world.running(&app).len() == 3 && world.newest(&app).len() == 3);
    assert_eq!(world.snapshot.rollouts[&app].object.good, Some(3));
    let row = world.snapshot.apps[&app].object.clone();
    assert_eq!(history::target(&world.snapshot, &row, None).map(|past| past.generation), Ok(1), "2 never was");
    assert_eq!(
        history::target(&world.snapshot, &row, Some(2)).map(|past| past.generation),
        Ok(2),
        "but who asks gets it"
    );
    let error = history::target(&world.snapshot, &row, Some(9)).expect_err("there is none");
    assert_eq!(error.kept, [1, 2, 3]);
}

#[test]
fn the_history_is_bounded_and_keeps_what_was_in_place() {
    let (mut world, app) = three(UpdateSpec::default());
    for _ in 0..30 {
        change(&mut world);
    }
    let kept: Vec<_> = world.snapshot.past_of(&app).map(|past| past.generation).collect();
    assert_eq!(kept.len(), KEPT + 1, "{kept:?}");
    assert_eq!((kept[0], kept[1], kept[KEPT]), (1, 22, 31), "the last that was in place is not forgotten");
    world.deploy("web", |app| app.deleting = true);
    world.settle(&app);
    world.come_and_go(&app);
    world.settle(&app);
    assert!(world.snapshot.past.is_empty() && world.snapshot.rollouts.is_empty());
}

#[test]
fn what_an_older_version_has_left_of_an_app_is_not_the_next_ones() {
    let (mut world, app) = three(UpdateSpec::default());
    change(&mut world);
    world.snapshot.set_app(&app, None);
    world.update(|spec| spec.replicas = 1);
    let kept: Vec<_> = world.snapshot.past_of(&app).map(|past| (past.generation, past.spec.replicas)).collect();
    assert_eq!(kept, [(1, 1)]);
    assert_eq!(world.snapshot.rollouts[&app].object.good, None);
}

#[test]
fn each_generation_serves_its_own_ports() {
    let ports = |text: &str| vec![text.parse().expect("a port")];
    let mut world = World::new();
    let app = world.update(|spec| {
        spec.replicas = 2;
        spec.ports = ports("8080:80");
    });
    world.settle(&app);
    world.come_and_go(&app);
    world.settle(&app);
    world.update(|spec| spec.ports = ports("8080:81"));
    world.settle(&app);
    let served = |world: &World| {
        let service = world.snapshot.services.values().next().expect("a service").object.clone();
        let served = world.snapshot.served(&service);
        let targets = |backend| served.ports_of(backend).iter().map(|port| port.target).collect::<Vec<_>>();
        let all: Vec<_> = service.ports.iter().map(|port| port.target).collect();
        (all, served.backends.iter().map(targets).collect::<Vec<_>>())
    };
    assert_eq!(served(&world), (vec![81, 80], vec![vec![80]; 2]), "the new one is not Ready yet");
    world.come_and_go(&app);
    let (all, mut backends) = served(&world);
    backends.sort();
    assert_eq!((all, backends), (vec![81, 80], vec![vec![80], vec![80], vec![81]]));
    for _ in 0..10 {
        world.settle(&app);
        world.come_and_go(&app);
    }
    world.settle(&app);
    assert_eq!(served(&world), (vec![81], vec![vec![81]; 2]));
    let service = world.snapshot.services.values().next().expect("a service").object.clone();
    assert!(
        world.snapshot.served(&service).backends.iter().all(|backend| backend.ports.is_none()),
        "nothing is to be said"
    );
    // Without any, there is a service as long as somebody serves it.
    world.update(|spec| spec.ports = Vec::new());
    world.settle(&app);
    assert_eq!(served(&world), (vec![81], vec![vec![81]; 2]));
    for _ in 0..10 {
        world.come_and_go(&app);
        world.settle(&app);
    }
    assert!(world.snapshot.services.is_empty());
}

fn updates() -> impl Strategy<Value = UpdateSpec> {
    let portion = || prop_oneof![(0u32..4).prop_map(Portion::Count), (0u32..101).prop_map(Portion::Percent)];
    let part = || proptest::option::of(portion());
    (any::<bool>(), part(), part(), 0u32..3, 0u32..3).prop_map(
        |(stop_first, max_surge, max_unavailable, ready, delay)| UpdateSpec {
            order: if stop_first { Order::StopFirst } else { Order::StartFirst },
            max_surge,
            max_unavailable,
            min_ready_seconds: ready,
            delay_seconds: delay,
            ..UpdateSpec::default()
        },
    )
}

proptest! {
    /// However an update is to go, and in whatever order things happen: never more than may be, never fewer that serve
    /// than must, and it ends.
    #[test]
    fn every_update_keeps_its_bounds_and_ends(update in updates(), replicas in 1u32..7, order in proptest::collection::vec((0usize..12, any::<bool>()), 0..60)) {
        let mut world = World::new();
        let app = world.update(|spec| { spec.replicas = replicas; spec.update = update.clone(); });
        world.settle(&app);
        world.come_and_go(&app);
        world.now += 10_000;
        world.settle(&app);
        change(&mut world);
        let all = replicas as usize;
        let room = update.room(all);
        let check = |world: &World| {
            let (ready, running, there) = (world.ready(&app), world.running(&app).len(), world.instances(&app).len());
            prop_assert!(ready >= all - room.unavailable, "{ready} of {all} serve, {room:?}");
            prop_assert!(running <= all + room.surge, "{running} for {all}, {room:?}");
            if update.order == Order::StopFirst {
                prop_assert!(there <= all + room.surge, "{there} for {all}, those that go with them, {room:?}");
            }
            Ok(())
        };
        for (n, happens) in order {
            let plan = world.plan(&app);
            prop_assert_eq!(&plan.failed, &None);
            world.apply(&plan.changes);
            check(&world)?;
            world.now += 500;
            let there = world.instances(&app);
            let Some(instance) = there.get(n).filter(|_| happens) else { continue };
            if instance.desired == Desired::Stop {
                world.say(&instance.id, Phase::Gone, None);
            } else if world.snapshot.phase_of(&instance.id) != Phase::Ready {
                world.say(&instance.id, Phase::Ready, None);
            }
        }
        for _ in 0..60 {
            world.settle(&app);
            check(&world)?;
            world.come_and_go(&app);
            world.now += 1_000;
        }
        prop_assert_eq!(world.state(&app), RolloutState::Complete);
        prop_assert_eq!(world.newest(&app).len(), all);
        prop_assert_eq!(world.instances(&app).len(), all);
    }
}
