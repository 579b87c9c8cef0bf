//! Instances that stand still.

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Instance, PATIENCE, instances, machine, until_ready};
use xtask::{machine::Machine, wait};

/// Waits until an instance of `web` is in this phase, started again so many times.
fn until(machine: &Machine, name: &str, phase: &str, restarts: u64) -> Result<Instance> {
    wait::until(&format!("{name} to be {phase}"), PATIENCE, || {
        let now = instances(machine, "web")?;
        let found = now.iter().find(|one| one.name == name && one.phase == phase && one.restarts == restarts);
        found.cloned().with_context(|| format!("{now:?}"))
    })
}

/// A container to ask from.
fn client(machine: &Machine, image: &str) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&args)?.ok().map(drop)
}

#[test]
fn a_paused_instance_keeps_still_through_a_restart_of_the_daemon_and_goes_on_where_it_was() -> Result<()> {
    let (mut machine, image) = machine("pause")?;
    client(&machine, &image)?;
    let startup = ["--startup-probe", "http:80/,period=200ms,failure-threshold=1000"];
    let probe = ["--liveness-probe", "http:80/,period=200ms,timeout=1s,failure-threshold=3"];
    let deploy =
        ["app", "deploy", "--image", &image, "--name", "web", "--service", "web.local", "--replicas", "2", "--wait"];
    machine.hivemind(&[&deploy[..], &startup, &probe].concat())?.ok()?;
    let before = until_ready(&machine, "web", 2)?;
    let victim = before.first().context("no instance")?.clone();
    let (name, pid) = (victim.name.as_str(), hivemind_tests::pids(&machine)?);

    machine.hivemind(&["pause", name])?.ok()?;
    until(&machine, name, "paused", 0)?;
    ensure!(machine.hivemind(&["pause", name])?.err.contains("is so already"), "it is paused twice");
    // It answers nobody: one question to it, and this hangs. It takes longer than its probe would to end it.
    machine.hivemind(&["exec", "client", "--", "timeout", "20", "ask", "4", "http://web.local/", "50"])?.ok()?;
    let refused = machine.hivemind(&["exec", name, "--", "true"])?;
    ensure!(refused.code == 125 && refused.err.contains("hivemind unpause"), "{refused}");
    let info = machine.hivemind(&["app", "info", "web"])?.ok()?;
    ensure!(info.contains("degraded") && info.contains("it stands still"), "{info}");

    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    until(&machine, name, "paused", 0)?;
    machine.hivemind(&["exec", "client", "--", "timeout", "20", "ask", "4", "http://web.local/", "20"])?.ok()?;

    machine.hivemind(&["unpause", name])?.ok()?;
    ensure!(until_ready(&machine, "web", 2)? == before, "it was started again");
    ensure!(hivemind_tests::pids(&machine)? == pid, "its process is another");
    let events = machine.hivemind(&["events", "web"])?.ok()?;
    ensure!(events.contains("Resumed") && !events.contains("Unhealthy"), "{events}");
    machine.close()
}

#[test]
fn a_paused_instance_is_killed_stopped_and_removed_as_any_other() -> Result<()> {
    let (machine, image) = machine("pause-end")?;
    let script = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done";
    let deploy = ["app", "deploy", "--image", &image, "--name", "web", "--stop-signal", "TERM", "--entrypoint", "sh"];
    machine.hivemind(&[&deploy[..], &["--wait", "--", "-c", script]].concat())?.ok()?;
    let web = until_ready(&machine, "web", 1)?.first().context("no instance")?.name.clone();

    // By name of the app: all its instances.
    machine.hivemind(&["pause", "web"])?.ok()?;
    until(&machine, &web, "paused", 0)?;
    machine.hivemind(&["kill", &web])?.ok()?;
    until(&machine, &web, "ready", 1)?;

    machine.hivemind(&["pause", &web])?.ok()?;
    until(&machine, &web, "paused", 1)?;
    // What it gets meanwhile it finds when it goes on.
    machine.hivemind(&["kill", "--signal", "TERM", &web])?.ok()?;
    until(&machine, &web, "paused", 1)?;
    machine.hivemind(&["unpause", &web])?.ok()?;
    until(&machine, &web, "ready", 2)?;

    machine.hivemind(&["pause", &web])?.ok()?;
    until(&machine, &web, "paused", 2)?;
    machine.hivemind(&["app", "rm", "web", "--wait", "--timeout", "30s"])?.ok()?;
    let gone = machine.hivemind(&["pause", "web"])?;
    ensure!(gone.code == 3, "{gone}");
    machine.close()
}
