//! What someone else changes or removes is put right.

use std::net::SocketAddr;

use aya::maps::{Array, Map, MapData};
use hivemind::{
    dataplane::{
        Dataplane,
        bpf::{BpfDataplane, DataplaneConfig},
        drift::Fault,
        tables::{LimitOwner, LimitRow},
    },
    model::{BitRate, Protocol},
    net::Family,
    spec::v1::LimitSpec,
};

use hivemind_ebpf::{
    ABI_VERSION,
    abi::{Addr, Backend, INSTANCE_ACCOUNTS, Limit, Peer, SlotKey},
};
use hivemind_tests::netlab::until;

use super::{
    in_both_ways,
    lab::{BPF_ROOT, FAMILIES, Lab, TENANT, config, isolated, map, vip},
    traffic::{Echo, tcp_ask},
};

#[test]
fn drift_is_repaired_and_unloading_leaves_nothing() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 1);
        lab.ready(0);
        lab.service(1, 80, 8080, Protocol::Tcp, &[0]);
        lab.sync();
        // A second daemon, which must not be, changes the tables.
        let mut other = BpfDataplane::open(config(cgroup)).expect("to open");
        let removed = other.sync(&hivemind::dataplane::tables::Tables::default()).expect("to remove all").removed;
        assert!(removed > 0);
        drop(other);
        let repaired: u64 = (0..20).map(|_| lab.dataplane.sweep().expect("to sweep").repairs.rows).sum();
        assert!(repaired >= removed, "{repaired} of {removed}");
        let _echo = Echo::start(&lab.instances[0].ns, 8080, "i0");
        tcp_ask(SocketAddr::new(vip(Family::V4, 1), 80)).expect("it works again");

        assert!(std::fs::read_dir(BPF_ROOT).is_ok());
        lab.dataplane.unload().expect("to unload");
        assert!(std::fs::read_dir(BPF_ROOT).is_err(), "no pin is left");
        lab.dataplane.unload().expect("twice is the same as once");
    });
}

#[test]
fn what_someone_deletes_is_named_and_comes_back() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 2, open);
        (0..2).for_each(|index| lab.ready(index));
        lab.service(1, 80, 8080, Protocol::Tcp, &[1]);
        lab.sync();
        let found = |lab: &mut Lab| {
            let all = lab.dataplane.check().expect("compared");
            let mut all: Vec<_> = all.into_iter().map(|d| (d.place, d.fault, d.what)).collect();
            all.sort();
            all
        };
        assert_eq!(found(&mut lab), []);

        let (client, server) = (&lab.instances[0], &lab.instances[1]);
        let mut peers = map::<Addr, Peer>(hivemind_ebpf::map::PEERS);
        let other = peers.get(&Addr::from(client.address(Family::V6)), 0).expect("a row");
        peers.remove(&Addr::from(client.address(Family::V4))).expect("removed");
        peers.insert(Addr::from(server.address(Family::V4)), other, 0).expect("changed");
        peers.insert(Addr::from(vip(Family::V4, 77)), other, 0).expect("added");
        let mut slots = map::<SlotKey, Backend>(hivemind_ebpf::map::SLOTS);
        let key = slots.keys().next().expect("a backend").expect("a key");
        slots.remove(&key).expect("removed");
        // Links: of a device, where they are pinned, and of the cgroup. And a map's name.
        let tcx = lab.dataplane.info().attach == "tcx";
        let links = format!("{BPF_ROOT}/v{ABI_VERSION}/links");
        let from = format!("{}-from", client.id);
        if tcx {
            std::fs::remove_file(format!("{links}/{from}")).expect("detached");
        }
        std::fs::remove_file(format!("{links}/hm_connect4")).expect("detached");
        let pin = format!("{BPF_ROOT}/v{ABI_VERSION}/maps/hm_flows");
        std::fs::remove_file(&pin).expect("removed");

        let wrong = found(&mut lab);
        let is = |place: &str, fault: Fault| wrong.iter().filter(|d| (d.0, d.1) == (place, fault)).count();
        assert_eq!((is("peers", Fault::Missing), is("peers", Fault::Different), is("peers", Fault::Extra)), (1, 1, 1));
        assert_eq!((is("services", Fault::Different), is("pin", Fault::Missing)), (1, 1), "{wrong:?}");
        assert_eq!(is("attachment", Fault::Missing), 1 + usize::from(tcx), "{wrong:?}");
        assert_eq!(found(&mut lab), wrong, "it is looked at, and not changed");

        // Attachments and names at the next sweep, rows at the next round of them.
        let mut repairs = lab.dataplane.sweep().expect("to sweep").repairs;
        assert_eq!((repairs.attachments, repairs.pins), (1 + u64::from(tcx), 1));
        (0..12).for_each(|_| repairs += lab.dataplane.sweep().expect("to sweep").repairs);
        assert_eq!((repairs.attachments, repairs.pins), (1 + u64::from(tcx), 1), "once");
        assert!(repairs.rows >= 4, "{repairs:?}");
        assert_eq!(found(&mut lab), []);
        assert!(
            std::fs::exists(&pin).expect("a name")
                && (!tcx || std::fs::exists(format!("{links}/{from}")).expect("one"))
        );
        // The folders as well. The kernel lets go of a link a moment after its last name is gone: until then there is no
        // place for another.
        std::fs::remove_dir_all(format!("{BPF_ROOT}/v{ABI_VERSION}")).expect("removed");
        until("everything to be there again", || {
            let _ = lab.dataplane.sweep();
            found(&mut lab).is_empty().then_some(())
        });
        assert!(std::fs::exists(&pin).expect("a name"));
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "i1");
        for family in FAMILIES {
            lab.instances[0].ns.run(|| tcp_ask(SocketAddr::new(vip(family, 1), 80))).expect("the service is reached");
        }
        // What is taken out on purpose is not put back.
        let id = lab.instances[0].id.clone();
        lab.dataplane.detach(&id).expect("to detach");
        assert_eq!(lab.dataplane.sweep().expect("to sweep").repairs.attachments, 0);
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_program_of_sockets_that_is_attached_to_another_cgroup_is_attached_to_ours() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 0);
        lab.sync();
        let other = cgroup.join("other");
        std::fs::create_dir(&other).expect("a cgroup");
        let root = format!("{BPF_ROOT}-other");
        let elsewhere = DataplaneConfig { root: root.clone().into(), cgroup: other.clone(), ..config(cgroup) };
        let mut theirs = BpfDataplane::open(elsewhere).unwrap_or_else(|error| panic!("{error}"));
        let pin = |root: &str| format!("{root}/v{ABI_VERSION}/links/hm_connect4");
        std::fs::rename(pin(&root), pin(BPF_ROOT)).expect("under our name");
        let found = |lab: &mut Lab| lab.dataplane.check().expect("compared");
        let wrong = found(&mut lab);
        let [one] = &wrong[..] else { panic!("{wrong:?}") };
        assert_eq!((one.place, one.fault), ("attachment", Fault::Different), "{one:?}");
        assert!(one.what.contains("hm_connect4"), "{one:?}");
        assert_eq!(lab.dataplane.sweep().expect("to sweep").repairs.attachments, 1);
        assert_eq!(found(&mut lab), []);
        theirs.unload().expect("to unload the other one");
        lab.dataplane.unload().expect("to unload");
        std::fs::remove_dir(&other).expect("an empty cgroup");
    });
}

#[test]
fn a_device_that_is_no_uplink_any_more_has_no_pins() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 0, open);
        let pins = || {
            let links = std::fs::read_dir(format!("{}/v{}/links", BPF_ROOT, ABI_VERSION)).expect("the pins").flatten();
            links.filter(|pin| pin.file_name().to_string_lossy().starts_with("uplink")).count()
        };
        // Filters of clsact have none at all.
        let tcx = lab.dataplane.info().attach == "tcx";
        assert_eq!(pins(), usize::from(tcx));
        lab.dataplane.attach_uplinks(&[]).expect("no uplinks");
        assert_eq!(pins(), 0);
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn limits_that_someone_changes_are_named_and_put_right() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        (0..2).for_each(|index| lab.ready(index));
        let spec = LimitSpec { connections: Some(7), ..LimitSpec::default() };
        let device = lab.instances[0].link.ifindex;
        lab.tables.limits.insert(LimitOwner::Instance(device), LimitRow { spec, tenant: TENANT });
        let spec = LimitSpec { egress: Some(BitRate(80_000_000)), ..LimitSpec::default() };
        lab.tables.limits.insert(LimitOwner::Tenant(TENANT), LimitRow { spec, tenant: 0 });
        lab.sync();
        let found = |lab: &mut Lab| -> Vec<(Fault, String)> {
            let all = lab.dataplane.check().expect("compared");
            assert!(all.iter().all(|difference| difference.place == "limits"), "{all:?}");
            all.into_iter().map(|difference| (difference.fault, difference.what)).collect()
        };
        assert_eq!(found(&mut lab), []);
        let pin = format!("{BPF_ROOT}/v{ABI_VERSION}/maps/{}", hivemind_ebpf::map::LIMITS);
        let map = Map::from_map_data(MapData::from_pin(pin).expect("a pin")).expect("a map");
        let mut limits: Array<MapData, Limit> = Array::try_from(map).expect("its type");
        let of_tenant = INSTANCE_ACCOUNTS + 1;
        let own = limits.get(&1, 0).expect("a row");
        assert_eq!((own.connections, own.tenant), ([7; 2], of_tenant));
        limits.set(1, Limit { connections: [0; 2], ..own }, 0).expect("changed");
        limits.set(9, own, 0).expect("added");
        limits.set(of_tenant, Limit::default(), 0).expect("removed");
        let wrong = found(&mut lab);
        let expected = [
            (Fault::Different, format!("account 1 (the instance at device {device})")),
            (Fault::Missing, format!("account {of_tenant} (the tenant with number {TENANT})")),
            (Fault::Extra, "account 9 (nobody's)".into()),
        ];
        assert_eq!(wrong, expected);
        let repaired: u64 = (0..12).map(|_| lab.dataplane.sweep().expect("to sweep").repairs.rows).sum();
        assert!(repaired >= 3, "{repaired}");
        assert_eq!(found(&mut lab), []);
        lab.dataplane.unload().expect("to unload");
    });
}
