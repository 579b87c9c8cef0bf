use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::*;
use hivemind_core::model::{Addresses, AppKey, InstanceId, NodeDesired, Scope, Service, ServiceKey, Timestamp};

fn port(port: u16, protocol: Protocol) -> ServicePort {
    ServicePort { port, target: port, protocol, published: None }
}

/// The service `web`, also called `web.local`, with so many Ready instances, from `10.88.0.10` on.
pub(in super::super) fn desired(backends: usize) -> NodeDesired {
    let service = Service {
        key: ServiceKey::new(Scope::default(), "web".parse().expect("a name")),
        id: 1,
        addresses: Addresses { v4: Some([10, 96, 0, 2].into()), v6: "fd00::2".parse().ok() },
        dns_names: vec!["Web.Local".into()],
        networks: Default::default(),
        ports: vec![port(80, Protocol::Tcp), port(443, Protocol::Tcp), port(53, Protocol::Udp)],
        app: AppKey::new(Scope::default(), "web".parse().expect("a name")),
        balance: hivemind_core::spec::v1::BalanceSpec::default(),
        shares: hivemind_core::model::Shares::default(),
        created_at: Timestamp::from_millis(0),
    };
    let backend = |n: usize| Backend {
        id: InstanceId::from_bits(n as u64 * 33),
        node: "a".parse().expect("a name"),
        ports: None,
        weight: 100,
        addresses: Addresses {
            v4: Some([10, 88, 0, 10 + u8::try_from(n).expect("few")].into()),
            v6: format!("fd01::{:x}", 10 + n).parse().ok(),
        },
    };
    let served = ServedService { backends: (0..backends).map(backend).collect(), service, leaving: false };
    let mut desired = NodeDesired::default();
    desired.services.insert(served.service.key.clone(), Arc::new(served));
    desired
}

/// `db` and `web` of two projects; `web` is in `front`, `db` in `back`, and `api` in both.
pub(in super::super) fn two_projects() -> NodeDesired {
    let mut desired = NodeDesired { revision: 1, ..NodeDesired::default() };
    let networks = |names: &[&str], aliases: &[&str]| {
        let aliases: BTreeSet<String> = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        names.iter().map(|name| ((*name).to_owned(), aliases.clone())).collect::<BTreeMap<_, _>>()
    };
    let mut number = 1;
    for namespace in ["shop", "blog"] {
        let scope = Scope { namespace: namespace.parse().expect("a name"), ..Scope::default() };
        for (name, nets) in
            [("web", &["front"][..]), ("db", &["back"]), ("api", &["front", "back", "shared/proxy"]), ("plain", &[])]
        {
            let app = AppKey::new(scope.clone(), name.parse().expect("a name"));
            let addresses = Addresses { v4: Some([10, 88, 0, number].into()), v6: None };
            let mut spec = hivemind_core::spec::v1::AppSpec::new("x");
            spec.networks = networks(nets, &[]);
            let instance = hivemind_core::model::Instance {
                id: InstanceId::from_bits(number.into()),
                app: app.clone(),
                generation: 1,
                spec,
                node: "a".parse().expect("a name"),
                addresses,
                desired: hivemind_core::model::Desired::Run,
                contents: hivemind_core::model::ContentVersions::default(),
                created_at: Timestamp::from_millis(0),
            };
            let service = Service {
                key: ServiceKey::new(scope.clone(), name.parse().expect("a name")),
                id: number.into(),
                addresses: Addresses { v4: Some([10, 96, 0, number].into()), v6: None },
                dns_names: vec![],
                networks: networks(nets, &[name, &format!("{name}_alias"), &format!("{name}.dotted")]),
                ports: vec![port(80, Protocol::Tcp)],
                app,
                balance: hivemind_core::spec::v1::BalanceSpec::default(),
                shares: hivemind_core::model::Shares::default(),
                created_at: Timestamp::from_millis(0),
            };
            let backend = Backend {
                id: instance.id.clone(),
                node: instance.node.clone(),
                weight: 100,
                addresses,
                ports: Default::default(),
            };
            desired.instances.insert(instance.id.clone(), Arc::new(instance));
            let served = ServedService { backends: vec![backend], service, leaving: false };
            desired.services.insert(served.service.key.clone(), Arc::new(served));
            number += 1;
        }
    }
    desired
}

/// The same with a service that is changed.
fn with(mut desired: NodeDesired, change: impl Fn(&mut ServedService)) -> NodeDesired {
    for served in desired.services.clone().values() {
        let mut changed = (**served).clone();
        change(&mut changed);
        desired.services.insert(changed.service.key.clone(), Arc::new(changed));
    }
    desired
}

/// A table that knows which addresses are ours.
fn table(desired: &NodeDesired) -> DnsTable {
    let ranges = ["10.88.0.0/16", "10.96.0.0/16", "fd00::/112", "fd01::/64"];
    let mut table = DnsTable::of(ranges.map(|range| range.parse().expect("a block")));
    table.follow(desired);
    table
}

/// An answer in words: records, then what else is said; `none ZONE`, `no such name ZONE`, `not ours`.
fn said(answer: Answer) -> String {
    let record = |data: &Data| match data {
        Data::Address(address) => address.to_string(),
        Data::Server { weight, port, target } => format!("{weight} {port} {target}"),
        Data::Name(name) => name.clone(),
        Data::Zone => "zone".into(),
    };
    match answer {
        Answer::Found { records, also, zone } if records.is_empty() && also.is_empty() => format!("none {zone}"),
        Answer::Found { records, also, .. } => {
            let also = also.iter().map(|(name, address)| format!("+ {name} {address}"));
            records.iter().map(record).chain(also).collect::<Vec<_>>().join(", ")
        }
        Answer::NoSuchName { zone } => format!("no such name {zone}"),
        Answer::NotOurs => "not ours".into(),
    }
}

/// What each of `asked` (the last octet of who asks, name, kind) is answered.
fn check(desired: &NodeDesired, asked: &[(u8, &str, Kind, &str)]) {
    let table = table(desired);
    for (asker, name, kind, expected) in asked {
        let answer = said(table.answer_to([10, 88, 0, *asker].into(), name, *kind));
        assert_eq!(answer, *expected, "{asker} asks for {kind:?} of {name}");
    }
}

const A: Kind = Kind::A;
const NX: &str = "no such name hivemind";

#[test]
fn a_service_answers_to_all_its_names_in_both_families() {
    check(
        &desired(1),
        &[
            (2, "web.local", A, "10.96.0.2"),
            (2, "web.local", Kind::Aaaa, "fd00::2"),
            (2, "web.local", Kind::Any, "10.96.0.2, fd00::2"),
            (2, "web.local", Kind::Other, "none web.local"),
            (2, "web.local", Kind::Soa, "zone"),
            (2, "web.default.default.hivemind", A, "10.96.0.2"),
            (2, "web.default.default.hivemind", Kind::Aaaa, "fd00::2"),
            (2, "web.default.default.hivemind", Kind::Soa, "none hivemind"),
            (2, "nope.default.default.hivemind", A, NX),
            (2, "a.web.local", A, "not ours"),
            (2, "example.org", A, "not ours"),
            (2, "web", A, "not ours"),
            (2, "", A, "not ours"),
        ],
    );
}

#[test]
fn what_has_names_beneath_it_exists() {
    check(
        &desired(0),
        &[
            (2, "hivemind", A, "none hivemind"),
            (2, "hivemind", Kind::Soa, "zone"),
            (2, "default.hivemind", A, "none hivemind"),
            (2, "default.default.hivemind", A, "none hivemind"),
            (2, "other.default.hivemind", A, NX),
            (2, "other.hivemind", A, NX),
            (2, "_tcp.web.default.default.hivemind", A, "none hivemind"),
            (2, "_tcp.web.local", A, "none web.local"),
        ],
    );
    check(&NodeDesired::default(), &[(2, "hivemind", A, "none hivemind"), (2, "default.hivemind", A, NX)]);
}

#[test]
fn without_a_ready_instance_a_name_exists_and_has_no_address() {
    check(
        &desired(0),
        &[(2, "web.local", A, "none web.local"), (2, "_80._tcp.web.local", Kind::Srv, "none web.local")],
    );
    let leaving = with(desired(1), |served| served.leaving = true);
    let instance = "web-aaaaa.web.default.default.hivemind";
    check(
        &leaving,
        &[
            (2, "web.local", A, "none web.local"),
            (2, instance, A, NX),
            (2, "_80._tcp.web.local", Kind::Srv, "none web.local"),
        ],
    );
}

#[test]
fn a_port_says_where_it_is_served() {
    let target = "web.default.default.hivemind";
    let also = format!("+ {target} 10.96.0.2, + {target} fd00::2");
    check(
        &desired(2),
        &[
            (2, "_80._tcp.web.local", Kind::Srv, &format!("0 80 {target}, {also}")),
            (2, "_443._tcp.web.default.default.hivemind", Kind::Srv, &format!("0 443 {target}, {also}")),
            (2, "_53._udp.web.local", Kind::Srv, &format!("0 53 {target}, {also}")),
            (2, "_53._udp.web.local", A, "none web.local"),
            (2, "_53._tcp.web.local", Kind::Srv, "no such name web.local"),
            (2, "_081._tcp.web.default.default.hivemind", Kind::Srv, NX),
            (2, "_80._sctp.web.default.default.hivemind", Kind::Srv, NX),
            (2, "_80._tcp.nope.default.default.hivemind", Kind::Srv, NX),
            (2, "_ldap._tcp.example.org", Kind::Srv, "not ours"),
            (2, "_tcp", Kind::Srv, "not ours"),
        ],
    );
}

#[test]
fn without_a_virtual_address_names_are_the_instances() {
    let headless = with(desired(3), |served| {
        served.service.addresses = Addresses::default();
        // It is to get nothing new.
        served.backends[2].weight = 0;
    });
    let (one, two) = ("web-aaaaa.web.default.default.hivemind", "web-bbaaa.web.default.default.hivemind");
    check(
        &headless,
        &[
            (2, "web.local", A, "10.88.0.10, 10.88.0.11"),
            (2, "web.local", Kind::Aaaa, "fd01::a, fd01::b"),
            (2, one, A, "10.88.0.10"),
            (2, two, Kind::Aaaa, "fd01::b"),
            (2, "bbaaaaaaaa.web.local", A, "10.88.0.11"),
            (2, "web-ccaaa.web.local", A, "10.88.0.12"),
            (2, "web-zzzzz.web.default.default.hivemind", A, NX),
            (2, one, Kind::Other, "none hivemind"),
            (
                2,
                "_80._tcp.web.local",
                Kind::Srv,
                &format!(
                    "100 80 {one}, 100 80 {two}, + {one} 10.88.0.10, + {one} fd01::a, + {two} 10.88.0.11, + {two} fd01::b"
                ),
            ),
        ],
    );
    let many = with(desired(20), |served| served.service.addresses = Addresses::default());
    let srv = said(table(&many).answer_to([10, 88, 0, 2].into(), "_80._tcp.web.local", Kind::Srv));
    assert_eq!((srv.matches(" 80 ").count(), srv.matches('+').count()), (20, 0), "their addresses are too many");
}

#[test]
fn while_an_app_goes_to_other_ports_each_instance_has_its_own() {
    let both = with(desired(2), |served| {
        served.service.addresses = Addresses::default();
        served.backends[0].ports = Some(vec![port(80, Protocol::Tcp)]);
        served.backends[1].ports = Some(vec![port(443, Protocol::Tcp)]);
    });
    let srv = |name| said(table(&both).answer_to([10, 88, 0, 2].into(), name, Kind::Srv));
    assert!(srv("_80._tcp.web.local").starts_with("100 80 web-aaaaa.web.default.default.hivemind, + web-aaaaa"));
    assert!(srv("_443._tcp.web.local").starts_with("100 443 web-bbaaa.web.default.default.hivemind, + web-bbaaa"));
}

#[test]
fn an_instance_of_a_long_name_is_called_by_its_id() {
    let long = "a".repeat(60);
    let headless = with(desired(1), |served| {
        served.service.app.name = long.parse().expect("a name");
        served.service.addresses = Addresses::default();
    });
    let id = "aaaaaaaaaa.web.default.default.hivemind";
    check(&headless, &[(2, "10.0.88.10.in-addr.arpa", Kind::Ptr, id), (2, id, A, "10.88.0.10")]);
}

#[test]
fn addresses_have_names() {
    let v6 = |last: char, second: char| format!("{last}.{}{second}.0.d.f.ip6.arpa", "0.".repeat(27));
    check(
        &desired(2),
        &[
            (2, "2.0.96.10.in-addr.arpa", Kind::Ptr, "web.default.default.hivemind"),
            (2, "2.0.96.10.in-addr.arpa", A, "none 96.10.in-addr.arpa"),
            (2, &v6('2', '0'), Kind::Ptr, "web.default.default.hivemind"),
            (2, "11.0.88.10.in-addr.arpa", Kind::Ptr, "web-bbaaa.web.default.default.hivemind"),
            (2, &v6('b', '1'), Kind::Ptr, "web-bbaaa.web.default.default.hivemind"),
            (2, "99.0.88.10.in-addr.arpa", Kind::Ptr, "no such name 88.10.in-addr.arpa"),
            (2, "0.88.10.in-addr.arpa", Kind::Ptr, "none 88.10.in-addr.arpa"),
            (2, "88.10.in-addr.arpa", Kind::Soa, "zone"),
            // Nobody's here, or not of ours alone.
            (2, "10.in-addr.arpa", Kind::Ptr, "not ours"),
            (2, "1.2.0.192.in-addr.arpa", Kind::Ptr, "not ours"),
            (2, "x.0.88.10.in-addr.arpa", Kind::Ptr, "not ours"),
        ],
    );
    let leaving = with(desired(1), |served| served.leaving = true);
    check(&leaving, &[(2, "10.0.88.10.in-addr.arpa", Kind::Ptr, "no such name 88.10.in-addr.arpa")]);
}

#[test]
fn who_is_in_a_network_sees_only_that() {
    let (api, web, api_of_blog) = (
        "api-daaaa.api.shop.default.hivemind",
        "web-baaaa.web.shop.default.hivemind",
        "api-haaaa.api.blog.default.hivemind",
    );
    check(
        &two_projects(),
        &[
            // api of shop is 3; web 1, db 2, plain 4; of blog 5 to 8.
            (3, "db", A, "10.88.0.2"),
            (3, "db.shop.default.hivemind", A, "10.88.0.2"),
            (3, "db_alias", A, "10.88.0.2"),
            (3, "db.dotted", A, "10.88.0.2"),
            (3, "db.dotted.shop.default.hivemind", A, "10.88.0.2"),
            (3, "db", Kind::Aaaa, "none db"),
            (1, "db", A, "not ours"),
            (1, "db.shop.default.hivemind", A, NX),
            (1, "api", A, "10.88.0.3"),
            (7, "db", A, "10.88.0.6"),
            (7, "web", A, "10.88.0.5"),
            // The shared network has the api of both.
            (3, "api", A, "10.88.0.3, 10.88.0.7"),
            // What is in no network is seen as ever, by everybody; and sees all.
            (1, "plain.shop.default.hivemind", A, "10.96.0.4"),
            (4, "db.shop.default.hivemind", A, "10.96.0.2"),
            (200, "db.blog.default.hivemind", A, "10.96.0.6"),
            (1, "example.org", A, "not ours"),
            // Instances, ports and addresses are seen as what they are of.
            (3, "db-caaaa.db", A, "10.88.0.2"),
            (3, "db-caaaa.db.shop.default.hivemind", A, "10.88.0.2"),
            (1, "db-caaaa.db.shop.default.hivemind", A, NX),
            (4, "db-caaaa.db.shop.default.hivemind", A, "10.88.0.2"),
            (1, "_80._tcp.api", Kind::Srv, &format!("100 80 {api}, + {api} 10.88.0.3")),
            (1, "_80._tcp.db.shop.default.hivemind", Kind::Srv, NX),
            (3, "_80._tcp.web.shop.default.hivemind", Kind::Srv, &format!("100 80 {web}, + {web} 10.88.0.1")),
            (3, api_of_blog, A, "10.88.0.7"),
            (3, "2.0.88.10.in-addr.arpa", Kind::Ptr, "db-caaaa.db.shop.default.hivemind"),
            (3, "2.0.96.10.in-addr.arpa", Kind::Ptr, "db.shop.default.hivemind"),
            (1, "2.0.88.10.in-addr.arpa", Kind::Ptr, "no such name 88.10.in-addr.arpa"),
            (1, "2.0.96.10.in-addr.arpa", Kind::Ptr, "no such name 96.10.in-addr.arpa"),
            (1, "4.0.88.10.in-addr.arpa", Kind::Ptr, "plain-eaaaa.plain.shop.default.hivemind"),
            (1, "6.0.88.10.in-addr.arpa", Kind::Ptr, "db-gaaaa.db.blog.default.hivemind"),
        ],
    );
}
