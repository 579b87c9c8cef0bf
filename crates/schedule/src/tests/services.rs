//! Services of an app: its own, and others.

use super::{world::World, *};
use hivemind_core::{
    model::{Addresses, App, Service},
    spec::v1::ServiceSpec,
};

/// A service with these ports.
fn serving(ports: &[&str]) -> ServiceSpec {
    let ports = ports.iter().map(|port| port.parse().expect("a port")).collect();
    ServiceSpec { ports, ..ServiceSpec::default() }
}

fn named(app: &mut App, name: &str, ports: &[&str]) {
    app.spec.more_services.insert(name.parse().expect("a name"), serving(ports));
}

fn service(world: &World, name: &str) -> Option<Service> {
    world.snapshot.services.values().map(|row| &*row.object).find(|service| service.key.name.as_str() == name).cloned()
}

#[test]
fn each_service_has_a_number_addresses_and_ports_of_its_own() {
    let mut world = World::new();
    let before = world.snapshot.held_addresses().clone();
    let app = world.deploy("web", |app| {
        app.spec.ports = vec!["80".parse().expect("a port")];
        named(app, "admin", &["8081:80", "53/udp"]);
        named(app, "more", &["80"]);
    });
    world.settle(&app);
    let all: Vec<_> = world.snapshot.services_of(&app).cloned().collect();
    let distinct = |each: &dyn Fn(&Service) -> String| all.iter().map(|one| each(one)).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct(&|one| one.id.to_string()), distinct(&|one| format!("{:?}", one.addresses))), (3, 3));
    let admin = service(&world, "admin").expect("a service");
    let ports: Vec<_> = admin.ports.iter().map(|port| (port.port, port.target, port.published)).collect();
    assert_eq!(ports, [(8081, 80, None), (53, 53, None)]);
    let ids = world.ids(&app);
    world.deploy("web", |app| {
        app.spec.more_services.clear();
        named(app, "more", &["81:80"]);
    });
    world.settle(&app);
    assert_eq!((world.ids(&app), service(&world, "admin")), (ids, None));
    let more = service(&world, "more").expect("a service");
    assert_eq!(more.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [81], "not what it was before, too");
    assert!(world.instances(&app).iter().all(|one| one.spec.more_services.len() == 1), "instances know of it");
    world.agent(&app);
    world.deploy("web", |app| app.deleting = true);
    world.settle(&app);
    world.agent(&app);
    world.settle(&app);
    assert_eq!(world.snapshot.services_of(&app).count(), 0);
    assert_eq!(*world.snapshot.held_addresses(), before);
}

#[test]
fn headless_is_without_addresses_and_can_be_left() {
    let mut world = World::new();
    let app = world.deploy("db", |app| app.spec.headless = true);
    world.settle(&app);
    let headless = service(&world, "db").expect("a service");
    assert!(headless.is_headless());
    let ids = world.ids(&app);
    world.deploy("db", |app| {
        app.spec.headless = false;
        app.spec.services = vec!["db.local".into()];
    });
    world.settle(&app);
    let with = service(&world, "db").expect("a service");
    assert!(with.addresses.v4.is_some() && with.addresses.v6.is_some() && with.id == headless.id);
    world.deploy("db", |app| app.spec.headless = true);
    world.settle(&app);
    assert_eq!(service(&world, "db").map(|service| service.addresses), Some(Addresses::default()));
    let held = world.snapshot.held_addresses();
    assert!(with.addresses.v4.is_some_and(|address| !held.v4.contains(&address)), "the address is free again");
    assert_eq!(world.ids(&app), ids, "no instance was replaced");
}

#[test]
fn while_an_app_is_changed_each_generation_serves_its_own_ports() {
    let mut world = World::new();
    let app = world.deploy("web", |app| named(app, "admin", &["80:8080"]));
    world.settle(&app);
    world.agent(&app);
    world.settle(&app);
    world.deploy("web", |app| {
        app.generation += 1;
        app.spec.image = "web:2".into();
        named(app, "admin", &["80:9090"]);
    });
    world.settle(&app);
    let admin = service(&world, "admin").expect("a service");
    let targets: Vec<_> = admin.ports.iter().map(|port| port.target).collect();
    assert_eq!(targets, [9090, 8080], "what serves is still reached");
    let served = world.snapshot.served(&admin);
    let of: Vec<_> =
        served.backends.iter().flat_map(|backend| served.ports_of(backend)).map(|one| one.target).collect();
    assert_eq!(of, [8080]);
}

#[test]
fn a_name_that_another_app_has_still_is_waited_for() {
    let mut world = World::new();
    let first = world.deploy("web", |app| named(app, "admin", &["80"]));
    world.settle(&first);
    let other = world.deploy("admin", |app| app.spec.ports = vec!["80".parse().expect("a port")]);
    let plan = world.plan(&other);
    assert!(plan.unmet.concat().contains("of app web still") && plan.again_at.is_some(), "{:?}", plan.unmet);
    let gone = service(&world, "admin").expect("web's").key;
    world.snapshot.set_service(&gone, None);
    world.deploy("web", |app| app.spec.more_services.clear());
    assert!(world.settle(&other).is_empty());
    assert_eq!(service(&world, "admin").map(|service| service.app), Some(other));
}
