//! Leaves nothing behind: the measurement runs in a child, and whatever way that ends, this process removes what
//! the run made, by name. A run that was itself killed is swept by the next one.
//!
//! Names: a run is `hmb-<pid of the supervisor>`; its cgroup, its folder in the BPF file system and its temporary
//! folder are called so, its network namespaces begin so. Every process of a run is in its cgroup or below it.

use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
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
/// Where `ip netns` keeps names.
const NETNS: &str = "/run/netns";
/// The kernel's BPF file system.
const BPFFS: &str = "/sys/fs/bpf";

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

    /// Its folder for pins.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.name)
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
        for namespace in names_in(NETNS)? {
            if namespace.starts_with(&format!("{}-", self.name)) {
                let status = Command::new("ip").args(["netns", "delete", &namespace]).status();
                anyhow::ensure!(status.context("cannot run ip")?.success(), "cannot delete the namespace {namespace}");
            }
        }
        for folder in [self.pins(), self.files()] {
            match fs::remove_dir_all(&folder) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => bail!("cannot remove {}: {e}", folder.display()),
                _ => {}
            }
        }
        Ok(())
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
    // Before the child exists, so that no signal is missed. A child of std's `Command` starts with an empty mask.
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
    // A group of its own: a Ctrl-C reaches only this process, which then ends the child and all of its children.
    let child = Command::new("/proc/self/exe")
        .args(env::args_os().skip(1))
        .args([RUN, &run.name])
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start the measuring process")?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
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
    let mut names = names_in(NETNS)?;
    names.extend(names_in(BPFFS)?);
    names.extend(names_in(env::temp_dir())?);
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
