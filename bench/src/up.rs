//! A project of ten services, images present: the first `up`, until all are Ready, and the second, which does nothing;
//! beside Docker Compose, which reads the same file.
//!
//! The real daemon on a machine of its own, and its command line as it is typed: a process, the files, one request.
//! Docker Engine is on another, so that neither has the other's devices, rules and ports.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use xtask::{image, machine::Machine, shell};

use crate::{
    Common,
    clock::{pause, timed},
    peers::Docker,
    report::{Report, Target},
    stats::Series,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many services
    #[arg(long, default_value_t = 10)]
    services: u32,
}

/// What the first `up` may take, of Docker Compose's time.
const OF_COMPOSE: f64 = 0.5;
/// What the second `up` may take, in milliseconds.
const UNCHANGED: f64 = 100.0;
/// What is over is over by then: what one has left to do is not the other's load.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let mut report = Report::new(format!("`up` of a project of {} services, images present", args.services));
    let machine = Machine::start("up", &[])?;
    let docker = Docker::start("up-docker")?;
    let result = measure(&machine, &docker, common, args, &mut report);
    let (log, theirs) = (machine.daemon.log(), docker.log());
    docker.close()?;
    machine.close()?;
    result.with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n")).with_context(|| theirs)?;
    report.note("From the start of the command to its end; `down` between the rounds. Every service is a web server with a published port. `hivemind up --wait` ends when every port accepts a connection; Docker Compose's `up --detach` (2.26, Engine 26.1) when the processes have been started.");
    report.print(common.json)
}

fn measure(machine: &Machine, docker: &Docker, common: &Common, args: &Args, report: &mut Report) -> Result<()> {
    let web = image::web()?;
    let (ours, theirs) = (machine.push(&web, "web", "1")?, docker.push(&web, "web")?);
    let ours = project(machine.sandbox.dir().join("project"), &ours, args.services)?;
    let theirs = project(docker.dir().join("project"), &theirs, args.services)?;
    let ours = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        milliseconds(machine.daemon.command_in(&machine.sandbox, &ours, &words))
    };
    let theirs = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        milliseconds(docker.compose(&theirs, &words))
    };
    // Once before, so that the image is there.
    ours("up --wait")?;
    ours("down")?;
    let (mut first, mut second, mut plan) = (Series::default(), Series::default(), Series::default());
    let (mut compose, mut again) = (Series::default(), Series::default());
    for round in 0..common.pick(2, 11) {
        eprintln!("round {round}");
        first.0.push(ours("up --wait")?);
        second.0.push(ours("up")?);
        plan.0.push(ours("plan")?);
        ours("down")?;
        pause(SETTLE);
        compose.0.push(theirs("up --detach")?);
        again.0.push(theirs("up --detach")?);
        theirs("down")?;
        pause(SETTLE);
    }
    report.figure("first up, until all are Ready", "ms", &first);
    report.figure("first up, Docker Compose", "ms", &compose);
    report.ratio(("first up", &first), ("Docker Compose", &compose), Some(Target::AtMost(OF_COMPOSE)));
    report.figure("second up, nothing changed", "ms", &second);
    report.figure("second up, Docker Compose", "ms", &again);
    report.ratio(("second up", &second), ("Docker Compose", &again), None);
    report.limit("second up, nothing changed", "ms", &second, Target::AtMost(UNCHANGED));
    report.figure("plan, nothing changed", "ms", &plan);
    Ok(())
}

/// A folder with the project's file.
fn project(dir: PathBuf, image: &str, services: u32) -> Result<PathBuf> {
    let service = |n: u32| {
        let port = 8000 + n;
        format!("  web-{n}: {{image: '{image}', ports: ['{port}:80'], stop_grace_period: 0s}}\n")
    };
    let services: String = (0..services).map(service).collect();
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("compose.yaml"), format!("name: bench\nservices:\n{services}"))?;
    Ok(dir)
}

fn milliseconds(mut command: Command) -> Result<f64> {
    let (said, seconds) = timed(|| shell::output(&mut command));
    said.map(|_| seconds * 1e3)
}
