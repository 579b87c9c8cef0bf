//! TCP from container to container, as much as goes, over a plain routed veth and with hivemind's programs.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::{
    Common,
    child::Role,
    lab::{Lab, Place, SERVER, Server, pick},
    report::Report,
    rules::{ANSWERING, BULK_PORT, ECHO_PORT},
    stats::Series,
    supervisor::Run,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Over IPv6
    #[arg(long)]
    ipv6: bool,
}

struct Contestant {
    name: &'static str,
    client: Place,
    to: SocketAddr,
    rate: Series,
    _server: Server,
}

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, args: &Args) -> Result<()> {
    let mut contestants = vec![
        prepare(run, args, "plain", "plain routed veth")?,
        prepare(run, args, "again", "plain routed veth, again")?,
    ];
    let (rounds, millis) = common.pick((5, 200), (21, 1000));
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let count = contestants.len();
        for i in 0..count {
            let one = &mut contestants[(i + round) % count];
            let rate = one.client.ask(&Role::Bulk { to: one.to, millis }).context(one.name)?;
            one.rate.0.push(rate);
        }
    }
    let family = if args.ipv6 { "IPv6" } else { "IPv4" };
    let mut report = Report::new(format!("TCP throughput from container to container, one stream; {family}"));
    for one in &contestants {
        report.figure(one.name, "Gbit/s", &one.rate);
    }
    let [plain, again, ..] = &contestants[..] else { return Ok(()) };
    report.ratio((again.name, &again.rate), (plain.name, &plain.rate), None);
    report.print(common.json)
}

fn prepare(run: &Run, args: &Args, tag: &str, name: &'static str) -> Result<Contestant> {
    let lab = Lab::new(run, tag)?;
    let cgroup = run.cgroup()?;
    let server = Place { netns: lab.server, cgroup: cgroup.clone(), cpu: Some(1) };
    let client = Place { netns: lab.client, cgroup, cpu: Some(0) };
    let to = SocketAddr::new(pick(SERVER, args.ipv6), BULK_PORT);
    let role = Role::Serve { request: ANSWERING.to_vec(), bulk: BULK_PORT, echo: ECHO_PORT };
    Ok(Contestant { name, client, to, rate: Series::default(), _server: server.serve(&role)? })
}
