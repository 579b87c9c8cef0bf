//! What a running container uses, as the kernel counts it in its cgroup (v1, hybrid or v2), and its processes.
//!
//! Nothing is run in the container, and nothing is asked of containerd: for a hundred containers these are some hundred
//! small files that the kernel makes up when they are read.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{inside::Inside, user::UserDb};

/// Ticks of `/proc/<pid>/stat` in a second: `USER_HZ` of include/asm-generic/param.h, alike on amd64 and arm64.
const TICKS: f64 = 100.0;
/// cgroup v1 says "no limit" with the largest number of pages that fit.
const V1_UNLIMITED: u64 = 1 << 60;
/// The longest `/etc/passwd` that is read for names.
const PASSWD_LIMIT: u64 = 1 << 20;
/// Groups below a container's own: what runs in it may make some, and some below these.
const DEPTH: u32 = 8;

/// What a container has used, and what it may.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Seconds of CPU time, user and system, since its process was started.
    pub cpu_seconds: f64,
    /// CPUs it may use; `None` is all.
    pub cpu_limit: Option<f64>,
    /// Bytes of memory, without files that the kernel keeps only as long as there is room.
    pub memory_bytes: u64,
    /// The limit of memory in bytes.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// How many of them it may have.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes written to block devices.
    pub written_bytes: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;
    /// What two containers use together. There is a limit if both have one.
    fn add(self, other: Self) -> Self {
        let both = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            cpu_limit: self.cpu_limit.zip(other.cpu_limit).map(|(one, other)| one + other),
            memory_bytes: self.memory_bytes + other.memory_bytes,
            memory_limit: both(self.memory_limit, other.memory_limit),
            pids: self.pids + other.pids,
            pids_limit: both(self.pids_limit, other.pids_limit),
            read_bytes: self.read_bytes + other.read_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
        }
    }
}

/// A process of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Its number in the host.
    pub pid: u32,
    /// Its number in the container.
    pub container_pid: u32,
    /// Its user, by the container's `/etc/passwd`; the number if that does not name it.
    pub user: String,
    /// `R` running, `S` sleeping, `D` in I/O, `T` stopped, `Z` ended and not waited for.
    pub state: char,
    /// Seconds of CPU time, user and system.
    pub cpu_seconds: f64,
    /// Bytes of resident memory.
    pub memory_bytes: u64,
    /// Its command with the arguments; the name in brackets if it has cleared them.
    pub command: String,
}

/// What the container of this process uses.
///
/// # Errors
/// If the process has ended.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let groups = Groups::of(pid)?;
    Ok(groups.usage(&|path| fs::read_to_string(path).unwrap_or_default()))
}

/// The processes of the container `id`, whose first process is `pid`, by their number.
///
/// # Errors
/// If the process has ended.
pub fn processes(id: &str, pid: u32) -> io::Result<Vec<Process>> {
    let inside = Inside::of(id, pid)?;
    let passwd = inside.text(Path::new("/etc/passwd"), PASSWD_LIMIT);
    let users = UserDb { passwd, group: String::new() };
    let level = numbers(&status_of(pid)?, "NSpid").len().max(1) - 1;
    let mut pids = Vec::new();
    Groups::of(pid)?.members(&mut pids);
    pids.sort_unstable();
    pids.dedup();
    // One that has ended since is left out.
    Ok(pids.into_iter().filter_map(|pid| process(pid, level, &users)).collect())
}

fn status_of(pid: u32) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/status"))
}

fn process(pid: u32, level: usize, users: &UserDb) -> Option<Process> {
    let status = status_of(pid).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let uid = u32::try_from(*numbers(&status, "Uid").get(1)?).ok()?;
    let command = match line.iter().rposition(|byte| *byte != 0) {
        Some(last) => String::from_utf8_lossy(&line[..=last]).replace('\0', " "),
        None => format!("[{}]", field(&status, "Name").unwrap_or_default()),
    };
    Some(Process {
        pid,
        container_pid: numbers(&status, "NSpid").get(level).and_then(|n| u32::try_from(*n).ok()).unwrap_or(pid),
        user: users.name_of(uid).unwrap_or_else(|| uid.to_string()),
        state: field(&status, "State").and_then(|state| state.chars().next()).unwrap_or('?'),
        cpu_seconds: cpu_seconds(&stat)?,
        memory_bytes: numbers(&status, "VmRSS").first().map_or(0, |kib| kib << 10),
        command,
    })
}

/// The value of a line (`Name:`, a tab, the value) of `/proc/<pid>/status`.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn numbers(status: &str, name: &str) -> Vec<u64> {
    field(status, name).unwrap_or_default().split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Fields 14 and 15 of `/proc/<pid>/stat`. The second one is a name that may have anything in it, brackets too.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u32>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some((f64::from(user) + f64::from(system)) / TICKS)
}

/// The folders of a process's cgroups: by controller with v1, under the empty name with v2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Groups(HashMap<String, PathBuf>);

impl Groups {
    fn of(pid: u32) -> io::Result<Self> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self::find(&groups, &mounts))
    }

    /// From the texts of `/proc/<pid>/cgroup` and `/proc/self/mountinfo`.
    fn find(groups: &str, mounts: &str) -> Self {
        let mounted = mounts.lines().filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let (mut head, mut tail) = (head.split(' ').skip(3), tail.split(' '));
            Some((head.next()?, head.next()?, tail.next()?, tail.nth(1)?))
        });
        let mounted: Vec<_> = mounted.filter(|(_, _, kind, _)| kind.starts_with("cgroup")).collect();
        let mut found = HashMap::new();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            for controller in controllers.split(',') {
                let holds = |(_, _, kind, options): &&(&str, &str, &str, &str)| match controller {
                    "" => *kind == "cgroup2",
                    name => *kind == "cgroup" && options.split(',').any(|option| option == name),
                };
                let Some((root, point, ..)) = mounted.iter().find(holds) else { continue };
                let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path).trim_start_matches('/');
                found.insert(controller.to_owned(), Path::new(point).join(below));
            }
        }
        Self(found)
    }

    /// What the files say; one that is not there, as of a controller that is off, counts nothing.
    fn usage(&self, read: &dyn Fn(&Path) -> String) -> Usage {
        let file = |group: &str, name: &str| self.0.get(group).map_or(String::new(), |dir| read(&dir.join(name)));
        let number = |group: &str, name: &str| file(group, name).trim().parse::<u64>().ok();
        let mut usage = Usage::default();
        #[expect(clippy::cast_precision_loss, reason = "seconds with microseconds: exact for centuries")]
        let seconds = |count: u64, unit: f64| count as f64 / unit;
        if self.0.contains_key("memory") {
            usage.cpu_seconds = seconds(number("cpuacct", "cpuacct.usage").unwrap_or(0), 1e9);
            usage.cpu_limit = quota(&format!(
                "{} {}",
                file("cpu", "cpu.cfs_quota_us").trim(),
                file("cpu", "cpu.cfs_period_us").trim()
            ));
            let cache = keyed(&file("memory", "memory.stat"), "total_inactive_file");
            usage.memory_bytes = number("memory", "memory.usage_in_bytes").unwrap_or(0).saturating_sub(cache);
            usage.memory_limit = number("memory", "memory.limit_in_bytes").filter(|limit| *limit < V1_UNLIMITED);
            usage.pids = number("pids", "pids.current").unwrap_or(0);
            usage.pids_limit = number("pids", "pids.max");
            let io = file("blkio", "blkio.throttle.io_service_bytes");
            let sum =
                |word: &str| io.lines().filter_map(|line| line.split_once(word)?.1.trim().parse::<u64>().ok()).sum();
            (usage.read_bytes, usage.written_bytes) = (sum(" Read "), sum(" Write "));
            return usage;
        }
        usage.cpu_seconds = seconds(keyed(&file("", "cpu.stat"), "usage_usec"), 1e6);
        usage.cpu_limit = quota(&file("", "cpu.max"));
        let cache = keyed(&file("", "memory.stat"), "inactive_file");
        usage.memory_bytes = number("", "memory.current").unwrap_or(0).saturating_sub(cache);
        usage.memory_limit = number("", "memory.max");
        usage.pids = number("", "pids.current").unwrap_or(0);
        usage.pids_limit = number("", "pids.max");
        let io = file("", "io.stat");
        let sum = |key: &str| {
            io.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum::<u64>()
        };
        (usage.read_bytes, usage.written_bytes) = (sum("rbytes="), sum("wbytes="));
        usage
    }

    /// Adds the numbers of its processes.
    fn members(&self, pids: &mut Vec<u32>) {
        let dir = ["pids", "memory", ""].iter().find_map(|controller| self.0.get(*controller));
        if let Some(dir) = dir {
            members(dir, DEPTH, pids);
        }
    }
}

fn members(dir: &Path, depth: u32, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in below.filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        members(&entry.path(), depth - 1, pids);
    }
}

/// The number of a line `key number`.
fn keyed(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// CPUs of a quota and its period; none with `max` (v2) or `-1` (v1).
fn quota(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let (quota, period) = (words.next()?.parse::<u32>().ok()?, words.next()?.parse::<u32>().ok()?);
    (period > 0).then(|| f64::from(quota) / f64::from(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "35 31 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        37 31 0:34 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        38 31 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n";

    fn read(files: &'static [(&str, &str)]) -> impl Fn(&Path) -> String {
        move |path| {
            files.iter().find(|(name, _)| Path::new(name) == path).map_or(String::new(), |(_, text)| (*text).into())
        }
    }

    #[test]
    fn the_unified_hierarchy_is_read() {
        let groups = Groups::find("0::/hivemind/abc\n", V2);
        let usage = groups.usage(&read(&[
            ("/sys/fs/cgroup/hivemind/abc/cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
            ("/sys/fs/cgroup/hivemind/abc/cpu.max", "50000 100000\n"),
            ("/sys/fs/cgroup/hivemind/abc/memory.current", "5000\n"),
            ("/sys/fs/cgroup/hivemind/abc/memory.stat", "anon 1\ninactive_file 1000\n"),
            ("/sys/fs/cgroup/hivemind/abc/memory.max", "max\n"),
            ("/sys/fs/cgroup/hivemind/abc/pids.current", "3\n"),
            ("/sys/fs/cgroup/hivemind/abc/pids.max", "9\n"),
            ("/sys/fs/cgroup/hivemind/abc/io.stat", "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n"),
        ]));
        let expected = Usage {
            cpu_seconds: 2.5,
            cpu_limit: Some(0.5),
            memory_bytes: 4_000,
            memory_limit: None,
            pids: 3,
            pids_limit: Some(9),
            read_bytes: 11,
            written_bytes: 22,
        };
        assert_eq!(usage, expected);
        assert_eq!(groups.usage(&|_| String::new()), Usage::default(), "controllers that are off count nothing");
    }

    #[test]
    fn the_old_hierarchies_are_read() {
        let lines = "4:memory:/hm/a\n3:cpu,cpuacct:/hm/a\n2:pids:/docker/x/hm/a\n1:blkio:/hm/a\n0::/\n";
        let usage = Groups::find(lines, V1).usage(&read(&[
            ("/sys/fs/cgroup/cpu,cpuacct/hm/a/cpuacct.usage", "1500000000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/hm/a/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/hm/a/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/memory/hm/a/memory.usage_in_bytes", "9000\n"),
            ("/sys/fs/cgroup/memory/hm/a/memory.stat", "inactive_file 1\ntotal_inactive_file 4000\n"),
            ("/sys/fs/cgroup/memory/hm/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/pids/hm/a/pids.current", "2\n"),
            ("/sys/fs/cgroup/pids/hm/a/pids.max", "max\n"),
            ("/sys/fs/cgroup/blkio/hm/a/blkio.throttle.io_service_bytes", "8:0 Read 5\n8:0 Write 7\nTotal 12\n"),
        ]));
        let expected = Usage {
            cpu_seconds: 1.5,
            memory_bytes: 5_000,
            pids: 2,
            read_bytes: 5,
            written_bytes: 7,
            ..Usage::default()
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn a_name_with_brackets_does_not_hide_the_time() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 10\n";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a"), None);
    }

    #[test]
    fn a_process_is_seen() {
        let users = UserDb { passwd: "me:x:4294967294:1::/:/bin/sh\n".into(), group: String::new() };
        let own = process(std::process::id(), 0, &users).expect("it runs");
        assert_eq!((own.pid, own.container_pid), (std::process::id(), std::process::id()));
        assert!(own.memory_bytes > 1 << 20 && own.cpu_seconds >= 0.0 && !own.command.is_empty(), "{own:?}");
        assert_eq!(process(u32::MAX, 0, &users), None);
    }
}
