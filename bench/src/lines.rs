//! A container that writes lines as fast as it can: how many a second are kept, and what keeping them costs, beside Docker
//! Engine's json-file.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use xtask::{image, machine::Machine, sandbox::Sandbox, shell};

use crate::{
    Common,
    clock::{pause, timed, wait_for},
    idle::microseconds,
    peers::Docker,
    report::{Report, Target},
    stats::Series,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Lines of each round [default: 1,000,000; quick: 100,000]
    #[arg(long)]
    lines: Option<u32>,
    /// Bytes of a line, its end not counted
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

/// Longer than any round.
const PATIENCE: Duration = Duration::from_secs(170);
/// The last line.
const END: &str = "that was all of it";
/// Where the last line is looked for: it is no longer than this, however it is kept.
const TAIL: u64 = 4096;
/// What is to be reached: lines a second, and processor time, of Docker Engine's.
const RATE: f64 = 1.0;
const COST: f64 = 0.5;

/// What one round gave.
#[derive(Default)]
struct Kept {
    /// Lines a second.
    rate: Series,
    /// Milliseconds of processor time for 100,000 lines.
    cost: Series,
}

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let lines = args.lines.unwrap_or(common.pick(100_000, 1_000_000));
    let mut report =
        Report::new(format!("Logs: a container that writes {lines} lines of {} bytes at once", args.bytes));
    let machine = Machine::start("lines", &[])?;
    let docker = Docker::start("lines-docker")?;
    let result = measure(&machine, &docker, common, args, lines);
    let (log, theirs) = (machine.daemon.log(), docker.log());
    docker.close()?;
    machine.close()?;
    let (ours, docker) =
        result.with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n")).with_context(|| theirs)?;
    report.figure("hivemind", "lines/s", &ours.rate);
    report.figure("Docker Engine", "lines/s", &docker.rate);
    report.ratio(("lines a second", &ours.rate), ("Docker Engine", &docker.rate), Some(Target::AtLeast(RATE)));
    report.figure("hivemind, 100,000 lines", "ms of processor", &ours.cost);
    report.figure("Docker Engine, 100,000 lines", "ms of processor", &docker.cost);
    report.ratio(("processor time", &ours.cost), ("Docker Engine", &docker.cost), Some(Target::AtMost(COST)));
    report.note("From the first line in the file to the last, with `json-file` of Docker Engine 26.1. The processor time is that of everything but the container itself: daemon, containerd, shim, log writer. Every line is counted afterwards by `logs`.");
    report.print(common.json)
}

fn measure(machine: &Machine, docker: &Docker, common: &Common, args: &Args, lines: u32) -> Result<(Kept, Kept)> {
    let web = image::web()?;
    let (ours, theirs) = (machine.push(&web, "web", "1")?, docker.push(&web, "web")?);
    let ours = project(machine.sandbox.dir().join("project"), &ours, args.bytes, lines)?;
    let theirs = project(docker.dir().join("project"), &theirs, args.bytes, lines)?;
    let (mut hivemind, mut engine) = (Kept::default(), Kept::default());
    for round in 0..common.pick(1, 5) {
        eprintln!("round {round}");
        let in_ours = |words: &[&str]| shell::output(&mut machine.daemon.command_in(&machine.sandbox, &ours, words));
        in_ours(&["up"])?;
        hivemind.add(&machine.sandbox, &machine.daemon.dir().join("state"), lines)?;
        all(&in_ours(&["logs", "talker"])?, lines)?;
        in_ours(&["down"])?;
        let in_theirs = |words: &[&str]| shell::output(&mut docker.compose(&theirs, words));
        in_theirs(&["up", "--detach"])?;
        engine.add(docker.sandbox(), &docker.dir().join("lib/containers"), lines)?;
        all(&in_theirs(&["logs", "talker"])?, lines)?;
        in_theirs(&["down"])?;
    }
    Ok((hivemind, engine))
}

impl Kept {
    fn add(&mut self, sandbox: &Sandbox, dir: &Path, lines: u32) -> Result<()> {
        let group = sandbox.cgroup().join("main");
        wait_for("the first line", PATIENCE, || Ok(newest(dir)?.filter(|(_, size)| *size > 0).map(drop)))?;
        let before = microseconds(&group)?;
        let (ended, seconds) = timed(|| wait_for("the last line", PATIENCE, || Ok(ends(dir)?.then_some(()))));
        ended?;
        let spent = microseconds(&group)? - before;
        self.rate.0.push(f64::from(lines) / seconds);
        self.cost.0.push(spent / 1e3 / (f64::from(lines) / 1e5));
        Ok(())
    }
}

/// Whether each line is there.
fn all(said: &str, lines: u32) -> Result<()> {
    let count = said.lines().filter(|line| line.contains("xxxx")).count();
    ensure!(count == lines as usize, "{count} of {lines} lines were kept");
    Ok(())
}

/// A folder with the project's file.
fn project(dir: PathBuf, image: &str, bytes: usize, lines: u32) -> Result<PathBuf> {
    let line = "x".repeat(bytes);
    let talk = format!("sleep 1; yes {line} | head -n {lines}; echo {END}; sleep 1d");
    let text = format!(
        "name: bench\nservices:\n  talker:\n    image: '{image}'\n    stop_grace_period: 0s\n    entrypoint: [sh, -c, '{talk}']\n    logging: {{driver: json-file, options: {{max-size: 1g}}}}\n"
    );
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("compose.yaml"), text)?;
    Ok(dir)
}

/// Whether the newest log within a folder ends with the last line.
fn ends(dir: &Path) -> Result<bool> {
    // Not all the time: who looks takes processor time from those who are measured.
    pause(Duration::from_millis(5));
    let Some((path, size)) = newest(dir)? else { return Ok(false) };
    let mut file = fs::File::open(&path).with_context(|| path.display().to_string())?;
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).contains(END))
}

/// The `.log` within a folder that was written last, and its size.
fn newest(dir: &Path) -> Result<Option<(PathBuf, u64)>> {
    let mut found = None;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        // Folders come and go.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(data) = entry.metadata() else { continue };
            if data.is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|kind| kind == "log") {
                found = found.max(Some((data.modified()?, entry.path(), data.len())));
            }
        }
    }
    Ok(found.map(|(_, path, size)| (path, size)))
}
