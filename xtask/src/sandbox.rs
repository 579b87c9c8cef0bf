//! A machine of its own inside this one: a network namespace without a way out, a mount namespace with its own `/run`
//! and BPF file system, a cgroup, a folder.
//!
//! Everything that could be left behind is bound to these four: sockets, devices, routes and firewall rules to the
//! network namespace, mounts and pins to the mount namespace, processes (shims and containers too) to the cgroup, files
//! to the folder. So cleaning up is the same few steps whatever ran inside.
//!
//! The steps are taken by the *keeper*, a shell outside that reads from a pipe whose other end the owner holds. The pipe
//! closes when the sandbox is dropped, when its owner panics, and when its owner is killed with SIGKILL. Only if the
//! keeper is killed as well something stays, and the next sandbox sweeps it up.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::signal::SigSet,
};

use crate::{shell, wait};

/// What the names of all sandboxes begin with.
pub const PREFIX: &str = "hmt-";
/// Where the folders are: on disk, as overlayfs and the store want it, and short, as socket paths want it.
const HOME: &str = "/var/tmp";
/// Longer than a kernel needs to take down a hundred containers.
const PATIENCE: Duration = Duration::from_secs(60);

/// `$1` is the folder, `$2` the sandbox's name. First the processes, then the cgroups (`rmdir` refuses while one is
/// still ending, hence the loop), then the files: by then the mount namespace is gone, and nothing is mounted on them.
const KEEPER: &str = r#"
read -r _
tries=0
while [ "$tries" -lt 300 ]; do
    groups=$(find /sys/fs/cgroup -depth -type d \( -path "*/$2" -o -path "*/$2/*" \) 2>/dev/null)
    [ -n "$groups" ] || break
    for group in $groups; do
        [ ! -e "$group/cgroup.kill" ] || echo 1 >"$group/cgroup.kill"
    done 2>/dev/null
    rmdir $groups 2>/dev/null || sleep 0.05
    tries=$((tries + 1))
done
rm -rf --one-file-system -- "$1"
"#;

/// A machine of its own; gone, with all that runs in it, when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
    dir: PathBuf,
    cgroup: PathBuf,
    inside: Arc<Inside>,
    keeper: Option<Child>,
}

/// What a process must enter to be inside.
#[derive(Debug)]
struct Inside {
    net: OwnedFd,
    mounts: OwnedFd,
    /// `cgroup.procs` of the group its processes begin in, open for writing.
    members: File,
}

impl Sandbox {
    /// Makes one. `name` is `demo`, say; the sandbox, its folder and its cgroup are called `hmt-demo`.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "namespaces, cgroups and eBPF programs need root: use sudo");
        sweep()?;
        let name = format!("{PREFIX}{name}");
        let dir = Path::new(HOME).join(&name);
        ensure!(!dir.exists(), "{} exists: is another one running? (hint: it ends with Ctrl-C)", dir.display());
        // The keeper first: from here on nothing can be left.
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&dir)
            .arg(&name)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not in the terminal's foreground group: Ctrl-C ends the owner, not the keeper.
            .process_group(0)
            .spawn()
            .context("cannot start the keeper of the sandbox")?;
        let keeper = Keeper(Some(keeper));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let cgroup = cgroup2()?.join(&name);
        let main = cgroup.join("main");
        fs::create_dir_all(&main).with_context(|| format!("cannot make {}", main.display()))?;
        let procs = main.join("cgroup.procs");
        let members =
            File::options().write(true).open(&procs).with_context(|| format!("cannot open {}", procs.display()))?;
        let (net, mounts) = namespaces()?;
        let inside = Arc::new(Inside { net, mounts, members });
        let sandbox = Self { name, dir, cgroup, inside, keeper: keeper.release() };
        shell::output(sandbox.command("ip").args(["link", "set", "lo", "up"]))?;
        Ok(sandbox)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder; the same path inside and outside.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its cgroup in the cgroup2 tree: every process inside is in it or below.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A program that will run inside, in a process group of its own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let inside = Arc::clone(&self.inside);
        command.process_group(0).stdin(Stdio::null());
        // SAFETY: between fork and exec only write(2), setns(2) and sigprocmask(2) are called, which are async-signal-safe;
        // nothing is allocated, and the descriptors are kept open by the Arc.
        unsafe { command.pre_exec(move || inside.enter()) };
        command
    }

    /// Runs `what` on a thread of its own in the network namespace: the sockets it opens are inside. The thread is not
    /// in the cgroup, so the socket hooks do not see it.
    pub fn on_network<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.inside.net, CloneFlags::CLONE_NEWNET).context("cannot enter the sandbox's network")?;
                what()
            });
            thread.join().map_err(|_| anyhow!("a thread in the sandbox {} panicked", self.name))?
        })
    }

    /// The mounts inside, as in `/proc/<pid>/mountinfo`.
    pub fn mounts(&self) -> Result<String> {
        shell::output(self.command("cat").arg("/proc/self/mountinfo"))
    }

    /// Ends everything inside and removes it.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut keeper) = self.keeper.take() else { return Ok(()) };
        drop(keeper.stdin.take());
        keeper.wait().context("cannot wait for the keeper")?;
        ensure!(!self.dir.exists(), "{} could not be removed", self.dir.display());
        ensure!(!self.cgroup.exists(), "{} could not be removed", self.cgroup.display());
        Ok(())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the sandbox {} is not clean: {error:#}", self.name);
        }
    }
}

impl Inside {
    /// Moves the calling process inside. For use between fork and exec: allocates nothing.
    fn enter(&self) -> io::Result<()> {
        // "0" is the writer itself (cgroups(7)). A descriptor opened beforehand, as the path is another one inside.
        nix::unistd::write(self.members.as_fd(), b"0")?;
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        setns(&self.mounts, CloneFlags::CLONE_NEWNS)?;
        // What the caller has blocked for itself (the demo waits for its signals) the program is to hear.
        SigSet::empty().thread_set_mask()?;
        Ok(())
    }
}

/// Ends the keeper if the sandbox does not come into being.
struct Keeper(Option<Child>);

impl Keeper {
    fn release(mut self) -> Option<Child> {
        self.0.take()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.0.take() {
            drop(keeper.stdin.take());
            // It ends by itself; what it cannot remove is swept by the next sandbox.
            let _ = keeper.wait();
        }
    }
}

/// A new network and mount namespace: made by a thread that ends, held by their descriptors.
fn namespaces() -> Result<(OwnedFd, OwnedFd)> {
    let make = || -> Result<(OwnedFd, OwnedFd)> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot make namespaces")?;
        // Private: what is mounted inside does not show outside, nor the other way round.
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make / private")?;
        // Its own /run: containerd's shims keep their sockets there, whatever containerd's configuration says.
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).context("cannot mount /run")?;
        // Its own pins: a BPF file system is empty when it is mounted, and forgets its pins with its last mount.
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), Some("mode=700"))
            .context("cannot mount a BPF file system on /sys/fs/bpf (hint: the kernel needs CONFIG_BPF_SYSCALL)")?;
        let open = |name: &str| File::open(format!("/proc/thread-self/ns/{name}")).map(OwnedFd::from);
        Ok((open("net")?, open("mnt")?))
    };
    std::thread::spawn(make).join().map_err(|_| anyhow!("making namespaces panicked"))?
}

/// Where the cgroup2 tree is mounted: alone, or beside those of the first version.
pub fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    mount.map(PathBuf::from).context("no cgroup2 tree is mounted (hint: mount -t cgroup2 none /sys/fs/cgroup)")
}

/// Removes what is left of sandboxes whose keeper was killed.
fn sweep() -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    for dir in [PathBuf::from(HOME), cgroup2()?] {
        let entries = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
        let found = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.extend(found.filter(|name| name.starts_with(PREFIX)));
    }
    names.sort_unstable();
    names.dedup();
    for name in names.iter().filter(|name| !is_kept(name)) {
        eprintln!("removing what an earlier run left behind: {name}");
        let dir = Path::new(HOME).join(name);
        let mut keeper = Command::new("sh");
        shell::output(keeper.args(["-c", KEEPER, "keeper"]).arg(&dir).arg(name))?;
        if dir.exists() {
            bail!("{} cannot be removed (hint: see what is mounted there)", dir.display());
        }
    }
    Ok(())
}

/// Whether a keeper looks after this sandbox.
fn is_kept(name: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok()).any(|line| {
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.contains(&b"keeper".as_slice()) && words.contains(&name.as_bytes())
    })
}

/// What is left of a sandbox after its end, in the root namespaces; empty if all is well.
pub fn leftovers(name: &str) -> Result<Vec<String>> {
    let name = format!("{PREFIX}{name}");
    let mut left = Vec::new();
    let dir = Path::new(HOME).join(&name);
    if dir.exists() {
        left.push(format!("folder {}", dir.display()));
    }
    let groups = shell::output(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &name]))?;
    left.extend(groups.lines().map(|group| format!("cgroup {group}")));
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    left.extend(mounts.lines().filter(|line| line.contains(&name)).map(|line| format!("mount {line}")));
    Ok(left)
}

/// Waits until no sandbox of that name is left.
pub fn gone(name: &str) -> Result<()> {
    wait::until("the sandbox to be gone", PATIENCE, || {
        let left = leftovers(name)?;
        ensure!(left.is_empty(), "left: {}", left.join(", "));
        Ok(())
    })
}
