//! TCP from container to container, as much as goes, over a plain routed veth and with hivemind's programs.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::{
    Common,
    child::Role,
    lab::{Lab, Place, SERVER, Server, pick},
    plane::Plane,
    report::{Report, Target},
    rules::{self, ANSWERING, BULK_PORT, ECHO_PORT, policies, tables},
    stats::Series,
    supervisor::Run,
    watched::Watcher,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Over IPv6
    #[arg(long)]
    ipv6: bool,
}

/// Rules where there are policies.
const RULES: u32 = 1_000;

/// What is between the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Routes only.
    Plain,
    /// hivemind's programs.
    Programs,
    /// The same, reached through a service's address.
    Service,
    /// Both containers isolated by policies, and somebody watches flows.
    Policies,
}

struct Contestant {
    name: &'static str,
    client: Place,
    to: SocketAddr,
    rate: Series,
    watcher: Option<Watcher>,
    /// The programs' owner.
    _plane: Option<Plane>,
    _server: Server,
}

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, args: &Args) -> Result<()> {
    let mut contestants = vec![
        prepare(run, args, Way::Plain, "plain", "plain routed veth")?,
        prepare(run, args, Way::Plain, "again", "plain routed veth, again")?,
        prepare(run, args, Way::Programs, "hm", "hivemind")?,
        prepare(run, args, Way::Service, "hms", "hivemind, through a service")?,
        prepare(run, args, Way::Policies, "hmp", "hivemind, policies, flows watched")?,
    ];
    let (rounds, millis) = common.pick((5, 200), (21, 500));
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let count = contestants.len();
        for i in 0..count {
            let one = &mut contestants[(i + round) % count];
            let rate = one.client.ask(&Role::Bulk { to: one.to, millis }).context(one.name)?;
            one.rate.0.push(rate);
        }
    }
    for watcher in contestants.iter().filter_map(|one| one.watcher.as_ref()) {
        anyhow::ensure!(watcher.sum()?.told > 0, "nothing was told of the flows");
    }
    let family = if args.ipv6 { "IPv6" } else { "IPv4" };
    let mut report = Report::new(format!("TCP throughput from container to container, one stream; {family}"));
    for one in &contestants {
        report.figure(one.name, "Gbit/s", &one.rate);
    }
    let [plain, again, ours @ ..] = &contestants[..] else { return Ok(()) };
    for one in ours {
        let target = if one.watcher.is_some() { 0.97 } else { 1.0 };
        report.ratio((one.name, &one.rate), (plain.name, &plain.rate), Some(Target::AtLeast(target)));
    }
    report.ratio((again.name, &again.rate), (plain.name, &plain.rate), None);
    report.note(format!(
        "policies: {RULES} rules, and both containers isolated; packets, bytes and what each rule lets pass are counted."
    ));
    report.print(common.json)
}

fn prepare(run: &Run, args: &Args, way: Way, tag: &str, name: &'static str) -> Result<Contestant> {
    let lab = Lab::new(run, tag)?;
    let cgroup = run.group(tag)?;
    let mut to = SocketAddr::new(pick(SERVER, args.ipv6), BULK_PORT);
    let (mut plane, mut watcher) = (None, None);
    if way != Way::Plain {
        let services = rules::services(1, args.ipv6);
        let mut opened = Plane::open(run, tag, &lab.node, &cgroup)?;
        opened.attach(&lab)?;
        let mut tables = tables::tables(lab.host_ends()?, &services, 0);
        if way == Way::Policies {
            tables = policies::isolate(tables, RULES, &policies::OPEN);
            watcher = Some(opened.listen(None)?);
        }
        opened.sync(&tables)?;
        plane = Some(opened);
        if way == Way::Service {
            to.set_ip(services[0].address);
        }
    }
    let server = Place { netns: lab.server.path(), cgroup: Some(cgroup.clone()), cpu: Some(1) };
    let client = Place { netns: lab.client.path(), cgroup: Some(cgroup), cpu: Some(0) };
    let role = Role::Serve { request: ANSWERING.to_vec(), bulk: BULK_PORT, echo: ECHO_PORT };
    Ok(Contestant { name, client, to, rate: Series::default(), watcher, _plane: plane, _server: server.serve(&role)? })
}
