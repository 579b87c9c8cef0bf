//! Messages lost while the loader of the data plane comes and goes.
//!
//! Four streams run at once: over TCP and UDP, each through the socket hooks (the client is in the cgroup they are
//! attached to) and packet by packet (a client that is not). Meanwhile loaders follow each other; every one opens the
//! data plane, puts its programs in the place of those that are there, and writes the tables, as the daemon does.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{
    Common,
    child::Role,
    clock::{Moment, pause},
    lab::{Lab, Netns, Place, Server},
    plane::Plane,
    report::{Report, Target},
    rules::{self, ANSWERING, BULK_PORT, ECHO_PORT, tables},
    stats::Series,
    stream::{Counted, Stream},
    supervisor::Run,
};

/// Services in the tables.
const SERVICES: u32 = 100;
/// How long a loader stays.
const STAY: Duration = Duration::from_millis(300);

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Over IPv6
    #[arg(long)]
    ipv6: bool,
    /// Messages of each stream per second
    #[arg(long, default_value_t = 1000)]
    rate: u64,
}

/// How a loader ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is asked to.
    Restart,
    /// It is killed.
    Kill,
    /// It is still there when the next one takes over.
    Upgrade,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Kill => "kill -9",
            Self::Upgrade => "upgrade",
        }
    }
}

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, args: &Args) -> Result<()> {
    let messages = common.pick(1000, 10_000);
    let family = if args.ipv6 { "IPv6" } else { "IPv4" };
    let mut report = Report::new(format!("Messages lost of {messages}, {} per second and stream; {family}", args.rate));
    for end in [End::Restart, End::Kill, End::Upgrade] {
        eprintln!("{}", end.name());
        disturb(run, args, end, messages, &mut report).with_context(|| end.name())?;
    }
    report.note("\"socket\": the client's socket calls were balanced; \"packet\": each of its packets is, with a connection table.");
    report.print(common.json)
}

/// The data plane of the lab `tag`, loaded and written.
pub(crate) fn load(run: &str, tag: &str, cgroup: &Path) -> Result<Plane> {
    let run = Run::named(run)?;
    let lab = Lab::there(&run, tag);
    let services = rules::services(SERVICES, tag.ends_with('6'));
    let mut plane = Plane::open(&run, tag, &lab.node, cgroup)?;
    plane.attach(&lab)?;
    plane.sync(&tables::tables(lab.host_ends()?, &services, rules::measured(SERVICES)))?;
    Ok(plane)
}

/// TCP segments that were sent again in a namespace: a loss that TCP hides, or a delay that it took for one.
fn sent_again(netns: &Netns) -> Result<u64> {
    let text = netns.enter(|| fs::read_to_string("/proc/thread-self/net/snmp").context("cannot read the counters"))?;
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = tcp.next().zip(tcp.next()).context("no TCP counters")?;
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RetransSegs");
    Ok(found.context("no counter of segments sent again")?.1.parse()?)
}

fn disturb(run: &Run, args: &Args, end: End, messages: u64, report: &mut Report) -> Result<()> {
    let tag = format!("{}{}", end.name().replace([' ', '-'], ""), if args.ipv6 { 6 } else { 4 });
    let lab = Lab::new(run, &tag)?;
    let [hooked, plain] = [run.group(&tag)?, run.group(&format!("{tag}p"))?];
    let loading = Place { netns: lab.node.clone(), cgroup: hooked.clone(), cpu: None };
    let load = || loading.serve(&Role::Load { run: run.name().to_owned(), tag: tag.clone() });
    let mut loader = load()?;
    let place = |netns: &Netns, cgroup: &Path| Place { netns: netns.clone(), cgroup: cgroup.to_owned(), cpu: None };
    let role = Role::Serve { request: ANSWERING.to_vec(), bulk: BULK_PORT, echo: ECHO_PORT };
    let _server: Server = place(&lab.server, &plain).serve(&role)?;
    let to = SocketAddr::new(rules::virtual_address(rules::measured(SERVICES), args.ipv6), ECHO_PORT);
    let mut streams = Vec::new();
    for (path, cgroup) in [("socket", &hooked), ("packet", &plain)] {
        for (protocol, tcp) in [("TCP", true), ("UDP", false)] {
            let stream = Stream { to, tcp, messages, rate: args.rate };
            streams.push((
                format!("{}: {protocol} by {path}", end.name()),
                place(&lab.client, cgroup).start(&Role::Count(stream))?,
            ));
        }
    }
    let mut loads = 0;
    while streams.iter_mut().map(|(_, client)| client.is_running()).collect::<Result<Vec<_>>>()?.contains(&true) {
        pause(STAY);
        let (next, took) = match end {
            End::Upgrade => {
                let start = Moment::now();
                let next = load()?;
                loader.end(Signal::SIGKILL)?;
                (next, start.elapsed())
            }
            End::Restart | End::Kill => {
                loader.end(if end == End::Kill { Signal::SIGKILL } else { Signal::SIGTERM })?;
                let start = Moment::now();
                (load()?, start.elapsed())
            }
        };
        loader = next;
        loads += 1;
        eprintln!("  loader {loads} took over within {took:?}");
    }
    for (name, client) in streams {
        let counted: Counted = client.finish().with_context(|| name.clone())?;
        anyhow::ensure!(counted.sent == messages, "{name}: only {} messages were sent", counted.sent);
        report.figure(format!("{name}: longest silence"), "ms", &Series(vec![counted.gap]));
        report.limit(format!("{name}: lost"), "messages", &Series(vec![counted.lost as f64]), Target::AtMost(0.0));
    }
    let again = Series(vec![(sent_again(&lab.client)? + sent_again(&lab.server)?) as f64]);
    report.figure(format!("{}: TCP segments sent again", end.name()), "segments", &again);
    report.note(format!("{}: {loads} loaders took over while the streams ran", end.name()));
    Ok(())
}
