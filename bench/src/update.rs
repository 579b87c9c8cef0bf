//! Updates under load: requests without an answer while an app's instances are replaced, again and again.
//!
//! The real daemon on a machine of its own, Debian's nginx, clients in a container and on another machine, on new
//! connections and on kept ones.

use std::{fs, net::SocketAddr};

use anyhow::{Context, Result};
use xtask::{image, machine::Machine};

use crate::{
    Common,
    child::Role,
    clock::timed,
    lab::Place,
    load::{Asked, Load, Outcome},
    report::{Report, Target},
    stage::{self, NODE},
    stats::Series,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Instances of the app
    #[arg(long, default_value_t = 3)]
    replicas: u32,
    /// Clients of each kind, in the container and outside
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Whether a new instance comes before an old one goes
    #[arg(long, default_value = "start-first", value_name = "start-first|stop-first")]
    order: String,
}

/// The port on the node.
const PUBLISHED: u16 = 8080;

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let Args { replicas, clients, order } = args;
    let title = format!("Updates under load: {replicas} instances of nginx, {order}, {clients} clients of each kind");
    let mut report = Report::new(title);
    let machine = Machine::start("update", &[])?;
    let result = measure(&machine, common, args, &mut report);
    let log = machine.daemon.log();
    machine.close()?;
    result.with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n"))?;
    report.note("A request has failed if no whole answer came. A kept connection that the server closes before the first byte of an answer is not a failure if the same request is answered on another: so every client of HTTP does it (RFC 9112, 9.3.1); how often that was is told beside. Docker Swarm is not beside it: its services and published ports are IPVS, which the kernel of this machine does not have.");
    report.print(common.json)
}

fn deploy(machine: &Machine, image: &str, args: &Args, colour: usize) -> Result<()> {
    let (replicas, colour) = (args.replicas.to_string(), format!("COLOUR={colour}"));
    let port = format!("{PUBLISHED}:80");
    let app = ["app", "deploy", "--image", image, "--name", "web", "--service", "web.local", "--port", &port];
    let how = ["--replicas", &replicas, "--env", &colour, "--update-order", &args.order, "--wait"];
    machine.hivemind(&[&app[..], &how].concat())?.ok().map(drop)
}

fn measure(machine: &Machine, common: &Common, args: &Args, report: &mut Report) -> Result<()> {
    let nginx = machine.push(&image::nginx()?, "nginx", "1")?;
    let busybox = machine.push(&image::web()?, "web", "1")?;
    deploy(machine, &nginx, args, 0)?;
    let client = ["app", "deploy", "--image", &busybox, "--name", "client", "--entrypoint", "sleep", "--wait"];
    machine.hivemind(&[&client[..], &["--", "1d"]].concat())?.ok()?;
    let keeper = stage::outside(machine)?;
    let info = machine.hivemind(&["service", "info", "web.local", "-o", "json"])?.json()?;
    let service = info["addresses"]["v4"].as_str().context("no IPv4 address")?.parse()?;
    let going = machine.sandbox.dir().join("load-goes-on");
    fs::write(&going, "")?;
    let inside = Place { netns: stage::namespace(machine, "client")?, cgroup: None, cpu: None };
    let outside = Place { netns: keeper.netns(), cgroup: None, cpu: None };
    let load = |to| {
        let while_there = going.clone();
        Role::Load(Load { to, fresh: args.clients, kept: args.clients, while_there })
    };
    let running = [
        ("container", inside.start(&load(SocketAddr::new(service, 80)))?),
        ("outside", outside.start(&load(SocketAddr::new(NODE[0].parse()?, PUBLISHED)))?),
    ];
    let mut took = Vec::new();
    let updated = (1..=common.pick(2, 10)).try_for_each(|colour| {
        eprintln!("update {colour}");
        let (done, seconds) = timed(|| deploy(machine, &nginx, args, colour));
        took.push(seconds);
        done
    });
    fs::remove_file(&going)?;
    for (name, client) in running {
        let Outcome { fresh, kept } = client.finish()?;
        say(report, &format!("{name}, new connections"), &fresh);
        say(report, &format!("{name}, kept connections"), &kept);
    }
    report.figure("an update", "s", &Series(took));
    updated
}

fn say(report: &mut Report, name: &str, asked: &Asked) {
    let one = |value: u64| Series(vec![value as f64]);
    report.figure(format!("{name}: answered"), "requests", &one(asked.answered));
    report.limit(format!("{name}: failed"), "requests", &one(asked.failed), Target::AtMost(0.0));
    if asked.repeated > 0 {
        report.figure(format!("{name}: asked again"), "requests", &one(asked.repeated));
    }
    for (error, count) in &asked.errors {
        report.note(format!("{name}: {count} times {error}"));
    }
}
