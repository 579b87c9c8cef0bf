//! `hivemind doctor`: looks at this machine, without the daemon.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde::Serialize;

use super::{Context, output::Listed};
use crate::model::Problem;

/// The oldest kernel: the socket hooks and the TC programs are tested from here on.
const KERNEL: (u32, u32) = (6, 1);
/// Less free space than this is a warning: an image needs room.
const FREE: u64 = 1 << 30;
/// A clock this far from what the kernel believes to be true is a warning, in microseconds.
const CLOCK: i64 = 1_000_000;

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// containerd's socket
    #[arg(long, env = "HIVEMIND_CONTAINERD_SOCKET", default_value = "/run/containerd/containerd.sock")]
    containerd_socket: PathBuf,
    /// The daemon's state
    #[arg(long, env = "HIVEMIND_STATE_DIR", default_value = "/var/lib/hivemind")]
    state_dir: PathBuf,
    /// The port of the API and the web UI
    #[arg(long, env = "HIVEMIND_WEB_PORT", default_value_t = 3000)]
    web_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// How to mend it.
    mend: String,
}

impl Listed for Finding {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (&["CHECK", "RESULT", "FOUND", "MEND"], &[]);

    fn name(&self) -> String {
        self.check.into()
    }

    fn cells(&self) -> Vec<String> {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        vec![self.check.into(), verdict.into(), self.found.clone(), self.mend.clone()]
    }
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Ok, found: found.into(), mend: String::new() }
}

fn bad(check: &'static str, verdict: Verdict, found: impl Into<String>, mend: &str) -> Finding {
    Finding { check, verdict, found: found.into(), mend: mend.into() }
}

pub(super) async fn run(context: &Context, args: &DoctorArgs) -> Result<ExitCode, Problem> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let daemon = context.client.get::<serde_json::Value>("/v1/version").await.is_ok();
    let findings = vec![
        root(),
        kernel(),
        btf(),
        bpffs(&mounts),
        cgroups(&mounts),
        containerd(&args.containerd_socket),
        program("nft", "apt-get install nftables"),
        program("runc", "apt-get install runc"),
        memlock(),
        disk(&args.state_dir),
        clock(),
        port(args.web_port, daemon),
    ];
    context.output.list(&findings, "")?;
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count();
    if failed > 0 {
        context
            .output
            .say(&format!("{failed} check(s) failed: the daemon will not work on this machine until they are mended"));
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        ok("root", "running as root")
    } else {
        bad("root", Verdict::Fail, "not root", "run it with sudo: the daemon loads programs into the kernel")
    }
}

fn kernel() -> Finding {
    let release =
        nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL {
        return bad("kernel", Verdict::Fail, release, "Linux 6.1 or newer is needed: upgrade the distribution");
    }
    let attach = if version >= (6, 6) { "TCX" } else { "TC: no TCX before 6.6" };
    ok("kernel", format!("{release} ({attach})"))
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        ok("btf", "/sys/kernel/btf/vmlinux")
    } else {
        bad(
            "btf",
            Verdict::Fail,
            "no /sys/kernel/btf/vmlinux",
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y (Debian's and Ubuntu's have it)",
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

fn bpffs(mounts: &str) -> Finding {
    match mounted(mounts, "bpf").next() {
        Some(point) => ok("bpffs", point),
        None => bad("bpffs", Verdict::Warn, "not mounted", "the daemon mounts it; or: mount -t bpf bpf /sys/fs/bpf"),
    }
}

fn cgroups(mounts: &str) -> Finding {
    let v1 = mounted(mounts, "cgroup").count();
    match (mounted(mounts, "cgroup2").next(), v1) {
        (Some(point), 0) => ok("cgroups", format!("v2 at {point}")),
        (Some(point), _) => ok("cgroups", format!("hybrid: v2 at {point}, limits through v1")),
        (None, _) => bad(
            "cgroups",
            Verdict::Fail,
            "no cgroup2 tree",
            "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

fn containerd(socket: &Path) -> Finding {
    match UnixStream::connect(socket) {
        Ok(_) => ok("containerd", socket.display().to_string()),
        Err(error) => bad(
            "containerd",
            Verdict::Fail,
            format!("{}: {error}", socket.display()),
            "apt-get install containerd; systemctl start containerd; or name its socket with --containerd-socket",
        ),
    }
}

fn program(name: &'static str, mend: &str) -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    match found {
        Some(file) => ok(name, file.display().to_string()),
        None => bad(name, Verdict::Fail, "not found", mend),
    }
}

fn memlock() -> Finding {
    // Since Linux 5.11 BPF memory is charged to the cgroup, so that any limit will do.
    ok("memory", "BPF memory is charged to the cgroup (Linux 5.11 and newer)")
}

fn disk(dir: &Path) -> Finding {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let found = format!("{} free on {}", super::output::bytes(free), existing.display());
            if free < FREE {
                bad("disk", Verdict::Warn, found, "free some space: images and logs need room")
            } else {
                ok("disk", found)
            }
        }
        Err(error) => {
            bad("disk", Verdict::Warn, format!("{}: {error}", existing.display()), "choose another --state-dir")
        }
    }
}

fn clock() -> Finding {
    // SAFETY: zero is a valid value of every field of `timex`, and modes = 0 only reads (adjtimex(2)).
    let (state, timex) = unsafe {
        let mut timex: nix::libc::timex = std::mem::zeroed();
        (nix::libc::adjtimex(&raw mut timex), timex)
    };
    let synchronised = state >= 0 && state != nix::libc::TIME_ERROR && timex.maxerror.abs() < 16 * CLOCK;
    if synchronised {
        ok("time", "synchronised")
    } else {
        bad(
            "time",
            Verdict::Warn,
            "not synchronised",
            "apt-get install chrony: certificates and logs need the right time",
        )
    }
}

fn port(port: u16, daemon: bool) -> Finding {
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => ok("port", format!("{port} is free")),
        Err(_) if daemon => ok("port", format!("{port} is used, a hivemind daemon runs")),
        Err(error) => bad(
            "port",
            Verdict::Fail,
            format!("{port}: {error}"),
            "ss -ltnp names who has it; or choose another --web-port",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::mounted;

    #[test]
    fn mount_points_are_found_by_type() {
        let text = "25 1 0:22 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
                    26 1 0:23 / /sys/fs/bpf rw - bpf bpf rw,mode=700";
        assert_eq!(mounted(text, "bpf").collect::<Vec<_>>(), ["/sys/fs/bpf"]);
        assert_eq!(mounted(text, "cgroup2").collect::<Vec<_>>(), ["/sys/fs/cgroup/unified"]);
        assert_eq!(mounted(text, "cgroup").count(), 0);
    }
}
