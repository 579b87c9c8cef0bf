//! What the data plane needs of the machine, and whether it is there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    sys::utsname::uname,
};

use super::DataplaneError;

/// Where every distribution mounts the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";
/// The oldest kernel the programs are made for, and the first with TCX.
const OLDEST: (u32, u32) = (6, 1);
const TCX: (u32, u32) = (6, 6);

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// How to mend it; empty if it is ok.
    pub hint: &'static str,
}

/// Looks at everything the data plane needs, without changing anything. `root` is the folder of the pins.
pub fn probe(root: &Path) -> Vec<Finding> {
    let finding = |what, ok, found, hint| Finding { what, ok, found, hint: if ok { "" } else { hint } };
    let release = uname().map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned());
    let version = version(&release);
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let bpffs = is_bpffs(root);
    let cgroup = fs::read_to_string("/proc/self/mountinfo").ok().and_then(|text| cgroup2(&text));
    let attach = if version >= TCX { "TCX" } else { "TC filters (TCX needs Linux 6.6)" };
    vec![
        finding("kernel", version >= OLDEST, release, "Linux 6.1 or newer is needed"),
        finding(
            "BTF",
            btf,
            if btf { "/sys/kernel/btf/vmlinux" } else { "/sys/kernel/btf/vmlinux is not there" }.into(),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
        finding(
            "BPF file system",
            bpffs || root.starts_with(BPFFS),
            if bpffs { "mounted" } else { "not mounted" }.into(),
            "mount -t bpf bpf /sys/fs/bpf, or let --bpf-root name a folder in it",
        ),
        finding(
            "cgroup2",
            cgroup.is_some(),
            cgroup.map_or_else(|| "not mounted".into(), |path| path.display().to_string()),
            "mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
        finding("attachment", true, attach.into(), ""),
    ]
}

/// Mounts the BPF file system at its usual place if `root` is to be there and it is not. Elsewhere it must be mounted.
pub(super) fn ensure_bpffs(root: &Path) -> Result<(), DataplaneError> {
    if is_bpffs(root) {
        return Ok(());
    }
    let what = "a BPF file system";
    if !root.starts_with(BPFFS) {
        let why = format!("{} is not in one (hint: mount -t bpf bpf {BPFFS})", root.display());
        return Err(DataplaneError::Kernel { what, why });
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=700"),
    )
    .map_err(|error| DataplaneError::Kernel { what, why: format!("cannot mount it at {BPFFS}: {error}") })
}

/// Whether a folder, or the nearest one above it that exists, is in a BPF file system.
fn is_bpffs(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    there.is_some_and(|path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC))
}

/// The numbers a kernel release begins with.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Where cgroup2 is mounted, by the text of `mountinfo`.
fn cgroup2(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_mounts_are_read() {
        assert_eq!(version("6.1.0-28-amd64"), (6, 1));
        assert_eq!(version("6.18.44-fc"), (6, 18));
        assert_eq!(version(""), (0, 0));
        let info = "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                    31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2(info), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2("31 30 0:27 / /x rw - cgroup cgroup rw,cpu\n"), None);
    }
}
