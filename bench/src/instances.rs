//! Many instances of one image that is there: from the request until all run, beside Docker Engine in Swarm mode and
//! containers that containerd is told to run, without anything around them.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use xtask::{image, machine::Machine, shell};

use crate::{
    Common,
    clock::{timed, wait_for},
    peers::Docker,
    report::{Report, Target},
    stats::Series,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many instances
    #[arg(long, default_values_t = [30, 100])]
    count: Vec<u32>,
    /// How many containers are made at once where nothing says it
    #[arg(long, default_value_t = 4)]
    at_once: usize,
}

/// Longer than any of them takes.
const PATIENCE: Duration = Duration::from_secs(170);
/// What is to be reached: of Swarm's time, and of containerd's.
const OF_SWARM: f64 = 0.5;
const OF_CONTAINERD: f64 = 1.3;

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let mut report = Report::new("Instances of an image that is there, until all run");
    let machine = Machine::start("many", &[])?;
    let docker = Docker::start("many-docker")?;
    let result = measure(&machine, &docker, common, args, &mut report);
    let (log, theirs) = (machine.daemon.log(), docker.log());
    docker.close()?;
    machine.close()?;
    result.with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n")).with_context(|| theirs)?;
    report.note("hivemind: `app deploy --wait`, the process's start included: each instance has a network device, an address, a service's name and its log. Swarm: `docker service create --detach` of Docker Engine 26.1 and then its API, asked every few milliseconds for how many tasks run; each has a device on Docker's bridge; the five seconds for which `--detach=false` watches them are not counted. containerd: `ctr run --detach`, four at once, without a network and a log.");
    report.print(common.json)
}

fn measure(machine: &Machine, docker: &Docker, common: &Common, args: &Args, report: &mut Report) -> Result<()> {
    let web = image::web()?;
    let (ours, theirs) = (machine.push(&web, "web", "1")?, docker.push(&web, "web")?);
    docker.run(&["swarm", "init", "--advertise-addr", "127.0.0.1"])?;
    // Fetched, and unpacked.
    deployed(machine, &ours, 1)?;
    let counts = if common.quick { vec![3] } else { args.count.clone() };
    for count in counts {
        let (mut hivemind, mut swarm, mut bare) = (Series::default(), Series::default(), Series::default());
        for round in 0..common.pick(2, 5) {
            eprintln!("{count} instances, round {round}");
            hivemind.0.push(deployed(machine, &ours, count)?);
            swarm.0.push(created(docker, &theirs, count)?);
            bare.0.push(told(machine, &ours, count, args.at_once)?);
        }
        let name = format!("{count} instances");
        report.figure(format!("{name}: hivemind"), "s", &hivemind);
        report.figure(format!("{name}: Swarm"), "s", &swarm);
        report.figure(format!("{name}: ctr"), "s", &bare);
        report.ratio((&*name, &hivemind), ("Swarm", &swarm), Some(Target::AtMost(OF_SWARM)));
        report.ratio((&*name, &hivemind), ("ctr", &bare), Some(Target::AtMost(OF_CONTAINERD)));
    }
    Ok(())
}

/// Seconds until that many of ours are Ready; they are gone afterwards.
fn deployed(machine: &Machine, image: &str, count: u32) -> Result<f64> {
    let replicas = count.to_string();
    let what = ["app", "deploy", "--image", image, "--name", "web", "--service", "web.local"];
    let how = ["--replicas", &replicas, "--wait", "--timeout", "170s"];
    let mut command = machine.daemon.command(&machine.sandbox, &[&what[..], &how].concat());
    let (said, seconds) = timed(|| shell::output(&mut command));
    said?;
    machine.hivemind(&["app", "rm", "web"])?.ok()?;
    gone(machine, "hivemind")?;
    Ok(seconds)
}

/// Waits until containerd has no task.
fn gone(machine: &Machine, namespace: &str) -> Result<()> {
    wait_for("the containers to be gone", PATIENCE, || {
        let left = shell::output(&mut ctr(machine, namespace, &["tasks", "ls", "-q"]))?;
        Ok(left.trim().is_empty().then_some(()))
    })
}

/// Seconds until that many of Swarm's run; they are gone afterwards.
fn created(docker: &Docker, image: &str, count: u32) -> Result<f64> {
    let replicas = count.to_string();
    let create = ["service", "create", "--detach", "--no-resolve-image", "--name", "web", "--replicas", &replicas];
    let (all, seconds) = timed(|| -> Result<()> {
        shell::output(&mut docker.command(&[&create[..], &[image]].concat()))?;
        wait_for("Swarm's tasks to run", PATIENCE, || {
            let services = docker.api("/v1.41/services?status=true")?;
            let running = services[0]["ServiceStatus"]["RunningTasks"].as_u64().context("no status")?;
            Ok((running == u64::from(count)).then_some(()))
        })
    });
    all?;
    docker.run(&["service", "rm", "web"])?;
    wait_for("Swarm's tasks to be gone", PATIENCE, || {
        let left = docker.api("/v1.41/containers/json?all=true")?;
        Ok(left.as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    Ok(seconds)
}

/// Seconds until containerd runs that many; they are gone afterwards.
fn told(machine: &Machine, image: &str, count: u32, at_once: usize) -> Result<f64> {
    let next = std::sync::atomic::AtomicU32::new(0);
    let work = || -> Result<()> {
        loop {
            let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if n >= count {
                return Ok(());
            }
            let name = format!("bare-{n}");
            let group = format!("/{}/instances/{name}", machine.sandbox.name());
            let run = ["run", "--detach", "--null-io", "--cgroup", &group, image, &name, "/serve"];
            shell::output(&mut ctr(machine, "bare", &run))?;
        }
    };
    // ctr looks for images in its own namespace.
    shell::output(&mut ctr(machine, "bare", &["images", "pull", "--plain-http", image]))?;
    let (all, seconds) = timed(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(anyhow::anyhow!("it panicked"))))
        })
    });
    all?;
    let running = shell::output(&mut ctr(machine, "bare", &["tasks", "ls", "-q"]))?;
    ensure!(running.lines().count() == count as usize, "{running}");
    for n in 0..count {
        let name = format!("bare-{n}");
        shell::output(&mut ctr(machine, "bare", &["tasks", "rm", "--force", &name]))?;
        shell::output(&mut ctr(machine, "bare", &["containers", "rm", &name]))?;
    }
    Ok(seconds)
}

/// `ctr`, inside: its containers' shims are the sandbox's.
fn ctr(machine: &Machine, namespace: &str, args: &[&str]) -> Command {
    let mut ctr = machine.sandbox.command("ctr");
    ctr.arg("--address").arg(machine.containerd.socket()).args(["--namespace", namespace]).args(args);
    ctr
}
