//! What all maps of the data plane take of the memory, by what they hold: a small node, and one of ten times that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use hivemind::{
    dataplane::tables::{EndpointRow, PeerRow, Tables},
    model::Protocol,
    net::Mac,
    policy::EndpointPolicy,
};

use crate::{
    Common,
    daemon::map_bytes,
    lab::Netns,
    plane::Plane,
    report::{Report, Target},
    rules::{self, ANSWERING, policies, tables},
    stats::Series,
    supervisor::Run,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}

/// A node.
struct Node {
    endpoints: u32,
    services: u32,
    rules: u32,
    target: Option<Target>,
}

/// The node of the target, and ten of it.
const NODES: [Node; 2] = [
    Node { endpoints: 100, services: 1_000, rules: 1_000, target: Some(Target::AtMost(48.0)) },
    Node { endpoints: 1_000, services: 10_000, rules: 10_000, target: None },
];
/// Maps that take less than this are not listed, megabytes.
const WORTH: f64 = 1.0;
/// The class and tenant of all.
const IDENTITY: u32 = 300;

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, _: &Args) -> Result<()> {
    let mut report = Report::new("Memory of all maps of the data plane");
    for node in &NODES {
        let Node { endpoints, services, rules, target } = node;
        let name = format!("all maps, {endpoints} endpoints, {services} services of three backends, {rules} rules");
        eprintln!("{name}");
        let tag = format!("mem{endpoints}");
        let netns = Netns::new(run, &tag)?;
        let mut plane = Plane::open(run, &tag, &netns, &run.cgroup()?)?;
        plane.sync(&node.tables())?;
        // The maps are pinned. Who opens them anew is told how large they are now.
        drop(plane);
        let plane = Plane::open(run, &tag, &netns, &run.cgroup()?)?;
        let all = Series(vec![map_bytes(std::process::id())? as f64 / 1e6]);
        match target {
            Some(target) => report.limit(&name, "MB", &all, *target),
            None => report.figure(&name, "MB", &all),
        }
        let mut maps: Vec<(String, f64)> =
            plane.maps().into_iter().map(|(name, _, bytes)| (name, bytes as f64 / 1e6)).collect();
        maps.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        for (map, megabytes) in maps.into_iter().filter(|(_, megabytes)| *megabytes >= WORTH) {
            report.figure(format!("{endpoints} endpoints: {map}"), "MB", &Series(vec![megabytes]));
        }
    }
    report.note("As the kernel counts it; maps with a part for each CPU take as many times more as there are CPUs. The tables of flows, of their translations and of captures are allocated when the node starts, those of the others row by row.");
    report.print(common.json)
}

impl Node {
    /// What such a node is told, of both families: instances that serve a port each and are isolated, and backends, most
    /// of which are elsewhere.
    fn tables(&self) -> Tables {
        let mut tables = tables::elsewhere(&rules::services(self.services, false));
        rules::services(self.services, true).iter().for_each(|service| tables::add(&mut tables, service));
        for n in 0..self.endpoints {
            let ifindex = n + 1;
            let v4 = Ipv4Addr::from_bits(Ipv4Addr::new(10, 88, 0, 10).to_bits() + n);
            let first = Ipv6Addr::new(0xfd68, 0x6d00, 0, 1, 0, 0, 0, 10);
            let v6 = Ipv6Addr::from_bits(first.to_bits() + u128::from(n));
            let row = EndpointRow {
                v4: Some(v4),
                v6: Some(v6),
                instance_mac: Mac([2, 0, 0, 0, 1, 1]),
                host_mac: Mac([2, 0, 0, 0, 2, 1]),
                class: IDENTITY,
                tenant: IDENTITY,
                policy: EndpointPolicy::default(),
                blocks: false,
                limited: false,
            };
            tables.endpoints.insert(ifindex, row);
            let peer = PeerRow { class: IDENTITY, tenant: IDENTITY, ifindex, node: None };
            tables.peers.extend([(IpAddr::V4(v4), peer), (IpAddr::V6(v6), peer)]);
            tables.served.insert((ifindex, ANSWERING[0], Protocol::Tcp), n + 1);
        }
        policies::isolate(tables, self.rules, &[ANSWERING[0]])
    }
}
