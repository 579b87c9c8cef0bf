//! Policies of the host: what they close, what always is open, and what is none of their business.

use super::world::*;
use crate::{
    Direction, Document, FailsafePort, HOST_RULES, PUBLISHED_TRIAL, Peer, PolicyRef, SETS, TRIAL_RULES, Verdict, judge,
    judge_host, read,
};
use hivemind_core::{model::InstanceId, spec::v1::PolicyProtocol};

const TCP: Option<PolicyProtocol> = Some(PolicyProtocol::Tcp);
const ALLOWED: Verdict = Verdict::Allowed(0);

impl World {
    fn host(&mut self, text: &str) {
        for document in read(text, &scope("x")).unwrap_or_else(|faults| panic!("{faults:#?}")) {
            let Document::Tier(key, spec) = document else { panic!("no policy of the host") };
            assert_eq!(hivemind_core::spec::v1::validate_tier(&spec), Vec::<String>::new());
            self.tier(&key.to_string(), spec);
        }
    }

    fn at_host(&self, direction: Direction, peer: Peer<'_>, port: u16) -> Verdict {
        plain(judge_host(&self.compile(), direction, peer, TCP, port))
    }

    fn comes(&self, from: &str, port: u16) -> Verdict {
        self.at_host(Direction::In, Peer::Address(name(from)), port)
    }
}

fn plain(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Allowed(_) => Verdict::Allowed(0),
        Verdict::DeniedBy(_) => Verdict::DeniedBy(0),
        Verdict::RejectedBy(_) => Verdict::RejectedBy(0),
        other => other,
    }
}

fn one() -> (World, InstanceId) {
    let mut world = World::default();
    let id = world.instance("red/x", "app=a");
    let port = |text: &str| text.parse::<FailsafePort>().expect("a port").0;
    world.failsafe.inbound.push(port("22/tcp"));
    world.failsafe.outbound.push(port("123/udp"));
    (world, id)
}

#[test]
fn only_what_is_named_is_closed_and_the_fail_safe_ports_are_not() {
    let (mut world, id) = one();
    let instance = Peer::Instance(&id, world.v4(&id));
    assert_eq!(world.compile().host, None);
    assert_eq!(world.comes("192.0.2.1", 80), Verdict::NotIsolated);
    world.host("policy: p\nhost: {}\ningress: [{from: [{block: 198.51.100.0/24}], ports: [80]}]\n");
    assert_eq!(world.comes("192.0.2.1", 80), Verdict::Denied);
    assert_eq!(world.comes("198.51.100.7", 80), ALLOWED);
    assert_eq!(world.comes("192.0.2.1", 22), Verdict::Failsafe);
    assert_eq!(world.at_host(Direction::In, instance, 22), Verdict::Denied, "instances are not locked out of anything");
    assert_eq!(world.at_host(Direction::In, instance, 53), Verdict::Failsafe, "their name server");
    assert_eq!(world.at_host(Direction::In, Peer::Host, 80), Verdict::OwnNode);
    for way in [Direction::Out, Direction::Published] {
        assert_eq!(world.at_host(way, Peer::Address(name("192.0.2.1")), 80), Verdict::NotIsolated, "{way:?}");
    }
    let other = judge(&world.compile(), &id, Direction::In, Peer::Address(name("192.0.2.1")), TCP, 80);
    assert_eq!(other, Verdict::NotIsolated, "no instance is isolated by it");
    let named = world.compile().names.into_values().filter(|rule| rule.policy == PolicyRef::Failsafe).count();
    assert_eq!(named, 2);
}

#[test]
fn what_goes_out_is_closed_towards_the_outside_only() {
    let (mut world, id) = one();
    world.host("policy: p\nhost: {}\notherwise: reject\negress: [{to: [world], ports: [443]}]\n");
    let out = |peer, protocol, port| plain(judge_host(&world.compile(), Direction::Out, peer, Some(protocol), port));
    let outside = Peer::Address(name("2001:db8::1"));
    assert_eq!(out(outside, PolicyProtocol::Tcp, 443), ALLOWED);
    assert_eq!(out(outside, PolicyProtocol::Tcp, 80), Verdict::Rejected);
    assert_eq!(out(outside, PolicyProtocol::Udp, 123), Verdict::Failsafe);
    assert_eq!(out(Peer::Instance(&id, world.v4(&id)), PolicyProtocol::Tcp, 80), Verdict::OwnNode, "health checks");
    assert_eq!(world.comes("192.0.2.1", 80), Verdict::NotIsolated);
}

#[test]
fn policies_are_one_list_and_the_silent_one_decides_about_answers() {
    let (mut world, _) = one();
    world.host("policy: b\nhost: {}\notherwise: reject\ningress: [{ports: [80]}]\n");
    assert_eq!(world.comes("192.0.2.1", 81), Verdict::Rejected);
    world.host(
        "policy: a\nhost: {}\npriority: 9\ningress: [{action: deny, from: [{block: 192.0.2.0/24}]}, {ports: [81]}]\n",
    );
    assert_eq!(world.comes("192.0.2.1", 80), Verdict::DeniedBy(0), "the lower priority is asked first");
    assert_eq!((world.comes("203.0.113.1", 80), world.comes("203.0.113.1", 81)), (ALLOWED, ALLOWED));
    assert_eq!(world.comes("203.0.113.1", 82), Verdict::Denied);
    world.host("policy: c\nhost: {nodes: [elsewhere]}\npriority: 0\ningress: [{action: reject}]\n");
    assert_eq!(world.comes("203.0.113.1", 80), ALLOWED, "another node's");
    world.host("policy: c\nhost: {nodes: [node-1]}\npriority: 0\ningress: [{action: reject}]\n");
    assert_eq!(world.comes("203.0.113.1", 80), Verdict::RejectedBy(0));
}

#[test]
fn instances_of_all_tenants_are_selected_and_everybody_is_they_too() {
    let (mut world, id) = one();
    let other = world.instance("blue/x", "app=b");
    world.host("policy: p\nhost: {}\ningress: [{from: [{instances: app=a}], ports: [9100]}, {ports: [9200]}]\n");
    let comes = |id: &InstanceId, port| world.at_host(Direction::In, Peer::Instance(id, world.v4(id)), port);
    assert_eq!((comes(&id, 9100), comes(&other, 9100)), (ALLOWED, Verdict::Denied));
    assert_eq!((comes(&id, 9200), comes(&other, 9200)), (ALLOWED, ALLOWED));
}

#[test]
fn published_ports_have_rules_of_their_own() {
    let (mut world, id) = one();
    world.host("policy: p\nhost: {}\npublished: [{from: [{block: 10.0.0.0/8}], ports: [8080]}]\n");
    let comes = |peer, port| world.at_host(Direction::Published, peer, port);
    assert_eq!(comes(Peer::Address(name("10.9.9.9")), 8080), ALLOWED);
    assert_eq!(comes(Peer::Address(name("192.0.2.1")), 8080), Verdict::Denied);
    assert_eq!(comes(Peer::Address(name("192.0.2.1")), 22), Verdict::Denied, "a published port is no fail-safe one");
    assert_eq!(comes(Peer::Instance(&id, name("10.0.0.1")), 8080), ALLOWED, "by its address");
    assert_eq!(comes(Peer::Host, 8080), Verdict::OwnNode, "from the host itself");
    assert_eq!(world.comes("192.0.2.1", 8080), Verdict::NotIsolated);
}

#[test]
fn sets_of_the_host_are_others_than_those_of_instances() {
    let (mut world, id) = one();
    world.host("policy: p\nhost: {}\ningress: []\n");
    world.policy("red/x", "q", ingress(all(), from([])));
    let compiled = world.compile();
    let (host, own) = (compiled.host.expect("a policy").sets, compiled.endpoints[&id].sets);
    assert!((0..SETS).all(|set| host[set] == 0 || !own.contains(&host[set])), "{host:?} {own:?}");
    world.host("policy: p\nhost: {}\ningress: [{ports: [1]}]\n");
    assert_ne!(world.compile().host.expect("a policy").sets, host, "a change is a new set");
}

#[test]
fn a_policy_on_trial_changes_nothing_and_says_what_it_would_deny() {
    let (mut world, id) = one();
    world.host(
        "policy: t\nhost: {}\naudit: true\ningress: [{ports: [80]}]\npublished: [{action: deny, ports: [8080]}, {}]\n",
    );
    let instance = Peer::Instance(&id, world.v4(&id));
    assert_eq!(
        (world.comes("192.0.2.1", 80), world.comes("192.0.2.1", 81)),
        (Verdict::NotIsolated, Verdict::WouldDeny)
    );
    assert_eq!(world.comes("192.0.2.1", 22), Verdict::Failsafe);
    assert_eq!(world.at_host(Direction::In, instance, 81), Verdict::WouldDeny);
    assert_eq!(world.at_host(Direction::Out, Peer::Address(name("192.0.2.1")), 81), Verdict::NotIsolated);
    let published = |world: &World, port| world.at_host(Direction::Published, Peer::Address(name("192.0.2.1")), port);
    assert_eq!((published(&world, 8080), published(&world, 8443)), (Verdict::WouldDeny, Verdict::NotIsolated));
    // Beside others: it takes its place in their order, and neither opens nor closes anything.
    world.host("policy: a\nhost: {}\npriority: 600\ningress: [{ports: ['81-82']}]\n");
    assert_eq!((world.comes("192.0.2.1", 80), world.comes("192.0.2.1", 81)), (Verdict::Denied, ALLOWED));
    world.host("policy: t\nhost: {}\naudit: true\ningress: [{action: reject, ports: [81]}, {ports: [83]}]\n");
    let comes = |port| world.comes("192.0.2.1", port);
    assert_eq!([81, 82, 83].map(comes), [Verdict::WouldDeny, ALLOWED, Verdict::Denied]);
    world.host("policy: t\nhost: {}\npriority: 700\naudit: true\ningress: [{action: reject, ports: [81]}]\n");
    assert_eq!(world.comes("192.0.2.1", 81), ALLOWED, "another rule comes first");
    let sets = world.compile().host.expect("a policy").sets;
    assert!(sets[TRIAL_RULES] != 0 && sets[PUBLISHED_TRIAL] == 0, "asked only where something is on trial: {sets:?}");
}

#[test]
fn names_of_hosts_open_what_they_stand_for_to_the_host() {
    let (mut world, _) = one();
    world.host("policy: p\nhost: {}\negress: [{to: [{dns: [registry.example.com]}], ports: [443]}]\n");
    let out = |world: &World, address, port| world.at_host(Direction::Out, Peer::Address(name(address)), port);
    assert_eq!(out(&world, "203.0.113.1", 443), Verdict::Denied, "nobody knows the name yet");
    world.known.insert("registry.example.com".into(), [name("203.0.113.1"), name("2001:db8::1")].into());
    for address in ["203.0.113.1", "2001:db8::1"] {
        assert_eq!((out(&world, address, 443), out(&world, address, 80)), (ALLOWED, Verdict::Denied));
    }
    assert_eq!(out(&world, "203.0.113.2", 443), Verdict::Denied);
    let compiled = world.compile();
    let set = compiled.host.expect("a policy").sets[HOST_RULES];
    assert_eq!(compiled.hosts[&set], ["registry.example.com".to_owned()].into());
}
