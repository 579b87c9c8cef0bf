//! Takes back all that a daemon with this configuration has made of the machine. Each step is the adapters' own way of
//! removing; what one step cannot remove keeps no other from being tried, and is told.

use std::{fs, io, path::Path};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    DaemonConfig,
    prepare::{dataplane_problem, network_problem, runtime},
};
use crate::{
    agent, api,
    dataplane::bpf,
    model::{ContainerId, ErrorCode, Problem},
    net::{
        Net as _,
        linux::{LinuxNet, NetConfig},
    },
    runtime::Runtime as _,
};

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uninstalled {
    /// What was removed, a line for each kind.
    pub removed: Vec<String>,
    /// What is still there, and why.
    pub left: Vec<String>,
}

impl Uninstalled {
    /// Notes how a step went.
    fn note(&mut self, what: &str, done: Result<String, Problem>) {
        match done {
            Ok(line) if line.is_empty() => {}
            Ok(line) => self.removed.push(line),
            Err(problem) => self.left.push(format!("{what}: {}", problem.title)),
        }
    }
}

/// Removes instances, images, network, data plane, cgroups and folders. Twice does no harm.
///
/// # Errors
/// If nothing was begun: without root, while a daemon runs, or if the state directory is not one of hivemind's.
pub async fn uninstall(config: &DaemonConfig) -> Result<Uninstalled, Problem> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Problem::new(ErrorCode::NotRoot, "uninstalling needs root").hint("sudo hivemind uninstall"));
    }
    api::ensure_alone(&config.socket).map_err(|problem| {
        Problem::new(problem.code, format!("the daemon at {} runs", config.socket.display()))
            .hint("systemctl stop hivemind && hivemind uninstall")
    })?;
    is_ours(&config.state_dir)?;
    let mut all = Uninstalled::default();
    let containers = containers(config).await;
    all.note("containers and images", containers);
    let network = network(config).await;
    all.note("the network", network);
    let dataplane = bpf::unload(&config.bpf_root).map_err(dataplane_problem);
    all.note("the data plane", dataplane.map(|pins| counted(pins, "pins of the data plane")));
    let cgroups = cgroups(&config.cgroup_parent).await;
    all.note("cgroups", cgroups);
    // The socket may be elsewhere.
    for path in [&config.run_dir, &config.socket, &config.state_dir] {
        all.note(&path.display().to_string(), folder(path));
    }
    Ok(all)
}

fn counted(number: usize, what: &str) -> String {
    if number == 0 { String::new() } else { format!("removed {number} {what}") }
}

/// Whoever names another folder by mistake is not to lose it.
fn is_ours(state_dir: &Path) -> Result<(), Problem> {
    let mut entries = fs::read_dir(state_dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    if state_dir.join("store.redb").exists() || state_dir.join("api-token").exists() || entries.all(|it| it == KEPT) {
        return Ok(());
    }
    let title = format!("{} has neither a store nor a token of hivemind's in it", state_dir.display());
    Err(Problem::new(ErrorCode::Invalid, title).hint("name the right one with --state-dir"))
}

/// What the package leaves when it is removed, so that it can still be purged.
const KEPT: &str = "uninstall";

async fn containers(config: &DaemonConfig) -> Result<String, Problem> {
    let runtime = runtime(config).await?;
    let refused = |error: crate::runtime::RuntimeError| Problem::new(error.code(), error.to_string());
    let all = runtime.list().await.map_err(refused)?;
    let ours: Vec<_> = all.iter().filter(|container| agent::is_ours(container)).collect();
    for container in &ours {
        let Ok(id) = container.id.parse::<ContainerId>() else { continue };
        runtime.remove(&id).await.map_err(refused)?;
        runtime.remove_logs(&id).await.map_err(refused)?;
    }
    runtime.remove_namespace().await.map_err(refused)?;
    Ok(format!("removed {} instances, all images, and containerd's namespace", ours.len()))
}

async fn network(config: &DaemonConfig) -> Result<String, Problem> {
    let net = LinuxNet::new(NetConfig::new(config.run_dir.join("netns"))).map_err(network_problem)?;
    let links = net.list_links().await.map_err(network_problem)?;
    for (id, _) in &links {
        net.remove_link(id).await.map_err(network_problem)?;
    }
    net.remove_node().await.map_err(network_problem)?;
    Ok(format!("removed {} links of instances, and the node's devices, routes and rules", links.len()))
}

/// The cgroups of containers, in each tree that is mounted. Processes are in them only if containerd did not answer.
async fn cgroups(parent: &str) -> Result<String, Problem> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let trees = mounts.lines().filter(|line| line.contains(" - cgroup2 ") || line.contains(" - cgroup "));
    let mut removed = 0;
    for tree in trees.filter_map(|line| line.split(' ').nth(4)) {
        let dir = Path::new(tree).join(parent.trim_start_matches('/'));
        if dir != Path::new(tree) && dir.is_dir() {
            let mut tries = 0;
            while let Err(error) = prune(&dir) {
                tries += 1;
                if tries == TRIES {
                    return Err(file("remove", &dir, &error));
                }
                // They end as soon as they are scheduled, and leave their cgroup then.
                tokio::time::sleep(AGAIN).await;
            }
            removed += 1;
        }
    }
    Ok(counted(removed, "cgroups of containers"))
}

/// How often a cgroup is tried.
const TRIES: u32 = 50;
/// How long between two tries.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// rmdir(2) from the leaves on: a cgroup's files go with it. What runs in one is killed.
fn prune(dir: &Path) -> io::Result<()> {
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = pid.parse::<i32>() {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            prune(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// A folder with all that is in it, after what is mounted there. A folder that is a file system of its own is emptied.
fn folder(path: &Path) -> Result<String, Problem> {
    let failed = |error: io::Error| file("remove", path, &error);
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(String::new()) };
    if !found.is_dir() {
        return fs::remove_file(path).map_err(failed).map(|()| format!("removed {}", path.display()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for point in beneath(&mounts, path) {
        umount2(point.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|error| file("unmount", Path::new(&point), &error.into()))?;
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && is_empty(path) => {
            Ok(format!("emptied {}, which is a file system of its own", path.display()))
        }
        done => done.map_err(failed).map(|()| format!("removed {}", path.display())),
    }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// What is mounted in a folder, the last first; not the folder itself.
fn beneath(mounts: &str, path: &Path) -> Vec<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    let mut points: Vec<_> =
        points.filter(|point| Path::new(point) != path && Path::new(point).starts_with(path)).collect();
    points.reverse();
    points
}

/// Blanks and the like are octal in mountinfo (proc(5)).
fn unescaped(text: &str) -> String {
    let table = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    table.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

fn file(action: &str, path: &Path, error: &io::Error) -> Problem {
    Problem::new(ErrorCode::Internal, format!("cannot {action} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_in_a_folder_is_found_the_innermost_first() {
        let mounts = "1 0 0:1 / /run rw - tmpfs t rw\n2 1 0:2 / /run/h/a\\040b rw - tmpfs t rw\n\
            3 2 0:3 / /run/h/a\\040b/c rw - tmpfs t rw\n4 1 0:4 / /run/house rw - tmpfs t rw\n5 1 0:4 / /run/h rw - x y rw\n";
        assert_eq!(beneath(mounts, Path::new("/run/h")), ["/run/h/a b/c", "/run/h/a b"]);
    }

    #[test]
    fn a_folder_that_is_somebody_elses_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(is_ours(&dir.path().join("none")).is_ok() && is_ours(dir.path()).is_ok());
        fs::write(dir.path().join(KEPT), "").expect("written");
        assert!(is_ours(dir.path()).is_ok());
        fs::write(dir.path().join("letter.txt"), "").expect("written");
        assert!(is_ours(dir.path()).is_err());
        fs::write(dir.path().join("api-token"), "").expect("written");
        assert!(is_ours(dir.path()).is_ok());
    }
}
