//! Startup, readiness and liveness apart, by checks of every kind.

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Instance, PATIENCE, instances, machine, unique, until_ready};
use serde_json::Value;
use xtask::{image, machine::Machine, wait};

/// Deploys `web` with these flags after the image, without waiting.
fn deploy(machine: &Machine, image: &str, flags: &[&str]) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", "web", "--service", "web.local"];
    machine.hivemind(&[&args[..], flags].concat())?.ok().map(drop)
}

/// A container to ask from.
fn client(machine: &Machine, image: &str) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&args)?.ok().map(drop)
}

/// Runs a shell's line in an instance.
fn inside(machine: &Machine, whom: &str, line: &str) -> Result<String> {
    machine.hivemind(&["exec", whom, "--", "sh", "-c", line])?.ok()
}

/// Waits until the first instance of `web` is in this phase and says that; its document.
fn until(machine: &Machine, phase: &str, message: &str) -> Result<Value> {
    wait::until(&format!("the instance to be {phase}: {message}"), PATIENCE, || {
        let shown = machine.hivemind(&["ps", "web", "-o", "json"])?.json()?;
        let found = shown.as_array().context("no list")?.iter().find(|one| one["phase"] == phase);
        let found = found.with_context(|| format!("{shown}"))?;
        ensure!(found["message"].as_str().is_some_and(|text| text.contains(message)), "{shown}");
        Ok(found.clone())
    })
}

/// Waits until the only instance of `web` is Ready and was started again so many times.
fn until_again(machine: &Machine, restarts: u64) -> Result<Instance> {
    wait::until(&format!("it to be started again {restarts} times"), PATIENCE, || {
        let now = instances(machine, "web")?;
        let found = now.iter().find(|one| one.restarts == restarts && one.phase == "ready");
        found.cloned().with_context(|| format!("{now:?}"))
    })
}

fn events(machine: &Machine) -> Result<String> {
    machine.hivemind(&["events", "web"])?.ok()
}

#[test]
fn an_instance_whose_readiness_fails_leaves_the_service_and_its_process_stays() -> Result<()> {
    let (machine, image) = machine("readiness-http")?;
    client(&machine, &image)?;
    let probe = ["--readiness-probe", "http:80/,period=200ms,failure-threshold=3,success-threshold=2"];
    deploy(&machine, &image, &[&probe[..], &["--replicas", "2", "--wait"]].concat())?;
    let before = until_ready(&machine, "web", 2)?;
    let victim = before.first().context("no instance")?.name.clone();

    inside(&machine, &victim, "mv /www/index.html /www/away")?;
    let shown = until(&machine, "not-ready", "readiness probe failed: GET ")?;
    ensure!(shown["name"] == *victim && shown["code"] == "E-HEALTH-002" && shown["restarts"] == 0, "{shown}");
    // Its page is not there: one question to it, and this fails.
    machine.hivemind(&["exec", "client", "--", "ask", "4", "http://web.local/", "20"])?.ok()?;
    let info = machine.hivemind(&["app", "info", "web"])?.ok()?;
    for part in ["Readiness   GET :80/, every 200 ms", "2 successes", "not-ready", "404", "degraded"] {
        ensure!(info.contains(part), "no {part}: {info}");
    }

    inside(&machine, &victim, "mv /www/away /www/index.html")?;
    let after = until_ready(&machine, "web", 2)?;
    ensure!(after == before, "its process was started again: {after:?}, before {before:?}");
    let events = events(&machine)?;
    ensure!(events.contains("NotReady") && !events.contains("Unhealthy"), "{events}");
    machine.close()
}

#[test]
fn liveness_waits_for_startup_and_a_startup_that_has_passed_is_not_asked_again() -> Result<()> {
    let (mut machine, image) = machine("startup-exec")?;
    let startup =
        "period=200ms,timeout=20s,failure-threshold=1000,exec:test -e /tmp/up || { echo not up, yet; exit 3; }";
    let liveness = "period=200ms,timeout=20s,failure-threshold=2,exec:test -e /tmp/alive";
    let stop = ["--stop-grace", "0s"];
    deploy(&machine, &image, &[&["--startup-probe", startup, "--liveness-probe", liveness][..], &stop].concat())?;
    until(&machine, "starting", "startup probe: the command ended with 3: not up, yet")?;
    // It would have failed many times by now.
    wait::until("many checks", PATIENCE, || {
        let asked = inside(&machine, "web", "echo x >>/tmp/asked; wc -l </tmp/asked")?;
        ensure!(asked.trim().parse::<u32>()? > 10, "{asked}");
        Ok(())
    })?;
    let waits = until(&machine, "starting", "startup probe")?;
    ensure!(waits["restarts"] == 0, "liveness was asked before startup had passed: {waits}");
    inside(&machine, "web", "touch /tmp/alive /tmp/up")?;
    let before = until_ready(&machine, "web", 1)?;

    // Who looks after it next does not ask again whether it has started.
    inside(&machine, "web", "rm /tmp/up")?;
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    inside(&machine, "web", "test -e /tmp/alive")?;
    let after = until_ready(&machine, "web", 1)?;
    ensure!(after == before, "{after:?}, before {before:?}");

    inside(&machine, "web", "rm /tmp/alive")?;
    let again = until(&machine, "starting", "startup probe")?;
    ensure!(again["restarts"] == 1, "{again}");
    let because = again["last_exit"]["because"].as_str().unwrap_or_default();
    ensure!(because.starts_with("liveness probe failed: the command ended with 1"), "{again}");
    inside(&machine, "web", "touch /tmp/alive /tmp/up")?;
    until_again(&machine, 1)?;
    let shown = machine.hivemind(&["ps", "web"])?.ok()?;
    ensure!(shown.contains("liveness probe failed"), "{shown}");
    machine.close()
}

#[test]
fn a_startup_that_never_passes_is_begun_again_with_growing_pauses() -> Result<()> {
    let (machine, image) = machine("startup-tcp")?;
    let flags = ["--startup-probe", "tcp:81,period=200ms,failure-threshold=2", "--stop-grace", "0s"];
    deploy(&machine, &image, &flags)?;
    let pauses = wait::until("four starts", PATIENCE, || {
        let events = events(&machine)?;
        let pause = |line: &str| line.split("started again in ").nth(1)?.strip_suffix(" s")?.parse::<f64>().ok();
        let pauses: Vec<_> = events.lines().filter_map(pause).collect();
        ensure!(pauses.len() >= 4, "{events}");
        ensure!(events.contains("startup probe failed: port 81 does not accept connections"), "{events}");
        Ok(pauses)
    })?;
    // 0.2, 0.4, 0.8 and 1.6 s, each with some chance in it.
    ensure!(pauses[3] > 2.0 * pauses[0], "{pauses:?}");
    machine.close()
}

#[test]
fn a_grpc_server_says_of_its_services_how_they_are() -> Result<()> {
    let machine = Machine::start(&unique("probes-grpc"), &[])?;
    let program = image::of_program(env!("CARGO_BIN_EXE_grpc_server").as_ref())?;
    let image = machine.push(&program, "grpc", "1")?;
    let readiness = "grpc:50051/shop,period=200ms,timeout=20s,failure-threshold=2";
    let startup = "grpc:50051,period=200ms,timeout=20s,failure-threshold=1000";
    let liveness = "grpc:50051,period=200ms,timeout=2s,failure-threshold=2";
    let probes = ["--startup-probe", startup, "--readiness-probe", readiness, "--liveness-probe", liveness];
    deploy(&machine, &image, &[&probes[..], &["--port", "50051", "--stop-grace", "0s"]].concat())?;
    until(&machine, "not-ready", "50051 shop: NOT_SERVING")?;
    inside(&machine, "web", "touch /tmp/well")?;
    until_ready(&machine, "web", 1)?;
    inside(&machine, "web", "rm /tmp/well")?;
    let shown = until(&machine, "not-ready", "NOT_SERVING")?;
    ensure!(shown["restarts"] == 0, "{shown}");
    inside(&machine, "web", "touch /tmp/well")?;
    until_ready(&machine, "web", 1)?;

    machine.hivemind(&["kill", "--signal", "SIGSTOP", "web"])?.ok()?;
    wait::until("it to be started again", PATIENCE, || {
        let events = events(&machine)?;
        ensure!(events.contains("liveness probe failed: gRPC :50051 was not answered within 2000 ms"), "{events}");
        Ok(())
    })?;
    until(&machine, "not-ready", "NOT_SERVING")?;

    // The one check of everything asks in the same way; what the server does not know is said.
    deploy(&machine, &image, &["--health-grpc", "50051/unknown", "--port", "50051", "--update-failure", "continue"])?;
    until(&machine, "starting", "50051 unknown: the server knows no service of that name")?;
    deploy(&machine, &image, &["--health-grpc", "50051", "--port", "50051", "--wait"])?;
    machine.close()
}

#[test]
fn a_process_whose_port_closes_is_started_again() -> Result<()> {
    let (machine, image) = machine("liveness-tcp")?;
    let script = "mkdir -p /www; while :; do [ -e /tmp/ill ] || httpd -f -p 80 -h /www; sleep 0.05; done";
    let startup = ["--startup-probe", "tcp:80,period=200ms,failure-threshold=1000"];
    let probe = ["--liveness-probe", "tcp:80,period=200ms,failure-threshold=5", "--port", "80", "--stop-grace", "0s"];
    deploy(&machine, &image, &[&startup[..], &probe, &["--wait", "--entrypoint", "sh", "--", "-c", script]].concat())?;
    until_ready(&machine, "web", 1)?;
    inside(&machine, "web", "touch /tmp/ill; killall httpd")?;
    until_again(&machine, 1)?;
    let events = events(&machine)?;
    ensure!(events.contains("liveness probe failed: port 80 does not accept connections"), "{events}");
    machine.close()
}

#[test]
fn while_containerd_is_away_no_command_counts_as_failed() -> Result<()> {
    let (mut machine, image) = machine("probe-away")?;
    let probe = ["--liveness-probe", "period=100ms,timeout=5s,failure-threshold=2,exec:true"];
    deploy(&machine, &image, &[&probe[..], &["--wait"]].concat())?;
    let before = until_ready(&machine, "web", 1)?;
    machine.containerd.kill()?;
    let away = wait::Stopwatch::start();
    wait::until("time for many of them, and nothing to happen", PATIENCE, || {
        let now = instances(&machine, "web")?;
        ensure!(now.iter().all(|one| one.restarts == 0 && one.phase == "ready"), "{now:?}");
        ensure!(away.elapsed().as_secs() >= 3, "not yet");
        Ok(())
    })?;
    machine.containerd.restart(&machine.sandbox)?;
    // It is asked again, and what it says counts.
    inside(&machine, "web", "true")?;
    ensure!(until_ready(&machine, "web", 1)? == before, "its process was started again");
    ensure!(!events(&machine)?.contains("Unhealthy"), "{}", events(&machine)?);
    machine.close()
}
