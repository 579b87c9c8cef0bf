//! Verbs on instances: kill, wait, top, stats.

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine, until_ready};
use serde_json::Value;
use xtask::{machine::Machine, wait};

/// An app that runs a line of shell.
fn shell(machine: &Machine, image: &str, name: &str, more: &[&str], script: &str) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", name, "--entrypoint", "sh"];
    machine.hivemind(&[&args[..], more, &["--", "-c", script]].concat())?.ok().map(drop)
}

/// Its only instance, once there is one.
fn only(machine: &Machine, app: &str) -> Result<String> {
    wait::until(&format!("an instance of {app}"), PATIENCE, || {
        Ok(instances(machine, app)?.first().context("none yet")?.name.clone())
    })
}

#[test]
fn a_signal_reaches_the_process_and_its_end_is_like_any_other() -> Result<()> {
    let (machine, image) = machine("kill")?;
    let script = "trap 'echo got hup' HUP; trap 'exit 7' TERM; echo listens; while :; do sleep 0.1; done";
    shell(&machine, &image, "job", &["--replicas", "2", "--wait"], script)?;
    let two = until_ready(&machine, "job", 2)?;
    let name = two.first().context("two")?.name.clone();

    let said = machine.hivemind(&["kill", "-s", "hup", "job"])?;
    ensure!(said.out.lines().count() == 2 && said.err.contains("restart policy always"), "{said}");
    wait::until("both to have got it", PATIENCE, || {
        let log = machine.hivemind(&["logs", "job"])?.ok()?;
        ensure!(log.matches("got hup").count() == 2, "{log}");
        Ok(())
    })?;
    ensure!(until_ready(&machine, "job", 2)? == two, "a signal that is handled ended something");

    let said = machine.hivemind(&["kill", "--signal", "15", &name, "-o", "json"])?.json()?;
    ensure!(said[0]["signal"] == 15 && said[0]["instance"] == name.as_str(), "{said}");
    wait::until("a restart", PATIENCE, || {
        let now = instances(&machine, "job")?;
        let restarts: Vec<_> = now.iter().map(|one| (one.name == name, one.restarts)).collect();
        ensure!(restarts.contains(&(true, 1)) && restarts.contains(&(false, 0)), "{restarts:?}");
        Ok(())
    })?;
    until_ready(&machine, "job", 2)?;
    // Without a signal it is SIGKILL, which nothing handles; the code of the end is there for those who wait.
    let ended = std::thread::scope(|scope| -> Result<_> {
        let waiting = scope.spawn(|| machine.hivemind(&["wait", &name]));
        wait::until("the waiting to be told", PATIENCE, || {
            if waiting.is_finished() {
                return Ok(());
            }
            machine.hivemind(&["kill", "-q", &name])?;
            ensure!(waiting.is_finished(), "it still waits");
            Ok(())
        })?;
        waiting.join().map_err(|_| anyhow::anyhow!("the thread has panicked"))?
    })?;
    ensure!(ended.out == "137\n" && ended.code == 137, "{ended}");

    let wrong = machine.hivemind(&["kill", "--signal", "NONSENSE", "job"])?;
    ensure!(wrong.code == 2 && wrong.err.contains("no signal"), "{wrong}");
    let wrong = machine.hivemind(&["kill", "job", "jib"])?;
    ensure!(wrong.code == 3 && wrong.out.is_empty(), "{wrong}");
    machine.close()
}

#[test]
fn waiting_ends_with_the_code_of_the_process() -> Result<()> {
    let (machine, image) = machine("wait")?;
    let once = ["--restart", "never"];
    // The process ends when it is told to, so that the waiting surely began before.
    shell(&machine, &image, "job", &once, "until [ -e /go ]; do sleep 0.1; done; exit 42")?;
    let job = only(&machine, "job")?;
    let ready = machine.hivemind(&["wait", "--ready", &job, "--timeout", "60s"])?;
    ensure!(ready.code == 0 && ready.err.contains("is ready"), "{ready}");
    let early = machine.hivemind(&["wait", "job", "--timeout", "200ms"])?;
    ensure!(early.code == 125 && early.err.contains("E-TIME-001"), "{early}");
    let waited = std::thread::scope(|scope| -> Result<_> {
        let waiting = scope.spawn(|| machine.hivemind(&["wait", &job]));
        machine.hivemind(&["exec", "job", "--", "touch", "/go"])?.ok()?;
        waiting.join().map_err(|_| anyhow::anyhow!("the thread has panicked"))?
    })?;
    ensure!(waited.out == "42\n" && waited.code == 42, "{waited}");
    // It has ended already: the same answer, at once, as often as one likes.
    let again = machine.hivemind(&["wait", "job", "-o", "json"])?;
    ensure!(again.code == 42 && again.out.contains("\"code\": 42"), "{again}");
    let never = machine.hivemind(&["wait", "--ready", "job"])?;
    ensure!(never.code == 4 && never.err.contains("will not be ready"), "{never}");

    // Of one that is removed the code is seen too, though its row goes with it.
    shell(&machine, &image, "web", &["--wait"], "trap 'exit 5' TERM; while :; do sleep 0.1; done")?;
    let web = only(&machine, "web")?;
    let (ended, gone) = std::thread::scope(|scope| -> Result<_> {
        let ended = scope.spawn(|| machine.hivemind(&["wait", &web]));
        let gone = scope.spawn(|| machine.hivemind(&["wait", "--gone", &web]));
        wait::until("two to wait", PATIENCE, || {
            let shown = machine.hivemind(&["top", "web"])?.ok()?;
            ensure!(shown.contains("trap"), "{shown}");
            let waiting = |thread: &std::thread::ScopedJoinHandle<'_, _>| !thread.is_finished();
            ensure!(waiting(&ended) && waiting(&gone), "it did not wait");
            let sockets = xtask::shell::output(machine.sandbox.command("ss").args(["-Hx", "state", "connected"]))?;
            let path = machine.daemon.socket().display().to_string();
            ensure!(sockets.lines().filter(|line| line.contains(&path)).count() >= 2, "{sockets}");
            Ok(())
        })?;
        machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
        let panicked = |_| anyhow::anyhow!("the thread has panicked");
        Ok((ended.join().map_err(panicked)??, gone.join().map_err(panicked)??))
    })?;
    ensure!(gone.code == 0, "{gone}");
    // Images of tests are stopped with SIGKILL.
    ensure!(ended.out == "137\n" && ended.code == 137, "{ended}");
    let nothing = machine.hivemind(&["wait", "--gone", &web])?;
    ensure!(nothing.code == 0, "{nothing}");
    let nothing = machine.hivemind(&["wait", &web])?;
    ensure!(nothing.code == 125 && nothing.err.contains("E-OBJ-001"), "{nothing}");
    machine.close()
}

#[test]
fn processes_and_what_they_use_are_shown() -> Result<()> {
    let (machine, image) = machine("usage")?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--port", "8080:80", "--wait"])?.ok()?;
    // One that keeps a CPU busy, and a user of its own.
    let more = ["--user", "4242", "--memory", "64Mi", "--pids", "50", "--wait"];
    shell(&machine, &image, "busy", &more, "sleep 1d & while :; do :; done")?;

    let shown = machine.hivemind(&["top", "busy", "-o", "json"])?.json()?;
    let all = shown.as_array().context("a list")?;
    ensure!(all.len() == 2, "{shown}");
    let first = all.iter().find(|process| process["container_pid"] == 1).context("process 1")?;
    ensure!(first["user"] == "4242" && first["command"].as_str().is_some_and(|c| c.contains("while")), "{shown}");
    let pid = first["pid"].as_u64().context("a number")?;
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    ensure!(line.contains("while :"), "{pid} is no process of it in the host: {line:?}");
    let table = machine.hivemind(&["top", "web"])?.ok()?;
    ensure!(table.contains("INSIDE") && table.contains("root") && table.contains("httpd"), "{table}");

    let stats = |args: &[&str]| -> Result<Vec<Value>> {
        let said = machine.hivemind(&[&["stats", "--no-stream", "-o", "json"], args].concat())?.json()?;
        said.as_array().cloned().context("a list")
    };
    let number = |stats: &Value, name: &str| stats[name].as_f64().with_context(|| format!("{name} of {stats}"));
    let all = stats(&[])?;
    ensure!(all.len() == 2, "{all:?}");
    let busy = stats(&["busy"])?.pop().context("one")?;
    // How much it gets depends on who else works here; that it gets something does not.
    ensure!(number(&busy, "cpu_percent")? > 1.0, "{busy}");
    ensure!(busy["memory_limit_bytes"] == 64 << 20 && busy["pids_limit"] == 50, "{busy}");
    ensure!(number(&busy, "memory_bytes")? > 0.0 && number(&busy, "pids")? >= 2.0, "{busy}");

    let before = stats(&["web"])?.pop().context("one")?;
    xtask::shell::output(machine.sandbox.command(xtask::deb::program("busybox", "busybox-static")?).args([
        "wget",
        "-q",
        "-O",
        "-",
        "http://127.0.0.1:8080/",
    ]))?;
    let after = stats(&["web"])?.pop().context("one")?;
    for name in ["bytes_in", "bytes_out", "packets_in", "packets_out"] {
        ensure!(number(&after, name)? > number(&before, name)?, "{name}: {before}, {after}");
    }
    let none = machine.hivemind(&["stats", "--no-stream", "wep"])?;
    ensure!(none.code == 3 && none.err.contains("E-OBJ-001"), "{none}");
    let metrics = machine.daemon.get("/metrics")?;
    for name in ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_threads"] {
        let line = format!("hivemind_{name}{{");
        ensure!(metrics.lines().filter(|l| l.starts_with(&line)).count() == 2, "{name}: {metrics}");
    }
    // What does not run has no processes, and says so.
    machine.hivemind(&["app", "scale", "web", "--replicas", "0", "--wait"])?.ok()?;
    let none = machine.hivemind(&["top", "web"])?;
    ensure!(none.code == 4 && none.err.contains("no instance of web is running"), "{none}");
    machine.close()
}
