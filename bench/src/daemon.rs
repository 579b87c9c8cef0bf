//! The daemon itself: how long it takes to be ready, and what it and its helpers take of the memory.
//!
//! The real binary, a real containerd and a real registry, on a machine of its own (`xtask::machine`), which cleans up
//! after itself whatever way this process ends.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result};
use xtask::{image, machine::Machine};

use crate::{
    Common,
    clock::{Moment, pause, wait_for},
    names, one_more,
    report::{Report, Target},
    stats::Series,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Instances that run when the daemon starts again
    #[arg(long, default_value_t = 100)]
    instances: u32,
    /// Services there are when one more is added [default: 10,000; quick: 1,000]
    #[arg(long)]
    services: Option<u32>,
}

/// Longer than any start.
const START: Duration = Duration::from_secs(60);
/// What an idle process gives back, it has given back by then.
pub(crate) const SETTLE: Duration = Duration::from_secs(3);

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let mut report = Report::new("The daemon: start to ready, and memory");
    let mut machine = Machine::prepare("bench", &[])?;
    let rounds = common.pick(3, 11);
    let result = measure(&mut machine, args, rounds, common, &mut report);
    let log = machine.daemon.log();
    machine.close()?;
    if let Err(error) = result {
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        return Err(error.context(last.into_iter().rev().collect::<Vec<_>>().join("\n")));
    }
    report.note("\"ready\" is /readyz answering 200, asked every millisecond from the moment the process is started; every start but the first finds the store of the one before, which was killed with SIGKILL.");
    report.note("For comparison, measured on the same kind of machine earlier: the daemon of Docker Engine 20.10 in Swarm mode takes 100 MB with 10 tasks and 118 MB with 30, containerd and shims not counted.");
    report.print(common.json)
}

fn measure(machine: &mut Machine, args: &Args, rounds: usize, common: &Common, report: &mut Report) -> Result<()> {
    let instances = args.instances;
    eprintln!("starting with nothing to do");
    let start = starts(machine, rounds)?;
    report.figure("start to ready, nothing running", "s", &start);
    report.limit("start to ready, nothing running", "s", &start, Target::AtMost(0.5));
    pause(SETTLE);
    let idle = Series(vec![daemon_memory(machine)?]);
    report.limit("RSS of the daemon, idle", "MB", &idle, Target::AtMost(30.0));
    helpers(machine, "nothing running", report)?;

    let web = machine.push(&image::web()?, "web", "1")?;
    eprintln!("asking for names");
    names::measure(machine, &web, common, report)?;

    eprintln!("deploying {instances} instances");
    let replicas = instances.to_string();
    let begin = Moment::now();
    let deploy = [
        "app",
        "deploy",
        "--image",
        &web,
        "--name",
        "web",
        "--service",
        "web.local",
        "--replicas",
        &replicas,
        "--wait",
        "--timeout",
        "170s",
    ];
    machine.hivemind(&deploy)?.ok()?;
    report.figure(
        format!("deploy of {instances} instances, until all are Ready"),
        "s",
        &Series(vec![begin.elapsed().as_secs_f64()]),
    );
    pause(SETTLE);
    let deployed = Series(vec![daemon_memory(machine)?]);
    report.limit(
        format!("RSS of the daemon that deployed {instances} instances"),
        "MB",
        &deployed,
        Target::AtMost(60.0),
    );

    eprintln!("starting with {instances} instances to adopt");
    let start = starts(machine, rounds)?;
    report.figure(format!("start to ready, {instances} instances to adopt"), "s", &start);
    report.limit(format!("start to ready, {instances} instances to adopt"), "s", &start, Target::AtMost(2.0));
    pause(SETTLE);
    let adopted = Series(vec![daemon_memory(machine)?]);
    report.limit(format!("RSS of the daemon that adopted {instances} instances"), "MB", &adopted, Target::AtMost(60.0));
    let maps = Series(vec![map_bytes(pid(machine)?)? as f64 / 1e6]);
    report.limit("BPF maps", "MB", &maps, Target::AtMost(64.0));
    helpers(machine, &format!("{instances} instances"), report)?;

    let services = args.services.unwrap_or(common.pick(1_000, 10_000));
    one_more::measure(machine, &web, services, common.pick(5, 20), report)
}

/// Starts the daemon again and again, each time after a SIGKILL; seconds until it is ready.
fn starts(machine: &mut Machine, rounds: usize) -> Result<Series> {
    let mut series = Series::default();
    for _ in 0..rounds {
        if machine.daemon.pid().is_some() {
            machine.daemon.kill()?;
        }
        let begin = Moment::now();
        machine.daemon.spawn(&machine.sandbox)?;
        wait_for("the daemon to be ready", START, || Ok(machine.daemon.get("/readyz").ok()))?;
        series.0.push(begin.elapsed().as_secs_f64());
    }
    Ok(series)
}

pub(crate) fn pid(machine: &Machine) -> Result<u32> {
    machine.daemon.pid().context("the daemon does not run")
}

pub(crate) fn daemon_memory(machine: &Machine) -> Result<f64> {
    Ok(rss(pid(machine)?)? / 1e6)
}

/// The memory of what runs beside the daemon, by program: the sum of what each process has to itself and of its
/// shares of what several have (PSS), and the sum of their resident sizes (RSS), which counts the latter many times.
fn helpers(machine: &Machine, when: &str, report: &mut Report) -> Result<()> {
    let mut sums: BTreeMap<String, (u32, f64, f64)> = BTreeMap::new();
    for pid in members(machine.sandbox.cgroup())? {
        // Processes come and go while they are looked at.
        let (Ok(comm), Ok(rss), Ok(pss)) = (fs::read_to_string(format!("/proc/{pid}/comm")), rss(pid), pss(pid)) else {
            continue;
        };
        let name = match comm.trim() {
            "hivemind" if Some(pid) != machine.daemon.pid() => "log writers",
            "hivemind" => continue,
            "containerd-shim" => "shims",
            "containerd" => "containerd",
            _ => continue,
        };
        let sum = sums.entry(name.to_owned()).or_default();
        *sum = (sum.0 + 1, sum.1 + rss / 1e6, sum.2 + pss / 1e6);
    }
    for (name, (count, rss, pss)) in sums {
        report.figure(format!("{when}: {count} {name}, RSS"), "MB", &Series(vec![rss]));
        report.figure(format!("{when}: {count} {name}, PSS"), "MB", &Series(vec![pss]));
    }
    Ok(())
}

/// The processes of a cgroup and of those beneath it.
fn members(group: &std::path::Path) -> Result<Vec<u32>> {
    let mut pids: Vec<u32> =
        fs::read_to_string(group.join("cgroup.procs"))?.lines().filter_map(|pid| pid.parse().ok()).collect();
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            pids.extend(members(&entry.path())?);
        }
    }
    Ok(pids)
}

/// Bytes of a process's pages in memory.
fn rss(pid: u32) -> Result<f64> {
    kib(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The same, with pages that several processes have divided among them.
fn pss(pid: u32) -> Result<f64> {
    kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn kib(path: &str, key: &str) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("{path} has no {key}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

/// Bytes of memory of the BPF maps a process has open, as the kernel counts them.
pub(crate) fn map_bytes(pid: u32) -> Result<u64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        // A descriptor may be closed while the list is read.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let value = |key| {
            text.lines().find_map(|line| line.strip_prefix(key)).and_then(|value| value.trim().parse::<u64>().ok())
        };
        if let (Some(_), Some(id), Some(bytes)) = (value("map_type:"), value("map_id:"), value("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    anyhow::ensure!(!maps.is_empty(), "the daemon has no BPF map open");
    Ok(maps.values().sum())
}
