//! A project of ten services, images present: the first `up`, until all are Ready, and the second, which does nothing.
//!
//! The real daemon on a machine of its own, and its command line as it is typed: a process, the files, one request.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use xtask::{daemon::finish, image, machine::Machine};

use crate::{
    Common,
    clock::Moment,
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

/// Longer than any of the commands takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the second `up` may take, in milliseconds.
const UNCHANGED: f64 = 100.0;

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let mut report = Report::new(format!("`up` of a project of {} services, images present", args.services));
    let machine = Machine::start("up", &[])?;
    let result = measure(&machine, common, args, &mut report);
    let log = machine.daemon.log();
    machine.close()?;
    result.with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n"))?;
    report.note("From the start of the command to its end; `down` between the rounds. Every service is a web server with a published port: Ready is when the port accepts a connection. Not beside Docker Compose: no engine runs in the sandbox.");
    report.print(common.json)
}

fn measure(machine: &Machine, common: &Common, args: &Args, report: &mut Report) -> Result<()> {
    let web = machine.push(&image::web()?, "web", "1")?;
    let service = |n: u32| {
        let port = 8000 + n;
        format!("  web-{n}: {{image: '{web}', ports: ['{port}:80'], stop_grace_period: 0s}}\n")
    };
    let services: String = (0..args.services).map(service).collect();
    let dir = machine.sandbox.dir().join("project");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("compose.yaml"), format!("name: bench\nservices:\n{services}"))?;
    let timed = |line: &str| -> Result<f64> {
        let words: Vec<_> = line.split_whitespace().collect();
        let command = machine.daemon.command_in(&machine.sandbox, &dir, &words);
        let begin = Moment::now();
        let said = finish(command, line, PATIENCE)?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        ensure!(said.code == 0, "{said}");
        Ok(took)
    };
    // Once before, so that the image is there.
    timed("up --wait")?;
    timed("down")?;
    let (mut first, mut second, mut plan) = (Series::default(), Series::default(), Series::default());
    for round in 0..common.pick(2, 11) {
        eprintln!("round {round}");
        first.0.push(timed("up --wait")?);
        second.0.push(timed("up")?);
        plan.0.push(timed("plan")?);
        timed("down")?;
    }
    report.figure("first up, until all are Ready", "ms", &first);
    report.limit("second up, nothing changed", "ms", &second, Target::AtMost(UNCHANGED));
    report.figure("plan, nothing changed", "ms", &plan);
    Ok(())
}
