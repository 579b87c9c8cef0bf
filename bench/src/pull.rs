//! An image that is pulled from a registry of this machine, unpacked, beside `ctr image pull` with the same containerd.
//!
//! Its layers are programs and libraries of this machine, which are packed as those of real images are. Every pull is of
//! content that nobody has seen: each layer begins with a file of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use xtask::{
    containerd,
    daemon::finish,
    image::{Config, Files, Image},
    machine::Machine,
};

use crate::{
    Common,
    clock::Moment,
    report::{Report, Target},
    stats::Series,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Megabytes of the image, about, as they are fetched
    #[arg(long, default_value_t = 130)]
    size: u64,
}

/// Longer than a pull takes.
const PATIENCE: Duration = Duration::from_secs(300);
/// How much of a layer its size is, hundredths: a system, what a program needs, the program.
const LAYERS: [u64; 5] = [45, 25, 15, 10, 5];
/// Programs and libraries packed by gzip at its fastest, hundredths of them: measured on Debian's.
const PACKED: u64 = 44;
/// What the pull is to take at most, as a share of the other's.
const SHARE: f64 = 1.0;

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let size = common.pick(args.size.min(8), args.size);
    let mut report = Report::new(format!("Pull of an image of about {size} MB from a registry of this machine"));
    let machine = Machine::start("pull", &[])?;
    let result = measure(&machine, common, size, &mut report);
    let log = machine.daemon.log();
    machine.close()?;
    result.with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n"))?;
    report.note("From the start of the command to its end: fetched, unpacked, named. Both use the same containerd, which unpacks; each pull is of content that is new to it. In every other round `ctr` is the first. No Docker Engine runs in the sandbox.");
    report.print(common.json)
}

fn measure(machine: &Machine, common: &Common, size: u64, report: &mut Report) -> Result<()> {
    let pool = pool(size * 1_000_000 * 100 / PACKED)?;
    let (mut ours, mut theirs, mut fetched) = (Series::default(), Series::default(), Series::default());
    for round in 0..common.pick(2, 11) {
        eprintln!("round {round}");
        for own in [round % 2 == 0, round % 2 != 0] {
            let name = format!("round-{round}-{}", if own { "own" } else { "other" });
            let image = fresh(&pool, &name)?;
            fetched.0.push(image.size() as f64 / 1e6);
            let image = machine.push(&image, &name, "1")?;
            let took = if own { pull(machine, &image)? } else { pull_by_ctr(machine, &image)? };
            (if own { &mut ours } else { &mut theirs }).0.push(took);
        }
    }
    report.figure("hivemind image pull", "s", &ours);
    report.figure("ctr image pull", "s", &theirs);
    report.figure("size of the image", "MB", &fetched);
    report.ratio(("hivemind image pull", &ours), ("ctr image pull", &theirs), Some(Target::AtMost(SHARE)));
    Ok(())
}

fn pull(machine: &Machine, image: &str) -> Result<f64> {
    let command = machine.daemon.command(&machine.sandbox, &["image", "pull", image]);
    let begin = Moment::now();
    let said = finish(command, "hivemind image pull", PATIENCE)?;
    let took = begin.elapsed().as_secs_f64();
    ensure!(said.code == 0, "{said}");
    machine.hivemind(&["image", "rm", image])?.ok()?;
    Ok(took)
}

fn pull_by_ctr(machine: &Machine, image: &str) -> Result<f64> {
    let program = containerd::program("ctr")?;
    let ctr = |words: &[&str]| {
        let mut command = machine.sandbox.command(&program);
        command.arg("--address").arg(machine.containerd.socket()).args(["--namespace", "bench", "images"]).args(words);
        command
    };
    let begin = Moment::now();
    let said = finish(ctr(&["pull", "--plain-http", image]), "ctr image pull", PATIENCE)?;
    let took = begin.elapsed().as_secs_f64();
    ensure!(said.code == 0, "{said}");
    let said = finish(ctr(&["rm", "--sync", image]), "ctr image rm", PATIENCE)?;
    ensure!(said.code == 0, "{said}");
    Ok(took)
}

/// So many bytes of programs and libraries of this machine, in files.
fn pool(bytes: u64) -> Result<Vec<Vec<u8>>> {
    let (mut pool, mut have) = (Vec::new(), 0);
    let mut folders: Vec<PathBuf> = ["/usr/bin", "/usr/sbin", "/usr/lib"].map(PathBuf::from).to_vec();
    while let Some(folder) = folders.pop().filter(|_| have < bytes) {
        let mut entries = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && have < bytes {
                have += take(&entry.path(), bytes - have, &mut pool)?;
            }
        }
    }
    ensure!(have >= bytes, "this machine has {have} bytes of programs, and {bytes} are needed (hint: --size)");
    Ok(pool)
}

fn take(path: &Path, most: u64, pool: &mut Vec<Vec<u8>>) -> Result<u64> {
    let mut file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.truncate(most as usize);
    let size = file.len() as u64;
    pool.push(file);
    Ok(size)
}

/// An image of the pool's files whose layers are no others'.
fn fresh(pool: &[Vec<u8>], name: &str) -> Result<Image> {
    let all: u64 = pool.iter().map(|file| file.len() as u64).sum();
    let mut layers = Vec::new();
    let mut files = pool.iter().enumerate().peekable();
    let (mut done, mut until) = (0, 0);
    for (number, share) in LAYERS.into_iter().enumerate() {
        let mut layer = Files::default();
        // It comes first: entries are in the order of their names.
        layer.file("a-name", 0o644, format!("{name}, layer {number}"));
        until += all * share / 100;
        let last = number + 1 == LAYERS.len();
        while let Some((n, file)) = files.next_if(|_| last || done < until) {
            layer.file(&format!("files/{n}"), 0o755, file.clone());
            done += file.len() as u64;
        }
        layers.push(layer);
    }
    Image::new(&layers.iter().collect::<Vec<_>>(), &Config { entrypoint: vec!["/none".into()], ..Config::default() })
}
