//! Kernel, rights, mounts, time, disk.

use std::{fs, path::Path};

use nix::sys::resource::{Resource, getrlimit};

use super::Finding;
use crate::dataplane::bpf;

/// The oldest kernel: the socket hooks and the TC programs are tested from here on.
const KERNEL: (u32, u32) = (6, 1);
/// From here on programs are attached with TCX.
const TCX: (u32, u32) = (6, 6);
/// Until this kernel, memory of BPF maps counted against RLIMIT_MEMLOCK.
const MEMLOCK: (u32, u32) = (5, 11);
/// Less free space than this is a warning: an image needs room.
const FREE: u64 = 1 << 30;
/// The kernel's own limit of the clock's error, beyond which it no longer calls it synchronised, in microseconds.
const CLOCK_ERROR: i64 = 16_000_000;
/// What the daemon does with its rights, by the capability's number (capabilities(7)).
const CAPABILITIES: [(u32, &str); 5] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

pub(super) fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        Finding::ok("root", "running as root")
    } else {
        Finding::fail("root", "not root", "run it with sudo: the daemon loads programs into the kernel")
    }
}

pub(super) fn capabilities() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if missing.is_empty() {
        Finding::ok("capabilities", "all that are needed")
    } else {
        let mend = "run it outside of the container, or give the container these capabilities";
        Finding::fail("capabilities", format!("missing: {}", missing.join(", ")), mend)
    }
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, _)| bits >> bit & 1 == 0).map(|(_, name)| *name).collect()
}

fn release() -> String {
    nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Major and minor version of `6.1.0-13-cloud-amd64`.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

pub(super) fn kernel() -> Finding {
    let release = release();
    let version = version(&release);
    if version < KERNEL {
        let mend = "Linux 6.1 or newer is needed, e.g. Debian 12, Ubuntu 24.04; Debian 11: install a kernel of bullseye-backports";
        return Finding::fail("kernel", release, mend);
    }
    let attach = if version >= TCX { "programs are attached with TCX" } else { "no TCX before 6.6: with TC instead" };
    Finding::ok("kernel", format!("{release}; {attach}"))
}

pub(super) fn btf() -> Finding {
    let path = "/sys/kernel/btf/vmlinux";
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

pub(super) fn bpffs(mounts: &str) -> Finding {
    match mounted(mounts, "bpf").next() {
        Some(point) => Finding::ok("bpffs", point),
        None => Finding::warn("bpffs", "not mounted", "mount -t bpf bpf /sys/fs/bpf   (systemd does it at boot)"),
    }
}

pub(super) fn cgroups(mounts: &str, configured: Option<&Path>) -> Finding {
    let v1 = mounted(mounts, "cgroup").count();
    let v2 = mounted(mounts, "cgroup2").next();
    if let Some(path) = configured.filter(|path| !path.join("cgroup.procs").exists()) {
        return Finding::fail(
            "cgroups",
            format!("{} is no cgroup", path.display()),
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
    if state >= 0 && state != nix::libc::TIME_ERROR && timex.maxerror < CLOCK_ERROR {
        Finding::ok("time", format!("synchronised to {} ms", timex.maxerror / 1_000))
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
    const BPF: &str = "26 1 0:23 / /sys/fs/bpf rw - bpf bpf rw,mode=700\n";

    #[test]
    fn mounts_are_found_by_type() {
        for (mounts, bpf, cgroup) in [
            (format!("{V2}{BPF}"), Verdict::Ok, Verdict::Ok),
            (format!("{V1}{V2}"), Verdict::Warn, Verdict::Ok),
            (V1.to_owned(), Verdict::Warn, Verdict::Fail),
            (String::new(), Verdict::Warn, Verdict::Fail),
        ] {
            assert_eq!(bpffs(&mounts).verdict, bpf, "{mounts}");
            assert_eq!(cgroups(&mounts, None).verdict, cgroup, "{mounts}");
        }
        assert_eq!(cgroups(V2, Some(Path::new("/nonexistent"))).verdict, Verdict::Fail);
        assert!(cgroups(&format!("{V1}{V2}"), None).found.starts_with("hybrid"));
    }

    #[test]
    fn kernel_versions_are_read() {
        for (release, expected) in
            [("6.1.0-13-cloud-amd64", (6, 1)), ("6.18.5", (6, 18)), ("5.10", (5, 10)), ("7-rc1", (7, 0)), ("", (0, 0))]
        {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert!(missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(missing_capabilities("CapEff:\t0000007fffffffff\n"), ["CAP_BPF"]);
        assert_eq!(missing_capabilities("").len(), CAPABILITIES.len());
    }
}
