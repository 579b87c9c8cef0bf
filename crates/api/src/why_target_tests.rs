//! Whom is meant, and what is said of them.

use std::sync::Arc;

use super::*;
use hivemind_core::{
    model::{Addresses, Desired, InstanceStatus, Protocol, Row, Timestamp},
    spec::v1::{AppSpec, BalanceSpec},
};

const TCP: PolicyProtocol = PolicyProtocol::Tcp;

fn app(name: &str) -> AppKey {
    AppKey::new(Scope::default(), name.parse().expect("a name"))
}

/// `web`, two instances of which the second is not Ready, and `spy`; the service `web`, `web.local`, 10.96.0.2, port 81 to
/// 80, published as 8080 for 10.0.0.0/8.
fn cluster() -> ClusterSnapshot {
    let mut snapshot = ClusterSnapshot::at(1);
    for (n, name, phase) in [(1, "web", Phase::Ready), (2, "web", Phase::Starting), (3, "spy", Phase::Ready)] {
        let mut spec = AppSpec::new("x");
        spec.limits.connections = (name == "web").then_some(2);
        let id = InstanceId::from_bits(n);
        let instance = Instance {
            id: id.clone(),
            app: app(name),
            generation: 1,
            spec,
            node: "here".parse().expect("a name"),
            addresses: Addresses { v4: Some([10, 88, 0, n as u8].into()), v6: None },
            desired: Desired::Run,
            contents: hivemind_core::model::ContentVersions::default(),
            created_at: Timestamp::default(),
        };
        snapshot.set_instance(&id, Some(Row { object: Arc::new(instance), modified: 1 }));
        let status = InstanceStatus { phase, message: "GET / says 503".into(), ..InstanceStatus::default() };
        snapshot.instance_status.insert(id, Row { object: Arc::new(status), modified: 1 });
    }
    let key = ServiceKey::new(Scope::default(), "web".parse().expect("a name"));
    let service = Service {
        key: key.clone(),
        id: 3,
        addresses: Addresses { v4: Some([10, 96, 0, 2].into()), v6: None },
        dns_names: vec!["web.local".into()],
        networks: Default::default(),
        ports: vec![ServicePort { port: 81, target: 80, protocol: Protocol::Tcp, published: Some(8080) }],
        app: app("web"),
        balance: BalanceSpec { source_ranges: vec!["10.0.0.0/8".parse().expect("a block")], ..BalanceSpec::default() },
        shares: Default::default(),
        created_at: Timestamp::default(),
    };
    snapshot.set_service(&key, Some(Row { object: Arc::new(service), modified: 1 }));
    snapshot
}

fn facts(from: End, to: &str, port: u16, open: u64) -> Facts {
    let snapshot = cluster();
    let target = target(&snapshot, &Scope::default(), to, TCP, port).expect("somebody");
    let usage = Usage { connections: [0, open], refused: [0, 3], ..Usage::default() };
    let uses = [(User::Instance(InstanceId::from_bits(1)), usage)];
    Facts::new(&snapshot, &uses, &from, &target, TCP, port)
}

fn web() -> End {
    End::Instance(InstanceId::from_bits(1))
}

fn spy() -> End {
    End::Instance(InstanceId::from_bits(3))
}

#[test]
fn a_service_is_meant_by_its_names_and_addresses() {
    let snapshot = cluster();
    let key = ServiceKey::new(Scope::default(), "web".parse().expect("a name"));
    let of = |word, port| target(&snapshot, &Scope::default(), word, TCP, port).expect("somebody");
    for word in ["web.local", "WEB.local", "web.default.default.hivemind", "10.96.0.2"] {
        assert_eq!(of(word, 81), Target::Service(key.clone()), "{word}");
    }
    assert_eq!(of("host", 8080), Target::Published(key));
    assert_eq!(of("host", 8081), Target::End(End::Node));
    assert_eq!(of("web", 80), Target::End(web()), "an app goes before a service of its name");
    assert!(of("192.0.2.9", 80).is_outside());
    assert!(target(&snapshot, &Scope::default(), "wep.local", TCP, 80).is_err());
    assert!(end(&snapshot, &Scope::default(), "10.96.0.2").is_err(), "a service begins nothing");
}

#[test]
fn a_service_leads_to_who_serves_it() {
    let found = facts(spy(), "web.local", 81, 0);
    assert_eq!(found.ends, [(web(), 80)], "who is not Ready serves nobody");
    assert!(
        found.legs.is_empty() && found.notes[0].contains("port 81/tcp of service default/default/web leads to port 80")
    );
    let none = facts(spy(), "web.local", 80, 0);
    assert_eq!((none.legs[0].passes, none.legs[0].says.as_str()), (false, "it has no port 80/tcp; it has 81/tcp"));
}

#[test]
fn source_ranges_decide_about_published_ports() {
    for (client, passes) in [([192, 168, 77, 2], false), ([10, 9, 9, 9], true)] {
        let found = facts(End::Outside(client.into()), "host", 8080, 0);
        assert_eq!((found.legs.len(), found.legs[0].passes), (1, passes), "{:?}", found.legs);
        assert!(found.legs[0].says.ends_with("source ranges: 10.0.0.0/8"), "{:?}", found.legs);
        assert_eq!(found.ends, [(End::Published, 8080), (web(), 80)]);
    }
}

#[test]
fn limits_are_said_with_how_full_they_are() {
    let room = facts(spy(), "web", 80, 1);
    assert!(!room.full && room.notes.iter().any(|note| note.contains("1 of 2 connections that it has accepted")));
    let full = facts(spy(), "web.local", 81, 2);
    let said = "2 of 2 connections that it has accepted are open, so another one is refused now; 3 were refused so far";
    assert!(full.full && full.notes.iter().any(|note| note.contains(said)), "{:?}", full.notes);
}

#[test]
fn who_is_not_ready_and_what_nobody_names_is_said() {
    let waits = End::Instance(InstanceId::from_bits(2));
    let snapshot = cluster();
    let found = Facts::new(&snapshot, &[], &spy(), &Target::End(waits), TCP, 9999);
    assert!(found.notes[0].ends_with("is not Ready but starting: GET / says 503"), "{:?}", found.notes);
    assert!(
        found.notes[1].contains("port 9999/tcp of app default/default/web: whether anybody listens"),
        "{:?}",
        found.notes
    );
    let served = Facts::new(&snapshot, &[], &spy(), &Target::End(web()), TCP, 80);
    assert!(served.notes.iter().all(|note| note.starts_with("limits")), "{:?}", served.notes);
}
