//! Leaves nothing behind: the measurement runs in a child, and whatever way that ends, this process removes what
//! the run made. A run that was itself killed is swept by the next one.
//!
//! The child has a mount namespace of its own, with its own `/run` and BPF file system: network namespaces, pins and
//! what is attached by them go with its last process. Every process of a run is in its cgroup or below it. What is
//! left to remove by name is the cgroup and a folder, both called `hmb-<pid of the supervisor>`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::clock;

/// The start of every name.
const PREFIX: &str = "hmb-";
/// The argument by which the child knows its run.
const RUN: &str = "--run";
/// The kernel's BPF file system.
const PINS: &str = "/sys/fs/bpf";

/// What one run may use.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    name: String,
}

impl Run {
    /// The run of a child that was started with `--run name`.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let run = Self { name: name.to_owned() };
        anyhow::ensure!(run.owner().is_some(), "the run {name:?} is not one of ours");
        Ok(run)
    }

    /// Its name, which begins all names it makes.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The supervisor's process id.
    fn owner(&self) -> Option<u32> {
        self.name.strip_prefix(PREFIX)?.parse().ok()
    }

    /// Its cgroup of the second version.
    pub(crate) fn cgroup(&self) -> Result<PathBuf> {
        Ok(cgroup2()?.join(&self.name))
    }

    /// Makes a cgroup beneath its own.
    pub(crate) fn group(&self, tag: &str) -> Result<PathBuf> {
        let group = self.cgroup()?.join(tag);
        fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
        Ok(group)
    }

    /// Its folder for pins.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new(PINS).to_owned()
    }

    /// Its folder for files.
    pub(crate) fn files(&self) -> PathBuf {
        env::temp_dir().join(&self.name)
    }

    /// Ends its processes and removes what it made. Ok if there is nothing.
    fn remove(&self) -> Result<()> {
        let cgroup = self.cgroup()?;
        if cgroup.exists() {
            fs::write(cgroup.join("cgroup.kill"), "1").context("cannot end the processes of the run")?;
            clock::wait_for("the run's processes to end", Duration::from_secs(20), || {
                Ok(remove_groups(&cgroup).is_ok().then_some(()))
            })?;
        }
        match fs::remove_dir_all(self.files()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                bail!("cannot remove {}: {e}", self.files().display())
            }
            _ => Ok(()),
        }
    }
}

/// The arguments without the run.
pub(crate) fn without_run(args: &[String]) -> Vec<&str> {
    let at = args.iter().position(|arg| arg == RUN).unwrap_or(args.len());
    args[..at].iter().map(String::as_str).collect()
}

/// Runs the same command line as a child, and removes everything afterwards.
///
/// # Errors
/// If the child cannot be started, or something of it cannot be removed.
pub(crate) fn supervise() -> Result<ExitCode> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "measuring makes network namespaces: run it as root");
    sweep()?;
    let run = Run { name: format!("{PREFIX}{}", std::process::id()) };
    // Before the child exists, so that no signal is missed.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let outcome = start(&run).and_then(|child| wait(child, &signals));
    run.remove()?;
    outcome
}

fn start(run: &Run) -> Result<Pid> {
    fs::create_dir(run.cgroup()?).context("cannot make the run's cgroup")?;
    fs::create_dir(run.files()).context("cannot make the run's folder")?;
    let child = Command::new("/proc/self/exe")
        .args(env::args_os().skip(1))
        .args([RUN, &run.name])
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the measuring process")?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

/// The first thing the child does: enters the run's cgroup, mounts of its own, and a session of its own, so that a
/// Ctrl-C reaches only the supervisor, which then ends the child and all of its children.
pub(crate) fn begin(run: &Run) -> Result<()> {
    let own = run.cgroup()?.join("cgroup.procs");
    fs::write(&own, "0").with_context(|| format!("cannot join {}", own.display()))?;
    nix::unistd::setsid().context("cannot begin a session")?;
    // The supervisor's mask was inherited.
    SigSet::all().thread_unblock()?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make / private")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("cannot mount /run")?;
    mount(Some("bpf"), PINS, Some("bpf"), MsFlags::empty(), none).with_context(|| format!("cannot mount {PINS}"))?;
    // Where the scheduler shares the CPUs among sessions, this one goes first, as its processes do by `nice` elsewhere.
    let group = Path::new("/proc/self/autogroup");
    if group.exists() {
        fs::write(group, "-20").context("cannot raise the session's priority")?;
    }
    Ok(())
}

/// Until the child has ended, or a signal asks to stop.
fn wait(child: Pid, signals: &SigSet) -> Result<ExitCode> {
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => return Ok(u8::try_from(code).unwrap_or(1).into()),
            WaitStatus::Signaled(_, signal, _) => bail!("the measuring process was ended by {signal}"),
            _ => {}
        }
        match signals.wait()? {
            Signal::SIGCHLD => {}
            signal => {
                eprintln!("{signal}: removing what was made");
                return Ok((128 + signal as u8).into());
            }
        }
    }
}

/// Removes the runs whose supervisor is no more.
fn sweep() -> Result<()> {
    let mut names = names_in(env::temp_dir())?;
    names.extend(names_in(cgroup2()?)?);
    let mut owners: Vec<u32> = names.iter().filter_map(|name| owner_of(name)).collect();
    owners.sort_unstable();
    owners.dedup();
    for owner in owners {
        let comm = fs::read_to_string(format!("/proc/{owner}/comm")).unwrap_or_default();
        if comm.trim() != "hivemind-bench" {
            eprintln!("removing what is left of an earlier run, {PREFIX}{owner}");
            Run { name: format!("{PREFIX}{owner}") }.remove()?;
        }
    }
    Ok(())
}

/// The supervisor that `name` says it belongs to.
fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Removes a cgroup and those beneath it; fails as long as a process is in one of them.
fn remove_groups(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// The names in a folder; none if it is not there.
fn names_in(folder: impl AsRef<Path>) -> Result<Vec<String>> {
    let folder = folder.as_ref();
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Where cgroups of the second version are mounted, alone or beside those of the first.
fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    Ok(mount.context("no cgroup2 is mounted (hint: mount -t cgroup2 none /sys/fs/cgroup/unified)")?.into())
}

#[cfg(test)]
mod tests {
    use super::{owner_of, without_run};

    #[test]
    fn only_names_of_ours_have_an_owner() {
        for (name, owner) in [
            ("hmb-17", Some(17)),
            ("hmb-17-direct-n", Some(17)),
            ("hmb-", None),
            ("hmb-x", None),
            ("hm-17", None),
            ("xhmb-17", None),
        ] {
            assert_eq!(owner_of(name), owner, "{name}");
        }
    }

    #[test]
    fn the_run_is_not_part_of_the_command() {
        let args: Vec<String> = ["crr", "--quick", "--run", "hmb-1"].map(String::from).to_vec();
        assert_eq!(without_run(&args), ["crr", "--quick"]);
        assert_eq!(without_run(&args[..2]), ["crr", "--quick"]);
    }
}
