//! The rules for the document of a container.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use super::{
    ContainerSpec, HOST_GATEWAY, HookSpec, HooksSpec, InitSpec, MAX_HOOK_SECONDS, Seccomp, UNLIMITED, check_profile,
};
use crate::{model::Bytes, spec::v1::labels};

/// What a container has without a word: Docker's default set.
pub const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The others, in the order of their numbers (`linux/capability.h` of Linux 6.1; the last came with 5.9).
const OTHER_CAPABILITIES: &[&str] = &[
    "CAP_DAC_READ_SEARCH",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_LEASE",
    "CAP_AUDIT_CONTROL",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// `ulimit`'s names, of `RLIMIT_…`.
const ULIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The parameters of System V IPC and of its namespace.
const IPC_SYSCTLS: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Where nothing may be mounted over: the runtime needs them as they are.
const OURS: &[&str] = &["/", "/dev", "/dev/pts", "/dev/mqueue", "/proc", "/sys"];

/// The longest host name, of the kernel.
const LONGEST_NAME: usize = 64;
/// A page: less is none.
const LEAST_MEMORY: Bytes = Bytes(4 << 10);
/// As many name servers as the C library asks.
const MOST_SERVERS: usize = 3;

/// Every capability there is.
pub fn all_capabilities() -> impl Iterator<Item = &'static str> {
    DEFAULT_CAPABILITIES.iter().chain(OTHER_CAPABILITIES).copied()
}

/// The capability's full name, e.g. of `net_admin`, or `ALL`. `None` if there is none of that name.
pub fn capability(text: &str) -> Option<String> {
    let name = text.to_ascii_uppercase();
    if name == "ALL" {
        return Some(name);
    }
    let full = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    all_capabilities().any(|known| known == full).then_some(full)
}

/// Every fault of `spec`, with its field.
pub(in crate::spec::v1) fn check(spec: &ContainerSpec, fault: &mut impl FnMut(&str, String)) {
    let mut inner = |field: &str, why: String| fault(&format!("container.{field}"), why);
    names(spec, &mut inner);
    rights(spec, &mut inner);
    limits(spec, &mut inner);
    file_systems(spec, &mut inner);
    devices(spec, &mut inner);
    resolver(spec, &mut inner);
    hooks(&spec.hooks, &mut inner);
}

fn names(spec: &ContainerSpec, fault: &mut impl FnMut(&str, String)) {
    for (field, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        if let Some(name) = name
            && let Err(why) = host_name(name)
        {
            fault(field, format!("{name:?} is not a host name: {why}"));
        } else if let Some(name) = name.as_ref().filter(|name| name.len() > LONGEST_NAME) {
            fault(field, format!("{name:?} is longer than {LONGEST_NAME} characters"));
        }
    }
    for host in &spec.extra_hosts {
        if let Err(why) = host_name(&host.name) {
            fault("extra_hosts", format!("{:?} is not a host name: {why}", host.name));
        }
        if host.address != HOST_GATEWAY && host.address.parse::<IpAddr>().is_err() {
            let right = format!("write an IP address, or {HOST_GATEWAY} for the node");
            fault("extra_hosts", format!("{}: {:?} is not an address; {right}", host.name, host.address));
        }
    }
}

fn rights(spec: &ContainerSpec, fault: &mut impl FnMut(&str, String)) {
    for (field, names) in [("cap_add", &spec.cap_add), ("cap_drop", &spec.cap_drop)] {
        for name in names.iter().filter(|name| capability(name).is_none()) {
            fault(field, format!("{name:?} is not a capability; write e.g. NET_ADMIN, or ALL (man 7 capabilities)"));
        }
    }
    for name in spec.cap_add.iter().filter_map(|name| capability(name)).collect::<BTreeSet<_>>() {
        if spec.cap_drop.iter().filter_map(|name| capability(name)).any(|dropped| dropped == name) {
            fault("cap_drop", format!("{name} is added and taken away; say one of the two"));
        }
    }
    if spec.privileged && !spec.cap_drop.is_empty() {
        fault("cap_drop", "a privileged container has all capabilities; leave one of the two out".into());
    }
    if let Seccomp::Profile(profile) = &spec.security.seccomp
        && let Err(why) = check_profile(profile)
    {
        fault("security.seccomp", format!("is not a profile: {why}"));
    }
    let plain = |name: &str| !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    if let Some(profile) = spec.security.apparmor.as_ref().filter(|profile| !plain(profile)) {
        fault("security.apparmor", format!("{profile:?} is not a profile's name"));
    }
    for group in spec.group_add.iter().filter(|group| !plain(group) || group.contains(':')) {
        fault("group_add", format!("{group:?} is not a group's name or number"));
    }
    if let Some(score) = spec.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        fault("oom_score_adj", format!("{score} is not from -1000 to 1000"));
    }
    for (name, value) in &spec.annotations {
        if name.is_empty() || [name, value].iter().any(|text| text.contains('\0')) {
            fault("annotations", format!("{name:?} is empty or has a NUL character"));
        }
    }
}

fn limits(spec: &ContainerSpec, fault: &mut impl FnMut(&str, String)) {
    for (name, limit) in &spec.ulimits {
        if !ULIMITS.contains(&name.as_str()) {
            fault("ulimits", format!("{name:?} is not a limit; write one of {}", ULIMITS.join(", ")));
        }
        if limit.soft < UNLIMITED || limit.hard < UNLIMITED {
            fault("ulimits", format!("{name}: a limit is 0 or more, or -1 for none"));
        } else if limit.hard != UNLIMITED && (limit.soft == UNLIMITED || limit.soft > limit.hard) {
            fault("ulimits", format!("{name}: the soft limit {} is above the hard one, {}", limit.soft, limit.hard));
        }
    }
    for (name, value) in &spec.sysctls {
        // Both spellings of a name mean the same file; the kernel's own is the one with dots.
        let own = name.starts_with("net.") || name.starts_with("fs.mqueue.") || IPC_SYSCTLS.contains(&name.as_str());
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !own || !plain || name.contains("..") || name.ends_with('.') {
            let right = "net.*, fs.mqueue.*, kernel.shm*, kernel.msg* and kernel.sem are";
            fault("sysctls", format!("{name:?} is not a parameter of the container's own namespaces; {right}"));
        }
        if value.is_empty() || value.contains(['\0', '\n']) {
            fault("sysctls", format!("{name}: {value:?} is not a value"));
        }
    }
}

fn file_systems(spec: &ContainerSpec, fault: &mut impl FnMut(&str, String)) {
    let mut paths = BTreeSet::new();
    for tmpfs in &spec.tmpfs {
        let path = &tmpfs.path;
        if let Err(why) = mount_path(path) {
            fault("tmpfs", format!("{path:?} {why}"));
        } else if !paths.insert(path.trim_end_matches('/')) {
            fault("tmpfs", format!("{path} is there twice"));
        }
        if path == "/dev/shm" && spec.shm_size.is_some() && tmpfs.size.is_some() {
            fault("tmpfs", "/dev/shm has its size from shm_size as well; say it once".into());
        }
        if let Some(size) = tmpfs.size.filter(|size| *size < LEAST_MEMORY) {
            fault("tmpfs", format!("{path}: the size {size} is below the minimum of {LEAST_MEMORY}"));
        }
        if let Some(mode) = &tmpfs.mode
            && !u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o7777)
        {
            fault("tmpfs", format!("{path}: {mode:?} is not a mode in octal; write e.g. 1777"));
        }
    }
    if let Some(size) = spec.shm_size.filter(|size| *size < LEAST_MEMORY) {
        fault("shm_size", format!("{size} is below the minimum of {LEAST_MEMORY}"));
    }
}

fn devices(spec: &ContainerSpec, fault: &mut impl FnMut(&str, String)) {
    for device in &spec.devices {
        let inside = device.container.as_deref().unwrap_or(&device.host);
        for path in BTreeSet::from([device.host.as_str(), inside]) {
            if !path.starts_with('/') || Path::new(path).components().any(|part| part.as_os_str() == "..") {
                fault("devices", format!("{path:?} is not an absolute path"));
            }
        }
        let letters: BTreeSet<_> = device.permissions.chars().collect();
        let all = letters.iter().all(|letter| "rwm".contains(*letter));
        if letters.is_empty() || !all || letters.len() != device.permissions.len() {
            fault("devices", format!("{}: {:?} is not some of rwm", device.host, device.permissions));
        }
    }
    for name in &spec.cdi {
        // Its form: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
        let parts = name.split_once('=').and_then(|(kind, device)| Some((kind.split_once('/')?, device)));
        let word = |word: &str| {
            word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b))
                && word.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        if !parts.is_some_and(|((vendor, class), device)| [vendor, class, device].into_iter().all(word)) {
            fault("cdi", format!("{name:?} is not a device's name; write VENDOR/CLASS=NAME, e.g. nvidia.com/gpu=all"));
        }
    }
}

fn resolver(spec: &ContainerSpec, fault: &mut impl FnMut(&str, String)) {
    let dns = &spec.dns;
    if dns.servers.len() > MOST_SERVERS {
        fault("dns.servers", format!("{} are more than {MOST_SERVERS}", dns.servers.len()));
    }
    for server in dns.servers.iter().filter(|server| server.is_unspecified() || server.is_multicast()) {
        fault("dns.servers", format!("{server} is not a server's address"));
    }
    for domain in dns.search.iter().filter(|domain| domain.as_str() != ".") {
        if let Err(why) = host_name(domain.trim_end_matches('.')) {
            fault("dns.search", format!("{domain:?} is not a domain: {why}"));
        }
    }
    if dns.search.len() > 1 && dns.search.iter().any(|domain| domain == ".") {
        fault("dns.search", "'.' means no domain, and stands alone".into());
    }
    for option in &dns.options {
        if option.is_empty() || !option.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:.".contains(&b)) {
            fault("dns.options", format!("{option:?} is not an option; write e.g. ndots:2 (man 5 resolv.conf)"));
        }
    }
}

fn hooks(hooks: &HooksSpec, fault: &mut impl FnMut(&str, String)) {
    for (field, list) in [("hooks.post_start", &hooks.post_start), ("hooks.pre_stop", &hooks.pre_stop)] {
        list.iter().for_each(|hook| check_hook(field, hook, fault));
    }
    for init in &hooks.pre_start {
        check_init(init, &mut |why| fault("hooks.pre_start", why));
    }
}

fn check_init(init: &InitSpec, fault: &mut impl FnMut(String)) {
    if let Some(image) = init.image.as_ref().filter(|image| image.is_empty() || image.contains(char::is_whitespace)) {
        fault(format!("{image:?} is not an image; name one, e.g. busybox:latest"));
    }
    if init.command.as_ref().is_some_and(Vec::is_empty) {
        fault("the command is an empty list; leave it out to use the image's".into());
    }
    if init.image.is_none() && init.command.is_none() && init.args.is_none() {
        fault("has no image and no command: it would be the app itself".into());
    }
    if let Some(dir) = init.workdir.as_ref().filter(|dir| !dir.starts_with('/')) {
        fault(format!("workdir {dir:?} is not absolute; begin with '/'"));
    }
    if let Some(name) = init.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        fault(format!("{name:?} is not a variable's name"));
    }
    let words = init.command.iter().chain(&init.args).flatten().chain(init.env.values());
    if words.into_iter().any(|text| text.contains('\0')) {
        fault("contains a NUL character".into());
    }
}

fn check_hook(field: &str, hook: &HookSpec, fault: &mut impl FnMut(&str, String)) {
    if hook.command.first().is_none_or(String::is_empty) {
        fault(field, "the command is empty".into());
    }
    if !(1..=MAX_HOOK_SECONDS).contains(&hook.timeout_seconds) {
        fault(field, format!("timeout_seconds {} is not from 1 to {MAX_HOOK_SECONDS}", hook.timeout_seconds));
    }
    if let Some(dir) = hook.workdir.as_ref().filter(|dir| !dir.starts_with('/')) {
        fault(field, format!("workdir {dir:?} is not absolute; begin with '/'"));
    }
    if let Some(name) = hook.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        fault(field, format!("{name:?} is not a variable's name"));
    }
    if hook.command.iter().chain(hook.env.values()).any(|text| text.contains('\0')) {
        fault(field, "contains a NUL character".into());
    }
}

/// Where something may be mounted.
fn mount_path(path: &str) -> Result<(), &'static str> {
    let clean = path.trim_end_matches('/');
    if !path.starts_with('/') || path.contains('\0') {
        return Err("is not absolute; begin with '/'");
    }
    if path.split('/').any(|part| part == ".." || part == ".") {
        return Err("has '.' or '..' in it; write where it leads");
    }
    let inside = |dir: &str| clean.starts_with(dir) && clean.as_bytes().get(dir.len()) == Some(&b'/');
    if clean.is_empty() || OURS.contains(&clean) || inside("/proc") || inside("/sys") {
        return Err("cannot be mounted over: a container needs it as it is");
    }
    Ok(())
}

/// Labels of letters, digits, `-` and `_`, with dots between.
fn host_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 253 {
        return Err("it must have 1 to 253 characters");
    }
    if name.split('.').all(|part| labels::check_label_value(part).is_ok() && !part.is_empty()) {
        Ok(())
    } else {
        Err("use letters, digits, '-', '_' and single dots; each part begins and ends with a letter or a digit")
    }
}
