//! The decisions, played through on a cluster that is only a snapshot.

mod depends;
mod rollouts;
mod services;
mod world;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use proptest::prelude::*;

use super::*;
use hivemind_core::model::{Bytes, Desired, InstanceStatus, NodeStatus, Phase, PortProto};
use world::{World, row};

#[test]
fn a_deploy_makes_as_many_as_were_asked_for_and_a_second_plan_nothing() {
    let mut world = World::new();
    let app = world.deploy("web", |app| app.spec.replicas = 3);
    assert!(world.settle(&app).is_empty());
    assert_eq!(world.instances(&app).len(), 3);
    world.agent(&app);
    world.settle(&app);
    assert_eq!(world.plan(&app), Plan::default());
}

#[test]
fn scaling_keeps_what_serves_and_stops_the_useless_then_the_youngest() {
    let mut world = World::new();
    let app = world.deploy("web", |app| app.spec.replicas = 2);
    world.settle(&app);
    world.agent(&app);
    let oldest = world.ids(&app);
    world.deploy("web", |app| app.spec.replicas = 4);
    world.settle(&app);
    assert!(oldest.is_subset(&world.ids(&app)));
    let young: Vec<_> = world.ids(&app).difference(&oldest).cloned().collect();
    world.phase(&young[0], Phase::Ready);
    world.phase(&young[1], Phase::Backoff);

    world.deploy("web", |app| app.spec.replicas = 3);
    world.settle(&app);
    assert!(!world.ids(&app).contains(&young[1]), "the one that serves nobody goes first");
    world.deploy("web", |app| app.spec.replicas = 2);
    world.settle(&app);
    assert_eq!(world.ids(&app), oldest, "then the youngest");
    world.deploy("web", |app| app.spec.replicas = 0);
    world.settle(&app);
    assert!(world.ids(&app).is_empty());
}

#[test]
fn a_generation_that_never_comes_up_takes_nothing_down() {
    let mut world = World::new();
    let app = world.deploy("web", |app| app.spec.replicas = 3);
    world.settle(&app);
    world.agent(&app);
    let old = world.ids(&app);
    world.deploy("web", |app| app.generation = 2);
    for _ in 0..10 {
        world.settle(&app);
        for instance in world.running(&app).iter().filter(|instance| instance.generation == 2) {
            world.phase(&instance.id, Phase::Backoff);
        }
    }
    assert!(old.is_subset(&world.ids(&app)));
    assert_eq!(world.ids(&app).len(), 4, "one more than asked for tries to come up");
}

#[test]
fn what_serves_nobody_makes_room_for_what_is_to_replace_it() {
    let mut world = World::new();
    let app = world.deploy("web", |app| app.spec.resources.cpu = "4".parse().ok());
    world.settle(&app);
    let broken = world.ids(&app);
    broken.iter().for_each(|id| world.phase(id, Phase::Backoff));
    world.deploy("web", |app| app.generation = 2);
    assert_eq!(world.settle(&app).len(), 1, "the broken one still holds all CPUs");
    assert!(world.ids(&app).is_empty(), "but it is told to go");
    world.agent(&app);
    assert!(world.settle(&app).is_empty());
    assert!(world.ids(&app).len() == 1 && world.ids(&app).is_disjoint(&broken));
}

#[test]
fn what_has_done_its_work_is_in_its_place() {
    let mut world = World::new();
    let app = world.deploy("job", |app| app.spec.replicas = 2);
    for generation in 1..4 {
        world.deploy("job", |app| app.generation = generation);
        for _ in 0..10 {
            world.settle(&app);
            for instance in world.instances(&app) {
                let done = instance.desired == Desired::Run;
                world.phase(&instance.id, if done { Phase::Completed } else { Phase::Gone });
            }
        }
        world.settle(&app);
        let all = world.instances(&app);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all.iter().all(|instance| instance.generation == generation));
    }
}

#[test]
fn what_fits_nowhere_is_not_made_and_every_node_says_why() {
    let mut world = World::new();
    world.node("node-2", "10.88.1.0/24", 500, 8 << 30);
    world.node("node-3", "10.88.2.0/24", 0, 0);
    let away = NodeStatus { message: "containerd does not answer".into(), ..NodeStatus::default() };
    world.status(&"node-3".parse().expect("a name"), away);
    let app = world.deploy("web", |app| {
        app.spec.replicas = 3;
        app.spec.resources.cpu = "2".parse().ok();
    });
    let unmet = world.settle(&app);
    assert_eq!(world.instances(&app).len(), 2, "two of two CPUs fit on node-1");
    assert_eq!(unmet.len(), 3, "{unmet:?}");
    assert!(unmet[..].concat().contains("node-2: 2000m CPU wanted, 500m of 500m"), "{unmet:?}");
    assert!(unmet[..].concat().contains("node-3: not ready: containerd does not answer"), "{unmet:?}");

    let hungry = world.deploy("hungry", |app| app.spec.resources.memory = Some(Bytes(9 << 30)));
    assert!(world.settle(&hungry).concat().contains("9216 MiB of memory wanted"));
    // What goes makes room, and what had no room comes.
    let small = world.deploy("small", |app| app.spec.resources.cpu = "1".parse().ok());
    assert_eq!(world.settle(&small).len(), 3);
    world.deploy("web", |app| app.spec.replicas = 1);
    world.settle(&app);
    assert_eq!(world.settle(&small).len(), 3, "one that is still stopping holds its place");
    world.agent(&app);
    world.settle(&app);
    assert!(world.settle(&small).is_empty());
    assert_eq!(world.instances(&small).len(), 1);
}

#[test]
fn instances_spread_over_nodes() {
    let mut world = World::new();
    world.node("node-2", "10.88.1.0/24", 4000, 8 << 30);
    let app = world.deploy("web", |app| app.spec.replicas = 6);
    world.settle(&app);
    let on = |name: &str| world.instances(&app).iter().filter(|i| i.node.as_str() == name).count();
    assert_eq!((on("node-1"), on("node-2")), (3, 3));
    for instance in world.instances(&app) {
        let net = if instance.node.as_str() == "node-1" { "10.88.0.0/24" } else { "10.88.1.0/24" };
        let net: ipnet::Ipv4Net = net.parse().expect("a range");
        assert!(net.contains(&instance.addresses.v4.expect("dual stack")), "an address is its node's");
    }
}

#[test]
fn removal_leaves_no_row() {
    let mut world = World::new();
    let before = world.snapshot.clone();
    let app = world.deploy("web", |app| {
        app.spec.replicas = 3;
        app.spec.services = vec!["web.local".into()];
        app.spec.ports = vec!["8080:80".parse().expect("a port")];
    });
    world.settle(&app);
    world.agent(&app);
    assert_eq!(world.snapshot.services.len(), 1);
    world.deploy("web", |app| app.deleting = true);
    world.settle(&app);
    assert!(world.snapshot.services.is_empty(), "nobody is sent to an app that goes");
    assert!(world.snapshot.apps.contains_key(&app), "the app's row stays until nothing of it is left");
    world.agent(&app);
    world.settle(&app);
    assert!(world.snapshot.apps.is_empty() && world.snapshot.instances.is_empty());
    assert_eq!(world.snapshot.held_addresses(), before.held_addresses());
    assert_eq!(
        (world.snapshot.app_named("web.local"), world.snapshot.app_publishing(8080, Default::default())),
        (None, None)
    );
}

#[test]
fn a_service_keeps_its_number_and_addresses_and_no_number_comes_again() {
    let mut world = World::new();
    let mut seen = BTreeSet::new();
    for round in 0..3 {
        let app = world.deploy("web", |app| app.spec.services = vec!["web.local".into()]);
        world.settle(&app);
        let service = world.snapshot.services.values().next().expect("a service").object.clone();
        assert!(seen.insert(service.id) && seen.len() == round + 1, "the number {} was used before", service.id);
        world.deploy("web", |app| app.spec.services.push("WWW.local".into()));
        world.settle(&app);
        let after = world.snapshot.services.values().next().expect("a service").object.clone();
        assert_eq!((after.id, after.addresses), (service.id, service.addresses));
        assert_eq!(after.dns_names, ["web.local", "www.local"]);
        world.deploy("web", |app| app.deleting = true);
        world.settle(&app);
        world.agent(&app);
        world.settle(&app);
        world.deploy("web", |app| app.deleting = false);
    }
}

#[test]
fn without_declared_ports_a_service_has_those_of_the_image() {
    let mut world = World::new();
    let app = world.deploy("web", |app| app.spec.services = vec!["web.local".into()]);
    world.settle(&app);
    let id = world.instances(&app)[0].id.clone();
    let exposed = vec![PortProto { port: 80, protocol: hivemind_core::model::Protocol::Tcp }];
    let status = InstanceStatus { exposed, ..InstanceStatus::default() };
    world.snapshot.instance_status.insert(id, row(status));
    world.settle(&app);
    let service = &world.snapshot.services.values().next().expect("a service").object;
    assert_eq!(service.ports.iter().map(|port| (port.port, port.target)).collect::<Vec<_>>(), [(80, 80)]);
}

#[test]
fn ranges_that_are_used_up_are_said_and_nothing_is_made() {
    let mut world = World::new();
    world.services = ServiceRanges { v4: "10.96.0.0/30".parse().ok(), v6: None };
    world.node("node-1", "10.88.0.0/29", 4000, 8 << 30);
    let one = world.deploy("one", |app| app.spec.services = vec!["one.local".into()]);
    assert!(world.settle(&one).is_empty());
    let two = world.deploy("two", |app| {
        app.spec.services = vec!["two.local".into()];
        app.spec.replicas = 9;
    });
    let unmet = world.settle(&two);
    assert!(unmet.concat().contains("10.88.0.0/29") && unmet.concat().contains("10.96.0.0/30"), "{unmet:?}");
    assert_eq!(world.instances(&two).len(), 4, "five addresses of eight are for instances, one is taken");
    assert_eq!(world.snapshot.services.len(), 1);
}

/// What may happen between two plans.
#[derive(Clone, Debug)]
enum Happens {
    /// The n-th instance gets this phase, if it may.
    Phase(usize, Phase),
    Scale(u32),
    Renew,
    Remove,
    Deploy,
}

fn happens() -> impl Strategy<Value = Happens> {
    let phase = proptest::sample::select(
        &[Phase::Ready, Phase::Backoff, Phase::Starting, Phase::Failed, Phase::Completed, Phase::Gone][..],
    );
    prop_oneof![
        12 => (0usize..12, phase).prop_map(|(n, phase)| Happens::Phase(n, phase)),
        2 => (0u32..6).prop_map(Happens::Scale),
        2 => Just(Happens::Renew),
        1 => Just(Happens::Remove),
        1 => Just(Happens::Deploy),
    ]
}

proptest! {

    /// Whatever happens: no plan takes more from service than was asked to go, no address is given twice, and in the
    /// end there is what was asked for and nothing else.
    #[test]
    fn every_history_ends_as_asked_for(history in proptest::collection::vec(happens(), 0..60)) {
        let mut world = World::new();
        let app = world.deploy("web", |app| {
            app.spec.replicas = 3;
            app.spec.services = vec!["web.local".into()];
        });
        for event in history {
            match event {
                Happens::Phase(n, phase) => {
                    let all = world.instances(&app);
                    let Some(instance) = all.get(n) else { continue };
                    // An agent says "gone" of nothing that should run.
                    if phase != Phase::Gone || instance.desired == Desired::Stop {
                        world.phase(&instance.id, phase);
                    }
                }
                Happens::Scale(replicas) if world.snapshot.apps.contains_key(&app) => {
                    world.deploy("web", |app| app.spec.replicas = replicas);
                }
                Happens::Renew if world.snapshot.apps.contains_key(&app) => {
                    world.deploy("web", |app| app.generation += 1);
                }
                Happens::Remove if world.snapshot.apps.contains_key(&app) => {
                    world.deploy("web", |app| app.deleting = true);
                }
                Happens::Deploy => {
                    world.deploy("web", |app| {
                        app.generation += u64::from(app.deleting);
                        app.deleting = false;
                    });
                }
                _ => continue,
            }
            let (in_place, before) = (world.in_place(&app), world.running(&app).len());
            let plan = world.plan(&app);
            world.apply(&plan.changes);
            let wanted = world.snapshot.apps.get(&app).map_or(0, |row| if row.object.deleting { 0 } else { row.object.spec.replicas as usize });
            let left = world.in_place(&app);
            prop_assert!(left >= in_place.min(wanted), "{left} of {in_place} are left in place, {wanted} are wanted");
            prop_assert!(world.running(&app).len() <= before.max(wanted + 1), "{} run, {wanted} are wanted", world.running(&app).len());
            let mut addresses = BTreeSet::new();
            for instance in world.instances(&app) {
                for address in instance.addresses.iter() {
                    prop_assert!(addresses.insert(address), "{address} was given twice");
                }
            }
            for service in world.snapshot.services.values() {
                prop_assert!(service.object.addresses.iter().all(|ip: IpAddr| addresses.insert(ip)));
            }
        }
        for _ in 0..40 {
            world.settle(&app);
            world.agent(&app);
        }
        prop_assert_eq!(world.settle(&app), Vec::<String>::new());
        let row = world.snapshot.apps.get(&app).map(|row| Arc::clone(&row.object));
        let all = world.instances(&app);
        match row {
            Some(row) => {
                prop_assert_eq!(all.len(), row.spec.replicas as usize);
                prop_assert!(all.iter().all(|i| i.generation == row.generation && i.desired == Desired::Run));
                prop_assert_eq!(world.snapshot.services.len(), usize::from(!row.spec.services.is_empty()));
            }
            None => prop_assert!(all.is_empty() && world.snapshot.services.is_empty()),
        }
    }
}
