//! Where the memory controller is (cgroup v1, hybrid or v2), and whether it killed a container.
//!
//! The kernel's counter is the only record of an out-of-memory kill: it is there after a restart of ours, as long as
//! the runtime has not deleted the ended container.

use std::path::{Path, PathBuf};

/// The hierarchy that limits memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MemoryTree {
    /// The memory hierarchy of cgroup v1 (also on hybrid machines).
    V1(PathBuf),
    /// The unified hierarchy.
    V2(PathBuf),
}

impl MemoryTree {
    /// Finds it in the text of `/proc/self/mountinfo`; `None` if memory cannot be limited here.
    pub(super) fn find(mountinfo: &str) -> Option<Self> {
        let mounts = || {
            mountinfo.lines().filter_map(|line| {
                let (head, tail) = line.split_once(" - ")?;
                let mut tail = tail.split(' ');
                let point = head.split(' ').nth(4)?;
                Some((PathBuf::from(point), tail.next()?, tail.nth(1)?))
            })
        };
        let v1 = mounts().find(|(_, kind, options)| *kind == "cgroup" && options.split(',').any(|o| o == "memory"));
        let v2 = || mounts().find(|(_, kind, _)| *kind == "cgroup2");
        v1.map(|(point, ..)| Self::V1(point)).or_else(|| v2().map(|(point, ..)| Self::V2(point)))
    }

    /// The tree of this machine.
    pub(super) fn here() -> Option<Self> {
        Self::find(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Whether swap can be limited.
    pub(super) fn limits_swap(&self) -> bool {
        match self {
            Self::V1(root) => root.join("memory.memsw.limit_in_bytes").exists(),
            // The root has no such file; swap accounting is part of v2.
            Self::V2(_) => true,
        }
    }

    /// Whether the kernel killed a process of the cgroup for its limit. False if the cgroup is gone.
    pub(super) fn killed(&self, cgroup: &str) -> bool {
        let (root, file) = match self {
            Self::V1(root) => (root, "memory.oom_control"),
            Self::V2(root) => (root, "memory.events"),
        };
        let path: &Path = &root.join(cgroup.trim_start_matches('/')).join(file);
        kills(&std::fs::read_to_string(path).unwrap_or_default()) > 0
    }
}

/// Both files have a line `oom_kill <n>`.
fn kills(text: &str) -> u64 {
    text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_memory_controller() {
        let tmpfs = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n";
        let v1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let memory = Some(MemoryTree::V1("/sys/fs/cgroup/memory".into()));
        assert_eq!(MemoryTree::find(&format!("{tmpfs}{unified}{v1}")), memory);
        assert_eq!(MemoryTree::find(unified), Some(MemoryTree::V2("/sys/fs/cgroup/unified".into())));
        assert_eq!(MemoryTree::find(tmpfs), None);
    }

    #[test]
    fn counts_kills() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(kills("low 0\nhigh 0\nmax 12\noom 4\noom_kill 0\noom_group_kill 0\n"), 0);
        assert_eq!(kills(""), 0);
    }
}
