//! Apps that come first.

use super::{
    world::{World, key, row},
    *,
};
use hivemind_core::{
    model::{App, InstanceStatus, Phase},
    spec::v1::{Condition, Dependency},
};

impl World {
    /// What an agent says of all instances of an app.
    fn say_all(&mut self, app: &AppKey, phase: Phase) {
        for instance in self.instances(app) {
            let status =
                InstanceStatus { phase, started_at: Some(Timestamp::from_millis(1)), ..InstanceStatus::default() };
            self.snapshot.instance_status.insert(instance.id.clone(), row(status));
        }
    }
}

#[test]
fn the_first_instance_waits_for_those_that_come_first_and_further_ones_do_not() {
    for (condition, before, after, words) in [
        (Condition::Started, Phase::Pulling, Phase::Starting, "waits for db to be started"),
        (Condition::Healthy, Phase::Starting, Phase::Ready, "waits for db to be ready"),
        (Condition::Completed, Phase::Ready, Phase::Completed, "waits for db to complete"),
    ] {
        let mut world = World::new();
        let depends = |app: &mut App| {
            app.spec.depends_on = [("db".parse().expect("a name"), Dependency { condition, restart: false })].into();
        };
        let web = world.deploy("web", depends);
        assert_eq!(world.plan(&web).waits, ["waits for db, which is not there"]);
        assert_eq!(world.snapshot.dependents_of(&key("db")).collect::<Vec<_>>(), [&web]);
        let db = world.deploy("db", |_| {});
        world.settle(&db);
        world.say_all(&db, before);
        if before == Phase::Pulling {
            // Nobody has started it yet.
            world.snapshot.instance_status.clear();
        }
        let plan = world.plan(&web);
        assert_eq!((plan.waits, plan.changes), (vec![words.to_owned()], vec![]));
        world.say_all(&db, after);
        world.settle(&web);
        assert_eq!(world.running(&web).len(), 1, "{condition:?}");
        // What comes first may fail later: who runs is scaled all the same.
        world.say_all(&db, Phase::Failed);
        world.deploy("web", |app| app.spec.replicas = 3);
        assert!(world.plan(&web).waits.is_empty());
        world.settle(&web);
        assert_eq!(world.running(&web).len(), 3);
        // A new generation waits again, and the one before goes on.
        world.say_all(&web, Phase::Ready);
        for instance in world.instances(&db) {
            world.snapshot.instance_status.remove(&instance.id);
        }
        world.deploy("web", |app| app.generation += 1);
        assert_eq!(world.plan(&web).waits.len(), 1);
        world.settle(&web);
        assert_eq!(world.running(&web).len(), 3, "who serves goes on");
        // Of what no instance is wanted nobody waits for one.
        world.deploy("db", |app| app.spec.replicas = 0);
        assert!(world.plan(&web).waits.is_empty());
    }
}
