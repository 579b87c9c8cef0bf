//! The border between tenants, packet by packet, and who is on neither side of it.

use hivemind::{
    dataplane::Dataplane,
    net::Family,
    policy::{ALL_PORTS, ANYBODY, Direction, EndpointPolicy, OTHERS, WORLD},
    spec::v1::Action,
};
use hivemind_ebpf::reason::Reason;

use crate::{
    bench::{Bench, Expect},
    frame::{TCP, UDP},
    lab::{self, FAMILIES, isolated},
    policy::{FIRST, IN, LAST, SET, answers, asks, passes},
};

#[test]
fn another_tenant_comes_in_by_a_rule_only() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let foreign = lab::TENANT + 1;
        let ifindex = bench.ifindex(0);
        bench.lab.tables.endpoints.get_mut(&ifindex).expect("a row").tenant = foreign;
        for family in FAMILIES {
            let address = bench.address(0, family);
            bench.lab.tables.peers.get_mut(&address).expect("a row").tenant = foreign;
        }
        bench.lab.sync();
        for family in FAMILIES {
            let frame = asks(&bench, family, TCP, 8080);
            bench.ask("of another tenant", &frame, Expect::Drop(Reason::OtherTenant));
        }
        bench.about(1, IN);
        bench.rules(&[(Direction::In, lab::class(0), None, ALL_PORTS)]);
        for family in FAMILIES {
            let frame = asks(&bench, family, TCP, 8080);
            bench.ask("allowed by a rule", &frame, passes(&frame));
            let answer = answers(&bench, family, &frame);
            bench.answer("answered", &answer, passes(&answer));
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn an_address_of_instances_that_none_has_is_nobodys() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        for family in FAMILIES {
            let frame = asks(&bench, family, TCP, 8080);
            bench.ask("known", &frame, passes(&frame));
            // As when somebody else has removed the row, and it is not mended yet.
            let address = bench.address(0, family);
            bench.lab.tables.peers.remove(&address).expect("a row");
            bench.lab.sync();
            bench.ask("no policy", &frame, Expect::Drop(Reason::SpoofedAddress));
        }
        bench.about(1, IN);
        for peer in [ANYBODY, WORLD, OTHERS] {
            bench.rules(&[(Direction::In, peer, None, ALL_PORTS)]);
            for family in FAMILIES {
                let frame = asks(&bench, family, UDP, 53);
                bench.ask("no rule means it", &frame, Expect::Drop(Reason::SpoofedAddress));
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn everybody_is_another_tenant_only_if_denied() {
    use Action::{Accept, Deny};
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let ifindex = bench.ifindex(0);
        bench.lab.tables.endpoints.get_mut(&ifindex).expect("a row").tenant = lab::TENANT + 1;
        for family in FAMILIES {
            let address = bench.address(0, family);
            bench.lab.tables.peers.get_mut(&address).expect("a row").tenant = lab::TENANT + 1;
        }
        let class = lab::class(0);
        bench.about(1, EndpointPolicy { sets: [FIRST, 0, SET, 0, LAST], ..IN });
        for (name, rules, expect) in [
            ("everybody", &[(FIRST, Accept, ANYBODY, None)][..], Some(Reason::OtherTenant)),
            ("named", &[(FIRST, Accept, class, None)], None),
            ("denied", &[(FIRST, Deny, OTHERS, None), (SET, Accept, class, None)], Some(Reason::PolicyIn)),
        ] {
            bench.tiers(rules);
            for family in FAMILIES {
                let frame = asks(&bench, family, UDP, 53);
                bench.ask(name, &frame, expect.map_or_else(|| passes(&frame), Expect::Drop));
            }
        }
        // A trial of the namespace opens no border, and keeps no tier from opening it.
        bench.about(1, EndpointPolicy { sets: [0, 0, SET, 0, LAST], audit_in: true, ..IN });
        bench.tiers(&[(SET, Accept, class, None)]);
        let frame = asks(&bench, Family::V4, UDP, 53);
        bench.ask("on trial", &frame, Expect::Drop(Reason::OtherTenant));
        bench.tiers(&[(LAST, Accept, class, None)]);
        bench.ask("by the last tier", &frame, passes(&frame));
        bench.lab.dataplane.unload().expect("to unload");
    });
}
