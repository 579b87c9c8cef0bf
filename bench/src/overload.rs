//! Overload: what becomes of flows that are known while many times more arrives than one processor can do.
//!
//! The real daemon on a machine of its own. Everything of the node happens on one CPU, as far as packets are concerned:
//! the uplink has a queue that is polled by a thread bound to it, as a network card's is. The other CPU sends frames from
//! outside to a published port: datagrams of known flows among beginnings of TCP connections of clients that do not
//! exist. What arrives in the instance is counted by its kernel.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use xtask::machine::Machine;

use crate::{
    Common,
    child::{Requests, Role},
    clock::{pause, wait_for},
    device::{self, Feature},
    flood::{CLIENTS, Flood, Sent},
    lab::{self, Place},
    report::{Report, Target},
    stage::{self, NODE, PATIENCE, PUBLISHED, Stage},
    stats::Series,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many times what one CPU can do is sent
    #[arg(long, default_value_t = 5.0)]
    times: f64,
    /// Datagrams of known flows per second
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    known: u64,
}

/// The CPU of the node.
const NODE_CPU: usize = 0;
/// That of the sender.
const SENDER_CPU: usize = 1;
/// The Ethernet address of the uplink, and the sender's.
const MACS: [[u8; 6]; 2] = [[2, 0x68, 0, 0, 0, 5], [2, 0x68, 0, 0, 0, 6]];
/// Flows that are known.
const FLOWS: u16 = 64;
/// Packets per second that are tried to find what one CPU can do: each twice the one before.
const FIRST: u64 = 25_000;
const TRIES: u32 = 7;
/// What is on the way has arrived by then.
const SETTLE: Duration = Duration::from_millis(300);

/// What the instance's kernel has counted.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    /// Packets of IPv4.
    all: u64,
    /// Datagrams of UDP, those among them that found no room with their reader.
    known: u64,
}

/// What came of a flood.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Packets per second that were sent.
    offered: f64,
    /// Packets per second that arrived.
    arrived: f64,
    /// The share of known flows' packets that arrived.
    known: f64,
}

/// Sender and counters.
struct Course {
    sender: Place,
    /// `/proc/<pid>/net/snmp` of the instance.
    counters: PathBuf,
    beginnings: u32,
}

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let mut report = Report::new("Overload: beginnings of connections to a published port, from outside; one CPU");
    let machine = Machine::start("overload", &[])?;
    let result = measure(&machine, common, args, &mut report);
    let log = machine.daemon.log();
    machine.close()?;
    result.with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n"))?;
    report.note("What is too much is lost before any program sees it, known flows and beginnings alike: the uplink's queue is full. Collapse would be that less is done the more arrives; so what arrives in the instance is compared with what does at the load that is just enough, and the share of known flows with that of all.");
    report.print(common.json)
}

fn measure(machine: &Machine, common: &Common, args: &Args, report: &mut Report) -> Result<()> {
    let stage = Stage::set(machine, Some(NODE_CPU))?;
    let keeper = stage::outside(machine)?;
    let node = machine.daemon.pid().context("the daemon does not run")?;
    prepare(machine, Path::new(&format!("/proc/{node}/ns/net")), &keeper.netns())?;
    let to = SocketAddrV4::new(NODE[0].parse()?, PUBLISHED);
    let sender = Place { netns: keeper.netns(), cgroup: None, cpu: Some(SENDER_CPU) };
    wait_for("the published port to answer", PATIENCE, || {
        let asked: Result<Requests> = sender.ask(&Role::Talk { to: SocketAddr::V4(to), millis: 20 });
        Ok(asked.ok().filter(|requests| requests.failed == 0).map(drop))
    })?;
    // Beside `ns/net`.
    let counters = stage.server.ancestors().nth(2).context("no process of the instance")?.join("net/snmp");
    let millis = common.pick(300, 2_000);
    let mut course = Course { sender, counters, beginnings: 0 };
    let flood = |new: f64, known: u64| Flood {
        device: "eth0".into(),
        macs: MACS,
        to,
        new: new as u64,
        known,
        flows: FLOWS,
        millis,
        seed: 0,
    };
    let first = course.run(&flood(0.0, args.known))?;
    ensure!(first.known > 0.99, "without a flood only {:.3} of the known flows' packets arrive", first.known);

    let mut most: f64 = 0.0;
    for rate in (0..TRIES).map(|n| FIRST << n) {
        let outcome = course.run(&flood(rate.saturating_sub(args.known) as f64, args.known))?;
        eprintln!("{:.0} packets per second sent, {:.0} arrived", outcome.offered, outcome.arrived);
        most = most.max(outcome.arrived);
    }
    let known = args.known as f64;
    let mut all = [const { Vec::new() }; 3];
    let rounds = common.pick(3, 11);
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for i in 0..all.len() {
            let which = (i + round) % all.len();
            let new = [0.0, most - known, most * args.times - known][which].max(0.0);
            all[which].push(course.run(&flood(new, args.known))?);
        }
    }
    let [quiet, enough, flooded] = all;
    conclude(args, most, [&quiet, &enough, &flooded], report);
    Ok(())
}

fn conclude(args: &Args, most: f64, [quiet, enough, flooded]: [&[Outcome]; 3], report: &mut Report) {
    let series = |of: &[Outcome], what: fn(&Outcome) -> f64| Series(of.iter().map(what).collect());
    let share = |outcome: &Outcome| outcome.arrived / outcome.offered;
    report.figure("the most that arrived", "packets/s", &Series(vec![most]));
    for (name, of) in [("just enough", enough), ("overload", flooded)] {
        report.figure(format!("{name}: sent"), "packets/s", &series(of, |outcome| outcome.offered));
        report.figure(format!("{name}: arrived"), "packets/s", &series(of, |outcome| outcome.arrived));
        report.figure(format!("{name}: arrived of known flows"), "share", &series(of, |outcome| outcome.known));
    }
    let over = Series(flooded.iter().map(|outcome| outcome.offered / most).collect());
    report.limit("overload: sent, over what one CPU can do", "times", &over, Target::AtLeast(args.times * 0.95));
    let arrived = |of| series(of, |outcome: &Outcome| outcome.arrived);
    let known = |of| series(of, |outcome: &Outcome| outcome.known);
    report.ratio(
        ("overload: arrived", &arrived(flooded)),
        ("just enough", &arrived(enough)),
        Some(Target::AtLeast(0.8)),
    );
    report.ratio(("overload: known flows' share", &known(flooded)), ("without a flood", &known(quiet)), None);
    let all = Series(flooded.iter().map(share).collect());
    let target = Some(Target::AtLeast(0.9));
    report.ratio(("overload: known flows' share", &known(flooded)), ("everybody's share", &all), target);
}

impl Course {
    fn run(&mut self, flood: &Flood) -> Result<Outcome> {
        let flood = Flood { seed: self.beginnings, ..flood.clone() };
        let before = self.arrived()?;
        let sent: Sent = self.sender.ask(&Role::Flood(flood))?;
        pause(SETTLE);
        let after = self.arrived()?;
        self.beginnings = self.beginnings.wrapping_add(u32::try_from(sent.new)?);
        // A sender that is too slow takes longer: what was really sent is what counts.
        Ok(Outcome {
            offered: (sent.new + sent.known) as f64 / sent.seconds,
            arrived: (after.all - before.all) as f64 / sent.seconds,
            known: (after.known - before.known) as f64 / sent.known as f64,
        })
    }

    fn arrived(&self) -> Result<Arrived> {
        let text =
            fs::read_to_string(&self.counters).with_context(|| format!("cannot read {}", self.counters.display()))?;
        let value = |of: &str, name: &str| counter(&text, of, name).with_context(|| format!("no {name} of {of}"));
        let known = value("Udp:", "InDatagrams")? + value("Udp:", "InErrors")?;
        Ok(Arrived { all: value("Ip:", "InReceives")?, known })
    }
}

/// A counter of `/proc/net/snmp`: for each protocol a line of names, then a line of values.
fn counter(text: &str, of: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(of));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|word| word == name)?;
    values.split(' ').nth(at)?.parse().ok()
}

/// A way back to the clients, and the uplink's queue on the node's CPU.
fn prepare(machine: &Machine, node: &Path, outside: &Path) -> Result<()> {
    let [mac, _] = MACS.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    let via = Ipv4Addr::new(192, 0, 2, 2);
    let route = format!("ip link set uplink address {mac}; ip route add {CLIENTS} via {via} dev uplink");
    lab::check(machine.sandbox.command("sh").args(["-ec", &route]))?;
    // What the sender's device would cut itself does not go by the queue.
    device::set(outside, "eth0", Feature::Tso, false)?;
    device::set(node, "uplink", Feature::Gro, true)?;
    let polled = "mount -t sysfs sysfs /sys; echo 1 >/sys/class/net/uplink/threaded";
    lab::check(machine.sandbox.command("unshare").args(["-m", "sh", "-ec", polled]))?;
    let thread = wait_for("the thread of the uplink's queue", PATIENCE, || Ok(poller()))?;
    let mut cpus = CpuSet::new();
    cpus.set(NODE_CPU)?;
    sched_setaffinity(thread, &cpus).context("cannot bind the thread of the uplink's queue")?;
    // As the other measuring processes are.
    lab::check(Command::new("renice").args(["-n", "-20", "-p", &thread.to_string()]))
}

/// The kernel's thread that polls the uplink's queue.
fn poller() -> Option<Pid> {
    let mut processes = fs::read_dir("/proc").ok()?.flatten();
    processes.find_map(|entry| {
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        comm.starts_with("napi/uplink-").then_some(Pid::from_raw(pid))
    })
}

#[cfg(test)]
mod tests {
    use super::counter;

    #[test]
    fn counters_are_found_by_their_names() {
        let text = "Ip: Forwarding InReceives\nIp: 1 17\nUdp: InDatagrams NoPorts InErrors\nUdp: 5 0 3\n";
        assert_eq!(counter(text, "Ip:", "InReceives"), Some(17));
        assert_eq!(counter(text, "Udp:", "InErrors"), Some(3));
        assert_eq!(counter(text, "Udp:", "Missing"), None);
        assert_eq!(counter(text, "Tcp:", "InSegs"), None);
    }
}
