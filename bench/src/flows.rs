//! What it costs to watch flows: new connections as fast as they go, each of which the programs tell of twice, with
//! somebody who listens and with nobody.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::{
    Common,
    child::{Requests, Role},
    lab::{Lab, Place, SERVER, Server, pick},
    one_more::processor,
    plane::Plane,
    report::{Report, Target},
    rules::{self, ANSWERING, BULK_PORT, ECHO_PORT, tables},
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

/// The programs tell of its beginning and of its end.
const TOLD_EACH: u64 = 2;

/// Who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    Nobody,
    /// The same once more: how far two equal ways differ is what this machine cannot tell apart.
    NobodyAgain,
    /// With a processor of its own.
    Apart,
    /// On the one on which client and server are.
    SameCpu,
}

impl Audience {
    const ALL: [Self; 4] = [Self::Nobody, Self::NobodyAgain, Self::Apart, Self::SameCpu];

    const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "flows not watched",
            Self::NobodyAgain => "flows not watched, again",
            Self::Apart => "flows watched",
            Self::SameCpu => "flows watched, all on one CPU",
        }
    }

    const fn tag(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::NobodyAgain => "again",
            Self::Apart => "heard",
            Self::SameCpu => "near",
        }
    }
}

struct Contestant {
    audience: Audience,
    client: Place,
    to: SocketAddr,
    rate: Series,
    /// Per cent of what was told.
    lost: Series,
    /// Processor time of the listener, microseconds for each message.
    time: Series,
    watcher: Option<Watcher>,
    _plane: Plane,
    _server: Server,
}

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, args: &Args) -> Result<()> {
    let mut contestants =
        Audience::ALL.into_iter().map(|audience| prepare(run, args, audience)).collect::<Result<Vec<_>>>()?;
    let (rounds, millis) = common.pick((5, 200), (21, 1000));
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let count = contestants.len();
        for i in 0..count {
            let one = &mut contestants[(i + round) % count];
            one.measure(millis).context(one.audience.name())?;
        }
    }
    report(args, &contestants).print(common.json)
}

fn prepare(run: &Run, args: &Args, audience: Audience) -> Result<Contestant> {
    let tag = audience.tag();
    let lab = Lab::new(run, tag)?;
    let cgroup = run.group(tag)?;
    let mut plane = Plane::open(run, tag, &lab.node, &cgroup)?;
    plane.attach(&lab)?;
    plane.sync(&tables::tables(lab.host_ends()?, &rules::services(1, args.ipv6), 0))?;
    let watcher = match audience {
        Audience::Nobody | Audience::NobodyAgain => None,
        Audience::Apart => Some(plane.listen(Some(1))?),
        Audience::SameCpu => Some(plane.listen(Some(0))?),
    };
    let place = |netns| Place { netns, cgroup: Some(cgroup.clone()), cpu: Some(0) };
    let role = Role::Serve { request: ANSWERING.to_vec(), bulk: BULK_PORT, echo: ECHO_PORT };
    let server = place(lab.server.path()).serve(&role)?;
    let to = SocketAddr::new(pick(SERVER, args.ipv6), ANSWERING[0]);
    let [rate, lost, time] = [const { Series(Vec::new()) }; 3];
    let client = place(lab.client.path());
    Ok(Contestant { audience, client, to, rate, lost, time, watcher, _plane: plane, _server: server })
}

impl Contestant {
    fn measure(&mut self, millis: u64) -> Result<()> {
        let before = match &self.watcher {
            Some(watcher) => Some((watcher.sum()?, processor(std::process::id())?)),
            None => None,
        };
        let requests: Requests = self.client.ask(&Role::Request { to: self.to, millis })?;
        anyhow::ensure!(requests.failed == 0, "{} exchanges failed", requests.failed);
        self.rate.0.push(requests.rate);
        let (Some(watcher), Some((sum, time))) = (&self.watcher, before) else { return Ok(()) };
        // What was exchanged for warming up comes on top.
        let least = (requests.rate * millis as f64 / 1000.0) as u64 * TOLD_EACH;
        let after = watcher.until(sum, least)?;
        watcher.check()?;
        let (told, lost) = (after.told - sum.told, after.lost - sum.lost);
        self.lost.0.push(lost as f64 * 100.0 / (told + lost) as f64);
        // This process does nothing else meanwhile.
        self.time.0.push((processor(std::process::id())? - time) * 1e3 / told.max(1) as f64);
        Ok(())
    }
}

fn report(args: &Args, contestants: &[Contestant]) -> Report {
    let family = if args.ipv6 { "IPv6" } else { "IPv4" };
    let mut report =
        Report::new(format!("New connections while flows are watched; {family}; client and server on one CPU"));
    for one in contestants {
        report.figure(one.audience.name(), "1/s", &one.rate);
        if one.watcher.is_some() {
            report.figure(format!("{}: lost of what was told", one.audience.name()), "%", &one.lost);
            report.figure(format!("{}: listener's time for each message", one.audience.name()), "µs", &one.time);
        }
    }
    let [nobody, others @ ..] = contestants else { return report };
    for one in others {
        let target = (one.audience == Audience::Apart).then_some(Target::AtLeast(0.97));
        report.ratio(
            (format!("{}: connections", one.audience.name()), &one.rate),
            (nobody.audience.name(), &nobody.rate),
            target,
        );
    }
    report.note("watched: each connection is told twice, to a listener on the other CPU, with the daemon's runtime, reader and channel, up to where the API would write it as JSON. What is lost is counted, and no packet waits for it.");
    report
}
