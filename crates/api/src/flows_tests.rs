//! Flows by name.

use hivemind_ebpf::reason::Reason;

use std::sync::Arc;

use hivemind_ebpf::packet;

use super::*;
use crate::flow_view::FlowVerdict;
use hivemind_agent::datapath::Names;
use hivemind_core::{
    model::{
        Addresses, AppKey, ClusterSnapshot, Desired, Instance, InstanceId, Node, PolicyKey, Protocol, Row, Scope,
        Service, ServiceKey, ServicePort, Timestamp,
    },
    spec::v1::AppSpec,
};
use hivemind_dataplane::flows::{DropRecord, FlowEnd, FlowRecord};
use hivemind_policy::{Compiled, Direction, PolicyRef, RuleName};

/// `web` and `client` of `default/default`, `spy` of the tenant `other`, and the service `web` as number 3. The rule 7
/// is one of a policy's; the node is 192.0.2.1.
pub(crate) fn who() -> Who {
    let mut snapshot = ClusterSnapshot::at(1);
    for (n, (tenant, app)) in [("default", "web"), ("default", "client"), ("other", "spy")].into_iter().enumerate() {
        let scope = Scope::default_of(tenant.parse().expect("a name"));
        let id = InstanceId::from_bits(n as u64 + 1);
        let instance = Instance {
            id: id.clone(),
            app: AppKey::new(scope, app.parse().expect("a name")),
            generation: 1,
            spec: AppSpec::new("x"),
            node: "here".parse().expect("a name"),
            addresses: Addresses { v4: Some([10, 88, 0, n as u8 + 2].into()), v6: None },
            desired: Desired::Run,
            contents: hivemind_core::model::ContentVersions::default(),
            created_at: Timestamp::default(),
        };
        snapshot.set_instance(&id, Some(Row { object: Arc::new(instance), modified: 1 }));
    }
    let key = ServiceKey::new(Scope::default(), "web".parse().expect("a name"));
    let service = Service {
        key: key.clone(),
        id: 3,
        addresses: Addresses { v4: Some([10, 96, 0, 1].into()), v6: None },
        dns_names: Vec::new(),
        networks: Default::default(),
        ports: vec![ServicePort { port: 80, target: 80, protocol: Protocol::Tcp, published: Some(8080) }],
        app: AppKey::new(Scope::default(), "web".parse().expect("a name")),
        balance: Default::default(),
        shares: Default::default(),
        created_at: Timestamp::default(),
    };
    snapshot.set_service(&key, Some(Row { object: Arc::new(service), modified: 1 }));
    let policy = PolicyRef::Namespace(PolicyKey::new(Scope::default(), "closed".parse().expect("a name")));
    let rule = RuleName { policy, direction: Direction::In, index: 2 };
    let mut policies = Compiled::default();
    policies.names = [(7, rule)].into();
    let devices = [(9, InstanceId::from_bits(1))].into();
    let trials = [((9, Direction::In), vec![trial()])].into();
    let names = Names {
        policies: Arc::new(policies),
        retired: Arc::new([(8, RuleName { policy: trial(), direction: Direction::In, index: 4 })].into()),
        trials: Arc::new(trials),
        devices,
        addresses: vec![[192, 0, 2, 1].into()],
    };
    Who::new(Arc::new(snapshot), names, Vec::new(), "here".parse().expect("a name"))
}

fn trial() -> PolicyRef {
    PolicyRef::Namespace(PolicyKey::new(Scope::default(), "trial".parse().expect("a name")))
}

fn end(address: [u8; 4], port: u16) -> FlowEnd {
    FlowEnd { address: address.into(), port, packets: 1, bytes: 60 }
}

fn flow(from: [u8; 4], to: [u8; 4]) -> FlowRecord {
    FlowRecord {
        from: end(from, 40_000),
        to: end(to, 80),
        protocol: packet::TCP,
        asked: None,
        service: 0,
        rule: 0,
        first: Timestamp::default(),
        last: Timestamp::default(),
        answered: true,
        closed: false,
    }
}

fn drops(ends: Option<([u8; 4], [u8; 4])>, rule: u32) -> DropRecord {
    DropRecord {
        ends: ends.map(|(from, to)| ((from, 40_000).into(), (to, 80).into())),
        protocol: packet::TCP,
        device: 9,
        direction: Direction::In,
        reason: Reason::PolicyIn,
        rule,
        packets: 4,
        bytes: 240,
        first: Timestamp::default(),
        last: Timestamp::default(),
    }
}

const WEB: [u8; 4] = [10, 88, 0, 2];
const CLIENT: [u8; 4] = [10, 88, 0, 3];
const SPY: [u8; 4] = [10, 88, 0, 4];

#[test]
fn ends_services_and_rules_have_their_names() {
    let who = who();
    let view = who.flow(FlowKind::Live, &FlowRecord { service: 3, rule: 7, ..flow(CLIENT, WEB) });
    assert!(view.from.who.starts_with("client-") && view.to.app.as_deref() == Some("web"), "{view:?}");
    assert_eq!((view.policy.as_deref(), view.rule), (Some("default/default/closed"), Some(2)));
    assert_eq!((view.service.as_deref(), view.protocol.as_str()), (Some("default/default/web"), "tcp"));
    let outside = who.flow(FlowKind::Live, &flow([192, 0, 2, 1], [198, 51, 100, 1]));
    assert_eq!((outside.from.who.as_str(), outside.to.who.as_str()), ("host", "world"));
    let asked = DropRecord { direction: Direction::Out, ..drops(Some((CLIENT, [10, 96, 0, 1])), 0) };
    assert_eq!(who.dropped(&asked).to.who, "service");
    let denied = who.dropped(&drops(Some((SPY, WEB)), 7));
    let dropped = denied.dropped.expect("dropped");
    assert!(dropped.at.starts_with("web-") && dropped.direction == "in" && dropped.reason == "policy-in");
    assert_eq!((denied.rule, denied.from.packets, denied.from.tenant.as_deref()), (Some(2), 4, Some("other")));
    let unread = who.dropped(&drops(None, 0));
    let spoofed = who.dropped(&DropRecord { direction: Direction::Out, ..drops(Some(([203, 0, 113, 9], SPY)), 0) });
    assert!(spoofed.from.app.as_deref() == Some("web") && spoofed.from.address == Some([203, 0, 113, 9].into()));
    assert!(unread.from.who == "unknown" && unread.to.app.as_deref() == Some("web"), "{unread:?}");
}

#[test]
fn the_node_is_known_by_the_addresses_that_its_instances_know_it_by() {
    let mut who = who();
    let node = Node {
        name: "here".parse().expect("a name"),
        instances_v4: Some("10.88.0.0/16".parse().expect("a range")),
        instances_v6: Some("fd68:6d00:0:1::/64".parse().expect("a range")),
        created_at: Timestamp::default(),
    };
    let name = node.name.clone();
    Arc::make_mut(&mut who.snapshot).nodes.insert(name, Row { object: Arc::new(node), modified: 1 });
    for (address, is) in [
        ("10.88.0.1", "host"),
        ("fd68:6d00:0:1::1", "host"),
        ("::1", "host"),
        ("10.88.0.9", "gone"),
        ("fd68:6d00:0:1::9", "gone"),
        ("fd68:6d00:0:2::1", "world"),
    ] {
        let found = who.end(address.parse().expect("an address"), 53, (0, 0));
        assert_eq!(found.who, is, "{address}");
    }
}

#[test]
fn every_filter_leaves_out_what_does_not_fit() {
    let who = who();
    let all = [
        who.flow(FlowKind::Live, &FlowRecord { service: 3, ..flow(CLIENT, WEB) }),
        who.dropped(&drops(Some((SPY, WEB)), 7)),
        who.flow(FlowKind::Live, &flow(SPY, [198, 51, 100, 1])),
    ];
    let web = InstanceId::from_bits(1);
    for (query, expected) in [
        ("{}", vec![0, 1, 2]),
        (r#"{"tenant": "other"}"#, vec![1, 2]),
        (r#"{"tenant": "default"}"#, vec![0, 1]),
        (r#"{"tenant": "default", "app": "spy"}"#, vec![]),
        (r#"{"tenant": "third"}"#, vec![]),
        (r#"{"namespace": "default", "app": "web"}"#, vec![0, 1]),
        (&format!(r#"{{"instance": "{web}"}}"#), vec![0, 1]),
        (r#"{"address": "198.51.100.1"}"#, vec![2]),
        (r#"{"from": "client"}"#, vec![0]),
        (r#"{"from": "other/default/spy", "to": "default/web"}"#, vec![1]),
        (r#"{"from": "a/other/default/spy"}"#, vec![]),
        (r#"{"to": "world"}"#, vec![2]),
        (r#"{"to": "10.88.0.2"}"#, vec![0, 1]),
        (r#"{"port": 80, "protocol": "TCP"}"#, vec![0, 1, 2]),
        (r#"{"port": 40000}"#, vec![0, 1, 2]),
        (r#"{"port": 81}"#, vec![]),
        (r#"{"protocol": "udp"}"#, vec![]),
        (r#"{"verdict": "forwarded"}"#, vec![0, 2]),
        (r#"{"reason": "policy-in"}"#, vec![1]),
        (r#"{"reason": "policy-out"}"#, vec![]),
    ] {
        let args: FlowArgs = serde_json::from_str(query).expect("filters");
        let got: Vec<usize> = (0..all.len()).filter(|n| args.wants(&all[*n])).collect();
        assert_eq!(got, expected, "{query}");
    }
}

#[test]
fn who_decided_is_said_also_of_what_is_gone() {
    let who = who();
    let by = |reason, rule| {
        let view = who.dropped(&DropRecord { reason, ..drops(Some((SPY, WEB)), rule) });
        view.by.unwrap_or_default()
    };
    assert_eq!(by(Reason::PolicyIn, 7), "rule 2 of policy default/default/closed");
    assert_eq!(by(Reason::PolicyIn, 8), "rule 4 of policy default/default/trial", "one that was removed since");
    assert_eq!(by(Reason::PolicyIn, 99), "a rule that is gone");
    assert_eq!(by(Reason::PolicyIn, 0), "no rule allows it");
    assert_eq!(by(Reason::HostIn, 0), "no rule allows it");
    assert_eq!(by(Reason::NoSuchPort, 0), "");
    let tried = who.dropped(&DropRecord { reason: Reason::Audit, ..drops(Some((SPY, WEB)), 0) });
    assert_eq!((tried.kind, tried.verdict), (FlowKind::Tried, FlowVerdict::Forwarded));
    assert_eq!(tried.by.as_deref(), Some("policy default/default/trial, on trial"));
    assert_eq!(tried.policy.as_deref(), Some("default/default/trial"));
}

#[test]
fn what_is_of_the_host_or_of_a_published_port_is_found() {
    let who = who();
    let host = [192, 0, 2, 1];
    let mut at = drops(Some(([192, 0, 2, 9], host)), 0);
    (at.device, at.reason) = (0, Reason::SourceRange);
    let view = who.dropped(&DropRecord { ends: at.ends.map(|(from, _)| (from, (host, 8080).into())), ..at });
    assert_eq!(view.by.as_deref(), Some("source ranges of service default/default/web"));
    let own = who.dropped(&DropRecord { reason: Reason::HostIn, ..at });
    for (query, published, hosts) in [
        ("{}", true, true),
        (r#"{"to": "host"}"#, true, true),
        (r#"{"tenant": "default", "namespace": "default"}"#, true, false),
        (r#"{"tenant": "default", "app": "web"}"#, true, false),
        (r#"{"tenant": "default", "namespace": "default", "host": true}"#, true, true),
        (r#"{"tenant": "other"}"#, false, false),
        (r#"{"tenant": "default", "app": "client", "host": true}"#, false, false),
    ] {
        let args: FlowArgs = serde_json::from_str(query).expect("filters");
        assert_eq!((args.wants(&view), args.wants(&own)), (published, hosts), "{query}");
    }
}

#[test]
fn what_kernels_say_at_their_start_is_told_apart() {
    let who = who();
    let is = |from: &str, to: &str, kind: u16, reason| {
        let at = |address: &str, port| std::net::SocketAddr::new(address.parse().expect("an address"), port);
        let ends = Some((at(from, 0), at(to, kind)));
        let record = DropRecord { ends, protocol: packet::ICMPV6, direction: Direction::Out, reason, ..drops(None, 0) };
        who.dropped(&record).housekeeping
    };
    assert!(is("::", "ff02::1:ff00:2", 135, Reason::SpoofedAddress), "whether its address is free");
    assert!(is("::", "ff02::16", 143, Reason::SpoofedAddress));
    assert!(is("fe80::1", "ff02::2", 133, Reason::Multicast), "a question for routers");
    assert!(!is("fe80::1", "ff02::1", 128, Reason::Multicast), "a ping of everybody");
    assert!(!is("fd00::1", "ff02::2", 133, Reason::SpoofedAddress), "an address that is not its own");
    assert!(!is("::", "fd00::1", 135, Reason::SpoofedAddress));
    assert!(!is("::", "ff02::16", 143, Reason::PolicyOut));
}

#[test]
fn names_that_nobody_has_are_told_from_those_of_somebody() {
    let who = who();
    for known in ["web", "default/web", "default/default/web", "world", "host", "192.0.2.77"] {
        assert!(super::super::flow_args::is_somebody(who.snapshot(), known, true), "{known}");
    }
    for nobody in ["nosuch", "other/web", "eb", ""] {
        assert!(!super::super::flow_args::is_somebody(who.snapshot(), nobody, true), "{nobody}");
    }
}
