//! The system calls that containers do not get, beyond what their missing capabilities refuse already.
//!
//! A list of what is denied, not of what is allowed: programs keep working on kernels with calls that did not exist
//! when this was written. Denied is what reaches kernel code with a history of holes that no contained program needs
//! (keyrings, BPF, io_uring, user namespaces, modules, mounts), or what changes the whole machine (time, swap).

use serde_json::{Value, json};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const DENIED: &[&str] = &[
    "_sysctl",
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_adjtime64",
    "clock_settime",
    "clock_settime64",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "init_module",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setns",
    "settimeofday",
    "stime",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "umount",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "vm86",
    "vm86old",
];

/// Answered with ENOSYS, so that programs fall back: `clone3` hides its flags in memory where no filter sees them
/// (the C library then uses `clone`), and io_uring users fall back to epoll.
const ABSENT: &[&str] = &["clone3", "io_uring_enter", "io_uring_register", "io_uring_setup"];

/// What a capability is there for: who was given it gets the calls as well, as with Docker.
const UNLOCKED: &[(&str, &[&str])] = &[
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    (
        SYS_ADMIN,
        &[
            "bpf",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_NICE", &["move_pages"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    (
        "CAP_SYS_TIME",
        &["clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYSLOG", &["syslog"]),
];

/// With it a process may make namespaces.
const SYS_ADMIN: &str = "CAP_SYS_ADMIN";

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`.
const CLONE_NEW: [u64; 7] = [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// `AF_ALG`, `AF_VSOCK`: the kernel's cryptography, and the hypervisor.
const FAMILIES: [u64; 2] = [38, 40];

/// The `linux.seccomp` of an OCI specification for a container with these capabilities.
pub(super) fn profile(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let unlocked: Vec<&str> =
        UNLOCKED.iter().filter(|(name, _)| has(name)).flat_map(|(_, calls)| calls.iter().copied()).collect();
    let locked = |calls: &[&'static str]| -> Vec<&str> {
        calls.iter().copied().filter(|call| !unlocked.contains(call)).collect()
    };
    let deny = |names: Value, errno: u32| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno});
    let mut rules = vec![deny(json!(locked(DENIED)), EPERM), deny(json!(locked(ABSENT)), ENOSYS)];
    for flag in CLONE_NEW.into_iter().filter(|_| !has(SYS_ADMIN)) {
        let mut rule = deny(json!(["clone"]), EPERM);
        rule["args"] = json!([{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}]);
        rules.push(rule);
    }
    for family in FAMILIES {
        let mut rule = deny(json!(["socket"]), EPERM);
        rule["args"] = json!([{"index": 0, "value": family, "op": "SCMP_CMP_EQ"}]);
        rules.push(rule);
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures(), "syscalls": rules})
}

/// This machine's, with the 32-bit ones its kernel may run: they must not be a way round.
fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

/// Whether this kernel filters system calls.
pub(crate) fn supported() -> bool {
    std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_brings_its_calls() {
        let denied = |capabilities: &[&str]| -> Vec<String> {
            let capabilities: Vec<String> = capabilities.iter().map(|&name| name.to_owned()).collect();
            let rules = profile(&capabilities)["syscalls"].clone();
            let rules = rules.as_array().expect("a list").iter();
            rules
                .flat_map(|rule| rule["names"].as_array().expect("a list").clone())
                .map(|name| name.to_string())
                .collect()
        };
        let has = |list: &[String], name: &str| list.contains(&format!("\"{name}\""));
        let plain = denied(&["CAP_CHOWN"]);
        for call in ["mount", "unshare", "clone", "clone3", "settimeofday", "bpf", "keyctl", "io_uring_setup"] {
            assert!(has(&plain, call), "{call}");
        }
        let admin = denied(&["CAP_SYS_ADMIN"]);
        for (call, locked) in [("mount", false), ("clone", false), ("settimeofday", true), ("keyctl", true)] {
            assert_eq!(has(&admin, call), locked, "{call}");
        }
        assert!(!has(&denied(&["CAP_SYS_TIME"]), "settimeofday"));
    }

    #[test]
    fn what_is_unlocked_is_locked_without_a_word() {
        for call in UNLOCKED.iter().flat_map(|(_, calls)| calls.iter()) {
            assert!(DENIED.contains(call) || ABSENT.contains(call), "{call}");
        }
    }
}
