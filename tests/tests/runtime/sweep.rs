//! What a killed run has left is removed at the start of the next. Every name has the pid of its process in it; what
//! belongs to a living one is left alone.

use std::{fs, path::Path, process::Command};

use super::containerd::clean_up;

/// What the names of folders, cgroups, and namespaces (of the network, and in containerd) begin with. The pid follows.
pub(crate) const FOLDER: &str = "hivemind-runtime-";
pub(crate) const CGROUP: &str = "/hivemind-test-";
pub(crate) const NAME: &str = "hmtest-";
/// Where runc keeps its state, by namespace.
pub(crate) const RUNC: &str = "/run/containerd/runc";

/// Removes it all. The worlds' folders are in `home`.
pub(crate) fn sweep(home: &Path) {
    for unique in of_the_dead(home, FOLDER) {
        let dir = home.join(format!("{FOLDER}{unique}"));
        // containerd and the registry have ended with the thread that started them.
        clean_up(&dir.join("containerd"), &format!("{CGROUP}{unique}"), || {});
        let _ = fs::remove_dir_all(dir);
    }
    for unique in of_the_dead(Path::new(RUNC), NAME) {
        let _ = fs::remove_dir_all(Path::new(RUNC).join(format!("{NAME}{unique}")));
    }
    for unique in of_the_dead(Path::new("/run/netns"), NAME) {
        let _ = Command::new("ip").args(["netns", "del", &format!("{NAME}{unique}")]).status();
    }
}

/// What follows `prefix` in the names in `dir` whose process does not live.
fn of_the_dead(dir: &Path, prefix: &str) -> Vec<String> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let unique = names.filter_map(|name| name.strip_prefix(prefix).map(str::to_owned));
    let dead = |unique: &String| {
        let pid = unique.split('-').next().unwrap_or_default();
        pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
    };
    unique.filter(dead).collect()
}

#[test]
fn only_what_a_dead_process_left_is_swept() {
    let home = std::env::temp_dir().join(format!("hmt-sweep-{}", std::process::id()));
    let mut child = Command::new("true").spawn().expect("a process");
    let (alive, dead) = (std::process::id(), child.id());
    child.wait().expect("its end");
    let names = [
        format!("{FOLDER}{alive}-0"),
        format!("{FOLDER}{dead}-0"),
        format!("{FOLDER}other"),
        format!("other-{dead}-0"),
    ];
    for name in &names {
        fs::create_dir_all(home.join(name).join("containerd")).expect("a folder");
    }
    sweep(&home);
    let left = names.iter().map(|name| home.join(name).exists()).collect::<Vec<_>>();
    fs::remove_dir_all(&home).expect("removed");
    assert_eq!(left, [true, false, true, true]);
}
