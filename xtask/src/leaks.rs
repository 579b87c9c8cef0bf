//! The end of a machine: whatever still runs on it is removed, and then nothing of it may be there.
//!
//! It knows what an instance is made of and allows none of that, so it needs no count from the beginning, and every test
//! ends with it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{machine::Machine, shell, wait};

/// Longer than a hundred containers need.
const PATIENCE: Duration = Duration::from_secs(60);

/// The node's own devices; those of instances are `hm` and an id.
const OWN_DEVICES: [&str; 3] = ["hm-node", "hm-pub", "hm-tun"];
/// Tables that have a row for each instance, service or backend.
const TABLES: [&str; 5] = ["endpoints", "peers", "services", "backends", "served"];

/// Removes all apps and waits until nothing of their instances is left. Of a machine whose daemon does not run nothing is
/// asked: it cannot clean up.
///
/// # Errors
/// If anything is left when the patience is over, naming it; if the daemon runs and does not become ready.
pub(crate) fn check(machine: &Machine) -> Result<()> {
    if machine.daemon.pid().is_none() {
        return Ok(());
    }
    // Not to ask one that is not ready would look like a clean end.
    wait::until("the daemon to be ready, to clean up", PATIENCE, || machine.daemon.get("/readyz"))
        .with_context(|| machine.daemon.log())?;
    remove_all(machine)?;
    wait::until("nothing to be left of any instance", PATIENCE, || {
        let left = left(machine)?;
        ensure!(left.is_empty(), "left behind: {left:#?}");
        Ok(())
    })
    .with_context(|| machine.daemon.log())
}

/// Asks for the end of everything that runs, and does not let processes take their time for it.
fn remove_all(machine: &Machine) -> Result<()> {
    let apps: Vec<Value> = serde_json::from_str(&machine.daemon.get("/v1/apps")?)?;
    for app in &apps {
        let text = |name: &str| app[name].as_str().with_context(|| format!("an app without {name}: {app}"));
        let (tenant, namespace, name) = (text("tenant")?, text("namespace")?, text("name")?);
        machine.hivemind(&["app", "rm", name, "--tenant", tenant, "--namespace", namespace])?.ok()?;
    }
    let kill = machine.sandbox.cgroup().join("instances/cgroup.kill");
    if kill.exists() {
        fs::write(&kill, "1").with_context(|| format!("cannot write {}", kill.display()))?;
    }
    Ok(())
}

/// What there is of instances.
fn left(machine: &Machine) -> Result<Vec<String>> {
    let inside = |program: &str, args: &[&str]| shell::output(machine.sandbox.command(program).args(args));
    let mut left = Vec::new();
    let mut add = |kind: &str, lines: Vec<String>| left.extend(lines.into_iter().map(|line| format!("{kind} {line}")));
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    add("instance", elements(&serde_json::from_str(&machine.daemon.get("/v1/instances")?)?)?);
    add("container", lines(machine.containerd.ctr(&["containers", "ls", "-q"])?));
    add("task", lines(machine.containerd.ctr(&["tasks", "ls", "-q"])?));
    let snapshots = machine.containerd.ctr(&["snapshots", "ls"])?;
    // Those of images are committed, and stay.
    add(
        "snapshot",
        snapshots.lines().skip(1).filter(|line| !line.trim_end().ends_with("Committed")).map(str::to_owned).collect(),
    );
    let devices = inside("ip", &["-o", "-br", "link"])?;
    let names = devices.lines().filter_map(|line| line.split([' ', '@']).next());
    add(
        "device",
        names.filter(|name| name.starts_with("hm") && !OWN_DEVICES.contains(name)).map(str::to_owned).collect(),
    );
    let run = machine.daemon.dir().join("run");
    add("namespace", listed(&run.join("netns")));
    let group = format!("*/{}/instances/*", machine.sandbox.name());
    add("cgroup", lines(inside("find", &["/sys/fs/cgroup", "-type", "d", "-path", &group])?));
    let dir = machine.containerd.socket().with_file_name("run").display().to_string();
    let mounts = machine.sandbox.mounts()?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&dir));
    add("mount", points.map(str::to_owned).collect());
    for table in TABLES {
        let held: Value = serde_json::from_str(&machine.daemon.get(&format!("/v1/dataplane/tables/{table}"))?)?;
        // Broadcast addresses are in a table of those whom nobody may speak for, and a policy of the host is the node's own.
        let others = |row: &String| !row.contains("\"world\"") && !row.starts_with("[\"0\",\"node\"");
        add(table, elements(&held["rows"])?.into_iter().filter(others).collect());
    }
    Ok(left)
}

/// The elements of a list, as texts.
fn elements(list: &Value) -> Result<Vec<String>> {
    Ok(list.as_array().context("no list")?.iter().map(Value::to_string).collect())
}

/// The names in a folder, which need not be there.
fn listed(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
