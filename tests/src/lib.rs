//! What the tests of the whole system share.

mod census;
mod client;
pub mod front;
pub mod netlab;
mod terminal;

pub use census::Census;
pub use client::Client;
pub use terminal::Terminal;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::{image, machine::Machine, wait};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that runs hivemind and has the web server's image; `test` tells it from those of other tests.
pub fn machine(test: &str) -> Result<(Machine, String)> {
    machine_with(test, &[])
}

/// A machine whose daemon has further flags.
pub fn machine_with(test: &str, flags: &[&str]) -> Result<(Machine, String)> {
    let machine = Machine::start(&unique(test), flags)?;
    let image = machine.push(&image::web()?, "web", "1")?;
    Ok((machine, image))
}

/// Changes every row of a table that has no way to change rows in their place.
pub fn each_row<T, K, V>(table: &mut T, mut change: impl FnMut(&K, &mut V))
where
    T: Default + IntoIterator<Item = (K, V)> + FromIterator<(K, V)>,
{
    let changed = |(key, mut row)| {
        change(&key, &mut row);
        (key, row)
    };
    *table = std::mem::take(table).into_iter().map(changed).collect();
}

/// The binary that can be told when to die.
pub fn testkit_binary() -> Result<PathBuf> {
    let named = std::env::var_os("HIVEMIND_TESTKIT_BINARY").map(PathBuf::from);
    let binary = named.unwrap_or_else(|| xtask::shell::root().join("target/debug/hivemind-testkit"));
    ensure!(binary.is_file(), "{} is not there (hint: cargo xtask test <name of a test>)", binary.display());
    Ok(binary)
}

/// Whether the tests may take long: `cargo xtask test --long`.
pub fn long() -> bool {
    std::env::var_os("HIVEMIND_LONG").is_some()
}

/// A name that no other test and no other run has.
pub fn unique(test: &str) -> String {
    format!("{test}-{}", std::process::id())
}

/// An instance as `ps -o json` has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    /// `web-x7k2p`.
    pub name: String,
    /// The container's id.
    pub id: String,
    /// `ready`, …
    pub phase: String,
    /// How often its process was started again.
    pub restarts: u64,
}

/// The instances of an app.
pub fn instances(machine: &Machine, app: &str) -> Result<BTreeSet<Instance>> {
    let listed = machine.hivemind(&["ps", app, "-o", "json"])?.json()?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("not a text");
    let read = |instance: &Value| -> Result<Instance> {
        Ok(Instance {
            name: text(&instance["name"])?,
            id: text(&instance["id"])?,
            phase: text(&instance["phase"])?,
            restarts: instance["restarts"].as_u64().context("not a number")?,
        })
    };
    listed.as_array().context("no list")?.iter().map(read).collect()
}

/// Waits until an app has that many instances, and all are ready.
pub fn until_ready(machine: &Machine, app: &str, count: usize) -> Result<BTreeSet<Instance>> {
    wait::until(&format!("{count} ready instances of {app}"), PATIENCE, || {
        let found = instances(machine, app)?;
        let ready = found.iter().filter(|instance| instance.phase == "ready").count();
        // The list for people says why.
        let shown = || machine.hivemind(&["ps", app]).map(|said| said.out).unwrap_or_default();
        ensure!(found.len() == count && ready == count, "{}", shown());
        Ok(found)
    })
}

/// The process ids of the containers, as containerd has them.
pub fn pids(machine: &Machine) -> Result<BTreeSet<String>> {
    let tasks = machine.containerd.ctr(&["tasks", "ls"])?;
    Ok(tasks.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect())
}
