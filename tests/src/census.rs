//! Everything that a daemon makes on a machine, counted: two counts show what was left behind in between.

use std::{collections::BTreeSet, fmt};

use anyhow::{Context, Result, ensure};
use xtask::{machine::Machine, shell, wait};

use crate::PATIENCE;

/// What there is: devices, routes, neighbours, rules, namespaces, mounts, cgroups, pins, containers, snapshots,
/// processes, files of instances.
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
        let procs = machine.sandbox.cgroup().join("main/cgroup.procs");
        let pids = std::fs::read_to_string(procs).context("cannot read the sandbox's processes")?;
        let names = pids.lines().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        // Programs that come and go: only those of containers count.
        add(
            "process",
            names.filter(|name| name.starts_with("containerd-shim") || name.starts_with("hivemind")).collect(),
        );
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
