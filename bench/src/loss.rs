//! Messages lost while the daemon restarts, is killed, is replaced.
//!
//! The real daemon on a machine of its own (`xtask::machine`). Six streams run at once, over TCP and UDP, of one flow or
//! of many, each
//! * by socket: from a container; the socket hooks choose the instance,
//! * by packet: from the same container, but from a cgroup without hooks; the device's program chooses,
//! * from outside: from another machine, through a published port.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use hivemind_ebpf::ABI_VERSION;
use xtask::machine::Machine;

use crate::{
    Common,
    child::Role,
    clock::{Moment, pause, wait_for},
    lab::{self, Client, Place},
    report::{Report, Target},
    stage::{self, NODE, PATIENCE, PORT, PUBLISHED, Stage},
    stats::Series,
    stream::{Counted, OPENED, Stream},
};

/// How long a daemon stays, once it is ready.
const STAY: Duration = Duration::from_millis(300);
/// Where the daemon pins, by the version of its ABI.
const PINS: &str = "/sys/fs/bpf/hivemind";

/// The first port of sockets of UDP, and how many there are for each way: one that was used to reach an instance by its
/// own address a moment ago is refused towards a service that leads there, as the answers could not be told apart.
const PORTS: u16 = 2_000;
const PORTS_EACH: usize = 10_000;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Over IPv6
    #[arg(long)]
    ipv6: bool,
    /// Fail if a message is lost
    #[arg(long)]
    strict: bool,
    /// Messages of each stream per second
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Messages of each stream; quick: 2,000 at most, with several flows 8,000
    #[arg(long, default_value_t = 10_000)]
    messages: u64,
    /// Connections, or sockets, of each stream. With several, also over a change of the ABI
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=PORTS_EACH as u64))]
    flows: u64,
}

/// How a daemon ends before the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is asked to.
    Restart,
    /// It is killed.
    Kill,
    /// It is asked to, and the next one is another binary.
    Upgrade,
    /// The same, and what it has left is of an older ABI.
    UpgradeAbi,
    /// The same, and what it has left is of a newer ABI.
    DowngradeAbi,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Kill => "kill -9",
            Self::Upgrade => "upgrade",
            Self::UpgradeAbi => "upgrade, another ABI",
            Self::DowngradeAbi => "downgrade, another ABI",
        }
    }

    /// The ABI of what the next daemon finds, if it is not its own.
    const fn other_abi(self) -> Option<u32> {
        match self {
            Self::Restart | Self::Kill | Self::Upgrade => None,
            Self::UpgradeAbi => Some(ABI_VERSION - 1),
            Self::DowngradeAbi => Some(ABI_VERSION + 1),
        }
    }
}

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let quick = if args.flows > 1 { 8_000 } else { 2_000 };
    let messages = if common.quick { args.messages.min(quick) } else { args.messages };
    let family = if args.ipv6 { "IPv6" } else { "IPv4" };
    let flows = if args.flows > 1 { format!("{} flows each, ", args.flows) } else { String::new() };
    let mut report =
        Report::new(format!("Messages lost of {messages}, {flows}{} per second and stream; {family}", args.rate));
    let mut machine = Machine::start(if args.ipv6 { "loss6" } else { "loss" }, &[])?;
    let result = measure(&mut machine, args, messages, &mut report);
    let log = machine.daemon.log();
    machine.close()?;
    result.with_context(|| {
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    })?;
    report.note("\"socket\": the client's socket calls were balanced; \"packet\": each of its packets was, with a connection table; \"outside\": through a published port, from another machine. A message counts as lost if its answer does not come back: over UDP it is a packet, over TCP what is lost is sent again, and the silence is longer.");
    report.print(common.json)?;
    if args.strict { report.strictly() } else { Ok(()) }
}

fn measure(machine: &mut Machine, args: &Args, messages: u64, report: &mut Report) -> Result<()> {
    let stage = Stage::set(machine, None)?;
    let keeper = stage::outside(machine)?;
    let hooked = machine.sandbox.cgroup().join("streams");
    fs::create_dir(&hooked)?;
    let family = usize::from(args.ipv6);
    let service = SocketAddr::new(stage.service(machine, args.ipv6)?, PORT);
    let client = stage.client.clone();
    let ways = [
        ("socket", Place { netns: client.clone(), cgroup: Some(hooked), cpu: None }, service),
        ("packet", Place { netns: client, cgroup: None, cpu: None }, service),
        (
            "outside",
            Place { netns: keeper.netns(), cgroup: None, cpu: None },
            SocketAddr::new(NODE[family].parse()?, PUBLISHED),
        ),
    ];
    for end in [End::Restart, End::Kill, End::Upgrade] {
        eprintln!("{}", end.name());
        disturb(machine, args, &ways, end, messages, report).with_context(|| end.name())?;
    }
    if args.flows == 1 {
        return Ok(());
    }
    for end in [End::UpgradeAbi, End::DowngradeAbi] {
        eprintln!("{}", end.name());
        disturb(machine, args, &ways, end, messages, report).with_context(|| end.name())?;
    }
    report.note("another ABI: between the two daemons the pins of the first are renamed to those of the ABI before, or after, its own, so that the next one takes none of its tables for its own: it makes and fills new ones before its programs take the place of those that are there, and goes on only with what programs remember of connections. Whether what is there is older or newer makes no difference to it.");
    Ok(())
}

fn disturb(
    machine: &mut Machine,
    args: &Args,
    ways: &[(&str, Place, SocketAddr)],
    end: End,
    messages: u64,
    report: &mut Report,
) -> Result<()> {
    let mut streams = Vec::new();
    for ((way, place, to), ports) in ways.iter().zip((PORTS..).step_by(PORTS_EACH)) {
        for (protocol, tcp) in [("TCP", true), ("UDP", false)] {
            let stream = Stream { to: *to, tcp, flows: args.flows, ports, messages, rate: args.rate };
            streams.push((format!("{}: {protocol} by {way}", end.name()), place.start(&Role::Count(stream))?));
        }
    }
    for (name, client) in &mut streams {
        let said = client.line()?;
        ensure!(said == OPENED, "{name}: it could not begin ({said:?})");
    }
    let (mut without, mut served) = (Series::default(), 0);
    while any_runs(&mut streams)? {
        pause(STAY);
        without.0.push(replace(machine, end, without.0.len())?);
        served += usize::from(any_runs(&mut streams)?);
    }
    let times = without.0.len();
    ensure!(times > 0, "the streams were over before the daemon was disturbed");
    // Of another ABI a daemon takes the place of the one before when it is ready, and not before.
    ensure!(
        served > 0 || end.other_abi().is_none(),
        "the streams were over before the next daemon served: give them more --messages"
    );
    let mut all = Vec::new();
    for (name, client) in streams {
        let counted: Counted = client.finish().with_context(|| name.clone())?;
        ensure!(counted.sent == messages, "{name}: only {} messages were sent", counted.sent);
        all.push((name, counted));
    }
    for (name, Counted { lost, broken, strange, .. }) in all.iter().filter(|(_, counted)| counted.lost > 0) {
        report.note(format!(
            "{name}: {lost} messages lost, {broken} connections broken, {strange} answers from elsewhere"
        ));
    }
    if all.iter().any(|(_, counted)| counted.lost > 0) {
        eprintln!("{}", machine.hivemind(&["flows", "--dropped"])?.ok()?);
    }
    if args.flows == 1 {
        for (name, counted) in &all {
            report.figure(format!("{name}: longest silence"), "ms", &Series(vec![counted.gap]));
            report.limit(format!("{name}: lost"), "messages", &Series(vec![counted.lost as f64]), Target::AtMost(0.0));
        }
    } else {
        together(&all, args.flows, end, report);
    }
    report.figure(format!("{}: until the next daemon is ready", end.name()), "s", &without);
    report.note(format!("{}: {times} times while the streams ran, {served} of them to the end", end.name()));
    Ok(())
}

fn any_runs(streams: &mut [(String, Client)]) -> Result<bool> {
    streams.iter_mut().try_fold(false, |any, (_, client)| Ok(any | client.is_running()?))
}

/// Ends the daemon, starts the next one, and says how many seconds there was none that was ready.
fn replace(machine: &mut Machine, end: End, times: usize) -> Result<f64> {
    let begin = Moment::now();
    match end {
        End::Kill => machine.daemon.kill()?,
        End::Restart | End::Upgrade | End::UpgradeAbi | End::DowngradeAbi => drop(machine.daemon.stop()?),
    }
    if end == End::Upgrade {
        let newer = machine.sandbox.dir().join(format!("hivemind-{times}"));
        fs::copy(machine.daemon.program(), &newer)?;
        machine.daemon.replace_binary(&newer);
    }
    let Some(abi) = end.other_abi() else {
        machine.daemon.start(&machine.sandbox)?;
        return Ok(begin.elapsed().as_secs_f64());
    };
    let [own, other] = [ABI_VERSION, abi].map(|abi| format!("{PINS}/v{abi}"));
    lab::check(machine.sandbox.command("mv").args(["-T", &own, &other]))?;
    machine.daemon.start(&machine.sandbox)?;
    let seconds = begin.elapsed().as_secs_f64();
    let pid = machine.daemon.pid().context("the daemon does not run")?;
    // As the daemon sees it.
    let left = PathBuf::from(format!("/proc/{pid}/root{other}"));
    wait_for("what is of another ABI to be replaced", PATIENCE, || Ok((!left.exists()).then_some(())))?;
    Ok(seconds)
}

/// What came of many flows: one figure for all of their streams.
fn together(all: &[(String, Counted)], flows: u64, end: End, report: &mut Report) {
    let sum = |of: fn(&Counted) -> u64| Series(vec![all.iter().map(|(_, counted)| of(counted)).sum::<u64>() as f64]);
    let gap = all.iter().map(|(_, counted)| counted.gap).fold(0.0, f64::max);
    let name = end.name();
    let messages: u64 = all.iter().map(|(_, counted)| counted.sent).sum();
    report.figure(format!("{name}: longest silence of a stream"), "ms", &Series(vec![gap]));
    let connections = flows * all.len() as u64 / 2;
    let broken = format!("{name}: broken of {connections}");
    report.limit(broken, "connections", &sum(|counted| counted.broken), Target::AtMost(0.0));
    let lost = format!("{name}: lost of {messages}");
    report.limit(lost, "messages", &sum(|counted| counted.lost), Target::AtMost(0.0));
}
