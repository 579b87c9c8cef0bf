//! Everything that a daemon makes on a machine, counted: two counts show what was left behind in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context, Result, ensure};
use xtask::{machine::Machine, shell, wait};

use crate::PATIENCE;

/// What there is: devices, routes, neighbours, rules, namespaces, listening sockets, mounts, loop devices, cgroups, pins, containers,
/// snapshots, how many processes of each name, files of instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

impl Census {
    /// Counts.
    pub fn take(machine: &Machine) -> Result<Self> {
        let mut all: BTreeSet<String> = machine.containerd.keeps()?.into_iter().collect();
        let inside = |program: &str, args: &[&str]| shell::output(machine.sandbox.command(program).args(args));
        let mut add = |kind: &str, lines: String| {
            all.extend(lines.lines().filter(|line| !line.trim().is_empty()).map(|line| format!("{kind} {line}")));
        };
        add("device", inside("ip", &["-o", "-br", "link"])?);
        add("address", inside("ip", &["-o", "-br", "address"])?);
        for family in ["-4", "-6"] {
            add("route", inside("ip", &[family, "route", "show", "table", "all"])?);
            add("neighbour", inside("ip", &[family, "neigh"])?);
            add("policy", inside("ip", &[family, "rule"])?);
        }
        add("firewall", inside("nft", &["list", "ruleset"])?);
        add("pin", inside("find", &["/sys/fs/bpf", "-mindepth", "1"])?);
        let group = format!("*/{}/instances/*", machine.sandbox.name());
        add("cgroup", inside("find", &["/sys/fs/cgroup", "-type", "d", "-path", &group])?);
        let run = machine.daemon.dir().join("run");
        if run.exists() {
            add("file", inside("find", &[&run.display().to_string(), "-mindepth", "1"])?);
        }
        let mounts = machine.sandbox.mounts()?;
        let dir = machine.sandbox.dir().display().to_string();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&dir));
        add("mount", points.collect::<Vec<_>>().join("\n"));
        add("loop", loops(&dir)?);
        let procs = machine.sandbox.cgroup().join("main/cgroup.procs");
        let pids = std::fs::read_to_string(procs).context("cannot read the sandbox's processes")?;
        let names = pids.lines().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        // Programs that come and go: only those of containers count.
        add(
            "process",
            counted(names.filter(|name| name.starts_with("containerd-shim") || name.starts_with("hivemind"))),
        );
        add("socket", listening(&inside("ss", &["-H", "-l", "-t", "-u", "-n", "-p"])?));
        Ok(Self(all))
    }

    /// Waits until there is again what there was, and nothing else.
    pub fn again(&self, machine: &Machine) -> Result<()> {
        wait::until("everything to be as before", PATIENCE, || {
            let now = Self::take(machine)?;
            let more: Vec<_> = now.0.difference(&self.0).collect();
            let less: Vec<_> = self.0.difference(&now.0).collect();
            ensure!(more.is_empty() && less.is_empty(), "left behind: {more:#?}\nlost: {less:#?}");
            Ok(())
        })
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The files in a folder that are disks now.
fn loops(dir: &str) -> Result<String> {
    let mut files = Vec::new();
    for device in std::fs::read_dir("/sys/block").context("cannot list block devices")?.flatten() {
        let file = std::fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        files.extend(file.starts_with(dir).then_some(file));
    }
    Ok(files.concat())
}

/// How many there are of each name, a line each.
fn counted(names: impl Iterator<Item = String>) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    names.for_each(|name| *counts.entry(name.trim().to_owned()).or_default() += 1);
    counts.iter().map(|(name, count)| format!("{name}: {count}\n")).collect()
}

/// Protocol and address of every socket that waits for somebody, of what `ss -H -ltunp` prints. Not containerd's: its
/// port is another one after each start.
fn listening(sockets: &str) -> String {
    let others = sockets.lines().filter(|line| !line.contains("((\"containerd\""));
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.next()?, words.nth(3)?))
    };
    counted(others.filter_map(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_of_one_name_are_two() {
        let names = ["hivemind\n", "containerd-shim\n", "hivemind\n"].map(str::to_owned);
        assert_eq!(counted(names.into_iter()), "containerd-shim: 1\nhivemind: 2\n");
    }

    #[test]
    fn sockets_are_protocol_and_address() {
        let said = r#"udp UNCONN 0 0 10.88.0.1:53 0.0.0.0:* users:(("hivemind",pid=7,fd=9))
tcp LISTEN 0 4096 127.0.0.1:38475 0.0.0.0:* users:(("containerd",pid=5,fd=8))
tcp LISTEN 0 1024 [::]:8080 [::]:* users:(("hivemind",pid=7,fd=10))
"#;
        assert_eq!(listening(said), "tcp [::]:8080: 1\nudp 10.88.0.1:53: 1\n");
    }
}
