//! A day in fast motion: apps are deployed, scaled, crash and are removed, again and again; what the daemon takes of the
//! memory afterwards, and what is left behind.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, anyhow, bail};
use xtask::{image, machine::Machine};

use crate::{
    Common,
    clock::{Moment, pause},
    daemon::{SETTLE, daemon_memory, map_bytes, pid},
    report::{Report, Target},
    stats::Series,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many cycles [default: 10,000; quick: 24]
    #[arg(long)]
    count: Option<u32>,
    /// How many go on at once
    #[arg(long, default_value_t = 4)]
    at_once: u32,
}

/// Memory is looked at that many times; the first time is what the last is compared with.
const LOOKS: u32 = 10;
/// How much the memory may have grown between the first look and the last.
const GROWN: f64 = 1.05;

/// What the daemon has at one moment.
struct Look {
    megabytes: f64,
    descriptors: f64,
    maps: f64,
    store: f64,
}

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let count = args.count.unwrap_or(common.pick(24, 10_000));
    let mut report = Report::new(format!("A day in fast motion: {count} times deploy, scale, crash, remove"));
    let machine = Machine::start("cycles", &[])?;
    let measured = measure(&machine, count, args.at_once);
    let log = machine.daemon.log();
    let (looks, each) = measured.with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n"))?;
    // Fails if anything is left: devices, namespaces, mounts, cgroups, snapshots, addresses, rows of maps.
    machine.close()?;
    let series = |of: fn(&Look) -> f64| Series(looks.iter().map(of).collect());
    report.figure("a cycle", "s", &Series(vec![each]));
    for (name, unit, of) in [
        ("RSS of the daemon", "MB", (|look| look.megabytes) as fn(&Look) -> f64),
        ("open files of the daemon", "", |look| look.descriptors),
        ("BPF maps", "MB", |look| look.maps),
        ("the store's file", "MB", |look| look.store),
    ] {
        let all = series(of);
        report.figure(name, unit, &all);
        let [first, .., last] = all.0[..] else { bail!("too few looks") };
        let (first, last) = (Series(vec![first]), Series(vec![last]));
        report.ratio(
            (format!("{name}, after the last"), &last),
            ("after the first tenth", &first),
            Some(Target::AtMost(GROWN)),
        );
    }
    report.note("Each look is with no app there. Nothing of an instance was left behind: devices, namespaces, mounts, cgroups, containers, snapshots, rows of the data plane (`xtask/src/leaks.rs`); the run fails otherwise.");
    report.print(common.json)
}

fn measure(machine: &Machine, count: u32, at_once: u32) -> Result<(Vec<Look>, f64)> {
    let web = machine.push(&image::web()?, "web", "1")?;
    let mut looks = Vec::new();
    let begin = Moment::now();
    for tenth in 0..LOOKS {
        let next = AtomicU32::new(count * tenth / LOOKS);
        let end = count * (tenth + 1) / LOOKS;
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..at_once).map(|_| scope.spawn(|| lane(machine, &web, &next, end))).collect();
            lanes.into_iter().try_for_each(|lane| lane.join().unwrap_or_else(|_| Err(anyhow!("a lane panicked"))))
        })?;
        eprintln!("{end} of {count}");
        pause(SETTLE);
        looks.push(look(machine)?);
    }
    Ok((looks, begin.elapsed().as_secs_f64() / f64::from(count)))
}

/// Takes one cycle after the other, until there are no more.
fn lane(machine: &Machine, image: &str, next: &AtomicU32, end: u32) -> Result<()> {
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= end {
            return Ok(());
        }
        cycle(machine, image, n).with_context(|| format!("cycle {n}"))?;
    }
}

fn cycle(machine: &Machine, image: &str, n: u32) -> Result<()> {
    // Names come back now and then, as those of people do.
    let (name, service) = (format!("app-{}", n % 100), format!("app-{}.local", n % 100));
    let run = |words: &[&str]| machine.hivemind(words)?.ok();
    let deploy = ["app", "deploy", "--image", image, "--name", &name, "--service", &service, "--port", "80"];
    run(&[&deploy[..], &["--wait"]].concat())?;
    run(&["app", "scale", &name, "--replicas", "2", "--wait"])?;
    run(&["kill", &name])?;
    // Every other one goes while it is on its way back.
    if n.is_multiple_of(2) {
        let listed = machine.hivemind(&["ps", &name, "-o", "json"])?.json()?;
        for instance in listed.as_array().into_iter().flatten() {
            let id = instance["id"].as_str().context("an instance without id")?;
            run(&["wait", id, "--ready", "--timeout", "60s"])?;
        }
    }
    run(&["app", "rm", &name, "--wait"]).map(drop)
}

fn look(machine: &Machine) -> Result<Look> {
    let pid = pid(machine)?;
    let store = machine.daemon.dir().join("state");
    let files = fs::read_dir(&store)?.flatten().filter_map(|entry| entry.metadata().ok());
    let bytes: u64 = files.filter(fs::Metadata::is_file).map(|data| data.len()).sum();
    Ok(Look {
        megabytes: daemon_memory(machine)?,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64,
        maps: map_bytes(pid)? as f64 / 1e6,
        store: bytes as f64 / 1e6,
    })
}
