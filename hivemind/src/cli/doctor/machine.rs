//! Kernel, rights, mounts, time, disk.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use super::Finding;
use crate::{
    daemon::needs::{self, release, version},
    dataplane::bpf,
};

/// From here on programs are attached with TCX.
const TCX: (u32, u32) = (6, 6);
/// Until this kernel, memory of BPF maps counted against RLIMIT_MEMLOCK.
const MEMLOCK: (u32, u32) = (5, 11);
/// Less free space than this is a warning: an image needs room.
const FREE: u64 = 1 << 30;
/// The kernel's own limit of the clock's error, beyond which it no longer calls it synchronised, in microseconds.
const CLOCK_ERROR: i64 = 16_000_000;
pub(super) fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        Finding::ok("root", "running as root")
    } else {
        Finding::fail("root", "not root", "run it with sudo: the daemon loads programs into the kernel")
    }
}

pub(super) fn capabilities() -> Finding {
    let missing = needs::own_missing_capabilities();
    if missing.is_empty() {
        Finding::ok("capabilities", "all that are needed")
    } else {
        let mend = "run it outside of the container, or give the container these capabilities";
        Finding::fail("capabilities", format!("missing: {}", missing.join(", ")), mend)
    }
}

pub(super) fn kernel() -> Finding {
    let release = release();
    let version = version(&release);
    if version < needs::OLDEST_KERNEL {
        let mend = "Linux 6.1 or newer is needed, e.g. Debian 12, Ubuntu 24.04; Debian 11: install a kernel of bullseye-backports";
        return Finding::fail("kernel", release, mend);
    }
    let attach = if version >= TCX { "programs are attached with TCX" } else { "no TCX before 6.6: with TC instead" };
    Finding::ok("kernel", format!("{release}; {attach}"))
}

pub(super) fn btf() -> Finding {
    let path = needs::BTF;
    if Path::new(path).exists() {
        Finding::ok("btf", path)
    } else {
        let mend = "use a kernel with CONFIG_DEBUG_INFO_BTF=y; those of Debian and Ubuntu have it";
        Finding::fail("btf", format!("no {path}"), mend)
    }
}

/// Whether this binary carries the eBPF programs.
pub(super) fn programs() -> Finding {
    if bpf::has_programs() {
        Finding::ok("programs", "this binary carries the eBPF programs")
    } else {
        Finding::fail(
            "programs",
            "this binary was built without the eBPF programs",
            "build it with 'cargo xtask build'",
        )
    }
}

/// The mount points of a file system type.
fn mounted<'a>(mounts: &'a str, kind: &'a str) -> impl Iterator<Item = &'a str> {
    // mountinfo: id parent major:minor root POINT options [optional…] - TYPE source options (proc_pid_mountinfo(5))
    mounts.lines().filter_map(move |line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next() == Some(kind)).then(|| before.split(' ').nth(4))?
    })
}

/// Whether programs and tables can be kept in the folder.
pub(super) fn bpffs(root: &Path) -> Finding {
    if needs::is_on_bpffs(root) {
        Finding::ok("bpffs", format!("{} is in one", root.display()))
    } else {
        let mend = "mount -t bpf bpf /sys/fs/bpf   (systemd does it at boot)";
        Finding::fail("bpffs", format!("{} is not in a BPF file system", root.display()), mend)
    }
}

pub(super) fn cgroups(mounts: &str, configured: Option<&Path>) -> Finding {
    let v1 = mounted(mounts, "cgroup").count();
    let v2 = mounted(mounts, "cgroup2").next();
    if let Some(path) = configured.filter(|path| !needs::is_cgroup2(path)) {
        return Finding::fail(
            "cgroups",
            format!("{} is no folder of a cgroup2 tree", path.display()),
            "name a cgroup2 folder with --cgroup-root",
        );
    }
    match (v2, v1) {
        (Some(point), 0) => Finding::ok("cgroups", format!("v2 at {point}")),
        (Some(point), _) => Finding::ok("cgroups", format!("hybrid: v2 at {point}, limits through v1")),
        (None, 0) => Finding::fail("cgroups", "none are mounted", "mount -t cgroup2 none /sys/fs/cgroup"),
        (None, _) => {
            let mend = "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified; \
                        for good: boot with systemd.unified_cgroup_hierarchy=1";
            Finding::fail("cgroups", "v1 only: services need a cgroup2 tree beside it", mend)
        }
    }
}

pub(super) fn memlock() -> Finding {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    let shown = if limit == nix::libc::RLIM_INFINITY { "unlimited".into() } else { super::super::output::bytes(limit) };
    if version(&release()) >= MEMLOCK || limit == nix::libc::RLIM_INFINITY {
        Finding::ok("memlock", format!("{shown}; not needed: this kernel charges BPF memory to the cgroup"))
    } else {
        Finding::fail("memlock", shown, "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit")
    }
}

pub(super) fn clock() -> Finding {
    // SAFETY: zero is a valid value of every field of `timex`, and modes = 0 only reads (adjtimex(2)).
    let (state, timex) = unsafe {
        let mut timex: nix::libc::timex = std::mem::zeroed();
        (nix::libc::adjtimex(&raw mut timex), timex)
    };
    clock_of(state, timex.maxerror)
}

/// `state` as adjtimex(2) returns it, `error` in microseconds.
fn clock_of(state: i32, error: i64) -> Finding {
    if state >= 0 && state != nix::libc::TIME_ERROR && error < CLOCK_ERROR {
        Finding::ok("time", format!("synchronised to {} ms", error / 1_000))
    } else {
        let mend = "apt-get install chrony   (registries' certificates and logs need the right time)";
        Finding::warn("time", "the kernel does not call the clock synchronised", mend)
    }
}

pub(super) fn disk(check: &'static str, dir: &Path) -> Finding {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let found = format!("{} free for {}", super::super::output::bytes(free), dir.display());
            if free < FREE {
                Finding::warn(check, found, "free some space: images and logs need room")
            } else {
                Finding::ok(check, found)
            }
        }
        Err(error) => Finding::warn(check, format!("{}: {error}", existing.display()), "name another --state-dir"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    const V2: &str = "25 1 0:22 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
    const V1: &str = "27 1 0:24 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";

    #[test]
    fn mounts_are_found_by_type() {
        for (mounts, expected) in [
            (V2.to_owned(), Verdict::Ok),
            (format!("{V1}{V2}"), Verdict::Ok),
            (V1.to_owned(), Verdict::Fail),
            (String::new(), Verdict::Fail),
        ] {
            assert_eq!(cgroups(&mounts, None).verdict, expected, "{mounts}");
        }
        assert_eq!(cgroups(V2, Some(Path::new("/nonexistent"))).verdict, Verdict::Fail);
        assert!(cgroups(&format!("{V1}{V2}"), None).found.starts_with("hybrid"));
    }

    #[test]
    fn a_clock_that_nobody_sets_is_told() {
        for (state, error, expected) in [
            (nix::libc::TIME_OK, 500_000, Verdict::Ok),
            // A leap second comes: nothing is wrong.
            (nix::libc::TIME_INS, 500_000, Verdict::Ok),
            (nix::libc::TIME_OK, CLOCK_ERROR, Verdict::Warn),
            (nix::libc::TIME_ERROR, 0, Verdict::Warn),
            (-1, 0, Verdict::Warn),
        ] {
            let found = clock_of(state, error);
            assert_eq!(found.verdict, expected, "{state}, {error}");
            assert_eq!(found.mend.is_empty(), expected == Verdict::Ok);
        }
    }
}
