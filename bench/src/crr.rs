//! Connect, request, close: what reaching a service costs each new connection.
//!
//! Every way there has its own namespaces of the same shape, all at the same time, and each round tries every way
//! once, in an order that rotates: what the machine does beside it falls on all alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::{
    Common,
    child::{Requests, Role},
    lab::{Lab, Place, SERVER, Server, pick},
    plane::Plane,
    report::{Report, Target},
    rules::{self, ANSWERING, BULK_PORT, ECHO_PORT, SERVICE_PORT, iptables, nft, tables},
    stats::Series,
    supervisor::Run,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Sizes of the rule sets
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000, 10000])]
    services: Vec<u32>,
    /// Over IPv6; without nftables and iptables, whose rules here are of IPv4
    #[arg(long)]
    ipv6: bool,
    /// Client and server on CPUs of their own, so that every exchange also waits for the other CPU to wake
    #[arg(long)]
    apart: bool,
    /// The command that loads iptables rules
    #[arg(long, default_value = "iptables-restore")]
    iptables: String,
}

/// A way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Inside one container.
    Loopback,
    /// Over a veth from one container into the other, without a node between: what a veth costs at least.
    Pair,
    /// From container to container without a service.
    Direct,
    /// The same once more: how far two equal ways differ is what this machine cannot tell apart.
    DirectAgain,
    /// Through a service of so many in nftables.
    Nft(u32),
    /// In iptables.
    Iptables(u32),
    /// In hivemind's data plane.
    Hivemind(u32),
}

/// A way that is ready, and what it gave so far.
struct Contestant {
    way: Way,
    client: Place,
    to: SocketAddr,
    rate: Series,
    p50: Series,
    p99: Series,
    /// The programs' owner.
    _plane: Option<Plane>,
    _server: Server,
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Loopback => "loopback inside one container".to_owned(),
            Self::Pair => "bare veth pair".to_owned(),
            Self::Direct => "direct".to_owned(),
            Self::DirectAgain => "direct, again".to_owned(),
            Self::Nft(count) => format!("nftables [{count}]"),
            Self::Iptables(count) => format!("iptables [{count}]"),
            Self::Hivemind(count) => format!("hivemind [{count}]"),
        }
    }

    fn tag(self) -> String {
        match self {
            Self::Loopback => "loop".to_owned(),
            Self::Pair => "pair".to_owned(),
            Self::Direct => "direct".to_owned(),
            Self::DirectAgain => "again".to_owned(),
            Self::Nft(count) => format!("nft{count}"),
            Self::Iptables(count) => format!("ipt{count}"),
            Self::Hivemind(count) => format!("hm{count}"),
        }
    }
}

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, args: &Args) -> Result<()> {
    let mut ways = vec![Way::Loopback, Way::Pair, Way::Direct, Way::DirectAgain];
    if !args.ipv6 {
        ways.extend(args.services.iter().map(|count| Way::Nft(*count)));
        ways.extend(args.services.iter().map(|count| Way::Iptables(*count)));
    }
    ways.extend(args.services.iter().map(|count| Way::Hivemind(*count)));
    let mut contestants = Vec::new();
    for way in ways {
        eprintln!("preparing {}", way.name());
        contestants.push(prepare(run, args, way)?);
    }
    let (rounds, millis) = common.pick((5, 100), (21, 500));
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let count = contestants.len();
        for i in 0..count {
            contestants[(i + round) % count].measure(millis)?;
        }
    }
    report(args, &contestants).print(common.json)
}

fn prepare(run: &Run, args: &Args, way: Way) -> Result<Contestant> {
    let lab = Lab::new(run, &way.tag())?;
    let cgroup = run.group(&way.tag())?;
    let [client_cpu, server_cpu] = if args.apart { [0, 1] } else { [0, 0] };
    let server = Place { netns: lab.server.path(), cgroup: Some(cgroup.clone()), cpu: Some(server_cpu) };
    let mut client = Place { netns: lab.client.path(), cgroup: Some(cgroup.clone()), cpu: Some(client_cpu) };
    let mut to = SocketAddr::new(pick(SERVER, args.ipv6), ANSWERING[0]);
    let mut plane = None;
    match way {
        Way::Loopback => {
            client.netns = lab.server.path();
            to.set_ip(if args.ipv6 { IpAddr::from(Ipv6Addr::LOCALHOST) } else { Ipv4Addr::LOCALHOST.into() });
        }
        Way::Pair => to.set_ip(pick(lab.pair()?, args.ipv6)),
        Way::Direct | Way::DirectAgain => {}
        Way::Hivemind(count) => {
            let measured = rules::measured(count);
            let tables = tables::tables(lab.host_ends()?, &rules::services(count, args.ipv6), measured);
            let mut opened = Plane::open(run, &way.tag(), &lab.node, &cgroup)?;
            opened.attach(&lab)?;
            opened.sync(&tables)?;
            plane = Some(opened);
            to = service(count, args.ipv6);
        }
        Way::Nft(count) => {
            lab.node.run("nft", &["-f", "-"], &nft::load(&rules::services(count, false)))?;
            to = service(count, args.ipv6);
        }
        Way::Iptables(count) => {
            lab.node.run(&args.iptables, &[], &iptables::load(&rules::services(count, false)))?;
            to = service(count, args.ipv6);
        }
    }
    let role = Role::Serve { request: ANSWERING.to_vec(), bulk: BULK_PORT, echo: ECHO_PORT };
    let server = server.serve(&role).with_context(|| way.name())?;
    let [rate, p50, p99] = [const { Series(Vec::new()) }; 3];
    Ok(Contestant { way, client, to, rate, p50, p99, _plane: plane, _server: server })
}

/// The measured one of `count` services.
fn service(count: u32, ipv6: bool) -> SocketAddr {
    SocketAddr::new(rules::virtual_address(rules::measured(count), ipv6), SERVICE_PORT)
}

impl Contestant {
    fn measure(&mut self, millis: u64) -> Result<()> {
        let requests: Requests =
            self.client.ask(&Role::Request { to: self.to, millis }).with_context(|| self.way.name())?;
        anyhow::ensure!(requests.failed == 0, "{}: {} exchanges failed", self.way.name(), requests.failed);
        self.rate.0.push(requests.rate);
        self.p50.0.push(requests.p50);
        self.p99.0.push(requests.p99);
        Ok(())
    }
}

fn report(args: &Args, contestants: &[Contestant]) -> Report {
    let cpus = if args.apart { "client and server on a CPU each" } else { "client and server on one CPU" };
    let family = if args.ipv6 { "IPv6" } else { "IPv4" };
    let mut report = Report::new(format!("Connect, request (64 B), response (128 B), close; {family}; {cpus}"));
    for one in contestants {
        report.figure(one.way.name(), "1/s", &one.rate);
        report.figure(one.way.name(), "p50 µs", &one.p50);
        report.figure(one.way.name(), "p99 µs", &one.p99);
    }
    compare(&mut report, contestants);
    report.note("nftables and iptables: the rules' shapes are those of kube-proxy; three endpoints for each service; the measured service is in the middle.");
    report
}

/// The ratios that are to be reached, and how far two equal ways are apart.
fn compare(report: &mut Report, contestants: &[Contestant]) {
    let find = |way| contestants.iter().find(|one| one.way == way);
    let most =
        contestants.iter().filter_map(|one| if let Way::Hivemind(count) = one.way { Some(count) } else { None }).max();
    for ours in contestants {
        let Way::Hivemind(count) = ours.way else { continue };
        let name = ours.way.name();
        let p50 = format!("{name}: p50");
        if let Some(loopback) = find(Way::Loopback) {
            report.ratio((&p50, &ours.p50), ("loopback", &loopback.p50), Some(Target::AtMost(1.05)));
        }
        // At the largest rule set, as the targets say; smaller ones are for comparing.
        let at_most = |limit| (Some(count) == most).then_some(Target::AtLeast(limit));
        let others = [
            (Way::Direct, Some(Target::AtLeast(1.0))),
            (Way::Nft(count), at_most(1.3)),
            (Way::Iptables(count), at_most(2.0)),
        ];
        for (way, target) in others {
            if let Some(other) = find(way) {
                report.ratio((format!("{name}: rate"), &ours.rate), (way.name(), &other.rate), target);
            }
        }
        // Flat in the number of services.
        let fewest = contestants.iter().find(|one| matches!(one.way, Way::Hivemind(_)));
        if let Some(fewest) = fewest.filter(|fewest| fewest.way != ours.way) {
            report.ratio((p50, &ours.p50), (fewest.way.name(), &fewest.p50), Some(Target::AtMost(1.05)));
        }
    }
    // What any way through a veth costs, programs or none: how near to loopback this kernel lets two containers come.
    for way in [Way::Pair, Way::Direct] {
        if let (Some(other), Some(loopback)) = (find(way), find(Way::Loopback)) {
            report.ratio((format!("{}: p50", way.name()), &other.p50), ("loopback", &loopback.p50), None);
        }
    }
    if let (Some(direct), Some(again)) = (find(Way::Direct), find(Way::DirectAgain)) {
        report.ratio(("direct, again: rate", &again.rate), ("direct", &direct.rate), None);
        report.ratio(("direct, again: p50", &again.p50), ("direct", &direct.p50), None);
    }
}
