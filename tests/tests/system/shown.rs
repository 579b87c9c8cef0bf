//! What the command line shows: every list in every form, logs, exec, and what helps.

use anyhow::{Result, ensure};
use hivemind_tests::machine;

#[test]
fn every_list_has_every_form() -> Result<()> {
    let (machine, image) = machine("lists")?;
    let deploy =
        ["app", "deploy", "--image", &image, "--name", "web", "--service", "web.local", "--port", "80", "--wait"];
    machine.hivemind(&deploy)?.ok()?;
    let lists: [&[&str]; 4] = [&["app", "ls"], &["ps"], &["service", "ls"], &["node", "ls"]];
    for list in lists {
        let form = |form: &str| machine.hivemind(&[list, &["-o", form]].concat())?.ok();
        let table = form("table")?;
        ensure!(table.lines().count() == 2, "{list:?}: a title and one line: {table}");
        ensure!(form("wide")?.lines().all(|line| line.len() >= table.lines().next().unwrap_or_default().len()));
        let json: serde_json::Value = serde_json::from_str(&form("json")?)?;
        ensure!(json.as_array().is_some_and(|list| list.len() == 1), "{list:?}: {json}");
        ensure!(form("yaml")?.contains("name:"), "{list:?}");
        let name = form("name")?;
        ensure!(name.lines().count() == 1 && table.contains(name.trim()), "{list:?}: {name}");
    }
    for info in [&["app", "info", "web"][..], &["service", "info", "web.local"], &["node", "info", "node-1"]] {
        let shown = machine.hivemind(info)?.ok()?;
        ensure!(!shown.is_empty());
        machine.hivemind(&[info, &["-o", "json"]].concat())?.json()?;
    }
    machine.close()
}

#[test]
fn logs_and_exec() -> Result<()> {
    let (machine, image) = machine("logs")?;
    let script = "for n in 1 2 3 4 5; do echo line $n; done; echo to stderr >&2; exec sleep 1d";
    let deploy =
        ["app", "deploy", "--image", &image, "--name", "talk", "--entrypoint", "sh", "--wait", "--", "-c", script];
    machine.hivemind(&deploy)?.ok()?;
    let all = xtask::wait::until("the log", hivemind_tests::PATIENCE, || {
        let said = machine.hivemind(&["logs", "talk"])?.ok()?;
        ensure!(said.lines().count() == 6, "{said}");
        Ok(said)
    })?;
    ensure!(all.contains("line 1\n") && all.contains("to stderr"), "{all}");
    let tail = machine.hivemind(&["logs", "talk", "--tail", "2"])?.ok()?;
    ensure!(tail.lines().count() == 2, "{tail}");
    for (command, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        let said = machine.hivemind(&["exec", "talk", "--", "sh", "-c", command])?;
        ensure!(said.code == code, "{said}");
    }
    let missing = machine.hivemind(&["exec", "talk", "--", "no-such-program"])?;
    ensure!(missing.code == 127, "{missing}");
    let not_executable = machine.hivemind(&["exec", "talk", "--", "/etc/passwd"])?;
    ensure!(not_executable.code == 126, "{not_executable}");
    let where_and_who = machine
        .hivemind(&[
            "exec",
            "-u",
            "nobody",
            "-w",
            "/tmp",
            "-e",
            "A=b",
            "talk",
            "--",
            "sh",
            "-c",
            "id -un; pwd; echo $A",
        ])?
        .ok()?;
    ensure!(where_and_who == "nobody\n/tmp\nb\n", "{where_and_who:?}");
    machine.close()
}

#[test]
fn what_helps() -> Result<()> {
    let (machine, _) = machine("helps")?;
    let doctor = machine.hivemind(&[
        "doctor",
        "--containerd-socket",
        &machine.containerd.socket().display().to_string(),
        "--state-dir",
        &machine.daemon.dir().join("state").display().to_string(),
    ])?;
    ensure!(doctor.code == 0 && !doctor.out.contains("FAIL"), "{doctor}");
    ensure!(machine.hivemind(&["version"])?.ok()?.contains("daemon"));
    ensure!(machine.hivemind(&["explain", "E-NET-003"])?.ok()?.contains("port"));
    ensure!(machine.hivemind(&["explain"])?.ok()?.lines().count() > 20);
    for shell in ["bash", "zsh", "fish"] {
        ensure!(machine.hivemind(&["completion", shell])?.ok()?.contains("hivemind"));
    }
    for command in ["app", "app deploy", "ps", "logs", "exec", "scale", "service", "node", "events", "doctor", "daemon"]
    {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        ensure!(machine.hivemind(&words)?.ok()?.contains("Usage:"), "{command}");
    }
    for (path, part) in [("/healthz", ""), ("/readyz", ""), ("/openapi.json", "\"openapi\""), ("/metrics", "hivemind_")]
    {
        let body = machine.daemon.get(path)?;
        ensure!(body.contains(part), "{path}: {body}");
    }
    machine.close()
}
