//! The daemon's configuration: a file, the environment and flags, of which the nearest to who types wins; and that it hears
//! its signals.

use std::{fs, net::TcpStream, os::unix::fs::PermissionsExt as _};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, unique};
use nix::sys::signal::{SigSet, Signal};
use xtask::{machine::Machine, wait};

/// Whether the web API listens on a port of the machine's loopback.
fn listens(machine: &Machine, port: u16) -> Result<bool> {
    machine.sandbox.on_network(|| Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()))
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() -> Result<()> {
    let file = std::env::temp_dir().join(unique("config.toml"));
    let shown = file.display().to_string();
    let mut machine = Machine::prepare(&unique("configured"), &["--config", &shown])?;

    // All faults at once, with their lines, and nothing is begun.
    fs::write(&file, "web-port = 70000\nweb_port = 1\nnode-name = 3\n")?;
    machine.daemon.set_variable("HIVEMIND_LOG_LEVEL", Some("loud".into()));
    machine.daemon.spawn(&machine.sandbox)?;
    let (code, log) = machine.daemon.ended()?;
    ensure!(code == 2 && log.contains("error[E-SPEC-001]: the daemon's configuration has 4 fault(s)"), "{code}: {log}");
    for fault in [
        "HIVEMIND_LOG_LEVEL: log-level: \"loud\" is no level",
        ":1: web-port: 70000 is not in 1..=65535",
        ":2: web_port: there is no such key; write web-port",
        ":3: node-name: write a text in quotes",
    ] {
        ensure!(log.contains(fault), "{fault}: {log}");
    }
    let check = machine.hivemind(&["config", "check", "--config", &shown])?;
    ensure!(check.code == 2 && check.err.contains(":1: web-port: 70000"), "{check}");
    machine.daemon.set_variable("HIVEMIND_LOG_LEVEL", None);

    // What only all of it together shows, and where it was set.
    fs::write(&file, "# ours\nservice-cidr4 = \"10.88.7.0/24\"\n")?;
    let check = machine.hivemind(&["config", "check", "--config", &shown])?;
    let said = format!("overlap (service-cidr4 is set in {shown}:2)");
    ensure!(check.code == 2 && check.err.contains(&said), "{check}");

    // The file, then the environment over it, then a flag over both.
    fs::write(&file, "web-port = 3456\nimage-gc-rest = \"10m\"\n")?;
    machine.daemon.start(&machine.sandbox)?;
    ensure!(listens(&machine, 3456)?, "the file's port is not used: {}", machine.daemon.log());
    machine.daemon.stop()?;
    machine.daemon.set_variable("HIVEMIND_WEB_PORT", Some("3457".into()));
    machine.daemon.start(&machine.sandbox)?;
    ensure!(listens(&machine, 3457)? && !listens(&machine, 3456)?, "the environment's port is not used");
    machine.daemon.stop()?;
    machine.daemon.add_flag("--web-port=3458");
    machine.daemon.start(&machine.sandbox)?;
    ensure!(listens(&machine, 3458)? && !listens(&machine, 3457)?, "the flag's port is not used");

    // Everything is shown with where it comes from.
    let mut show = machine.daemon.command(&machine.sandbox, &["config", "show", "--config", &shown, "-o", "json"]);
    show.env("HIVEMIND_WEB_PORT", "3457");
    let all = xtask::daemon::finish(show, "hivemind config show", PATIENCE)?.json()?;
    let of = |key: &str| {
        let row = all.as_array().and_then(|all| all.iter().find(|row| row["key"] == key)).cloned();
        row.map(|row| (row["value"].clone(), row["source"].clone())).context(key.to_owned())
    };
    ensure!(of("web-port")? == ("3457".into(), "environment HIVEMIND_WEB_PORT".into()), "{all}");
    ensure!(of("image-gc-rest")? == ("10m".into(), format!("{shown}:2").into()), "{all}");
    ensure!(of("run-dir")? == ("/run/hivemind".into(), "default".into()), "{all}");
    ensure!(of("uplink")? == (serde_json::Value::Null, "default".into()), "{all}");
    let table = machine.hivemind(&["config", "show", "--config", &shown])?.ok()?;
    ensure!(table.starts_with("KEY ") && table.contains("3456"), "{table}");
    ensure!(!table.lines().any(|line| line.starts_with("node-name") && line.contains(" - ")), "{table}");

    // A config object of that name is still shown by its name.
    machine.hivemind(&["config", "create", "site", "--file", &shown])?.ok()?;
    ensure!(
        machine.hivemind(&["config", "show", "site"])?.ok()?.contains("web-port = 3456"),
        "the config is not shown"
    );

    // Nobody else may change what root runs by; and a file that is named must be there.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    let check = machine.hivemind(&["config", "check", "--config", &shown])?;
    ensure!(check.code == 2 && check.err.contains("everybody may write it"), "{check}");
    fs::remove_file(&file)?;
    let check = machine.hivemind(&["doctor", "--config", &shown])?;
    ensure!(check.code == 2 && check.err.contains("cannot be read"), "{check}");
    machine.close()
}

#[test]
fn a_daemon_hears_signals_that_its_starter_has_blocked() -> Result<()> {
    let mut machine = Machine::prepare(&unique("signals"), &[])?;
    let blocked: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    blocked.thread_block()?;
    let started = machine.daemon.spawn(&machine.sandbox);
    blocked.thread_unblock()?;
    started?;
    machine.daemon.ready()?;
    ensure!(machine.daemon.stop()? == 0, "it was not stopped by SIGTERM");
    wait::until("the last words", PATIENCE, || {
        ensure!(machine.daemon.log().contains("stopped; containers go on"), "{}", machine.daemon.log());
        Ok(())
    })?;
    machine.close()
}
