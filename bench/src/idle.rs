//! What a machine with many instances costs while nothing happens: processor time with health checks and without, beside
//! Docker Engine with the same project.

use std::{fs, path::Path, time::Duration};

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
    /// How many instances
    #[arg(long, default_value_t = 100)]
    instances: u32,
    /// Seconds of each round
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// What a start leaves to be done is done by then.
const SETTLE: Duration = Duration::from_secs(15);
/// What is to be reached: with checks, of the others' time; without, per cent of a core.
const OF_DOCKER: f64 = 0.5;
const IDLE: f64 = 0.5;

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let instances = if common.quick { 3 } else { args.instances };
    let mut report = Report::new(format!("Processor time of {instances} instances at rest"));
    // One after the other: each has the machine for itself.
    let (quiet, checked) = ours(common, args, instances)?;
    let (their_quiet, their_checked) = theirs(common, args, instances)?;
    let percent = "% of a core";
    report.figure("hivemind, no checks", percent, &quiet);
    report.figure("Docker Engine, no checks", percent, &their_quiet);
    report.limit("no checks", percent, &quiet, Target::AtMost(IDLE));
    report.figure("hivemind, a command each 10 s", percent, &checked);
    report.figure("Docker Engine, a command each 10 s", percent, &their_checked);
    let target = Some(Target::AtMost(OF_DOCKER));
    report.ratio(("a command each 10 s", &checked), ("Docker Engine", &their_checked), target);
    report.note("The processor time of all that runs containers (daemon, containerd, shims, log writers, runc) and, with checks, of the commands themselves, as the kernel counts it for their cgroups. Both read the same Compose file; the check is `true`.");
    report.print(common.json)
}

fn ours(common: &Common, args: &Args, instances: u32) -> Result<(Series, Series)> {
    let machine = Machine::start("idle", &[])?;
    let measure = || -> Result<_> {
        let web = machine.push(&image::web()?, "web", "1")?;
        let dir = machine.sandbox.dir().join("project");
        let up = |check: bool| -> Result<Series> {
            project(&dir, &web, instances, check)?;
            let mut command = machine.daemon.command_in(&machine.sandbox, &dir, &["up", "--wait", "--timeout", "170s"]);
            shell::output(&mut command)?;
            spent(machine.sandbox.cgroup(), common, args)
        };
        Ok((up(false)?, up(true)?))
    };
    let measured = measure().with_context(|| machine.daemon.log());
    machine.close()?;
    measured
}

fn theirs(common: &Common, args: &Args, instances: u32) -> Result<(Series, Series)> {
    let docker = Docker::start("idle-docker")?;
    let measure = || -> Result<_> {
        let web = docker.push(&image::web()?, "web")?;
        let dir = docker.dir().join("project");
        let up = |check: bool| -> Result<Series> {
            project(&dir, &web, instances, check)?;
            shell::output(&mut docker.compose(&dir, &["up", "--detach", "--wait"]))?;
            spent(docker.sandbox().cgroup(), common, args)
        };
        Ok((up(false)?, up(true)?))
    };
    let measured = measure().with_context(|| docker.log());
    docker.close()?;
    measured
}

fn project(dir: &Path, image: &str, instances: u32, check: bool) -> Result<()> {
    let check = if check { "    healthcheck: {test: ['CMD', 'true'], interval: 10s}\n" } else { "" };
    let text = format!(
        "name: bench\nservices:\n  web:\n    image: '{image}'\n    stop_grace_period: 0s\n    scale: {instances}\n{check}"
    );
    fs::create_dir_all(dir)?;
    fs::write(dir.join("compose.yaml"), text)?;
    Ok(())
}

/// Per cent of a core that a group's processes take, round by round.
fn spent(group: &Path, common: &Common, args: &Args) -> Result<Series> {
    pause(SETTLE);
    let mut series = Series::default();
    for _ in 0..common.pick(1, 5) {
        let before = microseconds(group)?;
        let ((), seconds) = timed(|| pause(Duration::from_secs(args.seconds)));
        series.0.push((microseconds(group)? - before) / seconds / 1e4);
    }
    Ok(series)
}

/// Processor time that a group's processes have taken so far, in microseconds.
pub(crate) fn microseconds(group: &Path) -> Result<f64> {
    let stat = fs::read_to_string(group.join("cpu.stat")).context("no processor time of the sandbox's group")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    line.context("cpu.stat has no usage_usec")?.parse().context("usage_usec is no number")
}
