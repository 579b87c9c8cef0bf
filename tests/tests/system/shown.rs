//! What the command line shows: every list in every form, logs, exec, and what helps.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc,
};

use anyhow::{Context, Result, bail, ensure};
use hivemind_tests::{PATIENCE, machine, until_ready};
use xtask::wait;

#[test]
fn every_list_has_every_form() -> Result<()> {
    let (machine, image) = machine("lists")?;
    let deploy =
        ["app", "deploy", "--image", &image, "--name", "web", "--service", "web.local", "--port", "80", "--wait"];
    machine.hivemind(&deploy)?.ok()?;
    let instance = until_ready(&machine, "web", 1)?.first().map(|instance| instance.name.clone()).unwrap_or_default();
    let lists: [(&[&str], &str, &[&str]); 4] = [
        (&["app", "ls"], "web", &["web", "1/1"]),
        (&["ps"], &instance, &["web", "ready"]),
        (&["service", "ls"], "web", &["web.local", "80/tcp", "10.96.", "1"]),
        (&["node", "ls"], "node-1", &["yes", "1"]),
    ];
    for (list, wanted, cells) in lists {
        let form = |form: &str| machine.hivemind(&[list, &["-o", form]].concat())?.ok();
        let table = form("table")?;
        let [titles, line] = table.lines().collect::<Vec<_>>()[..] else { bail!("{list:?}: {table}") };
        ensure!(line.split_whitespace().next() == Some(wanted), "{list:?}: {table}");
        let whole = |cell: &str| {
            line.split_whitespace().any(|word| word == cell || cell.ends_with('.') && word.starts_with(cell))
        };
        ensure!(cells.iter().all(|cell| whole(cell)), "{list:?}: {cells:?} in {table}");
        let wide = form("wide")?;
        let all: Vec<&str> = wide.lines().next().unwrap_or_default().split_whitespace().collect();
        let narrow: Vec<&str> = titles.split_whitespace().collect();
        ensure!(all.len() > narrow.len() && all.starts_with(&narrow), "{list:?}: {wide}");
        ensure!(wide.lines().count() == 2, "{list:?}: {wide}");
        let json: serde_json::Value = serde_json::from_str(&form("json")?)?;
        let [one] = json.as_array().map(Vec::as_slice).unwrap_or_default() else { bail!("{list:?}: {json}") };
        ensure!(one["name"] == wanted, "{list:?}: {json}");
        let yaml = form("yaml")?;
        let names = yaml.lines().filter(|line| line.trim_start_matches(['-', ' ']) == format!("name: {wanted}"));
        ensure!(names.count() == 1, "{list:?}: {yaml}");
        ensure!(form("name")? == format!("{wanted}\n"), "{list:?}: {}", form("name")?);
    }
    let infos: [(&[&str], &str, &[&str]); 3] = [
        (&["app", "info", "web"], "web", &[&image, &instance]),
        (&["service", "info", "web.local"], "web", &["web.local", "80/tcp", &instance]),
        (&["node", "info", "node-1"], "node-1", &["10.88.0.0/16", "fd68:"]),
    ];
    for (info, wanted, parts) in infos {
        let shown = machine.hivemind(info)?.ok()?;
        ensure!(parts.iter().all(|part| shown.contains(part)), "{info:?}: {parts:?} in {shown}");
        let json = machine.hivemind(&[info, &["-o", "json"]].concat())?.json()?;
        ensure!(json["name"] == wanted, "{info:?}: {json}");
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
    let (errors, lines): (Vec<&str>, Vec<&str>) = all.lines().partition(|line| line.ends_with("to stderr"));
    ensure!(errors.len() == 1, "{all}");
    ensure!(lines.iter().enumerate().all(|(n, line)| line.ends_with(&format!("line {}", n + 1))), "in order: {all}");
    let tail = machine.hivemind(&["logs", "talk", "--tail", "2"])?.ok()?;
    ensure!(tail.lines().eq(all.lines().skip(4)), "the last two of {all}: {tail}");
    for (command, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        let said = machine.hivemind(&["exec", "talk", "--", "sh", "-c", &format!("echo said; {command}")])?;
        ensure!((said.code, said.out.as_str()) == (code, "said\n"), "{said}");
    }
    let missing = machine.hivemind(&["exec", "talk", "--", "no-such-program"])?;
    ensure!(missing.code == 127 && missing.err.contains("no-such-program"), "{missing}");
    let not_executable = machine.hivemind(&["exec", "talk", "--", "/etc/passwd"])?;
    ensure!(not_executable.code == 126 && not_executable.err.contains("/etc/passwd"), "{not_executable}");
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
fn logs_since_a_time_and_of_instances_that_come() -> Result<()> {
    let (machine, image) = machine("since")?;
    let script = "echo old; while [ ! -e /go ]; do sleep 0.05; done; echo new; exec sleep 1d";
    let deploy =
        ["app", "deploy", "--image", &image, "--name", "talk", "--entrypoint", "sh", "--wait", "--", "-c", script];
    machine.hivemind(&deploy)?.ok()?;
    let lines = |count: usize| {
        wait::until("the log", PATIENCE, || {
            let said = machine.hivemind(&["logs", "talk", "--timestamps"])?.ok()?;
            ensure!(said.lines().count() == count, "{said}");
            Ok(said)
        })
    };
    lines(1)?;
    machine.hivemind(&["exec", "talk", "--", "touch", "/go"])?.ok()?;
    let both = lines(2)?;
    let at = both.lines().last().and_then(|line| line.split_once(' ')).map(|(at, _)| at).unwrap_or_default();
    for (since, wanted) in [(at, "new\n"), ("1h", "old\nnew\n")] {
        let said = machine.hivemind(&["logs", "talk", "--since", since])?.ok()?;
        ensure!(said == wanted, "since {since}: {said:?} of {both:?}");
    }
    let future = machine.hivemind(&["logs", "talk", "--since", "2999-01-01T00:00:00Z"])?.ok()?;
    ensure!(future.is_empty(), "{future}");

    let first = until_ready(&machine, "talk", 1)?;
    let mut command = machine.daemon.command(&machine.sandbox, &["logs", "-f", "talk"]);
    let mut child = Ended(command.stdout(Stdio::piped()).spawn()?);
    let out = child.0.stdout.take().context("it has no output")?;
    let (sender, said) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line).ok())
    });
    for wanted in ["old", "new"] {
        let line = said.recv_timeout(PATIENCE).context("of the instance that is there")?;
        ensure!(line == wanted, "{line}");
    }
    machine.hivemind(&["scale", "talk=2"])?.ok()?;
    let two = until_ready(&machine, "talk", 2)?;
    let new = two.difference(&first).next().context("no other instance")?;
    let line = said.recv_timeout(PATIENCE).context("of the instance that has come")?;
    ensure!(line == format!("{} | old", new.name), "{line}");
    // It ends with the app.
    machine.hivemind(&["app", "rm", "talk", "--wait"])?.ok()?;
    let status = wait::until("the end of the log", PATIENCE, || child.0.try_wait()?.context("it goes on"))?;
    ensure!(status.success(), "{status}");
    let _ = reader.join();
    ensure!(said.try_recv().is_err(), "nothing is said twice");
    machine.close()
}

/// A command that does not outlive the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    for (path, part) in
        [("/healthz", "ok\n"), ("/readyz", "ready\n"), ("/openapi.json", "\"openapi\""), ("/metrics", "hivemind_")]
    {
        let body = machine.daemon.get(path)?;
        ensure!(body.contains(part), "{path}: {body}");
    }
    machine.close()
}
