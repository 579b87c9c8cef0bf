//! What the daemon needs of the kernel and of its own rights: looked at by the daemon before it touches anything, and
//! by `hivemind doctor`, so that both say the same.

use std::{fs, path::Path};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::DaemonConfig;
use crate::model::{ErrorCode, Problem};

/// The oldest kernel: the socket hooks and the TC programs are tested from here on.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);
/// Where the kernel describes its types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Without what no start succeeds, by the capability's number (capabilities(7)). `CAP_SYS_ADMIN` has in it what programs in
/// the kernel need (`bpf_capable()` and `perfmon_capable()` in include/linux/capability.h).
pub const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// The kernel's release, e.g. `6.1.0-13-cloud-amd64`; empty if it does not say.
pub fn release() -> String {
    nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Major and minor version of `6.1.0-13-cloud-amd64`; what cannot be read is 0.
pub fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The needed capabilities that a process does not have, by its `/proc/<pid>/status`.
pub fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, _)| bits >> bit & 1 == 0).map(|(_, name)| *name).collect()
}

/// The same of this process.
pub fn own_missing_capabilities() -> Vec<&'static str> {
    missing_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// Whether a folder, or the one it would be made in, is in a BPF file system.
pub fn is_on_bpffs(dir: &Path) -> bool {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    statfs(existing).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// Whether a folder is a cgroup of the second version; the programs of sockets are attached to no other.
pub fn is_cgroup2(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// What would make every start fail.
pub(super) fn check(config: &DaemonConfig) -> Result<(), Problem> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Problem::new(ErrorCode::NotRoot, "the daemon needs root").hint("sudo hivemind daemon"));
    }
    let missing = own_missing_capabilities();
    if !missing.is_empty() {
        let title = format!("the daemon runs as root, but without {}", missing.join(", "));
        return Err(Problem::new(ErrorCode::NotRoot, title)
            .hint("run it outside of the container, or give the container these capabilities"));
    }
    let lacks = |title: String, hint: &str| Err(Problem::new(ErrorCode::Kernel, title).hint(hint));
    let (release, (major, minor)) = (release(), OLDEST_KERNEL);
    if version(&release) < OLDEST_KERNEL {
        return lacks(
            format!("the kernel is Linux {release}; {major}.{minor} or newer is needed"),
            "hivemind doctor   (names distributions that have one)",
        );
    }
    if !Path::new(BTF).exists() {
        return lacks(format!("the kernel does not describe its types: there is no {BTF}"), "hivemind doctor");
    }
    if !is_on_bpffs(&config.bpf_root) {
        let root = config.bpf_root.display();
        return lacks(
            format!("{root} is not in a BPF file system: programs and tables cannot be kept there"),
            "mount -t bpf bpf /sys/fs/bpf   (or name another folder with --bpf-root)",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(missing_capabilities("CapEff:\t00000000a80425fb\n"), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"], "runc's");
        assert_eq!(missing_capabilities("CapEff:\t0000000000201000\n"), [""; 0]);
        assert_eq!(missing_capabilities("").len(), CAPABILITIES.len());
    }
}
