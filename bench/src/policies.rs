//! What policies cost each new connection, and each exchange on one that stands: between containers that are isolated
//! in both directions, beside no policy, nftables and iptables with the same rules.
//!
//! Every way has its own namespaces of the same shape, all at the same time, and each round tries every way once, in an
//! order that rotates.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Common,
    child::{Requests, Role},
    lab::{Lab, Place, SERVER, Server},
    plane::Plane,
    report::{Report, Target},
    rules::{self, ANSWERING, BULK_PORT, ECHO_PORT, policies, tables},
    stats::Series,
    supervisor::Run,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Sizes of the rule sets
    #[arg(long, value_delimiter = ',', default_values_t = [10, 10_000])]
    rules: Vec<u32>,
    /// The command that loads iptables rules
    #[arg(long, default_value = "iptables-restore")]
    iptables: String,
}

/// How long an answer may take that should come, and is waited for where none should.
const PATIENCE: Duration = Duration::from_millis(200);

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judge {
    /// A routed veth.
    Nobody,
    /// hivemind's data plane, with no policy.
    Open,
    /// The same once more: how far two equal ways differ is what this machine cannot tell apart.
    OpenAgain,
    /// With so many rules.
    Hivemind(u32),
    /// The same rules in sets of nftables.
    Nft(u32),
    /// The same rules in chains of iptables.
    Iptables(u32),
}

/// A way that is ready, and what it gave so far.
struct Contestant {
    judge: Judge,
    client: Place,
    /// New connections.
    rate: Series,
    p50: Series,
    p99: Series,
    /// Exchanges on one connection.
    talk: Series,
    /// The programs' owner.
    _plane: Option<Plane>,
    _server: Server,
}

impl Judge {
    fn name(self) -> String {
        match self {
            Self::Nobody => "direct".to_owned(),
            Self::Open => "no policy".to_owned(),
            Self::OpenAgain => "no policy, again".to_owned(),
            Self::Hivemind(count) => format!("hivemind [{count} rules]"),
            Self::Nft(count) => format!("nftables [{count} rules]"),
            Self::Iptables(count) => format!("iptables [{count} rules]"),
        }
    }

    fn tag(self) -> String {
        match self {
            Self::Nobody => "direct".to_owned(),
            Self::Open => "open".to_owned(),
            Self::OpenAgain => "again".to_owned(),
            Self::Hivemind(count) => format!("hm{count}"),
            Self::Nft(count) => format!("nft{count}"),
            Self::Iptables(count) => format!("ipt{count}"),
        }
    }

    const fn denies(self) -> bool {
        matches!(self, Self::Hivemind(_) | Self::Nft(_) | Self::Iptables(_))
    }
}

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, args: &Args) -> Result<()> {
    let mut judges = vec![Judge::Nobody, Judge::Open, Judge::OpenAgain];
    for of in [Judge::Hivemind, Judge::Nft, Judge::Iptables] {
        judges.extend(args.rules.iter().map(|count| of(*count)));
    }
    let mut contestants = Vec::new();
    for judge in judges {
        eprintln!("preparing {}", judge.name());
        contestants.push(prepare(run, args, judge).with_context(|| judge.name())?);
    }
    let (rounds, millis) = common.pick((5, 100), (21, 500));
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let count = contestants.len();
        for i in 0..count {
            let one = &mut contestants[(i + round) % count];
            one.measure(millis).with_context(|| one.judge.name())?;
        }
    }
    report(args, &contestants).print(common.json)
}

fn prepare(run: &Run, args: &Args, judge: Judge) -> Result<Contestant> {
    let lab = Lab::new(run, &judge.tag())?;
    let cgroup = run.group(&judge.tag())?;
    let mut plane = None;
    match judge {
        Judge::Nobody => {}
        Judge::Nft(count) => lab.node.run("nft", &["-f", "-"], &policies::nft(count))?,
        Judge::Iptables(count) => lab.node.run(&args.iptables, &[], &policies::iptables(count))?,
        Judge::Open | Judge::OpenAgain | Judge::Hivemind(_) => {
            let mut tables = tables::tables(lab.host_ends()?, &rules::services(1, false), 0);
            if let Judge::Hivemind(count) = judge {
                tables = policies::isolate(tables, count, &policies::OPEN);
            }
            let mut opened = Plane::open(run, &judge.tag(), &lab.node, &cgroup)?;
            opened.attach(&lab)?;
            opened.sync(&tables)?;
            plane = Some(opened);
        }
    }
    let place = |netns| Place { netns, cgroup: Some(cgroup.clone()), cpu: Some(0) };
    let role = Role::Serve { request: ANSWERING.to_vec(), bulk: BULK_PORT, echo: ECHO_PORT };
    let server = place(lab.server.path()).serve(&role)?;
    let client = place(lab.client.path());
    for (port, answers) in [(policies::OPEN[0], true), (policies::CLOSED, !judge.denies())] {
        let connected = lab.client.enter(|| Ok(TcpStream::connect_timeout(&at(port), PATIENCE)))?;
        ensure!(connected.is_ok() == answers, "port {port}: {connected:?}");
    }
    let [rate, p50, p99, talk] = [const { Series(Vec::new()) }; 4];
    Ok(Contestant { judge, client, rate, p50, p99, talk, _plane: plane, _server: server })
}

/// A port of the server.
fn at(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(SERVER.0), port)
}

impl Contestant {
    fn measure(&mut self, millis: u64) -> Result<()> {
        let requests: Requests = self.client.ask(&Role::Request { to: at(ANSWERING[0]), millis })?;
        let talk: Requests = self.client.ask(&Role::Talk { to: at(ECHO_PORT), millis })?;
        let failed = requests.failed + talk.failed;
        ensure!(failed == 0, "{failed} exchanges failed");
        self.rate.0.push(requests.rate);
        self.p50.0.push(requests.p50);
        self.p99.0.push(requests.p99);
        self.talk.0.push(talk.rate);
        Ok(())
    }
}

fn report(args: &Args, contestants: &[Contestant]) -> Report {
    let mut report = Report::new("Policies: new connections, and exchanges (64 B each way) on one; IPv4; one CPU");
    for one in contestants {
        let name = one.judge.name();
        report.figure(&name, "connections/s", &one.rate);
        report.figure(&name, "p50 µs", &one.p50);
        report.figure(&name, "p99 µs", &one.p99);
        report.figure(&name, "exchanges/s", &one.talk);
    }
    let find = |judge| contestants.iter().find(|one| one.judge == judge);
    let mut compare = |ours: &Contestant, other: Option<&Contestant>, target| {
        let Some(other) = other else { return };
        let (name, to) = (ours.judge.name(), other.judge.name());
        report.ratio((format!("{name}: connections"), &ours.rate), (&to, &other.rate), target);
        report.ratio((format!("{name}: exchanges"), &ours.talk), (&to, &other.talk), target);
    };
    let at_least = |limit| Some(Target::AtLeast(limit));
    let fewest = args.rules.iter().min().copied();
    for ours in contestants {
        let Judge::Hivemind(count) = ours.judge else { continue };
        compare(ours, find(Judge::Open), at_least(0.98));
        if let Some(fewest) = fewest.filter(|fewest| *fewest != count) {
            // Flat in the number of rules.
            compare(ours, find(Judge::Hivemind(fewest)), at_least(0.98));
        }
        for other in [Judge::Nft(count), Judge::Iptables(count)] {
            compare(ours, find(other), at_least(1.0));
        }
    }
    if let [direct, open, again, ..] = contestants {
        compare(open, Some(direct), None);
        compare(again, Some(open), None);
    }
    report.note("half of the rules let the client out, half let others in to the server; nftables: one set for each direction; iptables: one chain for each, the measured rule in the middle. Both pass what belongs to a connection first.");
    report
}
